"""Output files of commands: never one of the input files; ``-`` is stdout."""

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
    """Whether an output file is stdout; ``./-`` is a file (see `command_line.Command`)."""
    return str(path) == "-"


@contextmanager
def output(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A new output file (`terminal.new_file`), or stdout.

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


def check_not_input(option: str, path: Path | None, *read: Path | None) -> None:
    """Reject an output file that is one of the input files, under any name.

    Args:
        option: the name of the output file's option, for the message.
        path: the output file, if any.
        read: the input files; ``-`` is stdin, and None one that was not given.

    Raises:
        SettingError: it is an input file.
    """
    if path is None or is_stdout(path):
        return
    written = _identity(path)
    if written is not None and any(each is not None and _identity(each) == written for each in read):
        raise SettingError(f"{option} {shell_word(path)} would replace an input file; choose another name")


def check_not_output(path: Path, name: str) -> None:
    """Reject an input that stdout is appended to (``>> FILE``): reading it would never end.

    Raises:
        CharRNNError: stdout is that file.
    """
    written = _identity(sys.stdout)
    if written is not None and _identity(path) == written and os.fstat(sys.stdout.fileno()).st_size:
        raise CharRNNError(f"{name} is both the input and the output; write to another file")


def _identity(file: Path | TextIO | None) -> tuple[int, int] | None:
    """The device and inode of a regular file (stdin's, for ``-``) or of a stream's file, if it exists."""
    try:
        if isinstance(file, Path):
            status = os.fstat(sys.stdin.fileno()) if str(file) == "-" else file.stat()
        else:
            status = os.fstat(file.fileno())  # type: ignore[union-attr]  # None where it was closed
    except (AttributeError, OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
