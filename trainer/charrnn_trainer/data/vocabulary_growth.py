"""A network whose vocabulary lacks characters of a new text: they are added.

The larger vocabulary is in code-point order as all are; characters that the new text lacks are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from charrnn_runtime.vocabulary import Vocabulary

_SHOWN: Final = 20


def grow_vocabulary(vocabulary: Vocabulary, symbols: Iterable[str]) -> Vocabulary:
    """A vocabulary and the symbols that it lacks, in code-point order; itself where it lacks none.

    Raises:
        CharRNNError: they are more than a model can hold.

    Examples:
        >>> grow_vocabulary(Vocabulary("ac"), "cab").symbols
        ('a', 'b', 'c')
    """
    lacking = set(symbols) - set(vocabulary.symbols)
    if vocabulary.level == "byte" or not lacking:
        return vocabulary
    return Vocabulary(sorted(lacking | set(vocabulary.symbols)))


def words_on_growth(name: str, before: Vocabulary, after: Vocabulary) -> str | None:
    """What is told of the characters that a text called ``name`` adds, in one line; None if none."""
    added = sorted(set(after.symbols) - set(before.symbols))
    if not added:
        return None
    shown = ", ".join(repr(symbol) for symbol in added[:_SHOWN])
    more = f" and {len(added) - _SHOWN:,} more" if len(added) > _SHOWN else ""
    characters = "character" if len(added) == 1 else "characters"
    return f"{name} has {len(added):,} {characters} that the network does not know, now added: {shown}{more}"
