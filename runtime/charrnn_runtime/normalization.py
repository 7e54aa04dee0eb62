"""Unicode's two representations of a character: "é" as one code point, or as "e" and a combining accent.

They look alike and are canonically equivalent (Unicode 16, section 3.7), but to a model they are different
characters: a model trained on text in NFC, as most text is, has no combining accents in its vocabulary. macOS
uses NFD for file names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

_FORMS: Final[tuple[Literal["NFC", "NFD"], ...]] = ("NFC", "NFD")

Knows = Callable[[str], bool]
"""Whether all characters of a text are known."""


def known_form(text: str, unknown: Iterable[int], knows: Knows) -> str:
    """Rewrite unknown parts of a text in their other form, if that is fully known.

    Args:
        text: any text.
        unknown: the positions of the unknown characters, in order.
        knows: tells whether a text is fully known.
    """
    parts, done = [], 0
    for begin, end, form in equivalents(text, unknown, knows):
        parts += [text[done:begin], form]
        done = end
    return "".join(parts) + text[done:]


def equivalents(text: str, unknown: Iterable[int], knows: Knows) -> Iterator[tuple[int, int, str]]:
    """The unknown parts of a text whose other form is known.

    Yields:
        The start of the part, its end, and its other form.
    """
    end = 0
    for position in unknown:
        if position < end:
            continue
        begin, end = position, position + 1
        while begin > 0 and extends(text[begin]):
            begin -= 1
        while end < len(text) and extends(text[end]):
            end += 1
        part = text[begin:end]
        for form in _FORMS:
            other = unicodedata.normalize(form, part)
            if other != part and knows(other):
                yield begin, end, other
                break


def extends(character: str) -> bool:
    """Whether a character may combine with the previous one: a mark, or a Hangul vowel or final consonant."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def at_whole_characters(pieces: Iterable[str]) -> Iterator[str]:
    """Rechunk a text so that no piece starts with a character that combines with the previous one."""
    held = ""
    for piece in pieces:
        piece = held + piece
        cut = len(piece) - 1
        while cut > 0 and extends(piece[cut]):
            cut -= 1
        held = piece[max(cut, 0) :]
        if cut > 0:
            yield piece[:cut]
    if held:
        yield held
