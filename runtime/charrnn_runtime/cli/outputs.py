"""Where commands write: a file that is none of those they read, or stdout where its name is ``-``."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import shell_word


def is_stdout(path: Path) -> bool:
    """Whether a file to write is stdout; ``./-`` is a file (see `command_line.Command`)."""
    return str(path) == "-"


@contextmanager
def output(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file to write, as `terminal.new_file` gives it; or stdout.

    Raises:
        CharRNNError: see `terminal.new_file`; or stdout is closed.
    """
    if is_stdout(path):
        stream = terminal.stdout()
        yield stream.buffer
        stream.flush()
        return
    with terminal.new_file(path, force=force) as file:
        yield file


def refuse_to_replace(option: str, path: Path | None, *read: Path | None) -> None:
    """Refuse to write a file that is read, under whatever name; where that is ``-``, it is stdin.

    Args:
        option: what the message calls the file to write.
        path: the file to write, if there is one.
        read: the files that are read; None for those that were not given.

    Raises:
        SettingError: it is one of them.
    """
    if path is None or is_stdout(path):
        return
    written = _identity(path)
    if written is not None and any(each is not None and _identity(each) == written for each in read):
        raise SettingError(f"{option} {shell_word(path)} would replace what is read; give another name")


def refuse_own_output(path: Path, name: str) -> None:
    """Refuse to read a file piece by piece to whose end stdout writes (``>> FILE``): it would never end.

    Raises:
        CharRNNError: stdout is that file.
    """
    written = _identity(sys.stdout)
    if written is not None and _identity(path) == written and os.fstat(sys.stdout.fileno()).st_size:
        raise CharRNNError(f"{name} is read, and the output is written to it, too; write to another file")


def _identity(file: Path | TextIO | None) -> tuple[int, int] | None:
    """The device and inode of a regular file that is there (stdin's, for ``-``), or of a stream's file."""
    try:
        if isinstance(file, Path):
            status = os.fstat(sys.stdin.fileno()) if str(file) == "-" else file.stat()
        else:
            status = os.fstat(file.fileno())  # type: ignore[union-attr]  # None where it was closed
    except (AttributeError, OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
