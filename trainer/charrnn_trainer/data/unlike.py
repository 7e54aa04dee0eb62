"""Notices a validation part that is unlike the rest of a text, before hours are spent on training.

Such as code behind prose, or the last letters of a sorted list: the validation loss then says little of what
was learned, and the best checkpoint by it may be the least trained one.

Two things are looked at, both on samples of fixed size, so that a long text costs no more than one of a few
hundred thousand characters:

1. The training text is cut into as many parts as it holds validation parts (2 to 9). Of each, and of the
   validation part, up to 32,768 characters are taken, in 16 stretches. An order-2 model of all training parts
   but one says how many bits a character of the omitted one takes, and an order-2 model of all
   training parts how many a character of the validation part. That is unlike the rest if it takes more than
   1.25 times as many as the worst of the training parts, and 0.25 bits more.
2. Up to 64 stretches of the training text and 16 of the validation part, of 4,096 characters each. They are
   of a sorted list if at least 95 % of the lines that follow one another are in order, and at least half of
   the validation part's lines begin with two characters that no line of the others begins with; both either
   with or without regard to case. (A log, which is sorted by time, continues with the same characters.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.vocabulary import Vocabulary

LEAST: Final = 1_000
"""Of fewer characters for validation, nothing can be said."""

PARTS: Final = 9
SAMPLE: Final = 32_768
PIECES: Final = 16
SHARE: Final = 1.25
BITS: Final = 0.25
"""See 1. above."""

STRETCH: Final = 4_096
STRETCHES: Final = 64
IN_ORDER: Final = 0.95
BEGINNING: Final = 2
NEW: Final = 0.5
LEAST_LINES: Final = 100
"""See 2. above; of fewer lines than these, nothing is said."""


def what_is_unlike(ids: NDArray[Any], train_tokens: int, vocabulary: Vocabulary) -> str | None:
    """What is unlike the rest in the text behind its first ``train_tokens`` characters, and what to do.

    Args:
        ids: the text, ``[N]``, perhaps mapped from a file.
        train_tokens: how many characters are trained on; the rest validates.
        vocabulary: which id is which symbol.

    Returns:
        one line; None where nothing was found.
    """
    train, validation = ids[:train_tokens], ids[train_tokens:]
    if len(validation) < LEAST or train_tokens < LEAST:
        return None
    share = len(validation) / len(ids)
    if _is_sorted_list(train, validation, vocabulary):
        return (
            f"warning: the text is a sorted list, whose last {share:.0%}, which validates, begins with other "
            "letters than the rest; lines=True mixes the lines first, split=spread takes blocks all over it"
        )
    *others, own = part_bits(train, validation, len(vocabulary))
    unit = "byte" if vocabulary.level == "byte" else "character"
    if own > SHARE * max(others) and own > max(others) + BITS:
        return (
            f"warning: the last {share:.0%} of the text, which validates, is unlike the rest: by letter "
            f"triples of the rest it takes {own:.1f} bits per {unit}, and no other part more than "
            f"{max(others):.1f}; split=spread validates on blocks all over the text"
        )
    return None


def part_bits(train: NDArray[Any], validation: NDArray[Any], symbols: int) -> list[float]:
    """Bits per character of each training part, and at last of the validation part: see 1. above."""
    count = max(2, min(PARTS, round(len(train) / len(validation))))
    parts = [_sample(part) for part in np.array_split(train, count)] + [_sample(validation)]
    grams = [np.concatenate([_trigrams(piece, symbols) for piece in part]) for part in parts]
    return _bits(grams, symbols)


def _sample(part: NDArray[Any]) -> list[NDArray[Any]]:
    """Stretches spread over a part, from its start to its end; of a short part, all of it."""
    if len(part) <= SAMPLE:
        return [part]
    size = SAMPLE // PIECES
    begins = [(len(part) - size) * piece // (PIECES - 1) for piece in range(PIECES)]
    return [part[begin : begin + size] for begin in begins]


def _trigrams(piece: NDArray[Any], symbols: int) -> NDArray[np.int64]:
    """Three characters that follow one another as one number, for each place: ``[n] -> [n - 2]``."""
    wide = piece.astype(np.int64)  # 65,536^3 is less than 2^63
    return (wide[:-2] * symbols + wide[1:-1]) * symbols + wide[2:]


def _bits(grams: Sequence[NDArray[np.int64]], symbols: int) -> list[float]:
    """Bits per character of each part, by the others (of which the last one is never learned from).

    The model is Witten and Bell's (1991): an order's estimate gets the weight of the characters that were
    seen after the context, the lower order's that of how many different ones there were; the lowest is
    uniform.
    """
    distinct, place = np.unique(np.concatenate(grams), return_inverse=True)  # (U)
    ends = np.cumsum([len(part) for part in grams])[:-1]
    counts = np.stack(  # (parts, U)
        [np.bincount(part, minlength=len(distinct)) for part in np.split(place, ends)]
    )
    known = counts[:-1].sum(axis=0)
    chance = np.full(counts.shape, 1.0 / symbols)
    for order in range(3):
        # What is predicted with its context, and the context alone, numbered in the order of ``distinct``.
        _, gram = np.unique(distinct % symbols ** (order + 1), return_inverse=True)
        _, context = np.unique(distinct % symbols ** (order + 1) // symbols, return_inverse=True)
        context_of_gram = np.zeros(gram.max() + 1, np.int64)
        context_of_gram[gram] = context
        for part, own in enumerate(counts):
            learned = known - own if part < len(counts) - 1 else known
            seen = np.bincount(gram, learned)  # (grams)
            total = np.bincount(context_of_gram, seen)  # (contexts)
            kinds = np.bincount(context_of_gram, seen > 0)
            kinds[total == 0] = 1  # nothing is known after it: the lower order's estimate stands
            weight = (total + kinds)[context]
            chance[part] = (seen[gram] + kinds[context] * chance[part]) / weight
    return [float(-(own @ np.log(chance[part])) / own.sum() / math.log(2)) for part, own in enumerate(counts)]


def _is_sorted_list(train: NDArray[Any], validation: NDArray[Any], vocabulary: Vocabulary) -> bool:
    """Whether the lines are in order, and those of the validation part begin otherwise: see 2. above."""
    before, after = _lines(train, STRETCHES, vocabulary), _lines(validation, STRETCHES // 4, vocabulary)
    if min(sum(map(len, lines)) for lines in (before, after)) < LEAST_LINES:
        return False
    for key in (str, str.casefold):
        pairs = [pair for lines in before + after for pair in itertools.pairwise(map(key, lines))]
        known = {key(line[:BEGINNING]) for lines in before for line in lines}
        begin = [key(line[:BEGINNING]) for lines in after for line in lines]
        in_order = sum(one <= other for one, other in pairs)
        new = sum(start not in known for start in begin)
        if in_order >= IN_ORDER * len(pairs) and new >= NEW * len(begin):
            return True
    return False


def _lines(part: NDArray[Any], count: int, vocabulary: Vocabulary) -> list[list[str]]:
    """The whole lines in stretches of a part; empty ones are skipped."""
    count = max(1, min(count, len(part) // STRETCH))
    size = min(STRETCH, len(part))
    begins = [(len(part) - size) * number // max(1, count - 1) for number in range(count)]
    texts = [vocabulary.decode(part[begin : begin + size]) for begin in begins]
    return [[line for line in text.split("\n")[1:-1] if line] for text in texts]
