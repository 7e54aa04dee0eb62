"""The characters of a text in visible form, each in its own cell.

At the byte level, a character may be several symbols, and takes the values of the last one.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record
from charrnn_runtime.vocabulary import Vocabulary

UNSHOWN: Final = "▯"
"""Replaces a character that cannot be displayed, or would affect how others are displayed."""

NEWLINE: Final = "↵"


class Cells(Record):
    """The characters of some symbols.

    Attributes:
        characters: n strings of one character; a byte that is not valid UTF-8 is a surrogate.
        starts: int64 ``[n]``, the index of the first symbol of each.
        ends: int64 ``[n]``, the index after its last symbol.
    """

    characters: list[str]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    __eq__ = object.__eq__  # comparing arrays is ambiguous
    __hash__ = object.__hash__

    def __len__(self) -> int:
        """n, the number of characters."""
        return len(self.characters)

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum of values ``[T]`` over the symbols of each character: ``[n]``; surprise is additive."""
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        sums: NDArray[np.float64] = running[self.ends] - running[self.starts]
        return sums


def cells_of(vocabulary: Vocabulary, ids: NDArray[Any]) -> Cells:
    """The characters of some symbols, which should not end within a character."""
    if vocabulary.level == "char":
        starts = np.arange(len(ids))
        return Cells(list(vocabulary.decode(ids)), starts, starts + 1)
    characters = list(vocabulary.decode_bytes(ids).decode(errors="surrogateescape"))
    lengths = [len(each.encode(errors="surrogateescape")) for each in characters]
    ends = np.cumsum(np.array(lengths, np.int64))
    return Cells(characters, ends - lengths, ends)


def shown(character: str) -> str:
    """A character in a visible form that is safe in terminals and pages, and takes one cell.

    Newlines become ↵, control characters their pictures (U+2400 and following), and combining marks get a
    dotted circle. A space is unchanged.
    """
    code = ord(character)
    if character == "\n":
        return NEWLINE
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    if unicodedata.category(character).startswith("M"):
        return f"\N{DOTTED CIRCLE}{character}"
    return character if character.isprintable() else UNSHOWN


def shown_symbol(vocabulary: Vocabulary, token: int) -> str:
    """A symbol by itself, as in `shown`, with spaces visible; bytes above ASCII in hexadecimal."""
    if vocabulary.level == "byte" and token >= 0x80:
        return f"{token:02x}"
    character = chr(token) if vocabulary.level == "byte" else vocabulary.symbols[token]
    return "␣" if character == " " else shown(character)
