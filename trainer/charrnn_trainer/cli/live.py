"""The live display of a run: progress bar, current figures, loss curve and a sample."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from charrnn_runtime.cli import terminal
from charrnn_trainer.cli.curve import (
    TRAINING_STYLE,
    VALIDATION_MARK,
    VALIDATION_STYLE,
    Series,
    draw_curve,
)
from charrnn_trainer.cli.region import Region
from charrnn_trainer.config import MOST_STEPS

if TYPE_CHECKING:
    from charrnn_trainer.training.events import Logged, Started, Stepped, Validated

_FIRST_SAMPLE: Final = 10.0
_NEXT_SAMPLE: Final = 60.0
"""Seconds from the start to the first sample. Each validation takes another; if validations are rare, so do
this many seconds after the last sample."""

_SAMPLE_LENGTH: Final = 240
_SAMPLE_ROWS: Final = 4
_CURVE_ROWS: Final = 5
_FEWEST_CURVE_ROWS: Final = 3
_NARROWEST_CURVE: Final = 30
_WIDEST: Final = 59
"""Rows this narrow do not wrap when the terminal shrinks to 60 columns; wrapped rows could leave
fragments."""

_SHORTEST_BAR: Final = 10
_MEANS: Final = 0.95
"""Figures are moving averages over about the last 20 steps, so that they are steady enough to read."""


class LiveDisplay:
    """Shows a run at the bottom of a terminal, from its first step until `close`."""

    def __init__(
        self, console: Console, started: Started, clock: Callable[[], float] = time.monotonic
    ) -> None:
        config = started.config
        self._console = console
        self._braille = _shows_braille(console)
        self._write = started.write
        steps = config.optimization.steps
        self._of = f"/{steps}" if steps < MOST_STEPS else ""
        self._step = started.step
        self._done_before = self._done = started.done
        self._clock = clock
        self._began = clock()
        self._next_sample = self._began + _FIRST_SAMPLE
        self._batch_characters = config.data.batch_size * config.data.seq_length
        self._unit = "bytes" if config.data.level == "byte" else "characters"
        self._loss: float | None = None
        self._knows_every_loss = False  # on a GPU, only reports have losses
        self._seconds: float | None = None
        self._rate = config.optimization.learning_rate
        self._validation: float | None = None
        self._training_curve, self._validation_curve = Series(), Series()
        self._sample: tuple[int, str] | None = None  # the step, and the text
        self._region = Region(console, self._render)
        self._open = contextlib.ExitStack()
        self._open.enter_context(terminal.speaking_through(self._region.say))
        self._region.start()

    def close(self) -> None:
        """Leave the last state on the screen."""
        with self._open:
            self._region.stop()

    # --- events --------------------------------------------------------------------------------------------

    def step(self, event: Stepped) -> None:
        """Record a step's figures, and take a sample when one is due."""
        self._step, self._done, self._rate = event.step, event.done, event.learning_rate
        if event.loss is not None:
            self._loss = _mean(self._loss, event.loss)
            self._knows_every_loss = True
            self._training_curve.add(event.step, event.loss)
        self._seconds = _mean(self._seconds, event.seconds)
        if self._clock() >= self._next_sample:
            self._take_sample()

    def log(self, event: Logged) -> None:
        """Record the means since the last report."""
        if not self._knows_every_loss:
            self._training_curve.add(event.step, event.train_loss)
        self._loss, self._seconds = event.train_loss, event.seconds_per_batch

    def validated(self, event: Validated) -> None:
        """Record a validation loss, and take a sample of the network as validated."""
        self._validation = event.validation_loss
        self._validation_curve.add(event.step, event.validation_loss)
        self._take_sample()

    def _take_sample(self) -> None:
        self._sample = (self._step, self._write(_SAMPLE_LENGTH))
        self._next_sample = self._clock() + _NEXT_SAMPLE

    # --- rendering -----------------------------------------------------------------------------------------

    def _render(self, columns: int, rows: int) -> list[Text]:
        columns = min(columns, _WIDEST)
        lines = self._progress(columns)
        lines += _flow(self._losses(), columns) + _flow(self._speeds(), columns)
        sample = self._sample_lines(columns)
        curve_rows = min(_CURVE_ROWS, rows - len(lines) - len(sample))
        if curve_rows < _FEWEST_CURVE_ROWS:
            curve_rows = min(_FEWEST_CURVE_ROWS, rows - len(lines))
        training = self._training_curve.points()
        if len(training) > 1 and curve_rows >= _FEWEST_CURVE_ROWS and columns >= _NARROWEST_CURVE:
            validation = self._validation_curve.points()
            lines += draw_curve(training, validation, columns, curve_rows, braille=self._braille)
        return [*lines, *sample][:rows]

    def _progress(self, columns: int) -> list[Text]:
        """The step, a progress bar and the time; without the bar if there is no room."""
        now = self._clock() - self._began
        left = "-:--:--"
        if self._done > self._done_before:
            seconds = now * (1.0 - self._done) / (self._done - self._done_before)
            left = _clock(seconds)
        before = f"step {self._step}{self._of}"
        after = f"{100.0 * self._done:3.0f}%  {_clock(now)}, {left} left"
        bar = columns - len(before) - len(after) - 2
        if bar < _SHORTEST_BAR:
            return _flow([Text(before), Text(after)], columns)
        full = math.floor(bar * self._done)
        done, rest = ("━", "─") if self._braille else ("=", "-")
        return [
            Text.assemble(f"{before} ", (done * full, "green"), (rest * (bar - full), "dim"), f" {after}")
        ]

    def _losses(self) -> list[Text]:
        """The current losses, with their marks in the curve."""
        if self._loss is None:
            return []
        mark = "⠒" if self._braille else "-"
        bits = "" if self._validation is not None else f" ({_bits(self._loss)})"
        losses = [Text.assemble("loss: ", (mark, TRAINING_STYLE), f" training {self._loss:.3f}{bits}")]
        if self._validation is not None:
            words = f" validation {self._validation:.3f} ({_bits(self._validation)})"
            losses.append(Text.assemble((VALIDATION_MARK, VALIDATION_STYLE), words))
        return losses

    def _speeds(self) -> list[Text]:
        """Speed and learning rate."""
        figures = []
        if self._seconds is not None:
            figures.append(Text(f"{self._seconds:.3f} s/batch"))
            figures.append(Text(f"{self._batch_characters / self._seconds:,.0f} {self._unit}/s"))
        return [*figures, Text(f"learning rate {self._rate:.2g}")]

    def _sample_lines(self, columns: int) -> list[Text]:
        if self._sample is None:
            return []
        step, written = self._sample
        header = f"sample at step {step}:"
        shown = [Text(row, "dim") for row in _folded(header, columns)]
        for line in written.strip("\n").split("\n"):
            encoding = self._console.encoding
            # Characters that the terminal's encoding lacks would be written as longer codes.
            line = printable(line, "·" if self._braille else "?").encode(encoding, "replace").decode(encoding)
            shown += [Text(f"  {row}", "dim") for row in _folded(line, columns - 2)]
        return shown[: _SAMPLE_ROWS + 1]


