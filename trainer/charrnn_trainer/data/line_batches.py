"""Batches of whole lines, each a row that is read from a zero state.

A batch is a rectangle of about as many characters as one of streams has (B x T): the shorter its lines, the
more rows. Little of it is padding, since a batch's lines are of similar length; and it is not all of the same
length, since a pass is dealt out to several pools before lines are sorted:

- The lines, sorted by length, are dealt out to M pools, M lines that follow one another to one pool each. So
  all pools hold the same mixture of lengths, and a pool's lines are about `POOL` batches.
- A pool is cut into batches, from its longest lines on. Lines of up to T characters (with their newline) fill
  as many rows as fit. Longer ones fill B rows, which are read in steps of T characters: the state is carried
  from one to the next, and errors flow back through T characters, as in streams.

Which lines of about the same length meet in a batch, and in which order batches come, is drawn anew for every
pass, by the seed and the pass's number. How many steps a pass has is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_trainer.data.lines import Lines

POOL: Final = 16
"""About how many batches a pool has. More leave less padding, and make the batches more alike in length."""


@dataclass(frozen=True)
class _Group:
    """Lines of a pool that are read side by side.

    Attributes:
        places: which of the pool's lines, the shortest first.
        rows: how many rows the batch has; those that no line fills are empty.
        width: the characters of its longest line in any pool, with the newline.
    """

    places: slice
    rows: int
    width: int


class LineBatches:
    """The batches of some lines by their number, so that training can resume from any of them.

    Attributes:
        ids: the whole text, ``[N]``.
        batches_per_pass: how many batches a pass has.
        characters_per_batch: how many characters a batch predicts, as a mean over a pass.
    """

    def __init__(
        self, lines: Lines, batch_size: int, seq_length: int, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Plan batches of about ``batch_size`` x ``seq_length`` characters.

        Args:
            lines: at least one.
            batch_size: B, the rows of a batch of lines that are longer than T.
            seq_length: T, the characters of a row that a batch has at most.
            seed: what their order is drawn by.
            share: which process this is of how many; each has its part of a batch's rows.
        """
        self.ids = lines.ids
        self._lines, self._seed, self._share = lines, seed, share
        self._steps = seq_length
        self._pools = max(1, round(lines.characters / (POOL * batch_size * seq_length)))
        self._absent = -len(lines) % self._pools  # lines that are missing for pools of equal size
        lengths = np.concatenate([np.zeros(self._absent, np.int64), np.sort(lines.lengths) + 1])
        widths = lengths.reshape(-1, self._pools)[
            :, -1
        ]  # (lines of a pool): the longest of what is dealt out
        self._groups = _groups(widths, batch_size, seq_length, share[1])
        self._chunks = np.array([-(-group.width // seq_length) for group in self._groups])
        self.batches_per_pass = int(self._chunks.sum()) * self._pools
        self.characters_per_batch = lines.characters / self.batches_per_pass
        self._number = -1  # of the pass that is prepared

    def batch(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and targets, ``int64 [R, T]`` each, of the batch with this number (see `Lines.window`)."""
        pool, number, chunk = self._find(index)
        group = self._groups[number]
        chosen = self._dealt[group.places, pool]
        chosen = np.concatenate([chosen, np.full(group.rows - len(chosen), -1)])
        rank, size = self._share
        own = chosen[len(chosen) * rank // size : len(chosen) * (rank + 1) // size]
        first = chunk * self._steps
        return self._lines.window(own, first, min(first + self._steps, group.width))

    def starts_anew(self, index: int) -> bool:
        """Whether the lines of the batch with this number begin there, which no state carries into."""
        return self._find(index)[2] == 0

    def _find(self, index: int) -> tuple[int, int, int]:
        """The pool, the group and the chunk of the batch with this number."""
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
    """Cut a pool, whose lines have up to ``widths [n]`` characters, ascending, into batches."""
    groups, stop = [], len(widths)
    while stop:
        width = int(widths[stop - 1])
        rows = batch_size if width > seq_length else batch_size * seq_length // width
        start = max(0, stop - rows)
        if width <= seq_length:
            rows = max(stop - start, processes)  # the last batch may be small, but every process has a row
        groups.append(_Group(slice(start, stop), rows, width))
        stop = start
    return groups
