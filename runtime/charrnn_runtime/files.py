"""Atomic writes of files, and shell quoting of paths."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from charrnn_runtime.errors import CharRNNError


class WriteError(CharRNNError):
    """A file cannot be written: the disk is full, the folder is read-only, and so on."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that replaces ``path`` on success and is discarded on failure.

    The bytes go to a temporary file in the same folder, which is flushed to disk and renamed: even if the
    process is killed, ``path`` is either unchanged or complete.

    Raises:
        WriteError: the file cannot be written.
    """
    # The name is known before the file exists, so that a signal at any moment leaves nothing behind. It has
    # only a part of the target's name, which may be as long as the file system allows.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{os.urandom(6).hex()}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise WriteError(path, error) from error
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with written_whole(path) as file:
        file.write(content)


def remove_parts(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder that nobody is writing to."""
    for path in folder.glob(".*"):
        if is_part(path):
            with contextlib.suppress(OSError):
                path.unlink()


def is_part(path: Path) -> bool:
    """Whether a path has the name of a temporary file."""
    return path.name.startswith(".") and path.name.endswith(".part")


def _flush_folder(folder: Path) -> None:
    """Flush the rename to disk, where the system supports flushing folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shell_word(path: str | os.PathLike[str]) -> str:
    r"""Quote a path for a shell, in commands that messages suggest.

    Bytes that are not UTF-8 (surrogates in Python) are written as in $'r\351', which bash, zsh, ksh and
    POSIX.1-2024 support.
    """
    word = os.fspath(path)
    try:
        word.encode()
    except UnicodeEncodeError:
        plain = [chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in _escaped(os.fsencode(word))]
        return f"$'{''.join(plain)}'"
    return shlex.quote(word)


def _escaped(data: bytes) -> bytes:
    return data.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
