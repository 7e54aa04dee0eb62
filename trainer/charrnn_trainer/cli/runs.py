"""Starts and resumes runs for charrnn-train."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import WriteError, shell_word
from charrnn_trainer.cli import text as texts
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import SETTINGS, TrainConfig, check_changes

if TYPE_CHECKING:
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.cli.display import Display
    from charrnn_trainer.cli.stop_signals import StopSignals
    from charrnn_trainer.data.scanning import ScannedText
    from charrnn_trainer.data.token_file import Source
    from charrnn_trainer.runs.folder import Run
    from charrnn_trainer.training.distributed import ProcessGroup
    from charrnn_trainer.training.events import Event, Listener, TrainResult
    from charrnn_trainer.training.time_budget import Plan

RUNS_FOLDER: Final = Path("ckpt")


def begin_run(
    text: Source | None,
    config: TrainConfig,
    given: dict[str, Any],
    *,
    out: Path | None,
    init_from: Path | None,
    stop: StopSignals,
    group: ProcessGroup | None,
    began: float,
    plans: bool,
) -> TrainResult:
    """Start a run.

    Args:
        text: the path of the text, or "-", or the paths of several texts; None for the default text.
        config: the settings.
        given: the settings from the command line.
        out: the run's folder; None creates one.
        init_from: the checkpoint to load the weights from.
        stop: requests the training to stop.
        group: the processes that train together, if there are several.
        began: the value of `time.perf_counter` at the start of the command.
        plans: whether to choose the settings that were not given for the best network within the time.
    """
    from charrnn_trainer.cli.display import Display

    _check_machine(config, out)
    vocabulary: Vocabulary | None = None
    if init_from is not None:
        config, init_from, vocabulary = texts.start_from(init_from, config, given)
    with texts.scan(text, config, vocabulary) as scanned, Display() as display:
        display.show_text(scanned)
        if scanned.encoding is not None:
            config = config.replace(encoding=scanned.encoding)
        if vocabulary is not None:
            texts.say_what_is_added(scanned, vocabulary)
        if config.data.lines:
            from charrnn_trainer.data.lines import newline_of

            newline_of(scanned.vocabulary, scanned.name)  # fail before measuring anything

        # Imported late, so that errors in the command line or the text do not wait for PyTorch.
        from charrnn_trainer.training.api import train_in

        plan: Plan | None = None
        if plans:
            processes = group.size if group else 1
            plan = _plan(
                config, given, scanned, processes=processes, fine_tunes=init_from is not None, began=began
            )
            config = plan.config
        with _claim(out, config) as run, _advice_on_write_errors(run.folder):
            source = None if text is None else scanned.source
            with texts.reading(scanned.size, "preparing the text") as progress:
                corpus = scanned.encode_to(run.tokens_path, source=source, on_progress=progress)
            with stop, _listeners(config, run.folder, display) as listener:
                return train_in(
                    run,
                    config,
                    corpus,
                    listener,
                    init_from=init_from,
                    should_stop=stop,
                    group=group,
                    began=began,
                    plan=plan,
                )


def resume_run(
    path: Path, changes: dict[str, Any], *, stop: StopSignals, group: ProcessGroup | None, began: float
) -> TrainResult:
    """Resume a run, or the newest in a folder of runs."""
    check_changes(changes)

    from charrnn_trainer.cli.display import Display
    from charrnn_trainer.runs.finding import CONFIG_FILE, newest_run
    from charrnn_trainer.training.api import resume as resume_network

    folder = newest_run(path)
    terminal.say(f"resuming {folder}")
    file = RunFile.read(folder / CONFIG_FILE)
    config = file.config.replace(**changes)
    with (
        Display(several_texts=isinstance(file.text, tuple)) as display,
        stop,
        _advice_on_write_errors(folder),
        _listeners(config, folder, display) as listener,
    ):
        result = resume_network(folder, listener, changes=changes, should_stop=stop, group=group, began=began)
        display.show_finished(result)
        return result


def _check_machine(config: TrainConfig, out: Path | None) -> None:
    """Fail early, before reading a text, which may take long.

    Raises:
        CharRNNError: a device or a package is missing, or the run's folder is in use or cannot be made.
    """
    if config.run.device == "cuda" or config.run.precision == "tf32":
        from charrnn_trainer.training.precision import check_precision
        from charrnn_trainer.training.torch_settings import choose_device

        check_precision(config.run.precision, choose_device(config.run.device))
    if config.run.tensorboard:
        from charrnn_trainer.training.tensorboard import check_installed

        check_installed()
    _check_out(out)


def _check_out(out: Path | None) -> None:
    """Check that a run can start in a folder; None is a new one in `RUNS_FOLDER`."""
    from charrnn_trainer.runs.finding import checkpoint_files, is_run
    from charrnn_trainer.runs.folder import check_can_make, check_free

    if out is None:
        try:
            check_can_make(RUNS_FOLDER)
        except CharRNNError as error:
            raise CharRNNError(f"{error}; give another one with --out FOLDER") from error
        return

    if is_run(out):
        # A run without a checkpoint may have diverged, and would diverge again.
        advice = f", or resume it: --resume {shell_word(out)}" if checkpoint_files(out) else ""
        raise SettingError(f"--out {out} already contains a run; give a new folder{advice}")
    try:
        check_free(out)
    except SettingError as error:
        raise SettingError(f"--out {error}") from error
    check_can_make(out)


def _plan(
    config: TrainConfig,
    given: dict[str, Any],
    text: ScannedText,
    *,
    processes: int,
    fine_tunes: bool,
    began: float,
) -> Plan:
    """Choose the open settings for the best network within the time, and print the choice."""
    from charrnn_trainer.data.split import split_text
    from charrnn_trainer.training.time_budget import plan_for_minutes

    fixed = set(given)
    if fine_tunes:
        fixed |= {name for name, setting in SETTINGS.items() if setting.from_weights}
    terminal.say("measuring the training speed of this machine")
    data = config.data if config.data.validates else dataclasses.replace(config.data, val_fraction=0.0)
    split = split_text(text.length, data, text.train_length)
    plan = plan_for_minutes(
        config,
        fixed,
        split.train_tokens,
        len(text.vocabulary),
        validation=split.rows() if split.validation_tokens else None,
        processes=processes,
        began=began,
        fine_tunes=fine_tunes,
        line_length=_line_length(text) if config.data.lines else 0,
    )
    terminal.say(plan.words)
    return plan


def _line_length(text: ScannedText) -> int:
    """The mean length of the lines at the start of the text, in characters, including the newline."""
    lines = [line for line in text.beginning.split("\n") if line]
    return round(sum(map(len, lines)) / max(1, len(lines))) + 1


@contextlib.contextmanager
def _claim(out: Path | None, config: TrainConfig) -> Iterator[Run]:
    from charrnn_trainer.runs.folder import Run

    run = Run.create_in(RUNS_FOLDER, config.network.cell) if out is None else Run.create(out)
    with run:
        yield run


@contextlib.contextmanager
def _listeners(config: TrainConfig, folder: Path, display: Display) -> Iterator[Listener]:
    """The listener of the run: the display, and the TensorBoard log if enabled."""
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


@contextlib.contextmanager
def _advice_on_write_errors(folder: Path) -> Iterator[None]:
    """If the disk is full and there is a checkpoint, print how to resume."""
    try:
        yield
    except WriteError:
        if any(folder.glob("*.safetensors")):
            terminal.say(
                "earlier checkpoints are intact; after freeing disk space, resume with: "
                f"charrnn-train --resume {shell_word(folder)}"
            )
        raise