def printable(line: str, instead: str = "·") -> str:
    """A line without characters that move the cursor or change colours."""
    return "".join(character if character.isprintable() else instead for character in line.expandtabs(4))


def cut(line: str, columns: int) -> str:
    """Truncate a line to some columns, of which some characters take two."""
    if cell_len(line) <= columns:
        return line
    while cell_len(line) > columns:
        line = line[:-1]
    return line


def _folded(line: str, columns: int) -> list[str]:
    """Wrap a line, between words if possible."""
    rows = []
    while cell_len(line) > columns:
        row = cut(line, columns)
        space = row.rfind(" ")
        if line[len(row)] != " " and space > 0:
            row = row[:space]
        row = row or line[0]
        rows.append(row)
        line = line[len(row) :].lstrip(" ")
    return [*rows, line]


def _flow(figures: list[Text], columns: int) -> list[Text]:
    """Lay out figures in rows, without breaking a figure that fits into a row."""
    lines: list[Text] = []
    for figure in figures:
        if lines and cell_len(lines[-1].plain) + 2 + cell_len(figure.plain) <= columns:
            lines[-1].append("  ").append_text(figure)
        elif cell_len(figure.plain) <= columns:
            lines.append(figure.copy())
        else:
            lines += [Text(row) for row in _folded(figure.plain, columns)]
    return lines


def _mean(old: float | None, new: float) -> float:
    return new if old is None else _MEANS * old + (1.0 - _MEANS) * new


def _bits(loss: float) -> str:
    return f"{loss / math.log(2):.3f} bits"


def _clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, such as 0:01:56."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _shows_braille(console: Console) -> bool:
    """Whether the terminal can show braille patterns; the fonts of the Linux console lack them."""
    try:
        "⠿━─·".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM") != "linux"
