"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from charrnn_trainer.files import WriteError, remove_parts, write_whole, written_whole


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with written_whole(path) as file:
        file.write(b"new, and longer")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new, and longer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failure_in_between_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with written_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(WriteError, match=r"^cannot write .*file: No space left on device$"):
        write_whole(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"cannot write .*No such file"):
        write_whole(tmp_path / "missing" / "file", b"")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_a_file_can_be_read_by_those_who_may_read_other_new_files(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "file")]
    assert modes[0] == modes[1]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".model.safetensors.abc.part", "notes.part", ".lock", "model.safetensors"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "model.safetensors", "notes.part"]
