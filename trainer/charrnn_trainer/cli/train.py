"""charrnn-train: trains a network on a text."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import WriteError
from charrnn_trainer.config import SECTIONS, NetworkConfig, RunFile, TrainConfig
from charrnn_trainer.recipes import recipe as named_recipe
from charrnn_trainer.training.spinning import limit_spinning
from charrnn_trainer.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.cli.display import Display
    from charrnn_trainer.data.corpus import ScannedText
    from charrnn_trainer.runs.folder import Run
    from charrnn_trainer.training.distributed import ProcessGroup
    from charrnn_trainer.training.events import Event, Listener, TrainResult
    from charrnn_trainer.training.time_budget import Plan

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-train --cell lstm
  charrnn-train my.txt --minutes 3
  charrnn-train names.txt --lines --minutes 3
  charrnn-train my.txt --cell gru --steps 2000
  charrnn-train my.txt --layers 1 --hidden-size 512 --batch-size 32 --seq-length 64
  charrnn-train --resume ckpt/lstm
  charrnn-train --config ckpt/lstm/config.toml
  charrnn-train more.txt --init-from ckpt/lstm --minutes 1
  torchrun --nproc-per-node 2 --no-python charrnn-train my.txt
"""

RUNS_FOLDER: Final = Path("ckpt")

_BEGAN: Final = time.perf_counter()
"""When the command began: the time of --minutes counts from here, and not from when PyTorch has come."""

_SETTINGS: Final = tuple(item.name for section in SECTIONS.values() for item in dataclasses.fields(section))


