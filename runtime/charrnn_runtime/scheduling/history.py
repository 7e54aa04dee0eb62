"""The tokens that the streams of a lane have sampled but not output yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LINES: Final = 512
"""The number of steps in an array."""

_NEVER: Final = np.int64(1 << 60)
"""A line that is never reached; marks rows without a stream."""


class History:
    """The tokens of the rows, step by step.

    The tokens of all rows are stored in shared arrays; a block is appended to the newest one at once. When it
    is full, a new one is started, so the cost of a step does not depend on the number of rows. Once fewer
    than half of the rows need an older array, their parts are copied out, and the array is freed.
    """

    def __init__(self, rows: int) -> None:
        self._tokens = np.zeros((_LINES, rows), np.int32)  # (n, R), of which the first lines are filled
        self._filled = 0
        self._first = np.full(rows, _NEVER)  # (R) the line of each row's first pending token
        # Full arrays, oldest first: tokens (n, R), and the first line of each row (R).
        self._full: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []
        self._aside: dict[int, list[NDArray[np.int64]]] = {}  # by row: older tokens, copied out
        self._reach = 0  # how many lines back a stop text may start

    def begin(self, rows: NDArray[np.intp], reading: NDArray[np.int64]) -> None:
        """Start new streams in rows; each reads this many tokens before it samples one."""
        self._first[rows] = self._filled + reading

    def reach_back(self, steps: int) -> None:
        """Keep at least this many steps for `ends_with`."""
        self._reach = max(self._reach, steps)

    def append(self, tokens: NDArray[np.int64]) -> None:
        """Append the tokens of some steps, ``[n, R]``."""
        if self._filled + len(tokens) > len(self._tokens):
            self._begin_another()
        self._tokens[self._filled : self._filled + len(tokens)] = tokens
        self._filled += len(tokens)

    def take(self, rows: Sequence[int]) -> list[NDArray[np.int64]]:
        """Take the pending tokens of some rows."""
        taken = _columns(self._tokens[: self._filled], self._first, rows)
        self._first[rows] = np.maximum(self._first[rows], self._filled)
        if self._full or self._aside:
            older = [_columns(tokens, first, rows) for tokens, first in self._full]
            for index, row in enumerate(rows):
                pieces = [*self._aside.pop(row, ()), *(each[index] for each in older), taken[index]]
                taken[index] = np.concatenate(pieces)
            self._need_no_more(rows)
        return taken

    def has_news(self) -> NDArray[np.bool_]:
        """Whether each row has pending tokens in the newest array."""
        return self._first < self._filled

    def forget(self, rows: Sequence[int]) -> None:
        """Drop the pending tokens of rows whose streams have ended."""
        self._first[rows] = _NEVER
        for row in rows if self._aside else ():
            self._aside.pop(row, None)
        self._need_no_more(rows)

    def ends_with(self, row: int, tokens: NDArray[np.int64]) -> bool:
        """Whether a row's last tokens are these, at most as many as given to `reach_back`."""
        return np.array_equal(self._tokens[self._filled - len(tokens) : self._filled, row], tokens)

    def moved(self, kept: Sequence[int], rows: int) -> History:
        """The same for ``rows`` rows, the first of which are the ones kept."""
        self._begin_another()
        while self._full:
            self._put_aside()
        after = History(rows)
        after._reach, after._filled = self._reach, self._filled
        after._tokens = np.zeros((len(self._tokens), rows), np.int32)
        after._tokens[: self._filled, : len(kept)] = self._tokens[: self._filled, kept]
        after._first[: len(kept)] = self._first[kept]
        after._aside = {new: self._aside[old] for new, old in enumerate(kept) if old in self._aside}
        return after

    def _begin_another(self) -> None:
        """Close the current array and start another with its end, where stop texts may start."""
        if self.has_news().any():
            self._full.append((self._tokens[: self._filled], self._first.copy()))
        kept = min(self._reach, self._filled)
        self._first = np.maximum(self._first - self._filled, 0) + kept
        tokens = np.zeros((max(_LINES, 2 * kept), self._tokens.shape[1]), np.int32)
        tokens[:kept] = self._tokens[self._filled - kept : self._filled]
        self._tokens, self._filled = tokens, kept
        self._need_no_more([])

    def _need_no_more(self, rows: Sequence[int]) -> None:
        """Mark that these rows need no full array; copy out parts that few rows need."""
        for _, first in self._full:
            first[rows] = _NEVER
        # A row that needs an older array needs all newer ones, too.
        while self._full and 2 * np.count_nonzero(self._full[0][1] < _NEVER) < len(self._first):
            self._put_aside()

    def _put_aside(self) -> None:
        """Copy out each row's part of the oldest full array."""
        tokens, first = self._full.pop(0)
        rows = np.flatnonzero(first < len(tokens)).tolist()
        for row, own in zip(rows, _columns(tokens, first, rows), strict=True):
            self._aside.setdefault(row, []).append(own.copy())


def _columns(
    tokens: NDArray[np.int32], first: NDArray[np.int64], rows: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Some columns of an array as contiguous copies, each from its own first line."""
    own = tokens[:, rows].T.astype(np.int64)  # (n, R) -> (E, n)
    return [each[begin:] for each, begin in zip(own, first[rows].tolist(), strict=True)]
