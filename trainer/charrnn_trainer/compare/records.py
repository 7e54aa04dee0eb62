"""Read the settings, losses and times of runs from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer.data.default_corpus import NAME, PLAYS_NAME
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import read_header
from charrnn_trainer.runs.finding import CONFIG_FILE, CheckpointEntry, is_run, list_checkpoints
from charrnn_trainer.runs.folder import HISTORY_FILE
from charrnn_trainer.runs.header import CheckpointHeader, CorpusInfo
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.schedule import progress
from charrnn_trainer.training.stopping import why_ended

_MOST_RUNS: Final = 100


@dataclass(frozen=True)
class Validation:
    """A validation loss in nats per character, and the step after which it was measured."""

    step: int
    loss: float


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The record of a run.

    Attributes:
        name: its name in the comparison: the end of its folder's path.
        folder: its folder.
        config: its settings.
        corpus: its text.
        symbols: V, the size of its vocabulary.
        parameters: the number of its network's parameters.
        finished: whether it has ended.
        repeatable: whether its ``config.toml`` leads to its text, and starts from random weights.
        checkpoints: its checkpoints, by step.
        steps: int64 ``[N]``, the steps in its history, ascending.
        losses: float64 ``[N]``, their training losses in nats per character.
        seconds: float64 ``[N]``, how long each took.
        validations: its validation losses, by step.
    """

    name: str
    folder: Path
    config: TrainConfig
    corpus: CorpusInfo
    symbols: int
    parameters: int
    finished: bool
    repeatable: bool
    checkpoints: tuple[CheckpointEntry, ...]
    steps: NDArray[np.int64] = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    seconds: NDArray[np.float64] = field(repr=False)
    validations: tuple[Validation, ...] = field(repr=False)

    @property
    def cell(self) -> str:
        """The cell's name in upper case: LSTM, GRU or RNN."""
        return self.config.network.cell.upper()

    @property
    def size(self) -> str:
        """Layers and hidden size, with a multiplication sign between."""
        return f"{self.config.network.layers} × {self.config.network.hidden_size}"  # noqa: RUF001

    @property
    def step(self) -> int:
        """The last step that was done."""
        return int(self.steps[-1])

    @property
    def elapsed(self) -> NDArray[np.float64]:
        """float64 ``[N]``: the seconds spent in steps up to and including each (without validation)."""
        return np.cumsum(self.seconds)

    @property
    def total_seconds(self) -> float:
        """All seconds spent in training steps."""
        return float(self.seconds.sum())

    @property
    def batch_seconds(self) -> float:
        """The median time of a step."""
        return float(np.median(self.seconds))

    @property
    def best(self) -> Validation | None:
        """The lowest validation loss; None if none was measured."""
        return min(self.validations, key=lambda item: item.loss, default=None)

    @property
    def best_checkpoint(self) -> CheckpointEntry:
        """The checkpoint that export takes: the best by validation loss, else the last."""
        return next(entry for entry in self.checkpoints if entry.best)

    def best_until(self, step: int) -> Validation | None:
        """The lowest validation loss measured up to and including a step; None if there was none yet."""
        return min((v for v in self.validations if v.step <= step), key=lambda v: v.loss, default=None)

    def train_loss(self, step: int, window: int) -> float | None:
        """The mean training loss of the last ``window`` steps up to ``step`` (of all, if they are fewer).

        None if the history lacks some of these steps.
        """
        window = min(window, step)
        inside = (self.steps > step - window) & (self.steps <= step)
        return float(self.losses[inside].mean()) if window and inside.sum() == window else None

    def last_train_loss(self, window: int) -> float:
        """The mean training loss of the last ``window`` steps."""
        return float(self.losses[-window:].mean())

    def lowest_train_loss(self, window: int) -> float:
        """The lowest mean training loss of ``window`` steps in a row (of all, if they are fewer)."""
        window = min(window, len(self.losses))
        sums = np.cumsum(np.concatenate([[0.0], self.losses]))
        return float((sums[window:] - sums[:-window]).min() / window)

    def seconds_until(self, step: int) -> float:
        """The seconds spent in training steps up to and including a step."""
        return float(self.seconds[self.steps <= step].sum())


