"""What is validated on, and how long that takes: a sample on the way, the whole at the end.

A sample is the same pieces of 256 characters every time, spread evenly over the validation text. Its losses
choose the best checkpoint, since they are of one measure; the loss of that checkpoint over the whole
validation text is measured at the end.
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
"""How many characters a plan for a time budget samples: within 0.5 % of the loss over the whole of half a
million characters of source code, whose files differ much, and closer on prose."""

PIECE: Final = 256
WARM_UP: Final = 128
"""A piece of a sample has this many characters, and is read after as many before it."""

SHARE: Final = 0.05
"""Of a time budget, validations on the way take at most this share."""

MOST: Final = 10
"""A plan makes at most this many validations on the way."""

WHOLE_SHARE: Final = 0.1
"""Of a time budget, the validation at the end takes about this share at most."""

_TRIAL: Final = 16
_LITTLE: Final = 4_096  # characters of lines that show how fast they are read

HeldOut = Rows | Lines
"""What is scored: rows of a text, or lines of a list."""


def sample_rows(rows: HeldOut, characters: int) -> HeldOut:
    """The pieces of a sample of about ``characters``; all of the rows where that is no more to read.

    Of lines, whose order the seed has drawn, the first ones are the sample.

    Examples:
        >>> sample_rows(Rows(np.array([5_000, 9_000]), 4_000, 512), 1_024)
        Rows(begins=array([ 5872,  7872,  9872, 11872]), length=256, warm_up=128)
    """
    count = len(rows.begins)
    if not count or not characters:
        return rows
    if isinstance(rows, Lines):
        return rows if characters >= rows.characters else _first_lines(rows, characters)
    each = max(1, round(characters / (PIECE * count)))  # pieces of a row
    warm_up = min(WARM_UP, rows.warm_up)
    if each * PIECE > rows.length or each * (PIECE + warm_up) >= rows.length + rows.warm_up:
        return rows
    stretch = rows.length // each
    begins = rows.begins[:, np.newaxis] + np.arange(each) * stretch + (stretch - PIECE) // 2
    return dataclasses.replace(rows, begins=begins.ravel(), length=PIECE, warm_up=warm_up)


def _first_lines(lines: Lines, characters: int) -> Lines:
    """The first of some lines, up to ``characters`` in all, and at least one."""
    count = int(np.searchsorted(np.cumsum(lines.lengths + 1), characters, "right"))
    return lines.take(slice(max(1, count)))


def read_characters(rows: HeldOut) -> int:
    """How many characters are read for some rows, their warm-up included."""
    warm_up = 0 if isinstance(rows, Lines) else len(rows.begins) * rows.warm_up
    return rows.characters + warm_up


class ReadingTimes:
    """How long validations take: measured at first, and put right by each one that is made."""

    def __init__(self) -> None:
        self._measured: dict[int, float] = {}  # seconds a character, by how many rows are read side by side
        self._slowness = 1.0  # how the time of now compares with what was measured

    def measure(self, network: CharNetwork, rows: HeldOut) -> None:
        """Let a network read a little, with as many rows side by side."""
        count = len(rows.begins)
        if count not in self._measured:
            ids: NDArray[Any] = np.zeros(2 * _TRIAL, np.uint8)
            little: HeldOut = Rows(np.full(count, _TRIAL), _TRIAL, _TRIAL)
            if isinstance(rows, Lines):
                little = _first_lines(rows, _LITTLE)
            times = []
            for _ in range(2):
                begin = time.perf_counter()
                validation_loss(network, ids, little)
                times.append(time.perf_counter() - begin)
            self._measured[count] = min(times) / read_characters(little)

    def assume(self, seconds_a_character: float, *several: HeldOut) -> None:
        """Expect that time for a character of these rows, until a validation shows more."""
        self._measured = dict.fromkeys((len(rows.begins) for rows in several), seconds_a_character)
        self._slowness = 1.0

    def note(self, rows: HeldOut, seconds: float) -> None:
        """Learn from how long a validation took."""
        if len(rows.begins) in self._measured:
            self._slowness = seconds / (self._measured[len(rows.begins)] * read_characters(rows))

    def expected(self, rows: HeldOut) -> float:
        """How long a validation on rows that were measured will take, in seconds."""
        return self._slowness * self._measured[len(rows.begins)] * read_characters(rows)

    def within(self, rows: HeldOut, seconds: float) -> HeldOut:
        """As much of the beginning of each row as can be read in some time, and at least 256 characters.

        Of lines, as many as can be read.
        """
        if isinstance(rows, Lines):
            return _first_lines(rows, int(rows.characters * min(1.0, seconds / self.expected(rows))))
        a_row = self.expected(rows) / (rows.length + rows.warm_up)  # the time for a character of each row
        length = int(seconds / a_row) - rows.warm_up
        return dataclasses.replace(rows, length=min(rows.length, max(PIECE, length)))
