"""The symbols of a text as characters that can be shown, each in a place of its own.

At the byte level a character is several symbols: what is known of its last one is known of the character.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record
from charrnn_runtime.vocabulary import Vocabulary

UNSHOWN: Final = "▯"
"""What stands for a character that cannot be shown, or would change how others are."""

NEWLINE: Final = "↵"


class Cells(Record):
    """The characters of some symbols.

    Attributes:
        characters: n strings of one character; a byte that belongs to no UTF-8 is a surrogate.
        starts: int64 ``[n]``, the place of the first symbol of each.
        ends: int64 ``[n]``, the place after its last one.
    """

    characters: list[str]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    __eq__ = object.__eq__  # arrays have no one answer to whether they are equal
    __hash__ = object.__hash__

    def __len__(self) -> int:
        """n, the number of characters."""
        return len(self.characters)

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum of some values ``[T]`` over the symbols of each character: ``[n]``, as surprise adds up."""
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        sums: NDArray[np.float64] = running[self.ends] - running[self.starts]
        return sums


def cells_of(vocabulary: Vocabulary, ids: NDArray[Any]) -> Cells:
    """The characters of some symbols; at the byte level they should not end within one."""
    if vocabulary.level == "char":
        starts = np.arange(len(ids))
        return Cells(list(vocabulary.decode(ids)), starts, starts + 1)
    characters = list(vocabulary.decode_bytes(ids).decode(errors="surrogateescape"))
    lengths = [len(each.encode(errors="surrogateescape")) for each in characters]
    ends = np.cumsum(np.array(lengths, np.int64))
    return Cells(characters, ends - lengths, ends)


def shown(character: str) -> str:
    """A character in a form that can be seen, harms no terminal or page, and takes one place.

    Newlines are ↵, control characters their pictures (U+2400 and on), combining marks sit on a dotted circle.
    A space stays one.
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
    """A symbol by itself, as `shown` has it, with spaces visible; a byte above ASCII in hexadecimal."""
    if vocabulary.level == "byte" and token >= 0x80:
        return f"{token:02x}"
    character = chr(token) if vocabulary.level == "byte" else vocabulary.symbols[token]
    return "␣" if character == " " else shown(character)
