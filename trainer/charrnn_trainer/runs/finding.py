"""Finds runs and their checkpoints on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from charrnn_trainer.runs.checkpoint import read_header
from charrnn_trainer.runs.header import CheckpointError

CONFIG_FILE: Final = "config.toml"
"""The settings file in every run's folder."""

_PATTERN: Final = "*-step*.safetensors"


@dataclass(frozen=True)
class CheckpointEntry:
    """An entry in a run's list of checkpoints.

    Attributes:
        path: the file.
        step: the number of steps done.
        train_loss: see `CheckpointHeader`.
        validation_loss: see `CheckpointHeader`.
        best: whether it is the best of its run by validation loss (if none was measured, the last).
        last: whether it is the last of its run.
        level: "char", or "byte", where losses are per byte.
    """

    path: Path
    step: int
    train_loss: float | None
    validation_loss: float | None
    best: bool
    last: bool
    level: str = "char"


def is_run(folder: Path) -> bool:
    """Whether a folder contains a run."""
    return (folder / CONFIG_FILE).is_file() or any(folder.glob(_PATTERN))


def checkpoint_files(folder: Path) -> list[Path]:
    """The files in a folder with names of checkpoints, by step."""

    def step(path: Path) -> int:
        found = re.search(r"-step(\d+)\.safetensors$", path.name)
        return int(found[1]) if found else -1

    return sorted((path for path in folder.glob(_PATTERN) if step(path) >= 0), key=step)


def newest_run(folder: str | Path) -> Path:
    """The run at a path: a run's folder itself, or in a folder of runs, the one that saved last.

    Raises:
        CheckpointError: there is no run.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist; train first (charrnn-train), or give a run's folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a run's folder, such as ckpt/lstm")
    if is_run(folder):
        return folder
    runs = [entry for entry in folder.iterdir() if entry.is_dir() and is_run(entry)]
    if not runs:
        raise CheckpointError(
            f"{folder} contains no run; train first (charrnn-train), or give a run's folder"
        )

    def saved(run: Path) -> tuple[bool, float, str]:
        files = checkpoint_files(run)
        times = [file.stat().st_mtime for file in files or [run / CONFIG_FILE]]
        return bool(files), max(times), run.name

    return max(runs, key=saved)


def list_checkpoints(path: str | Path) -> list[CheckpointEntry]:
    """The checkpoints of a run, by step.

    Args:
        path: a checkpoint's file, a run's folder, or a folder of runs (the newest run is used).

    Raises:
        CheckpointError: there are none, or one is broken.
    """
    path = Path(path)
    files = [path] if path.is_file() else checkpoint_files(newest_run(path))
    if not files:
        raise CheckpointError(f"{newest_run(path)} has no checkpoint yet")
    headers = sorted((read_header(file) for file in files), key=lambda header: header.step)
    last = headers[-1]
    measured = [header for header in headers if header.validation_loss is not None]
    best = min(measured, key=lambda header: header.validation_loss or 0.0, default=last)
    return [
        CheckpointEntry(
            path=header.path,
            step=header.step,
            train_loss=header.train_loss,
            validation_loss=header.validation_loss,
            best=header is best,
            last=header is last,
            level=header.vocabulary.level,
        )
        for header in headers
    ]


def find_checkpoint(path: str | Path, which: Literal["best", "last"] | int = "best") -> Path:
    """Find the file of a checkpoint.

    Args:
        path: a checkpoint's file, a run's folder, or a folder of runs (the newest run is used).
        which: "best" by validation loss (if none was measured, the last), "last", or a step.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = Path(path)
    entries = list_checkpoints(path)
    for entry in entries:
        if (which == "best" and entry.best) or (which == "last" and entry.last) or which == entry.step:
            return entry.path
    steps = ", ".join(str(entry.step) for entry in entries)
    raise CheckpointError(
        f"{entries[0].path.parent} has no checkpoint at step {which}; its checkpoints are at {steps}"
    )
