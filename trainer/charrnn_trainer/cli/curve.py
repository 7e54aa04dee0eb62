"""Draws losses as a text curve: in braille dots if the terminal can show them, else in ASCII."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from rich.text import Text

TRAINING_STYLE: Final = "cyan"
VALIDATION_STYLE: Final = "yellow"
VALIDATION_MARK: Final = "o"

_MOST_POINTS: Final = 512
_WARM_UP: Final = 0.1
"""Losses fall fast in this first share of the steps, which the scale therefore ignores."""

_BRAILLE: Final = 0x2800
_BRAILLE_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bit of each dot of a braille pattern, by column and row (Unicode, chapter 21.1)."""

_ASCII_DOTS: Final = "'-."
_ASCII_SEVERAL: Final = ":"

Points = list[tuple[float, float]]
"""(step, loss) pairs, ordered by step."""


class Series:
    """Losses by step, reduced to at most 512 points by averaging neighbours."""

    def __init__(self) -> None:
        self._stride = 1  # steps per point
        self._points: list[_Mean] = []

    def add(self, step: int, loss: float) -> None:
        """Add the loss at a step later than all earlier ones; non-finite losses are skipped."""
        if not math.isfinite(loss):
            return
        _put(self._points, _Mean(step // self._stride, step, loss, 1))
        if len(self._points) > _MOST_POINTS:
            self._stride *= 2
            merged: list[_Mean] = []
            for point in self._points:
                _put(merged, point._replace(place=point.place // 2))
            self._points = merged

    def points(self) -> Points:
        """The points: mean step and mean loss."""
        return _points(self._points)


class _Mean(NamedTuple):
    place: int
    steps: float
    losses: float
    number: int


def _points(means: list[_Mean]) -> Points:
    return [(mean.steps / mean.number, mean.losses / mean.number) for mean in means]


def _put(points: list[_Mean], new: _Mean) -> None:
    """Append a point, or merge it into the last one if they share a place."""
    if points and points[-1].place == new.place:
        last = points[-1]
        points[-1] = _Mean(
            new.place, last.steps + new.steps, last.losses + new.losses, last.number + new.number
        )
    else:
        points.append(new)


def draw_curve(training: Points, validation: Points, columns: int, rows: int, *, braille: bool) -> list[Text]:
    """Draw training losses as a line and validation losses as marks, over all steps so far.

    Args:
        training: at least two points.
        validation: any number of points.
        columns: the width, at least 16.
        rows: the height.
        braille: draw with braille patterns, 2 x 4 dots per character; else with ASCII, 1 x 3.

    Returns:
        The rows from the top, at most ``columns`` characters each. The first and the last start with the
        highest and the lowest loss of the scale.
    """
    training = _means(training, columns)
    scale = _Scale.over(training, validation)
    labels = [f"{scale.top:.3f}", f"{scale.bottom:.3f}"]
    margin = max(map(len, labels))
    columns -= margin + 1
    across, down = (2, 4) if braille else (1, 3)
    size = (across * columns, down * rows)
    cells = [[" "] * columns for _ in range(rows)]
    for column, row, dots in _cells(
        _line([scale.place(point, size) for point in training], size), across, down
    ):
        cells[row][column] = _character(dots, braille=braille)
    marks = set()
    for point in validation:
        x, y = scale.place(point, size)
        if 0 <= y < size[1]:
            marks.add((round(y) // down, round(x) // across))
    for row, column in marks:
        cells[row][column] = VALIDATION_MARK

    labels[1:1] = [""] * (rows - 2)
    drawn = [
        Text.assemble(f"{label:>{margin}} ", ("".join(line).rstrip(), TRAINING_STYLE), no_wrap=True)
        for label, line in zip(labels, cells, strict=False)
    ]
    for row, column in marks:
        start = margin + 1 + column
        drawn[row].stylize(VALIDATION_STYLE, start, start + 1)
    return drawn


def _means(points: Points, most: int) -> Points:
    """Average points over at most ``most`` ranges of steps, since single losses are noisy."""
    first, last = points[0][0], points[-1][0]
    means: list[_Mean] = []
    for step, loss in points:
        place = math.floor((step - first) / max(last - first, 1.0) * (most - 1))
        _put(means, _Mean(place, step, loss, 1))
    return _points(means)


class _Scale(NamedTuple):
    """The range of steps and losses shown."""

    first: float
    last: float
    top: float
    bottom: float

    @classmethod
    def over(cls, training: Points, validation: Points) -> _Scale:
        points = training + validation
        first, last = min(step for step, _ in points), max(step for step, _ in points)
        late = [loss for step, loss in points if step >= first + _WARM_UP * (last - first)]
        top, bottom = max(late), min(late)
        room = max(0.02 * (top - bottom), 1e-3)  # labels differ, and no division by 0
        return cls(first, last, top + room, max(0.0, bottom - room))

    def place(self, point: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
        """The position of a point on a canvas of ``size`` dots; y is negative above the canvas."""
        step, loss = point
        x = (step - self.first) / max(self.last - self.first, 1.0) * (size[0] - 1)
        y = (self.top - loss) / (self.top - self.bottom) * (size[1] - 1)
        return x, y


def _line(places: list[tuple[float, float]], size: tuple[int, int]) -> set[tuple[int, int]]:
    """The dots of a line through some places: the mean in each column, and the dots that join them."""
    heights: dict[int, list[float]] = {}
    for x, y in places:
        heights.setdefault(round(x), []).append(y)
    known = [(x, sum(ys) / len(ys)) for x, ys in sorted(heights.items())]
    dots: set[tuple[int, int]] = set()
    before: int | None = None
    for (x0, y0), (x1, y1) in itertools.pairwise([*known, known[-1]]):
        for x in range(x0, max(x1, x0 + 1)):
            y = round(y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1))
            joined = range(y, y + 1) if before is None or before == y else _between(before, y)
            dots.update((x, height) for height in joined if 0 <= height < size[1])
            before = y
    return dots


def _between(before: int, now: int) -> range:
    """The heights from the one after ``before`` up or down to ``now``."""
    return range(before + 1, now + 1) if now > before else range(now, before)


def _cells(
    dots: set[tuple[int, int]], across: int, down: int
) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Group dots by character: yields column, row and the dots' positions within the character."""
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for x, y in dots:
        cells.setdefault((x // across, y // down), []).append((x % across, y % down))
    for (column, row), inside in cells.items():
        yield column, row, inside


def _character(dots: list[tuple[int, int]], *, braille: bool) -> str:
    """The character that shows the given dots, each a (column, row) within it."""
    if braille:
        return chr(_BRAILLE + sum(_BRAILLE_DOTS[x][y] for x, y in dots))
    return _ASCII_DOTS[dots[0][1]] if len(dots) == 1 else _ASCII_SEVERAL
