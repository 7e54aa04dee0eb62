"""Reading text from files or standard input: whole, by line or in chunks.

`compressed` decompresses and `text_files` decodes the files, as in training. Byte-level models read the raw
bytes of a file, unless ``--encoding`` is given: then the text is decoded and read as UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.compressed import Readable, Unpacked
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.text_files import decoded

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

_CHUNK = 1 << 20  # bytes per read
_MOST_AT_ONCE = 1 << 30  # the largest decompressed size that is read whole, in bytes
_LONGEST_LINE = 1 << 24  # characters

EncodingOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of text files: any that Python supports, such as latin-1, "
        "cp1252 or gb18030. [default: UTF-8, or as a byte-order mark says]",
    ),
]


def name_of(path: Path) -> str:
    """The name of a file in messages; ``-`` is stdin."""
    return "stdin" if str(path) == "-" else str(path)


@contextmanager
def opened(path: Path) -> Iterator[Unpacked]:
    """Open a file, or standard input (``-``), for binary reading; compressed files are decompressed.

    Raises:
        CharRNNError: the file cannot be read.
    """
    if str(path) == "-":
        yield Unpacked(terminal.source(), name_of(path))
        return
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    with file:
        try:
            unpacked = Unpacked(file, name_of(path))
        except OSError as error:  # some systems report a folder only here
            raise CharRNNError(f"{path} cannot be read: {error.strerror or error}") from None
        yield unpacked


def read_bytes(path: Path) -> bytes:
    """Read all bytes of a file, or of standard input (``-``).

    Raises:
        CharRNNError: the file cannot be read.
    """
    with opened(path) as file:
        try:
            return file.read_all(_MOST_AT_ONCE)
        except OSError as error:
            raise CharRNNError(f"{path} cannot be read: {error.strerror or error}") from None


def text_of(data: bytes, name: str, encoding: str | None = None, *, as_bytes: bool = False) -> str | bytes:
    """Decode the bytes of a file; with ``as_bytes``, return them unchanged unless an encoding is given.

    Raises:
        CharRNNError: the bytes are not valid text in this encoding.
    """
    if as_bytes and encoding is None:
        return data
    text = "".join(decoded([data], name, encoding, say_notice))
    return text.encode() if as_bytes else text


def say_notice(message: str) -> None:
    """Print a notice of `text_files` about a text, with the command's option for its parameter."""
    terminal.warn(terminal.in_options(CharRNNError(message, "encoding")))


def unix_lines(text: str | bytes) -> str | bytes:
    """Replace CR LF by LF, as training does for lists (``--lines``)."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else text.replace(b"\r\n", b"\n")


def with_unix_lines(chunks: Iterator[Any]) -> Iterator[Any]:
    """Replace CR LF by LF in the chunks of a text, even across chunk boundaries."""
    held: Any = None
    for chunk in chunks:
        whole = chunk if held is None else held + chunk
        cr = b"\r" if isinstance(chunk, bytes) else "\r"
        held = cr if whole.endswith(cr) else None
        whole = unix_lines(whole if held is None else whole[:-1])
        if whole:
            yield whole
    if held is not None:
        yield held


def split_lines(text: str | bytes) -> list[str] | list[bytes]:
    """The lines of a text. str.splitlines would also split at form feeds and other characters."""
    lines = (text.encode() if isinstance(text, str) else text).split(b"\n")
    if not lines[-1]:
        lines.pop()  # the file ends with a newline
    lines = [line.removesuffix(b"\r") for line in lines]
    return [line.decode() for line in lines] if isinstance(text, str) else lines


def chunks(
    file: Readable, path: Path, encoding: str | None = None, *, as_bytes: bool = False
) -> Iterator[str] | Iterator[bytes]:
    """A text in chunks; see `text_of`."""
    raw = iter(lambda: file.read(_CHUNK), b"")
    if as_bytes and encoding is None:
        return raw
    text = decoded(raw, name_of(path), encoding, say_notice)
    return (chunk.encode() for chunk in text) if as_bytes else text


def lines(
    file: Readable, path: Path, encoding: str | None = None, *, as_bytes: bool = False
) -> Iterator[str | bytes]:
    """The lines of a text without their newlines, read incrementally; see `text_of`.

    Raises:
        CharRNNError: as for `text_of`; or a line is longer than the limit, as in a file of zeros that was
            compressed to almost nothing.
    """
    end: Any = b"\n" if as_bytes else "\n"
    parts: list[Any] = []  # of an unfinished line; all str or all bytes
    number = 1
    for chunk in chunks(file, path, encoding, as_bytes=as_bytes):
        first, *others = chunk.split(end)
        parts.append(first)
        for other in others:
            yield _joined(parts)
            parts = [other]
            number += 1
        if sum(map(len, parts)) > _LONGEST_LINE:
            raise CharRNNError(
                f"line {number:,} of {name_of(path)} has more than {_LONGEST_LINE:,} characters, the limit "
                "for a line; read the file as running text instead (--whole)"
            )
    if any(parts):
        yield _joined(parts)


def _joined(parts: list[Any]) -> str | bytes:
    """Join the parts of a line, without the carriage return of a Windows line ending."""
    if isinstance(parts[0], str):
        return "".join(parts).removesuffix("\r")
    return b"".join(parts).removesuffix(b"\r")


def given_text(argument: str) -> str:
    """A text from the command line, which is UTF-8 even in an ASCII-only locale.

    Python represents undecodable bytes as surrogates, which no vocabulary has.
    """
    try:
        return given_bytes(argument).decode()
    except UnicodeError:
        return argument


def given_bytes(argument: str) -> bytes:
    """The bytes of a command-line argument, valid UTF-8 or not."""
    try:
        return argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)


class Skipped:
    """Counts the characters that a model skips."""

    def __init__(self, model: CharRNN) -> None:
        self._model = model
        self.count = 0
        self._kinds: dict[str, None] = {}

    def add(self, text: str | bytes, scored: int) -> None:
        """Count the skipped characters of a text of which ``scored`` were scored."""
        if isinstance(text, str) and self._model.vocabulary.level == "char" and scored < len(text):
            self.count += len(text) - scored
            if len(self._kinds) < 10:
                self._kinds |= dict.fromkeys(self._model.vocabulary.unknown_characters(text)[:10])

    def counted(self, pieces: Iterable[str | bytes]) -> Iterator[str | bytes]:
        """Yield the pieces of a text, and count the skipped characters of each."""
        for piece in pieces:
            if isinstance(piece, str) and self._model.vocabulary.level == "char":
                unknown = self._model.vocabulary.unknown_characters(piece)
                self.add(piece, len(piece) - sum(map(piece.count, unknown)))
            yield piece

    def say(self) -> None:
        """Report the number of skipped characters."""
        if self.count:
            shown = ", ".join(map(repr, list(self._kinds)[:10]))
            several = self.count > 1
            terminal.say(
                f"{self.count:,} {'characters were' if several else 'character was'} skipped because "
                f"{self._model.info.path} does not know {'them' if several else 'it'}: {shown}"
            )
