"""A character n-gram baseline: interpolated modified Kneser-Ney smoothing, orders 1 to 10.

    python tests/benchmarks/ngram.py TEXT... [--orders N]

For each text, it prints bits per character on its last 10 % for each order, of models that counted the first
90 %. The counts are those of the training part only (the model is static); the context of a character is the
text before it, including validation text.

The smoothing is that of Chen and Goodman, "An empirical study of smoothing techniques for language modeling"
(Computer Speech and Language 13, 1999), interpolated: three discounts per order, from the counts of counts.
The lower orders count the different contexts of an n-gram instead of its occurrences (Kneser and Ney 1995).
The order below single characters is the uniform distribution over the vocabulary of the whole text, so that
characters that occur only in the validation part have a probability too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from charrnn_trainer import Corpus

ORDERS = 10
"""The default length of the longest n-grams."""
VALIDATION = 0.1
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Fallback for discounts that the counts of counts do not give (KenLM's --discount_fallback)."""

Integers = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def main() -> None:
    """Print the bits per character of each order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--orders", type=int, default=ORDERS, help="the longest n-grams")
    arguments = parser.parse_args()
    for path in arguments.texts:
        begin = time.perf_counter()
        corpus = read_corpus(path)
        bits = bits_by_order(
            corpus.ids, corpus.train_tokens(VALIDATION), len(corpus.vocabulary), arguments.orders
        )
        best = best_order(bits)
        print(f"{path.name}: order {best} with {bits[best - 1]:.3f} ({time.perf_counter() - begin:.1f} s)")
        print("  " + "  ".join(f"{order}: {value:.3f}" for order, value in enumerate(bits, 1)), flush=True)


def read_corpus(path: Path) -> Corpus:
    """A text as in training: UTF-8, unchanged line endings, no byte-order mark."""
    return Corpus.from_text(path.read_bytes().decode("utf-8-sig"), name=path.name)


def bits_by_order(ids: NDArray[Any], train_tokens: int, symbols: int, orders: int = ORDERS) -> list[float]:
    """Bits per character on the end of a text, of the models of order 1, 2, ... ``orders``.

    Args:
        ids: integers ``[N]`` below ``symbols``, the text.
        train_tokens: the number of leading ids that are counted; the rest is predicted.
        symbols: V, the size of the vocabulary.
        orders: the longest n-grams.
    """
    return [float(-np.log2(p).mean()) for p in predictions_by_order(ids, train_tokens, symbols, orders)]


def best_order(bits: Sequence[float]) -> int:
    """The order, counted from 1, with the fewest bits; the lowest in a tie."""
    return int(np.argmin(bits)) + 1


def predictions_by_order(
    ids: NDArray[Any], train_tokens: int, symbols: int, orders: int = ORDERS
) -> Iterator[Probabilities]:
    """The probability of each character after the training part ``[N - train_tokens]``, order by order.

    All orders share the levels below the longest n-grams, so one pass computes them all: the model of order n
    combines the frequencies of n-grams with n - 1 levels of continuation counts.

    Raises:
        ValueError: the training part is shorter than the longest n-grams.
    """
    if train_tokens < orders:
        raise ValueError(f"{train_tokens} characters hold no n-gram of order {orders}")
    text = np.asarray(ids, dtype=np.int64)
    lower: Probabilities = np.full(len(text) - train_tokens, 1.0 / symbols)
    below: Order | None = None
    for _ in range(orders):
        ngrams = Order.count(text, train_tokens, symbols, below)
        if below is not None:
            lower = below.predict(below.continuations(ngrams), lower)
        yield ngrams.predict(ngrams.frequencies, lower)
        below = ngrams


@dataclass(frozen=True, eq=False)
class Order:
    """The n-grams of one order, in a text whose first T characters are counted.

    An n-gram is identified by its number. Its key is ``context * symbols + symbol``, where
    ``context`` is the number of its first n - 1 characters among the n-grams of the order below; the numbers
    are the ranks of the keys.

    Attributes:
        order: n.
        train_tokens: T.
        context_of: ``[G]``, the context of each n-gram.
        frequencies: ``[G]``, the occurrences of each in the training part.
        first: ``[G]``, the end position of the first occurrence of each.
        contexts: the number of n-grams of the order below.
        before: ``[N]``, the context that ends just before each character of the text, -1 where it was not
            counted.
        ending: ``[N]``, the n-gram that ends with each character, -1 where it was not counted.
    """

    order: int
    train_tokens: int
    context_of: Integers
    frequencies: Integers
    first: Integers
    contexts: int
    before: Integers
    ending: Integers

    @classmethod
    def count(cls, text: Integers, train_tokens: int, symbols: int, below: Order | None) -> Order:
        """Count the n-grams one character longer than those below; without ``below``, single characters."""
        order = 1 if below is None else below.order + 1
        before = np.zeros_like(text)  # the empty context is number 0
        if below is not None:
            before[0], before[1:] = -1, below.ending[:-1]
        keys = before * symbols + text
        start = order - 1
        counted, first, inverse, frequencies = np.unique(
            keys[start:train_tokens], return_index=True, return_inverse=True, return_counts=True
        )
        ending = np.full_like(text, -1)
        ending[start:train_tokens] = inverse
        rest = keys[train_tokens:]
        places = np.minimum(np.searchsorted(counted, rest), len(counted) - 1)
        ending[train_tokens:] = np.where((before[train_tokens:] >= 0) & (counted[places] == rest), places, -1)
        return cls(
            order=order,
            train_tokens=train_tokens,
            context_of=counted // symbols,
            frequencies=frequencies,
            first=first + start,
            contexts=1 if below is None else len(below.frequencies),
            before=before,
            ending=ending,
        )

    def continuations(self, above: Order) -> Integers:
        """The number of different contexts of each n-gram ``[G]``: of different characters before it.

        The start of the text counts as another context, so that an n-gram found only there is counted.
        """
        counts = np.bincount(self.ending[above.first], minlength=len(self.frequencies))
        counts[self.ending[self.order - 1]] += 1
        return counts

    def predict(self, counts: Integers, lower: Probabilities) -> Probabilities:
        """The probability of each character after the training part, interpolated with the order below.

        Args:
            counts: ``[G]``, the frequency or the continuations of each n-gram.
            lower: ``[N - T]``, the probabilities by the order below.
        """
        discounts = np.array([0.0, *find_discounts(counts)])[np.minimum(counts, 3)]
        kept = counts - discounts
        totals = np.bincount(self.context_of, counts, minlength=self.contexts)
        freed = np.bincount(self.context_of, discounts, minlength=self.contexts)
        context, ngram = self.before[self.train_tokens :], self.ending[self.train_tokens :]
        # The end of the training part may occur nowhere else in it; then nothing was seen after it.
        known = (context >= 0) & (totals[context] > 0)
        context, ngram = context[known], ngram[known]
        own = np.where(ngram >= 0, kept[ngram], 0.0)
        predictions = lower.copy()
        predictions[known] = (own + freed[context] * lower[known]) / totals[context]
        return predictions


def find_discounts(counts: Integers) -> tuple[float, float, float]:
    """The discounts for counts of one, two, and three or more: equation 17 of Chen and Goodman.

    If the counts of counts do not give a discount above zero (small or repetitive texts, single characters),
    it is replaced by the one of `FALLBACK_DISCOUNTS`.
    """
    have = [int((counts == times).sum()) for times in range(5)]
    share = have[1] / (have[1] + 2 * have[2]) if have[1] else 0.0
    found = list(FALLBACK_DISCOUNTS)
    for times in (1, 2, 3):
        if share and have[times] and have[times + 1]:
            value = times - (times + 1) * share * have[times + 1] / have[times]
            if value > 0.0:
                found[times - 1] = value
    return found[0], found[1], found[2]


if __name__ == "__main__":
    main()
