"""Reads the text for charrnn-view in small pieces, so that output starts before the end of input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from charrnn_runtime.cli import outputs, terminal, texts
from charrnn_runtime.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from charrnn_runtime.model import CharRNN

_PIECE = 256  # characters
_PIECE_BYTES = 1 << 24  # limit on the trace of a piece, for large vocabularies or states


def check_files(model: Path, text: Path, find_in: Path | None, html: Path | None, *, force: bool) -> None:
    """Reject reading stdin twice, and replacing a file that is read, or any file without ``force``.

    Raises:
        SettingError: the files conflict.
        CharRNNError: the page exists, or stdout is the text.
    """
    if str(text) == "-" and find_in is not None and str(find_in) == "-":
        raise SettingError("FILE and --find-in cannot both read stdin: give a file for one of them")
    outputs.check_not_input("--html", html, model, text, find_in)
    if html is None:
        outputs.check_not_output(text, texts.name_of(text))
    elif not outputs.is_stdout(html):
        terminal.check_new_file(html, force=force)


def pieces(
    model: CharRNN, file: BinaryIO, path: Path, *, encoding: str | None, normalize: bool, most: int | None
) -> Iterator[str | bytes]:
    """Split a text into pieces at character boundaries; at the byte level, pieces are bytes.

    Args:
        model: the model that reads the text.
        file: the text.
        path: the path of the text.
        encoding: see `texts.EncodingOption`.
        normalize: whether to write unknown characters in the Unicode form that the model knows.
        most: the number of characters (bytes, at the byte level) to read; None for all.
    """
    from charrnn_runtime.view.trace import chunk_length

    as_bytes = model.vocabulary.level == "byte"
    chunks: Iterator[Any] = texts.chunks(file, path, encoding, as_bytes=as_bytes)
    if model.info.lines:
        chunks = texts.with_unix_lines(chunks)
    if normalize and not as_bytes:
        from charrnn_runtime.normalization import at_whole_characters

        chunks = map(model.vocabulary.normalize, at_whole_characters(chunks))
    chunks = first(chunks, most)
    if as_bytes:
        chunks = _whole_characters(chunks)
    stride = min(_PIECE, chunk_length(len(model.vocabulary), model.info.state_size, _PIECE_BYTES))
    for chunk in chunks:
        begin = 0
        while begin < len(chunk):
            end = min(begin + stride, len(chunk))
            if as_bytes:
                end = begin + (_whole(chunk[begin:end]) or end - begin)
            yield chunk[begin:end]
            begin = end


def first(chunks: Iterator[Any], most: int | None) -> Iterator[Any]:
    """The first ``most`` characters of a text in chunks, or all; reads no chunk beyond them."""
    left = most
    while left is None or left > 0:
        chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk if left is None else chunk[:left]
        left = None if left is None else left - len(chunk)


def beginning(chunks: Iterator[str | bytes], size: int) -> tuple[list[str | bytes], Iterator[str | bytes]]:
    """The chunks of a text with its first ``size`` characters, and all chunks of the text."""
    read: list[str | bytes] = []
    left = size
    while left > 0 and (chunk := next(chunks, None)) is not None:
        read.append(chunk)
        left -= len(chunk)
    return read, itertools.chain(read, chunks)


def _whole_characters(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Rechunk UTF-8, or arbitrary bytes, at character boundaries."""
    held = b""
    for chunk in chunks:
        data = held + chunk
        end = _whole(data)
        held = data[end:]
        if end:
            yield data[:end]
    if held:
        yield held


def _whole(data: bytes) -> int:
    """The length of some bytes without an incomplete UTF-8 character at the end."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:  # starts a character of 2, 3 or 4 bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < length else len(data)
        if byte < 0x80:
            break
    return len(data)
