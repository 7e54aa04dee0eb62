"""Detects which streams of a lane have just completed a stop text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.scheduling.history import History


class StopTexts:
    """The stop texts of the rows, as ids; rows without a stream have none."""

    def __init__(self, rows: int) -> None:
        self._texts: dict[int, Sequence[NDArray[np.int64]]] = {}  # by row
        self._last = np.full((rows, 1), -1, np.int64)  # (R, K) the last id of each stop text, or -1

    def __bool__(self) -> bool:
        """Whether any row has a stop text."""
        return bool(self._texts)

    def begin(self, row: int, texts: Sequence[NDArray[np.int64]]) -> None:
        """Set the stop texts of a row."""
        missing = len(texts) - self._last.shape[1]
        if missing > 0:
            self._last = np.pad(self._last, ((0, 0), (0, missing)), constant_values=-1)
        self._last[row, : len(texts)] = [int(each[-1]) for each in texts]
        self._texts[row] = texts

    def forget(self, rows: Sequence[int]) -> None:
        """Remove the stop texts of rows."""
        if self._texts:
            self._last[rows] = -1
            for row in rows:
                self._texts.pop(row, None)

    def moved(self, kept: Sequence[int], rows: int) -> StopTexts:
        """The same for ``rows`` rows, the first of which are the ones kept."""
        after = StopTexts(rows)
        for new, old in enumerate(kept):
            if old in self._texts:
                after.begin(new, self._texts[old])
        return after

    def completed(self, tokens: NDArray[np.int64], reading: NDArray[np.int64], history: History) -> list[int]:
        """The rows whose last token completes one of their stop texts.

        Args:
            tokens: int64 ``[n, R]``, the tokens read or sampled since the start of the block.
            reading: int64 ``[R]``, the number of these steps that only read tokens; if negative, the number
                of tokens sampled before.
            history: the tokens sampled before.
        """
        rows = np.flatnonzero((self._last == tokens[-1][:, np.newaxis]).any(axis=1)).tolist()
        return [
            row
            for row in rows
            if any(
                len(text) <= len(tokens) - reading[row] and _ends(tokens[:, row], row, text, history)
                for text in self._texts[row]
            )
        ]


def _ends(tokens: NDArray[np.int64], row: int, text: NDArray[np.int64], history: History) -> bool:
    """Whether the tokens of a row, preceded by its history, end with a text."""
    before = max(0, len(text) - len(tokens))
    return np.array_equal(tokens[-len(text) :], text[before:]) and history.ends_with(row, text[:before])
