"""What the streams of a lane have sampled and not given out yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LINES: Final = 512
"""How many steps of all rows are held in one array; then each row's are put aside."""

_NEVER: Final = np.int64(1 << 60)
"""A line that is not reached: that of a row without a stream."""


class History:
    """The tokens of some rows, step by step.

    They are in one array of all rows, to which a block is added at once. Now and then it is emptied and
    each row's part is put aside, so that a stream that runs for long holds no more than what is its own.
    """

    def __init__(self, rows: int) -> None:
        self._tokens = np.zeros((_LINES, rows), np.int32)  # (n, R), of which the first lines are filled
        self._filled = 0
        self._first = np.full(rows, _NEVER)  # (R) the line of each row's first token not given out
        self._aside: dict[int, list[NDArray[np.int64]]] = {}  # by row: earlier tokens not given out
        self._reach = 0  # how many lines back a stop text may begin

    def begin(self, rows: NDArray[np.intp], reading: NDArray[np.int64]) -> None:
        """Let rows have new streams, which read this many tokens before they sample one."""
        self._first[rows] = self._filled + reading

    def reach_back(self, steps: int) -> None:
        """Keep at least this many steps, for `ends_with`."""
        self._reach = max(self._reach, steps)

    def append(self, tokens: NDArray[np.int64]) -> None:
        """Add the tokens of some steps, ``[n, R]``."""
        if self._filled + len(tokens) > len(self._tokens):
            self._put_aside()
        self._tokens[self._filled : self._filled + len(tokens)] = tokens
        self._filled += len(tokens)

    def take(self, rows: Sequence[int]) -> list[NDArray[np.int64]]:
        """What some rows have sampled and not given out; it is given out now."""
        tokens = self._tokens[: self._filled, rows].T.astype(np.int64)  # (E, n), each row in one piece
        taken = [each[first:] for each, first in zip(tokens, self._first[rows].tolist(), strict=True)]
        self._first[rows] = np.maximum(self._first[rows], self._filled)
        if self._aside:
            for index, row in enumerate(rows):
                if row in self._aside:
                    taken[index] = np.concatenate([*self._aside.pop(row), taken[index]])
        return taken

    def has_news(self) -> NDArray[np.bool_]:
        """Whether each row has sampled something that it has not given out, as far as it is not put aside."""
        return self._first < self._filled

    def forget(self, rows: Sequence[int]) -> None:
        """Drop what rows have not given out: their streams have ended."""
        self._first[rows] = _NEVER
        for row in rows if self._aside else ():
            self._aside.pop(row, None)

    def ends_with(self, row: int, tokens: NDArray[np.int64]) -> bool:
        """Whether a row's last tokens are these, which are no more than `reach_back` said."""
        return np.array_equal(self._tokens[self._filled - len(tokens) : self._filled, row], tokens)

    def moved(self, kept: Sequence[int], rows: int) -> History:
        """The same for ``rows`` rows, of which the first are the ones that are kept."""
        self._put_aside()
        after = History(rows)
        after._reach, after._filled = self._reach, self._filled
        after._tokens = np.zeros((len(self._tokens), rows), np.int32)
        after._tokens[: self._filled, : len(kept)] = self._tokens[: self._filled, kept]
        after._first[: len(kept)] = self._first[kept]
        after._aside = {new: self._aside[old] for new, old in enumerate(kept) if old in self._aside}
        return after

    def _put_aside(self) -> None:
        """Empty the array but for its end, in which stop texts may begin; what rows have is put aside."""
        for row in np.flatnonzero(self.has_news()).tolist():
            own = self._tokens[self._first[row] : self._filled, row].astype(np.int64)
            self._aside.setdefault(row, []).append(own)
        kept = min(self._reach, self._filled)
        self._first = np.maximum(self._first - self._filled, 0) + kept
        tokens = np.zeros((max(_LINES, 2 * kept), self._tokens.shape[1]), np.int32)
        tokens[:kept] = self._tokens[self._filled - kept : self._filled]
        self._tokens, self._filled = tokens, kept
