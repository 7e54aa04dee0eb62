"""What charrnn-train shows while it trains: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import shlex
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from charrnn_runtime.cli import terminal
from charrnn_trainer.config import MOST_STEPS, TrainConfig
from charrnn_trainer.data.split import ROWS

if TYPE_CHECKING:
    from charrnn_trainer.data.corpus import ScannedText
    from charrnn_trainer.training.events import (
        Event,
        Logged,
        Notice,
        Saved,
        Started,
        Stepped,
        TrainResult,
        Validated,
        ValidatedWhole,
    )

_LINES_SHOWN = 5
_SYMBOLS_SHOWN = 12
_SAMPLE_LENGTH = 240
_SAMPLE_LINES = 6
_REFRESH_PER_SECOND = 4
_MEASURED_STEPS = 5
_MINUTES = 3
_EARLY = 0.7


class Display:
    """Shows the events of a training. Use it in a ``with`` statement, and as the training's listener."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._live: _LiveDisplay | None = None
        self._console = console if console.is_terminal and not console.is_dumb_terminal else None
        self._steps = 0
        self._of = ""
        self._width = 0
        self._unit = "characters"
        self._course = False
        self._samples = False
        self._validation_tokens = 0
        self._measured: list[float] = []  # the first steps' seconds, until it is told how long the run takes

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live display, and leave its last state on the screen."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if terminal.is_quiet():
            return
        handler = getattr(self, f"_on_{type(event).__name__.lower()}", None)
        if handler is not None:
            handler(event)

    # --- before and after ----------------------------------------------------------------------------------

    def show_text(self, text: ScannedText) -> None:
        """Show what was read: its length, its symbols, its first lines."""
        unit = "bytes" if text.vocabulary.level == "byte" else "characters"
        terminal.say(
            f"text: {_printable(text.name)}, {text.length:,} {unit}, {text.distinct:,} of them distinct"
        )
        if text.had_bom:
            terminal.say("  (a byte-order mark at its start was left out)")
        if text.had_crlf:
            terminal.say("  (its Windows line ends are read as newlines)")
        # A carriage return, say, ends no line of --lines either.
        lines = text.beginning.replace("\r\n", "\n").removesuffix("\n").split("\n")[:_LINES_SHOWN]
        for line in lines:
            terminal.say(f"  | {_printable(line[:76])}")
        if text.vocabulary.level == "char":
            terminal.say(f"ids: {_mapping(text.vocabulary.symbols)}")

    def show_result(self, result: TrainResult) -> None:
        """Say what came of a run that has ended."""
        if result.best is not None:
            best = result.best
            loss = best.validation_loss if result.whole_loss is None else result.whole_loss
            terminal.say(f"best: validation loss {_with_bits(loss)} at step {best.step:,}")
            if best.step < _EARLY * result.step:
                terminal.say(
                    f"  of {result.step:,}: from there on it learned its text by heart; the best is what is "
                    "exported"
                )
        elif result.train_loss is not None:
            terminal.say(f"last: training loss {_with_bits(result.train_loss)}")
        terminal.say(
            f"next: charrnn-export {shlex.quote(str(result.run))} models/{result.config.network.cell}.onnx"
        )

    # --- events --------------------------------------------------------------------------------------------

    def _on_notice(self, event: Notice) -> None:
        self._say(event.message)

    def _say(self, line: str) -> None:
        """Write a line that stays, above the live display where there is one."""
        if self._live is not None:
            self._live.say(line)
        else:
            terminal.say(line)

    def _on_started(self, event: Started) -> None:
        config = event.config
        network = config.network
        self._course = is_course(config) and event.step == 0  # a run that goes on keeps its network
        self._samples = config.data.val_sample > 0
        self._validation_tokens = event.validation_tokens
        self._measured = []
        self._steps = config.optimization.steps
        self._unit = "bytes" if config.data.level == "byte" else "characters"
        reads = f"an embedding of {network.embedding_size}" if network.embedding_size else "one-hot"
        if network.tie_weights:
            reads += " tied to the output"
        terminal.say(
            f"network: {network.cell.upper()}, {network.layers} x {network.hidden_size}, input {reads}, "
            f"{event.parameters:,} parameters, on {event.device} in {config.run.precision}"
        )
        terminal.say(f"split: {_split(event, self._unit)}")
        minutes = config.optimization.minutes
        limited = self._steps < MOST_STEPS
        self._of = f"/{self._steps}" if limited else ""
        self._width = len(self._of) - 1 if limited else 5
        if event.done >= 1.0:
            what = (
                f"all {event.step:,} steps are"
                if event.step >= self._steps
                else f"the {minutes:g} minutes are"
            )
            more = "--steps" if event.step >= self._steps else "--minutes"
            terminal.say(f"{what} done; to train on, give more {more}")
            return
        where = f" from step {event.step:,}" if event.step else ""
        length = " or ".join(
            [f"{minutes:g} minutes"] * bool(minutes) + [f"{self._steps:,} steps"] * (limited or not minutes)
        )
        size = f"{config.data.batch_size} x {config.data.seq_length} {self._unit}"
        if config.data.lines:
            size = f"lines, up to {config.data.batch_size * config.data.seq_length:,} {self._unit}"
        terminal.say(
            f"training{where}: {length}, {'whichever is less, ' if minutes and limited else ''}in batches of "
            f"{size}, into {event.run}"
        )
        if self._console is not None:
            self._live = _LiveDisplay(self._console, event)

    def _on_stepped(self, event: Stepped) -> None:
        if self._live is not None:
            self._live.step(event)
        if self._of and len(self._measured) < _MEASURED_STEPS:
            self._measured.append(event.seconds)
            if len(self._measured) == _MEASURED_STEPS:
                self._say_how_long(event)

    def _say_how_long(self, event: Stepped) -> None:
        """Say how long the run will take, where that is known by its steps and worth a word."""
        left = self._steps - event.step
        minutes = left * statistics.median(self._measured) / 60.0
        if minutes < 1.0:
            return
        line = f"the {left:,} steps that are left take about {minutes:,.0f} minutes here"
        if self._course and minutes > _MINUTES:
            line += f"; --minutes {_MINUTES:g} makes a better model in less"
        self._say(line)

    def _on_logged(self, event: Logged) -> None:
        if self._live is not None:
            self._live.log(event)
        else:
            terminal.say(
                f"step {event.step:>{self._width}}{self._of}  loss {event.train_loss:.4f}  "
                f"{event.seconds_per_batch:.3f} s/batch"
            )

    def _on_validated(self, event: Validated) -> None:
        line = f"step {event.step}: validation loss {_with_bits(event.validation_loss)}"
        line += f" on {event.characters:,} {self._unit}" if self._samples else ""
        line += ", the best so far" if event.best else ""
        if self._live is not None:
            self._live.evaluate(event, line)
        else:
            terminal.say(line)

    def _on_validatedwhole(self, event: ValidatedWhole) -> None:
        line = (
            f"step {event.step}: validation loss {_with_bits(event.validation_loss)} on {event.characters:,} "
            f"{self._unit}, "
        )
        whole = event.characters >= self._validation_tokens - ROWS
        self._say(line + ("all that are for validation" if whole else "as many as there was time for"))

    def _on_saved(self, event: Saved) -> None:
        if self._live is not None:
            self._live.say(f"saved {event.path.name}")