def read_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Read the runs at some paths.

    Args:
        paths: runs' folders, and folders of runs, of which all runs are taken, by name.

    Raises:
        SettingError: a run is given twice, or there are too many.
        CheckpointError: there is no run, it has no checkpoint yet, or one of its checkpoints is broken.
        CharRNNError: a run's history is missing or broken.
    """
    folders = [folder for path in paths for folder in _runs_in(Path(path))]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise SettingError(f"{folder} is given twice; give each run once")
        seen[folder.resolve()] = folder
    if not folders:
        raise SettingError("give the folder of at least one run, such as ckpt/lstm")
    if len(folders) > _MOST_RUNS:
        raise SettingError(f"{len(folders)} runs are too many to compare; give at most {_MOST_RUNS}")
    names = _names([folder.resolve() for folder in folders])
    return [_read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _runs_in(path: Path) -> Iterator[Path]:
    if path.is_dir() and not is_run(path):
        inside = sorted(entry for entry in path.iterdir() if entry.is_dir() and is_run(entry))
        if inside:
            yield from inside
            return
    if path.is_file():
        raise CharRNNError(f"{path} is a file; give a run's folder, such as ckpt/lstm")
    yield path  # reading it reports what is wrong with it


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest distinct ends of the folders' paths, with the same number of parts for all."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _read_run(folder: Path, name: str) -> RunRecord:
    checkpoints = list_checkpoints(folder)
    header = read_header(checkpoints[-1].path)
    lines = list(_history(folder / HISTORY_FILE))
    steps = {line["step"]: line for line in lines if "loss" in line}
    if not steps:
        raise CharRNNError(f"{folder / HISTORY_FILE} has no steps yet, so there is nothing to compare")
    ordered = [steps[step] for step in sorted(steps)]
    validations = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    return RunRecord(
        name=name,
        folder=folder,
        config=header.config,
        corpus=header.corpus,
        symbols=len(header.vocabulary),
        parameters=count_parameters(header),
        finished=header.kind == "last" or _has_ended(header),
        repeatable=_is_repeatable(folder, header.corpus),
        checkpoints=tuple(checkpoints),
        steps=np.array([line["step"] for line in ordered], dtype=np.int64),
        losses=np.array([line["loss"] for line in ordered], dtype=np.float64),
        seconds=np.array([line["seconds"] for line in ordered], dtype=np.float64),
        validations=tuple(Validation(step, validations[step]) for step in sorted(validations)),
    )


def _is_repeatable(folder: Path, corpus: CorpusInfo) -> bool:
    """Whether ``config.toml`` leads to the text: not where that came from memory or from a pipe."""
    try:
        file = RunFile.read(folder / CONFIG_FILE)
    except CharRNNError:
        return False
    if file.init_from is not None:
        return False
    if file.text is None:
        return corpus.name in (NAME, PLAYS_NAME)
    return all(Path(path).is_file() for path in ([file.text] if isinstance(file.text, str) else file.text))


def _has_ended(header: CheckpointHeader) -> bool:
    """Whether the run ended at a checkpoint that was saved at a regular step."""
    done = progress(header.config.optimization, header.step, header.seconds or 0.0)
    return why_ended(header.config, header.step, done, header.evaluations) is not None


def count_parameters(header: CheckpointHeader) -> int:
    """The number of parameters of a checkpoint's network."""
    with torch.device("meta"):  # shapes without memory
        return CharNetwork(header.config.network, len(header.vocabulary)).parameter_count()


def _history(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a history; a last line that is still being written is skipped.

    Raises:
        CharRNNError: it cannot be read, or a line is invalid.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CharRNNError(
            f"cannot read the run's history {path}: {error.strerror or error}; a comparison needs it"
        ) from error
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            _check_line(values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CharRNNError(f"{path}: line {number} is not a valid line of a history: {error}") from error
        yield values


def _check_line(values: Any) -> None:
    if not isinstance(values, dict):
        raise TypeError("it is not a JSON object")
    step = values["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step < 2**53:
        raise ValueError(f"step is {step!r}")
    for key in ("loss", "validation_loss", "seconds"):
        value = values.get(key)
        if key in values and (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or value < 0
        ):
            raise ValueError(f"{key} is {value!r}")
    if "loss" in values and "seconds" not in values:
        raise ValueError("it has no seconds")
