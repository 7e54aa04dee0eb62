"""How commands read text: UTF-8 from a file or standard input, whole, by line or in chunks.

A byte-order mark, as Windows programs write it, is no part of a text; training leaves it out, too. Models at
the byte level read the bytes of a file as they are.
"""

from __future__ import annotations

import codecs
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError

_CHUNK = 1 << 20  # bytes read at a time
_MARK = "\ufeff"


def name_of(path: Path) -> str:
    """What messages call a file, or standard input (``-``)."""
    return "stdin" if str(path) == "-" else str(path)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file, or standard input (``-``), as bytes.

    Raises:
        CharRNNError: it cannot be read.
    """
    if str(path) == "-":
        yield terminal.source()
        return
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield file


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, or of standard input (``-``).

    Raises:
        CharRNNError: it cannot be read.
    """
    with opened(path) as file:
        try:
            return file.read()
        except OSError as error:  # of a folder, on some systems only here
            raise CharRNNError(f"{path} cannot be read: {error.strerror or error}") from None


def decode(data: bytes, name: str) -> str:
    """The text of some UTF-8 bytes, with a byte-order mark if they have one.

    Raises:
        CharRNNError: they are no UTF-8; the message names the first wrong byte.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _no_utf8(name, error.start, data[error.start]) from None


def text_of(data: bytes, name: str, *, as_bytes: bool = False) -> str | bytes:
    """The text of a file's bytes; as bytes, these as they are."""
    return data if as_bytes else decode(data, name).removeprefix(_MARK)


def split_lines(text: str | bytes) -> list[str] | list[bytes]:
    """The lines of a text. str.splitlines would part lines at form feeds and other characters, too."""
    lines = (text.encode() if isinstance(text, str) else text).split(b"\n")
    if not lines[-1]:
        lines.pop()  # the file ends with the end of a line
    lines = [line.removesuffix(b"\r") for line in lines]
    return [line.decode() for line in lines] if isinstance(text, str) else lines


def size_of(file: BinaryIO) -> int | None:
    """How many bytes there are to read; None if that is not known, as of a pipe."""
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):  # no file of the system's
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def chunks(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str] | Iterator[bytes]:
    """A text a chunk at a time."""
    raw = iter(lambda: file.read(_CHUNK), b"")
    return raw if as_bytes else _decoded(raw, path)


def _decoded(raw: Iterator[bytes], path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    begun = False
    for data in itertools.chain(raw, [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _no_utf8(str(path), offset - held + error.start, error.object[error.start]) from None
        if text and not begun:
            begun, text = True, text.removeprefix(_MARK)
        if text:
            yield text
        offset += len(data)


def lines(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str | bytes]:
    """The lines of a text, without their ends, as they are read."""
    end: Any = b"\n" if as_bytes else "\n"
    parts: list[Any] = []  # of a line whose end has not come; all str or all bytes
    for chunk in chunks(file, path, as_bytes=as_bytes):
        first, *others = chunk.split(end)
        parts.append(first)
        for other in others:
            yield _joined(parts)
            parts = [other]
    if any(parts):
        yield _joined(parts)


def _joined(parts: list[Any]) -> str | bytes:
    """A line of the parts that it was read in, without the carriage return of a Windows line end."""
    if isinstance(parts[0], str):
        return "".join(parts).removesuffix("\r")
    return b"".join(parts).removesuffix(b"\r")


def _no_utf8(name: str, place: int, byte: int) -> CharRNNError:
    return CharRNNError(
        f"{name} is no UTF-8 text: byte {place} is 0x{byte:02x}; convert it first, "
        "as with iconv -f LATIN1 -t UTF-8, where it is Latin-1"
    )


def given_text(argument: str) -> str:
    """A text from the command line, which is UTF-8 even where the locale knows ASCII alone.

    Python keeps the bytes that the locale cannot decode as surrogates, which no vocabulary knows.
    """
    try:
        return given_bytes(argument).decode()
    except UnicodeError:
        return argument


def given_bytes(argument: str) -> bytes:
    """The bytes of a text from the command line, UTF-8 or not."""
    try:
        return argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)
