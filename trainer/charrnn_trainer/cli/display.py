"""The output of charrnn-train during training: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, assert_never

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from charrnn_runtime.cli import terminal
from charrnn_runtime.files import shell_word
from charrnn_trainer.cli.live import LiveDisplay, cut, printable
from charrnn_trainer.cli.region import has_terminal, terminal_size
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.counting import counted
from charrnn_trainer.data.split import ROWS, split_text
from charrnn_trainer.train_config import TrainConfig
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
    with_bits,
)

if TYPE_CHECKING:
    from charrnn_trainer.data.scanning import ScannedText

_LINES_SHOWN = 5
_LINE_SHOWN = 76
_ANY_WIDTH = 10_000
_SYMBOLS_SHOWN = 12
_FEWEST_SHOWN = 4
_MEASURED_STEPS = 5
_MINUTES = 3
_EARLY = 0.7


class Display:
    """Shows the events of a run. Use it in a ``with`` statement, and pass it as the run's listener."""

    def __init__(self, *, several_texts: bool = False) -> None:
        """Set ``several_texts`` for a run on several texts; `show_text` sets it itself."""
        console = Console(stderr=True)
        self._several_texts = several_texts
        self._live: LiveDisplay | None = None
        self._console = console if has_terminal(console) else None
        self._steps = 0
        self._finished = False
        self._timed = False
        self._of = ""
        self._width = 0
        self._level = "char"
        self._unit = "characters"
        self._course = False
        self._samples = False
        self._validation_tokens = 0
        self._measured: list[float] = []  # seconds of the first steps, until the estimate is shown

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the live display, leaving its last state on the screen."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if terminal.is_quiet():
            return
        match event:
            case Notice():
                terminal.say(terminal.with_options(event.message, event.parameters))
            case Started():
                self._show_started(event)
            case Stepped():
                self._show_step(event)
            case Logged():
                self._show_logged(event)
            case Validated():
                self._show_validated(event)
            case ValidatedWhole():
                self._show_whole(event)
            case Saved():
                if self._live is not None:
                    terminal.say(f"saved {event.path.name}")
            case _:
                assert_never(event)

    # --- before and after ----------------------------------------------------------------------------------

    def show_text(self, text: ScannedText) -> None:
        """Show the text's length, symbols and first lines."""
        self._several_texts = len(text.files) > 1
        columns = _ANY_WIDTH if self._console is None else terminal_size()[0] - 1
        unit = "bytes" if text.vocabulary.level == "byte" else "characters"
        terminal.say(f"text: {printable(text.name)}, {text.length:,} {unit}, {text.distinct:,} distinct")
        if text.had_bom:
            terminal.say("  (skipped a byte-order mark at the start)")
        if text.had_crlf:
            terminal.say("  (Windows line endings are read as newlines)")
        # As with --lines, a lone carriage return does not end a line.
        lines = text.beginning.replace("\r\n", "\n").removesuffix("\n").split("\n")[:_LINES_SHOWN]
        for line in lines:
            shown = printable(line[:_LINE_SHOWN])
            terminal.say(f"  | {shown if self._console is None else cut(shown, columns - len('  | '))}")
        if text.vocabulary.level == "char":
            terminal.say(f"ids: {_mapping(text.vocabulary.symbols, columns - len('ids: '))}")

    def show_result(self, result: TrainResult) -> None:
        """Show the result of a finished run."""
        level = result.config.data.level
        if result.best is not None:
            best = result.best
            loss = best.validation_loss if result.whole_loss is None else result.whole_loss
            terminal.say(f"best: validation loss {with_bits(loss, level)} at step {best.step:,}")
            if best.step < _EARLY * result.step:
                terminal.say(
                    f"  the {result.step - best.step:,} steps after it overfitted; charrnn-export uses the "
                    "best checkpoint"
                )
        elif result.train_loss is not None:
            terminal.say(f"last: training loss {with_bits(result.train_loss, level)}")
        # Not models/lstm.onnx: that would replace a model that ships.
        terminal.say(f"next: charrnn-export {shell_word(str(result.run))} my.onnx")

    def show_finished(self, result: TrainResult) -> None:
        """For a run that was already finished, print its best checkpoint and how to train it further."""
        if not self._finished or result.run is None:
            return
        from charrnn_trainer.runs.checkpoint import read_header
        from charrnn_trainer.runs.finding import find_checkpoint

        terminal.say(f"best checkpoint: {find_checkpoint(result.run)}")
        optimization = result.config.optimization
        by_steps = result.step >= optimization.steps
        more = f" --steps {min(2 * result.step, MOST_STEPS)}" if by_steps else ""
        if optimization.minutes:
            spent = read_header(find_checkpoint(result.run, "last")).seconds or 0.0
            more += f" --minutes {_more_minutes(optimization.minutes, spent / 60.0):g}"
        terminal.say(f"to train further: charrnn-train --resume {shell_word(str(result.run))}{more}")

    # --- events --------------------------------------------------------------------------------------------

    def _show_started(self, event: Started) -> None:
        config = event.config
        network = config.network
        self._course = is_course(config) and event.step == 0  # a resumed run keeps its network
        self._samples = config.data.val_sample > 0
        self._validation_tokens = event.validation_tokens
        self._measured = []
        self._steps = config.optimization.steps
        self._level = config.data.level
        self._unit = "bytes" if self._level == "byte" else "characters"
        inputs = f"embedding size {network.embedding_size}" if network.embedding_size else "one-hot input"
        if network.tie_weights:
            inputs += " (tied to the output)"
        terminal.say(
            f"network: {network.cell.upper()}, {network.layers} x {network.hidden_size}, {inputs}, "
            f"{event.parameters:,} parameters, on {event.device} in {config.run.precision}"
        )
        terminal.say(f"split: {_split(event, self._unit, several_texts=self._several_texts)}")
        minutes = config.optimization.minutes
        limited = self._steps < MOST_STEPS
        self._timed = minutes > 0.0
        self._of = f"/{self._steps}" if limited else ""
        self._width = len(self._of) - 1 if limited else 5
        if event.done >= 1.0:
            by_steps = event.step >= self._steps
            trained = counted(event.step, "step") if by_steps else counted(minutes, "minute")
            terminal.say(f"{event.run} is already finished: it has trained for {trained}")
            self._finished = True
            return
        where = f" from step {event.step:,}" if event.step else ""
        length = " or ".join(
            [counted(minutes, "minute")] * bool(minutes)
            + [counted(self._steps, "step")] * (limited or not minutes)
        )
        size = f"{config.data.batch_size} x {config.data.seq_length} {self._unit}"
        if config.data.lines:
            size = f"whole lines, up to {config.data.batch_size * config.data.seq_length:,} {self._unit}"
        length += ", whichever comes first," if minutes and limited else ""
        total = " in total" if event.step else ""
        terminal.say(f"training{where}: {length}{total} in batches of {size}; saving to {event.run}")
        if self._console is not None:
            self._live = LiveDisplay(self._console, event)

    def _show_step(self, event: Stepped) -> None:
        if self._live is not None:
            self._live.step(event)
        if self._of and not self._timed and len(self._measured) < _MEASURED_STEPS:
            self._measured.append(event.seconds)
            if len(self._measured) == _MEASURED_STEPS:
                self._say_estimate(event)

    def _say_estimate(self, event: Stepped) -> None:
        """Print how long the remaining steps will take, if that is a minute or more."""
        left = self._steps - event.step
        minutes = left * statistics.median(self._measured) / 60.0
        if minutes < 1.0:
            return
        about = f"{minutes:,.0f} minutes" if round(minutes) > 1 else "a minute"
        line = f"remaining: {counted(left, 'step')}, about {about} on this machine"
        if self._course and minutes > _MINUTES:
            line += f"; --minutes {_MINUTES:g} trains a better model in less time"
        terminal.say(line)

    def _show_logged(self, event: Logged) -> None:
        if self._live is not None:
            self._live.log(event)
        else:
            terminal.say(
                f"step {event.step:>{self._width}}{self._of}  loss {event.train_loss:.4f}  "
                f"{event.seconds_per_batch:.3f} s/batch"
            )

    def _show_validated(self, event: Validated) -> None:
        line = f"step {event.step}: validation loss {with_bits(event.validation_loss, self._level)}"
        line += f" on {event.characters:,} {self._unit}" if self._samples else ""
        line += ", best so far" if event.best else ""
        terminal.say(line)
        if self._live is not None:
            self._live.validated(event)

    def _show_whole(self, event: ValidatedWhole) -> None:
        loss = with_bits(event.validation_loss, self._level)
        line = f"step {event.step}: validation loss {loss} on {event.characters:,} {self._unit} "
        whole = event.characters >= self._validation_tokens - ROWS
        terminal.say(line + ("(all of the held-out text)" if whole else "(as many as time allowed)"))


