"""Training batches of contiguous text: the text is cut into rows that are read in parallel.

The text is cut into B rows of equal length. Every batch holds the next T characters of every row, so the
final state of a row in one batch is its initial state in the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charrnn_runtime.errors import SettingError
from charrnn_trainer.data.split import Places, Split

IGNORED: Final = -100
"""The target of positions without a prediction."""


def get_batches(tokens: ArrayLike, n_seqs: int, n_steps: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield batches of inputs and targets endlessly.

    Only full batches are kept: a remainder at the end of the text is dropped. The rest is cut into ``n_seqs``
    rows. A pass ends one batch before the end of the rows, so that targets never run out, and the next pass
    starts again from the beginning of the rows.

    Args:
        tokens: integers ``[N]``: an array or a corpus.
        n_seqs: B, the number of rows of a batch.
        n_steps: T, the number of characters per row.

    Yields:
        ``x [B, T]`` and ``y [B, T]``, of the type of ``tokens``; ``y`` is ``x`` shifted by one.

    Raises:
        SettingError: the text does not fill two batches.

    Examples:
        >>> x, y = next(get_batches(range(20), n_seqs=2, n_steps=3))
        >>> x.tolist()
        [[0, 1, 2], [9, 10, 11]]
        >>> y.tolist()
        [[1, 2, 3], [10, 11, 12]]
    """
    streams = Streams(np.asarray(tokens), n_seqs, n_steps)  # raises here, not at the first batch

    def batches() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        index = 0
        while True:
            yield streams.batch(index)
            index += 1

    return batches()


class Streams:
    """The batches of `get_batches` by index, so that training can resume at any of them.

    With a seed, every pass starts at a random position, which the seed and the pass determine, and wraps
    around at the end of the text.

    Attributes:
        ids: the text, ``[N]``.
        places: the positions of batch 0 of a pass from the start of the text, ``int64 [B, T + 1]``: each
            row's inputs, and the character after them.
        batches_per_pass: the number of batches in a pass.
    """

    def __init__(
        self,
        ids: NDArray[Any],
        n_seqs: int,
        n_steps: int,
        seed: int | None = None,
        rows: slice = slice(None),
        split: Split | None = None,
    ) -> None:
        """Cut ``ids [N]`` into ``n_seqs`` rows; batches contain only those in ``rows``.

        With a ``split``, only its training text is read.

        Raises:
            SettingError: the text does not fill two batches.
        """
        for name, value in (("n_seqs", n_seqs), ("n_steps", n_steps)):
            if value < 1:
                raise SettingError(f"{name} must be at least 1, not {value}")
        if ids.ndim != 1:
            raise SettingError(f"tokens must have one axis, [N], not {list(ids.shape)}")
        self._tokens = len(ids) if split is None else split.train_tokens
        full = self._tokens // (n_seqs * n_steps)
        if full < 2:
            raise SettingError(
                f"{self._tokens:,} tokens do not fill two batches of {n_seqs} x {n_steps}; "
                "give a longer text, fewer rows or fewer steps"
            )
        self.ids, self._seed, self._split = ids, seed, split
        self._steps = n_steps
        self.batches_per_pass = full - 1
        starts = np.arange(n_seqs)[rows, np.newaxis] * (full * n_steps)  # [B, 1]
        self.places = starts + np.arange(n_steps + 1)  # [B, T + 1]: a batch and the character after it

    def batch(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """``x [B, T]`` and ``y [B, T]`` of a batch; ``index`` counts from 0 over all passes."""
        window = self.ids[self.locate(self.places, index)]  # [B, T + 1]
        return window[:, :-1], window[:, 1:]

    def locate(self, places: Places, index: int) -> Places:
        """The positions of a batch in the text, given `places` (or a tensor of them)."""
        number, place = divmod(index, self.batches_per_pass)
        where = places + (self._shift(number) + place * self._steps)
        if self._seed is not None:
            where %= self._tokens
        return where if self._split is None else self._split.places(where)

    def starts_anew(self, index: int) -> bool:
        """Whether a batch is the first of a pass, which starts from a zero state."""
        return index % self.batches_per_pass == 0

    def _shift(self, number: int) -> int:
        """The start position of a pass."""
        if self._seed is None:
            return 0
        return int(np.random.default_rng((self._seed, number)).integers(self._tokens))


def fit_batch(tokens: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """Reduce the batch until a text of ``tokens`` tokens fills two, by repeatedly halving the larger size.

    If both are equal, the batch size is halved first.

    Examples:
        >>> fit_batch(1_003_854, 100, 100), fit_batch(5_000, 100, 100), fit_batch(28, 100, 100)
        ((100, 100), (50, 50), (3, 3))
    """
    while 2 * batch_size * seq_length > tokens:
        if batch_size >= seq_length:
            batch_size = max(1, batch_size // 2)
        else:
            seq_length = max(1, seq_length // 2)
        if batch_size == seq_length == 1:
            break
    return batch_size, seq_length
