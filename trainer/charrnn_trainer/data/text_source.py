"""Reads a text of any length in pieces, any number of times.

Files compressed with gzip, xz or zstd are decompressed. A piece is small enough to stay in the processor's
cache while it is decoded, hashed and encoded, and for its buffers to reuse the process's memory: both matter
more than the number of calls.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final, cast

from charrnn_runtime.compressed import Unpacked
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.text_files import Notice, TextDecoder

PIECE: Final = 64 * 1024
"""The number of bytes read at a time."""

_BEGINNING: Final = 2_000
_MEMORY: Final = 64 * 1024 * 1024

Progress = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


class TextSource:
    """A file, or a pipe that is buffered so that it can be read more than once.

    Close it, or use it in a ``with`` statement, to delete the buffer.

    Attributes:
        path: the absolute path; "-" for standard input.
        size: the size of the file in bytes.
    """

    def __init__(self, path: str) -> None:
        """Find a file, or buffer a pipe ("-" for standard input).

        Raises:
            CharRNNError: there is no such file, it is a folder, or it cannot be read.
        """
        self.path = path if path == "-" else os.path.abspath(path)
        self._buffer = _buffer_pipe(path)
        self.size = os.stat(path).st_size if self._buffer is None else self._buffer.tell()

    def close(self) -> None:
        """Delete the buffer of a pipe; it can no longer be read."""
        if self._buffer is not None:
            self._buffer.close()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Unpacked]:
        """The text from its start."""
        with contextlib.ExitStack() as opened:
            if self._buffer is not None:
                self._buffer.seek(0)
                file = self._buffer
            else:
                try:
                    file = opened.enter_context(open(self.path, "rb"))
                except OSError as error:
                    raise _cannot_read(self.path, error) from error
            name = "standard input" if self.path == "-" else self.path
            yield Unpacked(file, name)


class Pieces:
    """Iterates over the pieces of a text, str at level "char" and bytes at level "byte", counting and
    hashing.

    A character that crosses a boundary is part of the next piece. A byte-order mark at the start is skipped.
    The attributes are complete after the last piece.

    Attributes:
        length: the number of characters so far; at level "byte", of bytes.
        beginning: the first characters, for display.
        ending: the last character or byte.
        had_bom: whether a byte-order mark was skipped.
        had_crlf: whether Windows line endings were replaced.
        encoding: the encoding, at level "char".
    """

    def __init__(
        self,
        file: Unpacked,
        name: str,
        level: str,
        on_progress: Progress | None = None,
        *,
        encoding: str | None = None,
        on_notice: Notice | None = None,
        unix_lines: bool = False,
    ) -> None:
        """Read an open text from its start; ``unix_lines`` replaces CR LF by LF."""
        self.encoding = encoding or "utf-8"
        self._encoding, self._on_notice = encoding, on_notice
        self.length = 0
        self.beginning = ""
        self.ending: str | bytes = ""
        self.had_bom = self.had_crlf = False
        self._unix_lines = unix_lines
        self._file, self._name, self._level = file, name, level
        self._on_progress = on_progress
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of the bytes read so far, in hexadecimal."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[str | bytes]:
        decoder = TextDecoder(self._name, self._encoding, self._on_notice)
        cut = False  # whether the last piece ended with a CR that an LF may follow
        while True:
            try:
                raw = self._file.read(PIECE)
            except OSError as error:
                raise CharRNNError(f"cannot read {self._name}: {error.strerror or error}") from error
            self._hash.update(raw)
            piece: str | bytes = raw
            if self._level == "char":
                try:
                    piece = decoder.decode(raw, final=not raw)
                except CharRNNError as error:
                    advice = '; to train on its raw bytes, give level="byte"'
                    raise CharRNNError(f"{error}{advice}", *error.parameters, "level") from error
                self.had_bom, self.encoding = decoder.had_mark, decoder.encoding
            if self._unix_lines:
                piece, cut = self._with_unix_lines(piece, cut, at_end=not raw)
            if piece:
                if not self.beginning:
                    first = piece[:_BEGINNING]
                    self.beginning = first if isinstance(first, str) else first.decode(errors="replace")
                self.length += len(piece)
                self.ending = piece[-1:]
                yield piece
            if not raw:
                return
            if self._on_progress is not None:
                self._on_progress(self._file.advanced())

    def _with_unix_lines(self, piece: str | bytes, cut: bool, *, at_end: bool) -> tuple[str | bytes, bool]:
        """The piece with CR LF replaced by LF, and whether a final CR was held back for the next piece."""
        if isinstance(piece, bytes):  # latin-1 maps each byte to one character, and back
            text, cut = self._with_unix_lines(piece.decode("latin-1"), cut, at_end=at_end)
            return str(text).encode("latin-1"), cut
        whole = "\r" * cut + piece
        cut = whole.endswith("\r") and not at_end
        text = whole.removesuffix("\r" * cut).replace("\r\n", "\n")
        self.had_crlf |= len(text) + cut < len(whole)
        return text, cut


def check_readable(path: str) -> bool:
    """Check that a text exists and can be read, without opening it.

    Returns:
        whether it can be read more than once, like a regular file.

    Raises:
        CharRNNError: the file does not exist, is a folder, or cannot be read.
    """
    if path == "-":
        if sys.stdin is None:
            raise CharRNNError("standard input is closed; give the path of a text file")
        return False
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from error
    if stat.S_ISDIR(mode):
        raise CharRNNError(f"{path} is a folder; give a text file")
    if not os.access(path, os.R_OK):
        raise _cannot_read(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return stat.S_ISREG(mode)


def _buffer_pipe(path: str) -> IO[bytes] | None:
    """Copy a pipe to a temporary file; None for a path that can be opened again."""
    if check_readable(path):
        return None
    kept = tempfile.SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 - closed with the source
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            while piece := file.read(PIECE):
                kept.write(piece)
    except BaseException as error:
        kept.close()
        if isinstance(error, OSError):
            raise _cannot_read(path, error) from error
        raise
    return cast("IO[bytes]", kept)


def _cannot_read(path: str, error: OSError | ValueError) -> CharRNNError:
    name = "standard input" if path == "-" else path
    if isinstance(error, FileNotFoundError):
        return CharRNNError(f"{name} does not exist; give the path of a text file")
    return CharRNNError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}")
