"""Atomic writes of files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from charrnn_runtime import CharRNNError
from charrnn_runtime.files import remove_parts, shell_word, write_whole, written_whole


def test_the_content_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["a"]


def test_the_old_file_remains_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with written_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with written_whole(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failing_flush_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"cannot write .*a: No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can make a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("this system lets nobody make a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tiny_disk: Path) -> None:
    path = tiny_disk / "a"
    path.write_bytes(b"old")
    with pytest.raises(CharRNNError, match=r"cannot write .*a: No space left on device"):
        write_whole(path, b"x" * 100_000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tiny_disk) == ["a"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match=r"cannot write .*nowhere.*a: No such file or directory"):
        write_whole(tmp_path / "nowhere" / "a", b"")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CharRNNError, match="Permission denied"):
        write_whole(tmp_path / "a", b"")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "a b\nc", ".hidden", "-"])
def test_names_can_be_as_unusual_and_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"content")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"content"]


def test_files_of_a_killed_process_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.onnx.abc123.part").write_bytes(b"half")
    (tmp_path / "kept.part").write_bytes(b"whole")
    (tmp_path / ".kept").write_bytes(b"whole")
    remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".kept", "kept.part"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "name",
    [b"my run", b"r\xe9", b'it\'s \xe9\\n "$x" \t\n!', "\u00e9t\u00e9".encode(), b"it's", b"-", b"a\xff1"],
)
def test_a_quoted_path_in_a_command_reaches_the_shell_byte_for_byte(name: bytes) -> None:
    word = shell_word(os.fsdecode(name))
    word.encode()  # printable in any encoding
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == name