class _LiveDisplay:
    """A bar, the figures of now, and a sample of what the network writes now."""

    def __init__(self, console: Console, started: Started) -> None:
        config = started.config
        self._console = console
        self._write = started.write
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        steps = config.optimization.steps
        self._of = f"/{steps}" if steps < MOST_STEPS else ""
        self._task = self._bar.add_task("train", total=1.0, step=f"{started.step}{self._of}")
        self._bar.update(self._task, completed=started.done)
        self._batch_characters = config.data.batch_size * config.data.seq_length
        self._validates = config.data.validates
        self._loss: float | None = None
        self._seconds: float | None = None
        self._rate = config.optimization.learning_rate
        self._validation: float | None = None
        self._sample = ""
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=_REFRESH_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Write a line that stays, above the display."""
        self._console.print(Text(line))

    def step(self, event: Stepped) -> None:
        self._bar.update(self._task, completed=event.done, step=f"{event.step}{self._of}")
        self._rate = event.learning_rate
        # Means over about the last 20 steps, so that the figures can be read.
        if event.loss is not None:
            self._loss = event.loss if self._loss is None else 0.95 * self._loss + 0.05 * event.loss
        old = self._seconds
        self._seconds = event.seconds if old is None else 0.95 * old + 0.05 * event.seconds

    def log(self, event: Logged) -> None:
        self._loss = event.train_loss
        self._seconds = event.seconds_per_batch
        if not self._validates:
            self._take_sample()

    def evaluate(self, event: Validated, line: str) -> None:
        self._validation = event.validation_loss
        self.say(line)
        self._take_sample()

    def _take_sample(self) -> None:
        self._sample = self._write(_SAMPLE_LENGTH)

    def _render(self) -> Group:
        figures = []
        if self._loss is not None:
            figures.append(f"loss {_briefly(self._loss)}")
        if self._validation is not None:
            figures.append(f"validation {_briefly(self._validation)}")
        if self._seconds is not None:
            figures.append(f"{self._seconds:.3f} s/batch")
            figures.append(f"{self._batch_characters / self._seconds:,.0f} characters/s")
        figures.append(f"rate {self._rate:.2g}")
        parts: list[RenderableType] = [self._bar, Text(" · ".join(figures))]
        if self._sample:
            lines = self._sample.strip("\n").split("\n")[:_SAMPLE_LINES]
            shown = "\n".join(f"  {_printable(line)}" for line in lines)
            parts.append(Text(f"it writes now:\n{shown}", style="dim", overflow="fold"))
        return Group(*parts)


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar for a download, which appears with its first bytes; None where no terminal shows it."""
    console = Console(stderr=True)
    if terminal.is_quiet() or not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    bar = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task("download", total=None)

    def show(received: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=received, total=total)

    try:
        yield show
    finally:
        bar.stop()


