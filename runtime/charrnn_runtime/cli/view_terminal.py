"""charrnn-view in a terminal: lines of text, coloured by the model's values for each character.

Without colours, a row of digits below each line shows the values.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from charrnn_runtime.cli.view_rows import View
from charrnn_runtime.record import Record
from charrnn_runtime.view.cells import UNSHOWN, cells_of, shown, shown_symbol
from charrnn_runtime.view.trace import Trace
from charrnn_runtime.vocabulary import Vocabulary

_LEVELS: Final = 32  # shades of a colour

# Colours of a panel with its own background, since the terminal may be light or dark.
_PANEL: Final = (28, 28, 32)
_INK: Final = (235, 235, 235)
_FAINT: Final = (150, 150, 155)
_HIGH: Final = (214, 84, 0)
_LOW: Final = (38, 96, 224)
_LIKELY: Final = (0, 122, 82)


class _Column(Record):
    """A character and its column.

    Attributes:
        text: the character as displayed.
        width: the width of the column in terminal cells.
        values: the value of each view.
        most_likely: the most likely symbols at this position, and their probabilities.
    """

    text: str
    width: int
    values: list[float]
    most_likely: list[tuple[str, float]]


class Lines:
    """Writes a text line by line as traces arrive; holds at most one terminal line."""

    def __init__(self, stream: Any, vocabulary: Vocabulary, views: list[View], top: int) -> None:
        """Write the legend.

        Args:
            stream: stdout.
            vocabulary: the model's.
            views: what to colour the text by; the text is written once per view.
            top: how many of the most likely characters to show below each character.
        """
        self._vocabulary, self._views, self._top = vocabulary, views, top
        self._console = Console(file=stream, highlight=False)
        if not self._console.width:  # COLUMNS=0: unknown
            self._console.width = 80
        self._coloured = (
            stream.isatty() and self._console.color_system is not None and not os.environ.get("NO_COLOR")
        )
        several = len(views) > 1 or (not self._coloured and top > 0)
        self._margin = max(cell_len(view.name) for view in views) + 2 if several else 0
        self._width = max(self._console.width - self._margin, 8)
        self._line: list[_Column] = []
        self._used = 0
        self._symbols = cache(lambda token: shown_symbol(vocabulary, token))
        self._legend()

    def add(self, trace: Trace) -> None:
        """Write the next part of the text."""
        cells = cells_of(self._vocabulary, trace.ids)
        values = np.array([view.values(trace, cells) for view in self._views])  # [views, n]
        if self._top and len(trace):
            ids, probabilities = trace.most_likely(self._top)
            ids, probabilities = ids[cells.starts], probabilities[cells.starts]
        for index, character in enumerate(cells.characters):
            most_likely = []
            if self._top:
                symbols = map(self._symbols, ids[index].tolist())
                most_likely = list(zip(symbols, probabilities[index].tolist(), strict=True))
            text, width = _fitting(character)
            width = max([width, *(cell_len(symbol) for symbol, _ in most_likely)])
            if self._used + width > self._width:
                self._write_line()
            self._line.append(_Column(text, width, values[:, index].tolist(), most_likely))
            self._used += width
            if character == "\n":
                self._write_line()

    def end(self) -> None:
        """Write the last line."""
        if self._line:
            self._write_line()

    def _legend(self) -> None:
        for view in self._views:
            if not self._coloured:
                self._print(Text(f"{view.title}{view.digits}"))
                continue
            legend = Text(f"{view.title}: {view.low} ")
            for step in range(-8 if view.is_signed else 0, 9):
                legend.append("  ", _shade(view.is_signed, step / 8))
            legend.append(f" {view.high}")
            self._print(legend)
        if self._top:
            self._print(Text(f"below each character, the {self._top} most likely at its position"))
        self._print(Text(""))

    def _write_line(self) -> None:
        rows: list[Text] = []
        if self._coloured:
            rows += [self._coloured_row(index) for index in range(len(self._views))]
        else:
            rows.append(self._row("", [(column.text, column.width, None) for column in self._line]))
            rows += [self._digits(index) for index in range(len(self._views))]
        for rank in range(self._top):
            likely = [(*column.most_likely[rank], column.width) for column in self._line]
            rows.append(self._row("", [(text, width, _likely(p)) for text, p, width in likely]))
        for row in rows:
            self._print(row)
        if len(rows) > 1:
            self._print(Text(""))
        self._line, self._used = [], 0

    def _coloured_row(self, index: int) -> Text:
        view = self._views[index]
        shades = [
            (column.text, column.width, _shade(view.is_signed, view.share(column.values[index])))
            for column in self._line
        ]
        return self._row(view.name, shades)

    def _digits(self, index: int) -> Text:
        view = self._views[index]
        digits = [(view.digit(column.values[index]), column.width, None) for column in self._line]
        return self._row(view.name, digits)

    def _row(self, name: str, columns: Sequence[tuple[str, int, Style | None]]) -> Text:
        row = Text(name.ljust(self._margin) if self._margin else "")
        for text, width, style in columns:
            row.append(text + " " * (width - cell_len(text)), style if self._coloured else None)
        if not self._coloured:
            row.rstrip()
        return row

    def _print(self, row: Text) -> None:
        self._console.print(row, soft_wrap=True)


@cache
def _fitting(character: str) -> tuple[str, int]:
    """A character as displayed, and its width: one cell, or two if wide."""
    text = shown(character)
    width = cell_len(text)
    return (text, width) if width else (UNSHOWN, 1)


@cache
def _shade_of(is_signed: bool, level: int) -> Style:
    share = level / _LEVELS
    strongest = _LOW if is_signed and share < 0 else _HIGH
    return _style(_INK, _mixed(_PANEL, strongest, abs(share)))


def _shade(is_signed: bool, share: float) -> Style:
    """The colour of a value in [-1, 1]; also of an unknown one."""
    if np.isnan(share):
        return _style(_FAINT, _PANEL)
    return _shade_of(is_signed, round(share * _LEVELS))


@cache
def _likely_of(level: int) -> Style:
    share = level / _LEVELS
    return _style(_mixed(_FAINT, _INK, share), _mixed(_PANEL, _LIKELY, share))


def _likely(probability: float) -> Style:
    return _likely_of(round(probability * _LEVELS))


def _mixed(first: tuple[int, ...], second: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _style(ink: tuple[int, ...], panel: tuple[int, ...]) -> Style:
    return Style(color="#{:02x}{:02x}{:02x}".format(*ink), bgcolor="#{:02x}{:02x}{:02x}".format(*panel))
