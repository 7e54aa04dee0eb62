"""Batches of whole lines: each line is a row that starts from a zero state.

A batch is a rectangle of about B x T characters, as for streams: the shorter its lines, the more rows. There
is little padding, since the lines of a batch have similar lengths. Lengths still vary within a batch, since
lines are distributed over several pools:

- The lines, sorted by length, are dealt to M pools: of M consecutive lines, each pool gets one. All pools
  therefore have the same mixture of lengths. A pool has the lines of about `POOL` batches.
- A pool is cut into batches, longest lines first. Lines of up to T characters (including the newline) fill as
  many rows as fit. Longer lines fill B rows, which are read T characters at a time: the state is carried
  over, and back-propagation is truncated to T characters, as for streams.

Which lines of about the same length share a batch, and the order of batches, are drawn anew for every pass,
from the seed and the pass's number. The number of steps in a pass is constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_trainer.data.lines import Lines

POOL: Final = 16
"""The approximate number of batches in a pool. More reduce padding, but also variation of length in a
batch."""


@dataclass(frozen=True)
class _Group:
    """Lines of a pool that are read in parallel.

    Attributes:
        places: the indices of the lines in the pool, shortest first.
        rows: the number of rows of the batch; rows without a line are empty.
        width: the length of its longest line in any pool, including the newline.
    """

    places: slice
    rows: int
    width: int


class LineBatches:
    """Batches of lines by index, so that training can resume at any of them.

    Attributes:
        ids: the whole text, ``[N]``.
        batches_per_pass: the number of batches in a pass.
        characters_per_batch: the mean number of characters that a batch predicts.
    """

    def __init__(
        self, lines: Lines, batch_size: int, seq_length: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Plan batches of about ``batch_size`` x ``seq_length`` characters.

        Args:
            lines: at least one line.
            batch_size: B, the number of rows of a batch of lines longer than T.
            seq_length: T, the maximum number of characters per row.
            seed: the seed of their order.
            share: rank and number of processes; each reads its part of a batch's rows.
        """
        self.ids = lines.ids
        self._lines, self._seed, self._share = lines, seed, share
        self._steps = seq_length
        self._pools = max(1, round(lines.characters / (POOL * batch_size * seq_length)))
        self._absent = -len(lines) % self._pools  # lines missing for pools of equal size
        lengths = np.concatenate([np.zeros(self._absent, np.int64), np.sort(lines.lengths) + 1])
        widths = lengths.reshape(-1, self._pools)[:, -1]  # (lines of a pool): the longest of each deal
        self._groups = _groups(widths, batch_size, seq_length, share[1])
        self._chunks = np.array([-(-group.width // seq_length) for group in self._groups])
        self.batches_per_pass = int(self._chunks.sum()) * self._pools
        self.characters_per_batch = lines.characters / self.batches_per_pass
        self._number = -1  # of the prepared pass

    def batch(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets of a batch, ``int64 [R, T]`` each (see `Lines.window`)."""
        pool, number, chunk = self._find(index)
        group = self._groups[number]
        chosen = self._dealt[group.places, pool]
        chosen = np.concatenate([chosen, np.full(group.rows - len(chosen), -1)])
        rank, size = self._share
        own = chosen[len(chosen) * rank // size : len(chosen) * (rank + 1) // size]
        first = chunk * self._steps
        return self._lines.window(own, first, min(first + self._steps, group.width))

    def starts_anew(self, index: int) -> bool:
        """Whether a batch contains the start of its lines, and so starts from a zero state."""
        return self._find(index)[2] == 0

    def _find(self, index: int) -> tuple[int, int, int]:
        """The pool, the group and the chunk of a batch."""
        number, place = divmod(index, self.batches_per_pass)
        if number != self._number:
            self._prepare(number)
        turn = int(np.searchsorted(self._begins, place, "right")) - 1
        pool, group = divmod(int(self._order[turn]), len(self._groups))
        return pool, group, place - int(self._begins[turn])

    def _prepare(self, number: int) -> None:
        """Draw the order of a pass."""
        random = np.random.default_rng((self._seed, 1 + number))
        mixed = random.permutation(len(self._lines))
        by_length = mixed[np.argsort(self._lines.lengths[mixed], kind="stable")]
        padded = np.concatenate([np.full(self._absent, -1), by_length]).reshape(-1, self._pools)
        self._dealt = random.permuted(padded, axis=1)  # (lines of a pool, pools)
        self._order = random.permutation(self._pools * len(self._groups))
        chunks = self._chunks[self._order % len(self._groups)]
        self._begins = np.cumsum(chunks) - chunks
        self._number = number


def _groups(widths: NDArray[np.int64], batch_size: int, seq_length: int, processes: int) -> list[_Group]:
    """Cut a pool into batches; its lines have up to ``widths [n]`` characters, in ascending order."""
    groups, stop = [], len(widths)
    while stop:
        width = int(widths[stop - 1])
        rows = batch_size if width > seq_length else batch_size * seq_length // width
        start = max(0, stop - rows)
        if width <= seq_length:
            rows = max(stop - start, processes)  # a small last batch still has a row for every process
        groups.append(_Group(slice(start, stop), rows, width))
        stop = start
    return groups
