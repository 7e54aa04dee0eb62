"""Extends the vocabulary of a network by the characters of a new text.

Like every vocabulary, the extended one is in code-point order. Characters that the new text lacks are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from charrnn_runtime.vocabulary import Vocabulary

_SHOWN: Final = 20


def grow_vocabulary(vocabulary: Vocabulary, symbols: Iterable[str]) -> Vocabulary:
    """Add missing symbols to a vocabulary, in code-point order; return it unchanged if none are missing.

    Raises:
        CharRNNError: there are more symbols than a model supports.

    Examples:
        >>> grow_vocabulary(Vocabulary("ac"), "cab").symbols
        ('a', 'b', 'c')
    """
    lacking = set(symbols) - set(vocabulary.symbols)
    if vocabulary.level == "byte" or not lacking:
        return vocabulary
    return Vocabulary(sorted(lacking | set(vocabulary.symbols)))


def words_on_growth(name: str, before: Vocabulary, after: Vocabulary) -> str | None:
    """A line about the characters that the text ``name`` adds; None if it adds none."""
    added = sorted(set(after.symbols) - set(before.symbols))
    if not added:
        return None
    shown = ", ".join(repr(symbol) for symbol in added[:_SHOWN])
    more = f" and {len(added) - _SHOWN:,} more" if len(added) > _SHOWN else ""
    characters = "character" if len(added) == 1 else "characters"
    return f"{name} has {len(added):,} new {characters}, added to the vocabulary: {shown}{more}"
