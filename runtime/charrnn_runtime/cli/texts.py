"""How commands read text from a file or standard input: whole, by line or in chunks.

`compressed` unpacks what is compressed, and `text_files` decodes it, as both do for training. Models at the
byte level read the bytes of a file as they are, unless ``--encoding`` says what they mean: then they read the
UTF-8 of that.
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

_CHUNK = 1 << 20  # bytes read at a time
_MOST_AT_ONCE = 1 << 30  # bytes that a compressed file may hold which is read whole
_LONGEST_LINE = 1 << 24  # characters

EncodingOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The encoding of the texts that are read from files: any that Python knows, such as latin-1, "
        "cp1252 or gb18030. [default: UTF-8, or what a byte-order mark says]",
    ),
]


def name_of(path: Path) -> str:
    """What messages call a file, or standard input (``-``)."""
    return "stdin" if str(path) == "-" else str(path)


@contextmanager
def opened(path: Path) -> Iterator[Unpacked]:
    """A file, or standard input (``-``), as the bytes that it holds: compressed ones are unpacked.

    Raises:
        CharRNNError: it cannot be read.
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
        except OSError as error:  # of a folder, on some systems only here
            raise CharRNNError(f"{path} cannot be read: {error.strerror or error}") from None
        yield unpacked


def read_bytes(path: Path) -> bytes:
    """All bytes that a file holds, or standard input (``-``).

    Raises:
        CharRNNError: it cannot be read.
    """
    with opened(path) as file:
        try:
            return file.read_all(_MOST_AT_ONCE)
        except OSError as error:
            raise CharRNNError(f"{path} cannot be read: {error.strerror or error}") from None


def text_of(data: bytes, name: str, encoding: str | None = None, *, as_bytes: bool = False) -> str | bytes:
    """The text of a file's bytes; as bytes, these as they are, unless an encoding says what they mean.

    Raises:
        CharRNNError: they are not text in this encoding.
    """
    if as_bytes and encoding is None:
        return data
    text = "".join(decoded([data], name, encoding, say_notice))
    return text.encode() if as_bytes else text


def say_notice(message: str) -> None:
    """Say what `text_files` noticed about a text, with the command's option for its parameter."""
    terminal.warn(terminal.in_options(CharRNNError(message, "encoding")))


def unix_lines(text: str | bytes) -> str | bytes:
    """A text whose CR LF are LF, as training reads lists (``--lines``)."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else text.replace(b"\r\n", b"\n")


def with_unix_lines(chunks: Iterator[Any]) -> Iterator[Any]:
    """The chunks of a text whose CR LF are LF, also where a chunk ends between the two."""
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
    """The lines of a text. str.splitlines would part lines at form feeds and other characters, too."""
    lines = (text.encode() if isinstance(text, str) else text).split(b"\n")
    if not lines[-1]:
        lines.pop()  # the file ends with the end of a line
    lines = [line.removesuffix(b"\r") for line in lines]
    return [line.decode() for line in lines] if isinstance(text, str) else lines


def chunks(
    file: Readable, path: Path, encoding: str | None = None, *, as_bytes: bool = False
) -> Iterator[str] | Iterator[bytes]:
    """A text a chunk at a time; see `text_of`."""
    raw = iter(lambda: file.read(_CHUNK), b"")
    if as_bytes and encoding is None:
        return raw
    text = decoded(raw, name_of(path), encoding, say_notice)
    return (chunk.encode() for chunk in text) if as_bytes else text


def lines(
    file: Readable, path: Path, encoding: str | None = None, *, as_bytes: bool = False
) -> Iterator[str | bytes]:
    """The lines of a text, without their ends, as they are read; see `text_of`.

    Raises:
        CharRNNError: as `text_of`; or a line is longer than any text of lines has, as in a file of zeros that
            was compressed to nearly nothing.
    """
    end: Any = b"\n" if as_bytes else "\n"
    parts: list[Any] = []  # of a line whose end has not come; all str or all bytes
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
                f"line {number:,} of {name_of(path)} has more than {_LONGEST_LINE:,} characters, and a line "
                "is held whole; read it as a running text instead (--whole)"
            )
    if any(parts):
        yield _joined(parts)


def _joined(parts: list[Any]) -> str | bytes:
    """A line of the parts that it was read in, without the carriage return of a Windows line end."""
    if isinstance(parts[0], str):
        return "".join(parts).removesuffix("\r")
    return b"".join(parts).removesuffix(b"\r")


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


class Skipped:
    """Counts the characters that a model skips."""

    def __init__(self, model: CharRNN) -> None:
        self._model = model
        self.count = 0
        self._kinds: dict[str, None] = {}

    def add(self, text: str | bytes, scored: int) -> None:
        """Count those of a text of which this many were scored."""
        if isinstance(text, str) and self._model.vocabulary.level == "char" and scored < len(text):
            self.count += len(text) - scored
            if len(self._kinds) < 10:
                self._kinds |= dict.fromkeys(self._model.vocabulary.unknown_characters(text)[:10])

    def counted(self, pieces: Iterable[str | bytes]) -> Iterator[str | bytes]:
        """The pieces of a text; those that it skips of each are counted when it comes."""
        for piece in pieces:
            if isinstance(piece, str) and self._model.vocabulary.level == "char":
                unknown = self._model.vocabulary.unknown_characters(piece)
                self.add(piece, len(piece) - sum(map(piece.count, unknown)))
            yield piece

    def say(self) -> None:
        """Say how many they are."""
        if self.count:
            shown = ", ".join(map(repr, list(self._kinds)[:10]))
            several = self.count > 1
            terminal.say(
                f"{self.count:,} {'characters were' if several else 'character was'} skipped, since "
                f"{self._model.info.path} does not know {'them' if several else 'it'}: {shown}"
            )
