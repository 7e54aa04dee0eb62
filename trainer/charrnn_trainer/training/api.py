"""Entry points: train a network, resume a run, and do either as a worker of several processes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charrnn_runtime.errors import SettingError
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.runs.header import CheckpointError
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import CHANGEABLE, TrainConfig, check_changes
from charrnn_trainer.training.distributed import ProcessGroup
from charrnn_trainer.training.events import (
    Event,
    Listener,
    TrainResult,
    ignore,
)
from charrnn_trainer.training.precision import check_precision
from charrnn_trainer.training.resolving import resolve_settings, warn_if_unlike
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.torch_settings import (
    memory_errors,
)
from charrnn_trainer.training.trainer import Trainer


def train(
    config: TrainConfig,
    tokens: Corpus,
    on_event: Callable[[Event], None] | None = None,
    *,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: ProcessGroup | None = None,
    began: float | None = None,
) -> TrainResult:
    """Train a network.

    Args:
        config: the settings. Batches are reduced if the text does not fill two.
        tokens: the text.
        on_event: called with every event.
        out: the run's folder, new or empty, for checkpoints and all other files that `resume` needs; None
            writes nothing.
        init_from: a checkpoint to load the weights from. It must have the same network; its vocabulary may
            lack symbols of the text.
        should_stop: called after every step; True saves a checkpoint and ends the run.
        group: the processes that train together, with this one as the main process; the others call
            `run_worker`. The run then needs a folder that all of them can read.
        began: the value of `time.perf_counter` from which ``minutes`` count; None for now.

    Raises:
        CharRNNError: the settings do not suit the text, the loss diverges, a file cannot be written, ...

    Examples:
        >>> from charrnn_trainer import Corpus, TrainConfig, train
        >>> corpus = Corpus.from_text("to be, or not to be, that is the question. " * 20)
        >>> config = TrainConfig().replace(layers=1, hidden_size=32, steps=100, batch_size=8, seq_length=16)
        >>> result = train(config, corpus)
        >>> result.step, result.train_loss < 2.0
        (100, True)
    """
    if not isinstance(tokens, Corpus):
        raise SettingError(
            "train needs a Corpus: Corpus.from_text(text), or Corpus.from_ids(ids, vocabulary) for tokens"
        )
    group, clock = group or ProcessGroup(), RunClock(began)
    if group.size > 1 and out is None:
        raise SettingError("training in several processes needs a folder for the run; give out=FOLDER", "out")
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors())
        stack.enter_context(group.watch())
        check_precision(config.run.precision, group.device(config.run.device))
        run = None if out is None else stack.enter_context(Run.create(out))
        return _begin(config, tokens, on_event, run, init_from, should_stop, group, clock)


def train_in(
    run: Run,
    config: TrainConfig,
    corpus: Corpus,
    on_event: Listener,
    *,
    init_from: Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: ProcessGroup | None = None,
    began: float | None = None,
    plan: Plan | None = None,
) -> TrainResult:
    """Like `train`, into a folder that is claimed already.

    With ``plan``, where ``config`` comes from, that is revised if the machine turns out faster or slower.
    """
    group = group or ProcessGroup()
    with memory_errors(), group.watch():
        clock = RunClock(began)
        return _begin(config, corpus, on_event, run, init_from, should_stop, group, clock, plan)


def resume(
    folder: str | Path,
    on_event: Callable[[Event], None] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: ProcessGroup | None = None,
    began: float | None = None,
) -> TrainResult:
    """Resume a run exactly at its last checkpoint, or from the start if it has none.

    On a CPU and with the same number of threads, all later checkpoints are byte for byte those of an
    uninterrupted run. (With several processes, or a different number of them than before, sums are rounded
    differently, and all processes but the main one draw new random numbers.)

    Args:
        folder: the run's folder.
        on_event: called with every event.
        changes: settings to change, of those that ``charrnn-train --help`` lists at ``--resume``; more
            ``steps`` train a finished run further. Changes are kept when the run is resumed again.
        should_stop: as for `train`.
        group: as for `train`.
        began: as for `train`.

    Raises:
        CharRNNError: the folder contains no run, its files do not match, or another process is training in
            it.
    """
    check_changes(changes or {})
    group, clock = group or ProcessGroup(), RunClock(began)
    with memory_errors(), group.watch(), Run.open(folder) as run:
        file = run.read_config()
        files = run.checkpoints()
        checkpoint = load_checkpoint(files[-1]) if files else None
        config = file.config
        if checkpoint is not None:
            # For changeable settings config.toml is newer: a run may be killed before its next checkpoint.
            held = file.config.flat()
            config = checkpoint.config.replace(**{name: held[name] for name in CHANGEABLE})
        config = config.replace(**changes or {})
        steps = config.optimization.steps
        if checkpoint is not None and steps < checkpoint.step:
            raise SettingError(
                f"steps={steps} is less than the {checkpoint.step} steps already done; give at least as many",
                "steps",
            )
        corpus = Corpus.open(run.tokens_path)
        if checkpoint is None:
            run.cut_history(0)
            return _begin(config, corpus, on_event, run, file.init_from, should_stop, group, clock)
        _check_same_text(checkpoint, corpus)
        settled = resolve_settings(config, corpus, on_event or ignore, group, batches_fit=True)
        _start_workers(group, settled, run, checkpoint)
        training = Trainer(settled, corpus, run, on_event, group, clock)
        training.restore(checkpoint)
        if training.config != file.config:
            run.write_config(dataclasses.replace(file, config=training.config))
        return training.run(should_stop)


def run_worker(group: ProcessGroup, *, should_stop: Callable[[], bool] | None = None) -> TrainResult:
    """Train as a worker of a group whose main process calls `train` or `resume`.

    Args:
        group: the processes that train together; this is not the main process.
        should_stop: as for `train`; True ends the run in all processes.

    Raises:
        CharRNNError: this process cannot read the run's folder, another process has ended, ...
    """
    with memory_errors(), group.watch():
        call: dict[str, Any] = group.broadcast(dict)
        config = TrainConfig.from_dict(call["config"])
        training = Trainer(config, Corpus.open(Path(call["tokens"])), None, None, group, RunClock())
        if call["checkpoint"]:
            training.restore(load_checkpoint(call["checkpoint"]))
        return training.run(should_stop)


def _begin(
    config: TrainConfig,
    corpus: Corpus,
    on_event: Listener | None,
    run: Run | None,
    init_from: str | Path | None,
    should_stop: Callable[[], bool] | None,
    group: ProcessGroup,
    clock: RunClock,
    plan: Plan | None = None,
) -> TrainResult:
    warn_if_unlike(config, corpus, on_event or ignore)
    config = resolve_settings(config, corpus, on_event or ignore, group)
    if run is not None:
        if not run.tokens_path.exists():
            corpus.save(run.tokens_path)
        _start_workers(group, config, run)
    training = Trainer(config, corpus, run, on_event, group, clock, plan)
    if init_from is not None:
        training.take_weights(load_checkpoint(init_from))
    if run is not None:
        start = None if init_from is None else str(Path(init_from).absolute())
        run.write_config(RunFile(config, corpus.source, start))
    return training.run(should_stop)


def _start_workers(
    group: ProcessGroup, config: TrainConfig, run: Run, checkpoint: Checkpoint | None = None
) -> None:
    """Send the workers, which call `run_worker`, their task."""
    if group.size > 1:
        call = {
            "config": config.to_dict(),
            "tokens": str(run.tokens_path.absolute()),
            "checkpoint": str(checkpoint.path.absolute()) if checkpoint else None,
        }
        group.broadcast(lambda: call)


def _check_same_text(checkpoint: Checkpoint, corpus: Corpus) -> None:
    if checkpoint.corpus.sha256 != corpus.sha256 or checkpoint.vocabulary != corpus.vocabulary:
        raise CheckpointError(
            f"{checkpoint.path} was trained on a different text from the one in the run's folder; restore "
            "the run's own files, or start a new run with init_from",
            "init_from",
        )