def is_course(config: TrainConfig) -> bool:
    """Whether settings are those of the course exercise, but for the cell and the number of steps."""
    given, course = config.flat(), TrainConfig().flat()
    names = ("layers", "hidden_size", "dropout", "weight_drop", "batch_size", "seq_length", "learning_rate")
    return given["schedule"] == "constant" and all(given[name] == course[name] for name in names)


def _split(event: Started, unit: str) -> str:
    """Which part of the text is for what."""
    train, validation = f"{event.train_tokens:,} {unit} for training", f"{event.validation_tokens:,}"
    if not event.validation_tokens:
        return f"all {train}" if event.config.data.lines else f"the first {train}"
    if event.config.data.lines:
        return f"{train}, {validation} in lines that were held back for validation"
    if event.config.data.split == "spread":
        return f"{train}, {validation} in blocks all over the text for validation"
    return f"the first {train}, the last {validation} for validation"


def _with_bits(loss: float) -> str:
    return f"{loss:.4f} ({loss / math.log(2):.3f} bits per character)"


def _briefly(loss: float) -> str:
    return f"{loss:.3f} ({loss / math.log(2):.3f} bits)"


def _mapping(symbols: tuple[str, ...]) -> str:
    """Which symbol has which id, shortened."""
    pairs = [f"{symbol!r} {index}" for index, symbol in enumerate(symbols)]
    if len(pairs) > _SYMBOLS_SHOWN:
        pairs = [*pairs[: _SYMBOLS_SHOWN - 3], "...", *pairs[-2:]]
    return ", ".join(pairs)


def _printable(line: str) -> str:
    """A line without what would move the cursor or change colours."""
    return "".join(character if character.isprintable() else "·" for character in line.expandtabs(4))
