"""The text that validations use, and how long they take: a sample during training, the whole text at the end.

A sample always consists of the same pieces of 256 characters, spread evenly over the validation text. Its
losses are comparable and choose the best checkpoint; at the end, that checkpoint's loss is measured on the
whole validation text.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_trainer.data.lines import Lines
from charrnn_trainer.data.split import Rows
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.training.validation import validation_loss

SAMPLE: Final = 131_072
"""The sample size in characters in plans for a time budget: within 0.5 % of the whole loss on half a million
characters of source code, whose files vary much, and closer on prose."""

PIECE: Final = 256
WARM_UP: Final = 128
"""The characters of a piece of a sample, and the characters read before it as warm-up."""

SHARE: Final = 0.05
"""Validations during training take at most this share of a time budget."""

MOST: Final = 10
"""A plan has at most this many validations during training."""

WHOLE_SHARE: Final = 0.1
"""The validation at the end takes at most about this share of a time budget."""

_TRIAL: Final = 16
_TRIAL_CHARACTERS: Final = 4_096  # characters of lines that are read to measure the speed

HeldOut = Rows | Lines
"""Text to score: rows of a text, or lines of a list."""


def sample_rows(rows: HeldOut, characters: int) -> HeldOut:
    """The pieces of a sample of about ``characters``; all rows if reading them takes no longer.

    A sample of lines is the first lines, whose order the seed has drawn.

    Examples:
        >>> sample_rows(Rows(np.array([5_000, 9_000]), 4_000, 512), 1_024)
        Rows(begins=array([ 5872,  7872,  9872, 11872]), length=256, warm_up=128)
    """
    count = len(rows.begins)
    if not count or not characters:
        return rows
    if isinstance(rows, Lines):
        return rows if characters >= rows.characters else _first_lines(rows, characters)
    each = max(1, round(characters / (PIECE * count)))  # pieces per row
    warm_up = min(WARM_UP, rows.warm_up)
    if each * PIECE > rows.length or each * (PIECE + warm_up) >= rows.length + rows.warm_up:
        return rows
    stretch = rows.length // each
    begins = rows.begins[:, np.newaxis] + np.arange(each) * stretch + (stretch - PIECE) // 2
    return dataclasses.replace(rows, begins=begins.ravel(), length=PIECE, warm_up=warm_up)


def _first_lines(lines: Lines, characters: int) -> Lines:
    """The first lines, up to ``characters`` in total, and at least one."""
    count = int(np.searchsorted(np.cumsum(lines.lengths + 1), characters, "right"))
    return lines.take(slice(max(1, count)))


def read_characters(rows: HeldOut) -> int:
    """The number of characters to read for some rows, including warm-up."""
    warm_up = 0 if isinstance(rows, Lines) else len(rows.begins) * rows.warm_up
    return rows.characters + warm_up


class ReadingTimes:
    """The expected duration of validations: measured once, then corrected by every validation."""

    def __init__(self) -> None:
        self._measured: dict[int, float] = {}  # seconds per character, by the number of rows read in parallel
        self._slowness = 1.0  # current time relative to the measured time

    def measure(self, network: CharNetwork, rows: HeldOut) -> None:
        """Time a short read with the same number of rows in parallel."""
        count = len(rows.begins)
        if count not in self._measured:
            ids: NDArray[Any] = np.zeros(2 * _TRIAL, np.uint8)
            trial: HeldOut = Rows(np.full(count, _TRIAL), _TRIAL, _TRIAL)
            if isinstance(rows, Lines):
                trial = _first_lines(rows, _TRIAL_CHARACTERS)
            times = []
            for _ in range(2):
                begin = time.perf_counter()
                validation_loss(network, ids, trial)
                times.append(time.perf_counter() - begin)
            self._measured[count] = min(times) / read_characters(trial)

    def assume(self, seconds_per_character: float, *several: HeldOut) -> None:
        """Assume this time per character of these rows, until a validation corrects it."""
        self._measured = dict.fromkeys((len(rows.begins) for rows in several), seconds_per_character)
        self._slowness = 1.0

    def note(self, rows: HeldOut, seconds: float) -> None:
        """Correct the expectation by the duration of a validation."""
        if len(rows.begins) in self._measured:
            self._slowness = seconds / (self._measured[len(rows.begins)] * read_characters(rows))

    def expected(self, rows: HeldOut) -> float:
        """The expected duration of a validation on measured rows, in seconds."""
        return self._slowness * self._measured[len(rows.begins)] * read_characters(rows)

    def within(self, rows: HeldOut, seconds: float) -> HeldOut:
        """The start of each row, as much as can be read in this time, at least 256 characters.

        Of lines, as many as can be read.
        """
        if isinstance(rows, Lines):
            return _first_lines(rows, int(rows.characters * min(1.0, seconds / self.expected(rows))))
        per_column = self.expected(rows) / (rows.length + rows.warm_up)  # one character of each row
        length = int(seconds / per_column) - rows.warm_up
        return dataclasses.replace(rows, length=min(rows.length, max(PIECE, length)))
