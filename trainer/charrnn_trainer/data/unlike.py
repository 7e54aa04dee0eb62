"""Detects validation text that is unlike the training text, before hours are spent on training.

Examples are code after prose, or the last letters of a sorted list. The validation loss then says little
about what was learned, and the best checkpoint by it may be the least trained one.

There are two checks, both on samples of fixed size, so that a long text costs no more than one of a few
hundred thousand characters:

1. The training text is cut into parts of about the length of the validation text (2 to 9 parts). From each
   part, and from the validation text, up to 32,768 characters are sampled, in 16 stretches. For each training
   part, an order-2 model of the other parts gives its bits per character; for the validation text, an order-2
   model of all training parts does. The validation text is unlike the rest if it needs more than 1.25 times
   the bits of the worst training part, and at least 0.25 bits more.
2. Up to 64 stretches of the training text and 16 of the validation text, of 4,096 characters each, are
checked
   for a sorted list: at least 95 % of consecutive lines are in order, and at least half of the validation
   lines begin with two characters that no training line begins with; both either with or without regard to
   case. (A log, which is sorted by time, continues with the same characters.)
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
"""With fewer characters for validation, nothing is checked."""

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
"""See 2. above; with fewer than `LEAST_LINES` lines, nothing is reported."""


def warning_if_unlike(ids: NDArray[Any], train_tokens: int, vocabulary: Vocabulary) -> str | None:
    """Check the validation text, and return a warning with advice.

    Args:
        ids: the text, ``[N]``, possibly memory-mapped.
        train_tokens: the number of characters for training; the rest is for validation.
        vocabulary: the symbols by id.

    Returns:
        The warning in one line; None if nothing was found.
    """
    train, validation = ids[:train_tokens], ids[train_tokens:]
    if len(validation) < LEAST or train_tokens < LEAST:
        return None
    share = len(validation) / len(ids)
    if _is_sorted_list(train, validation, vocabulary):
        return (
            f"warning: the text is a sorted list, and its last {share:.0%}, held out for validation, begins "
            "with different letters from the rest; lines=True shuffles the lines first, split=spread holds "
            "out blocks from all over the text"
        )
    *others, own = part_bits(train, validation, len(vocabulary))
    unit = "byte" if vocabulary.level == "byte" else "character"
    if own > SHARE * max(others) and own > max(others) + BITS:
        return (
            f"warning: the last {share:.0%} of the text, held out for validation, is unlike the rest: a "
            f"trigram model of the rest needs {own:.1f} bits per {unit} for it, and at most "
            f"{max(others):.1f} for any other part; split=spread holds out blocks from all over the text"
        )
    return None


def part_bits(train: NDArray[Any], validation: NDArray[Any], symbols: int) -> list[float]:
    """Bits per character of each training part, then of the validation text: see 1. above."""
    count = max(2, min(PARTS, round(len(train) / len(validation))))
    parts = [_sample(part) for part in np.array_split(train, count)] + [_sample(validation)]
    grams = [np.concatenate([_trigrams(piece, symbols) for piece in part]) for part in parts]
    return _bits(grams, symbols)


def _sample(part: NDArray[Any]) -> list[NDArray[Any]]:
    """Stretches spread over a part, from its start to its end; all of a short part."""
    if len(part) <= SAMPLE:
        return [part]
    size = SAMPLE // PIECES
    begins = [(len(part) - size) * piece // (PIECES - 1) for piece in range(PIECES)]
    return [part[begin : begin + size] for begin in begins]


def _trigrams(piece: NDArray[Any], symbols: int) -> NDArray[np.int64]:
    """The trigram at each position, as one number: ``[n] -> [n - 2]``."""
    wide = piece.astype(np.int64)  # 65,536^3 is less than 2^63
    return (wide[:-2] * symbols + wide[1:-1]) * symbols + wide[2:]


def _bits(grams: Sequence[NDArray[np.int64]], symbols: int) -> list[float]:
    """Bits per character of each part under a model of the others, without the last part.

    The model is Witten and Bell's (1991): an order's estimate is weighted by the number of characters seen
    after the context, the lower order's by the number of distinct ones; the lowest order is uniform.
    """
    distinct, place = np.unique(np.concatenate(grams), return_inverse=True)  # (U)
    ends = np.cumsum([len(part) for part in grams])[:-1]
    counts = np.stack(  # (parts, U)
        [np.bincount(part, minlength=len(distinct)) for part in np.split(place, ends)]
    )
    known = counts[:-1].sum(axis=0)
    chance = np.full(counts.shape, 1.0 / symbols)
    for order in range(3):
        # The n-gram and its context alone, numbered in the order of ``distinct``.
        _, gram = np.unique(distinct % symbols ** (order + 1), return_inverse=True)
        _, context = np.unique(distinct % symbols ** (order + 1) // symbols, return_inverse=True)
        context_of_gram = np.zeros(gram.max() + 1, np.int64)
        context_of_gram[gram] = context
        for part, own in enumerate(counts):
            learned = known - own if part < len(counts) - 1 else known
            seen = np.bincount(gram, learned)  # (grams)
            total = np.bincount(context_of_gram, seen)  # (contexts)
            kinds = np.bincount(context_of_gram, seen > 0)
            kinds[total == 0] = 1  # unseen context: use the lower order's estimate
            weight = (total + kinds)[context]
            chance[part] = (seen[gram] + kinds[context] * chance[part]) / weight
    return [float(-(own @ np.log(chance[part])) / own.sum() / math.log(2)) for part, own in enumerate(counts)]


def _is_sorted_list(train: NDArray[Any], validation: NDArray[Any], vocabulary: Vocabulary) -> bool:
    """Whether the lines are sorted, and the validation lines begin differently: see 2. above."""
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
    """The complete lines in stretches of a part; empty lines are skipped."""
    count = max(1, min(count, len(part) // STRETCH))
    size = min(STRETCH, len(part))
    begins = [(len(part) - size) * number // max(1, count - 1) for number in range(count)]
    texts = [vocabulary.decode(part[begin : begin + size]) for begin in begins]
    return [[line for line in text.split("\n")[1:-1] if line] for text in texts]