@app.command(epilog=EXAMPLES)
def train(
    context: typer.Context,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            show_default=False,
            help="A text file, in UTF-8; - reads standard input. [default: tinyshakespeare]",
        ),
    ] = None,
    # --- the network
    cell: Annotated[str | None, typer.Option(help="lstm, gru or rnn. [default: lstm]")] = None,
    layers: Annotated[int | None, typer.Option(help="Recurrent layers. [default: 2]")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Units of a layer. [default: 256]")] = None,
    embedding_size: Annotated[
        int | None,
        typer.Option(
            help="Numbers that a character is read as; 0 is one-hot. [default: 0 for up to 256 different "
            "characters, else 256]"
        ),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Dropout between layers and before the output. [default: 0]")
    ] = None,
    input_dropout: Annotated[
        float | None, typer.Option(help="Share of the characters that are read as nothing. [default: 0]")
    ] = None,
    weight_drop: Annotated[
        float | None,
        typer.Option(help="Share of the recurrent weights that a batch leaves out. [default: 0]"),
    ] = None,
    tie_weights: Annotated[
        bool | None,
        typer.Option(
            "--tie-weights/--no-tie-weights",
            help="Predict characters by the embedding that reads them, whose size is then the hidden size "
            "unless it is given. [default: no]",
        ),
    ] = None,
    # --- the text
    level: Annotated[
        str | None, typer.Option(help="char (characters) or byte (any file trains). [default: char]")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the text for validation. [default: 0.1]")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="What is for validation: end (the end of the text) or spread (blocks all over it). "
            "[default: end]"
        ),
    ] = None,
    lines: Annotated[
        bool | None,
        typer.Option(
            "--lines/--no-lines",
            help="The text is a list, such as names: its lines are independent of one another. They are "
            "mixed, and whole lines are for validation. [default: no]",
        ),
    ] = None,
    val_lines: Annotated[
        int | None,
        typer.Option(help="With --lines, how many different lines are for validation, instead of a share."),
    ] = None,
    val_sample: Annotated[
        int | None,
        typer.Option(
            help="Characters of the validation text that validations before the end read; 0 is all. "
            "[default: 0; with --minutes 131072]"
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Streams read side by side. [default: 100]")] = None,
    seq_length: Annotated[
        int | None, typer.Option(help="Characters of a stream in a batch. [default: 100]")
    ] = None,
    random_start: Annotated[
        bool | None,
        typer.Option(
            "--random-start/--no-random-start",
            help="Begin every pass somewhere else in the text. [default: no]",
        ),
    ] = None,
    reset_chance: Annotated[
        float | None,
        typer.Option(help="Chance with which a stream forgets all before a batch. [default: 0]"),
    ] = None,
    # --- learning
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings by name: course (the defaults), best. Other flags go before it."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Take so long, from start to end; settings that are not given are chosen for the best model "
            "in that time. 0 sets no limit."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to learn from. [default: 6000]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The (highest) learning rate. [default: 0.005]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="constant, cosine or linear (both to zero). [default: constant]")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Steps over which the learning rate first rises. [default: 0]")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay. [default: 0]")] = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient; 0 never clips. [default: 5]")
    ] = None,
    # --- the run
    eval_every: Annotated[int | None, typer.Option(help="Steps between validations. [default: 500]")] = None,
    save_every: Annotated[
        int | None,
        typer.Option(help="Steps between checkpoints; the best and last are kept too. [default: 2000]"),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(help="How many checkpoints --save-every keeps; 0 keeps all. [default: 0]"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="End after so many validations without a new best; 0 never does. [default: 0]"),
    ] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between reports. [default: 200]")] = None,
    seed: Annotated[int | None, typer.Option(help="What all randomness derives from. [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: auto]")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="auto (measure which is fastest), fp32, bf16, on a GPU also tf32. [default: auto]"),
    ] = None,
    onednn: Annotated[
        bool | None,
        typer.Option(
            "--onednn/--no-onednn", help="On a CPU, compute with oneDNN. [default: measure which is faster]"
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads. [default: measure how many are fastest; with --minutes, watch them, too]"
        ),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option("--tensorboard/--no-tensorboard", help="Log for TensorBoard. [default: no]"),
    ] = None,
    # --- files
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder, new or empty. [default: ckpt/lstm, ckpt/lstm-2, ...]"),
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from the weights of a checkpoint, or of a run's best.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with a run where it stopped; --steps, --minutes, --eval-every, --save-every, "
            "--log-every, --keep, --patience, --tensorboard, --device and --threads may be changed."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Take the settings from a file; other flags go before it.")
    ] = None,
    version: Annotated[bool, terminal.version_option("charrnn-trainer", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Train a character-level network on a text.

    Without TEXT, it learns tinyshakespeare. The checkpoints and all else about the run lie in one folder,
    whose path is printed at the end. Ctrl-C saves a checkpoint, from which --resume goes on.
    """
    given = {name: context.params[name] for name in _SETTINGS if context.params[name] is not None}
    with _joined() as group:
        stop = _StopSignals(speaks=group is None or group.is_main)
        if group is not None and not group.is_main:
            result = _run_worker(group, stop)
        elif resume is not None:
            others = {
                "TEXT": text,
                "--out": out,
                "--init-from": init_from,
                "--config": config,
                "--recipe": recipe,
            }
            for flag, value in others.items():
                if value is not None:
                    raise SettingError(
                        f"{flag} cannot be given with --resume, which goes on with the run as it is"
                    )
            result = _resume(resume, given, stop, group)
        else:
            file = _settings_to_begin_with(config, recipe)
            settings = file.config.replace(**given)
            # A recipe or a file of settings leaves nothing open.
            plans = minutes is not None and settings.optimization.minutes > 0 and not (config or recipe)
            start = init_from or (Path(file.init_from) if file.init_from else None)
            result = _train(text or file.text, settings, given, out, start, stop, group, plans=plans)
    _finish(result, stop, speaks=group is None or group.is_main)


def _settings_to_begin_with(config: Path | None, recipe: str | None) -> RunFile:
    """The settings of a file, or of a recipe, or the defaults."""
    if config is not None and recipe is not None:
        raise SettingError("--recipe cannot be given with --config, which has all settings already")
    if config is not None:
        return RunFile.read(config)
    return RunFile(TrainConfig() if recipe is None else named_recipe(recipe))


def _train(
    text: str | None,
    config: TrainConfig,
    given: dict[str, Any],
    out: Path | None,
    init_from: Path | None,
    stop: _StopSignals,
    group: ProcessGroup | None,
    *,
    plans: bool,
) -> TrainResult:
    """Begin a run; with ``plans``, choose what was not given for the best network in the time."""
    from charrnn_trainer.cli.display import Display

    vocabulary: Vocabulary | None = None
    if init_from is not None:
        config, init_from, vocabulary = _start_from(init_from, config, given)
    with _scan(text, config, vocabulary) as scanned, Display() as display:
        display.show_text(scanned)
        if vocabulary is not None:
            _say_what_is_added(scanned, vocabulary)
        if config.data.lines:
            from charrnn_trainer.data.lines import newline_of

            newline_of(scanned.vocabulary, scanned.name)  # before anything is measured

        # Only now, so that a mistake in the command line or the text is told without waiting for PyTorch.
        from charrnn_trainer.training.api import train as train_network

        plan: Plan | None = None
        if plans:
            fixed = {*given, *(_shaping() if init_from else ())}
            processes = group.size if group else 1
            plan = _plan(config, fixed, scanned, processes=processes, fine_tunes=init_from is not None)
            config = plan.config
        with _claim(out, config) as run, _word_on_write_errors(run.folder):
            source = None if text is None else scanned.source
            with _reading(scanned.size, "preparing the text") as progress:
                corpus = scanned.encode_to(run.tokens_path, source=source, on_progress=progress)
            with stop, _listeners(config, run.folder, display) as listener:
                return train_network(
                    config,
                    corpus,
                    listener,
                    out=run,
                    init_from=init_from,
                    should_stop=stop,
                    group=group,
                    began=_BEGAN,
                    plan=plan,
                )


def _resume(
    path: Path, changes: dict[str, Any], stop: _StopSignals, group: ProcessGroup | None
) -> TrainResult:
    """Go on with a run."""
    from charrnn_trainer.cli.display import Display
    from charrnn_trainer.runs.finding import newest_run
    from charrnn_trainer.training.api import resume as resume_network

    folder = newest_run(path)
    terminal.say(f"resuming {folder}")
    with (
        Display() as display,
        stop,
        _word_on_write_errors(folder),
        _listeners(_settings_of(folder, changes), folder, display) as listener,
    ):
        return resume_network(folder, listener, changes=changes, should_stop=stop, group=group, began=_BEGAN)


def _run_worker(group: ProcessGroup, stop: _StopSignals) -> TrainResult:
    """Take part in what the first process does; it alone reads the command line's settings, and speaks."""
    from charrnn_trainer.training.api import run_worker

    with stop:
        return run_worker(group, should_stop=stop)


@contextlib.contextmanager
def _joined() -> Iterator[ProcessGroup | None]:
    """The processes that torchrun started with this one; None where there are none.

    Of what they all run into, only the first one tells.
    """
    if not _has_company():
        yield None
        return
    from charrnn_trainer.training.distributed import WorkerLostError, join
    from charrnn_trainer.training.divergence import DivergedError

    sys.stderr = sys.__stderr__
    with join() as group:
        try:
            yield group
        except (WorkerLostError, DivergedError):
            if group.is_main:
                raise
            raise typer.Exit(1) from None
        except CharRNNError as error:
            if group.is_main:
                raise
            raise CharRNNError(f"process {group.rank} of {group.size}: {error}", *error.parameters) from error


def _has_company() -> bool:
    """Whether torchrun, or what sets the same variables, started several processes."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def _settings_of(run: Path, changes: dict[str, Any]) -> TrainConfig:
    """The settings that a run goes on with."""
    from charrnn_trainer.runs.finding import CONFIG_FILE

    return RunFile.read(run / CONFIG_FILE).config.replace(**changes)


def _plan(
    config: TrainConfig, fixed: set[str], text: ScannedText, *, processes: int, fine_tunes: bool
) -> Plan:
    """Choose what is not fixed for the best network in the time, and say what was chosen."""
    from charrnn_trainer.data.split import split_text
    from charrnn_trainer.training.time_budget import plan_for_minutes

    terminal.say("measuring how fast this machine learns")
    split = split_text(text.length, config.data)
    plan = plan_for_minutes(
        config,
        fixed,
        split.train_tokens,
        len(text.vocabulary),
        validation=split.rows() if split.validation_tokens else None,
        processes=processes,
        began=_BEGAN,
        fine_tunes=fine_tunes,
    )
    terminal.say(plan.words)
    return plan


@contextlib.contextmanager
def _listeners(config: TrainConfig, folder: Path, display: Display) -> Iterator[Listener]:
    """Who listens to the training: the display, and TensorBoard's log where it is wanted."""
    if not config.run.tensorboard:
        yield display
        return
    from charrnn_trainer.training.tensorboard import TensorBoardLog

    log = TensorBoardLog(folder)

    def both(event: Event) -> None:
        display(event)
        log(event)

    try:
        yield both
    finally:
        log.close()


def _finish(result: TrainResult, stop: _StopSignals, *, speaks: bool) -> NoReturn:
    """Say how the run ended, print its folder, and end with the exit code of what ended it."""
    from charrnn_trainer.cli.display import Display

    code = 128 + (stop.number or signal.SIGTERM) if result.stopped else 0
    if not speaks:
        raise typer.Exit(code)
    if result.stopped:
        terminal.say(
            f"stopped at step {result.step:,}, and saved; to go on: "
            f"charrnn-train --resume {shlex.quote(str(result.run))}"
        )
    else:
        Display().show_result(result)
    if sys.stdout is not None:  # where it is closed, nobody asked for the path
        terminal.product().write(f"{result.run}\n")
    raise typer.Exit(code)


@contextlib.contextmanager
def _word_on_write_errors(folder: Path) -> Iterator[None]:
    """Say how to go on when a disk is full and there is something to go on from."""
    try:
        yield
    except WriteError:
        if any(folder.glob("*.safetensors")):
            terminal.say(
                "the checkpoints that were saved before are whole; when there is room again, go on with: "
                f"charrnn-train --resume {shlex.quote(str(folder))}"
            )
        raise


@contextlib.contextmanager
def _claim(out: Path | None, config: TrainConfig) -> Iterator[Run]:
    from charrnn_trainer.runs.folder import Run

    run = Run.create_in(RUNS_FOLDER, config.network.cell) if out is None else Run.create(out)
    with run:
        yield run


@contextlib.contextmanager
def _reading(size: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar for a text that takes its time."""
    bar = terminal.LateBar(size, what)
    try:
        yield bar.advance
    finally:
        bar.close()


def _scan(text: str | None, config: TrainConfig, vocabulary: Vocabulary | None) -> ScannedText:
    """Read the text, or the default one, once."""
    from charrnn_trainer.data.corpus import scan_text

    level: Literal["char", "byte"] = "byte" if config.data.level == "byte" else "char"
    if text is not None:
        size = os.path.getsize(text) if os.path.isfile(text) else 0
        with _reading(size, "reading the text") as progress:
            return scan_text(
                text,
                level=level,
                vocabulary=vocabulary,
                on_progress=progress,
                unix_lines=config.data.lines,
            )

    from charrnn_trainer.cli.display import download_progress
    from charrnn_trainer.data.default_corpus import default_corpus

    with download_progress() as progress:
        found = default_corpus(terminal.say, progress)
    unix = config.data.lines
    return scan_text(str(found.path), level=level, vocabulary=vocabulary, name=found.name, unix_lines=unix)


def _start_from(
    path: Path, config: TrainConfig, given: dict[str, Any]
) -> tuple[TrainConfig, Path, Vocabulary]:
    """The settings that the network of a checkpoint asks for, its file, and its vocabulary."""
    from charrnn_trainer.runs.checkpoint import read_header
    from charrnn_trainer.runs.finding import find_checkpoint

    path = find_checkpoint(path)
    header = read_header(path)
    fixed: dict[str, Any] = {name: getattr(header.config.network, name) for name in _shaping()}
    fixed["level"] = header.config.data.level
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise SettingError(
                f"{_option(name, given[name])} does not fit --init-from {path}, which was trained with "
                f"{_option(name, value)}; leave it out"
            )
    terminal.say(f"starting from {path}")
    return config.replace(**fixed), path, header.vocabulary


def _option(name: str, value: object) -> str:
    """A setting as the command line gives it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {value}"


def _say_what_is_added(text: ScannedText, known: Vocabulary) -> None:
    """Say which characters a network to start from does not know."""
    from charrnn_trainer.data.vocabulary_growth import words_on_growth

    words = words_on_growth(text.name, known, text.vocabulary)
    if words is not None:
        terminal.say(words)


def _shaping() -> list[str]:
    """The settings of a network that its weights decide; the others are what it is trained with."""
    names = [item.name for item in dataclasses.fields(NetworkConfig)]
    return [name for name in names if name not in ("dropout", "input_dropout", "weight_drop")]


class _StopSignals:
    """Asks the training to stop after its step when Ctrl-C, SIGTERM or SIGHUP comes; for ``with``.

    The first one is acknowledged at once, and a second one ends the process. Signals that were ignored before
    (by nohup, say) stay so.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        self.number = 0
        self._speaks = speaks
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.number != 0

    def __enter__(self) -> _StopSignals:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if self._speaks:
            _say_at_once("stopping after this step, to save it; once more ends at once, without saving")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def _say_at_once(message: str) -> None:
    """Write a line to stderr from a signal's handler, past a buffer that may be in use."""
    if terminal.is_quiet() or sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):  # no terminal, or no file at all
        os.write(sys.stderr.fileno(), f"{message}\n".encode())


def main() -> NoReturn:
    """The entry point of charrnn-train."""
    limit_spinning(os.environ)
    if _has_company() and os.environ["RANK"] != "0":
        sys.stdout = sys.stderr = None  # until it knows more than the first process, which says the same
    terminal.run(app, "charrnn-train", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