@contextlib.contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None] | None]:
    """A progress bar for a download, shown from the first bytes on; None without a terminal."""
    console = Console(stderr=True)
    if terminal.is_quiet() or not has_terminal(console):
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


def _more_minutes(budget: float, spent: float) -> float:
    """A time budget that doubles that of a run whose time is used up, adding at least a minute."""
    return max(2.0 * budget, math.ceil(10.0 * (spent + max(budget, 1.0) - 0.1 * budget)) / 10.0)


def is_course(config: TrainConfig) -> bool:
    """Whether the settings are those of the course exercise, except for the cell and the number of steps."""
    given, course = config.flat(), TrainConfig().flat()
    names = ("layers", "hidden_size", "dropout", "weight_drop", "batch_size", "seq_length", "learning_rate")
    return given["schedule"] == "constant" and all(given[name] == course[name] for name in names)


def _split(event: Started, unit: str, *, several_texts: bool) -> str:
    """The split into training and validation text, in words."""
    train, validation = f"{event.train_tokens:,} {unit} for training", f"{event.validation_tokens:,}"
    data = event.config.data
    if not event.validation_tokens:
        return f"all {train}"
    if data.lines:
        return f"{train}, {validation} in held-out lines for validation"
    blocks = split_text(event.train_tokens + event.validation_tokens, data).blocks
    if data.split == "spread" and blocks > 1:
        return f"{train}, {validation} in {blocks} blocks spread over the text for validation"
    if several_texts and data.split == "end":
        return f"{train}, {validation} at the ends of the texts for validation"
    return f"the first {train}, the last {validation} for validation"


def _mapping(symbols: tuple[str, ...], columns: int) -> str:
    """The symbols with their ids, abbreviated."""
    pairs = [f"{symbol!r} {index}" for index, symbol in enumerate(symbols)]
    shown = pairs if len(pairs) <= _SYMBOLS_SHOWN else [*pairs[: _SYMBOLS_SHOWN - 3], "...", *pairs[-2:]]
    while len(shown) > _FEWEST_SHOWN and len(", ".join(shown)) > columns:
        shown = [*pairs[: len(shown) - 4], "...", *pairs[-2:]]
    return ", ".join(shown)
