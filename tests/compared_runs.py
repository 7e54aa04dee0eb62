"""Runs for the tests of comparisons: tiny ones that are really trained, and records of any figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charrnn_trainer.compare.measure import ModelMeasures
from charrnn_trainer.compare.records import RunRecord, Validation
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.finding import CheckpointEntry
from charrnn_trainer.runs.header import CorpusInfo
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import train
from tiny_runs import TEXT, TINY

PARAMETERS = {"lstm": 4_000, "gru": 3_000, "rnn": 1_000}
STATES = {"lstm": 2, "gru": 1, "rnn": 1}


def train_tiny(folder: Path, **settings: Any) -> Path:
    """Train a tiny network into a folder: checkpoints at 6 and 12, validation every 3 steps."""
    corpus = Corpus.from_text(TEXT, level=settings.get("level", "char"), name="hamlet")
    train(TINY.replace(**settings), corpus, out=folder)
    return folder


def record(
    cell: str = "lstm",
    losses: Sequence[float] = (2.0, 1.5),
    validations: Mapping[int, float] | None = None,
    *,
    name: str | None = None,
    seconds: float | Sequence[float] = 0.5,
    finished: bool = True,
    repeatable: bool = True,
    text: str = "a",
    train_tokens: int = 900,
    checkpoints: Sequence[int] | None = None,
    **settings: Any,
) -> RunRecord:
    """A run with one step per loss and validation losses by step; it has checkpoints there and at the end."""
    validations = validations or {}
    steps = checkpoints or sorted({*validations, len(losses)})
    best = min(validations, key=lambda step: validations[step], default=steps[-1])
    return RunRecord(
        name=name or cell,
        folder=Path("ckpt") / (name or cell),
        config=TrainConfig().replace(cell=cell, steps=len(losses), embedding_size=0, **settings),
        corpus=CorpusInfo(f"text {text}", text, 1_000, train_tokens),
        symbols=65,
        parameters=PARAMETERS[cell],
        finished=finished,
        repeatable=repeatable,
        checkpoints=tuple(
            CheckpointEntry(
                path=Path(f"step{step}"),
                step=step,
                train_loss=None,
                validation_loss=validations.get(step),
                best=step == best,
                last=step == steps[-1],
            )
            for step in steps
        ),
        steps=np.arange(1, len(losses) + 1),
        losses=np.array(losses, dtype=np.float64),
        seconds=np.full(len(losses), seconds, dtype=np.float64),
        validations=tuple(Validation(step, validations[step]) for step in sorted(validations)),
    )


def measures(run: RunRecord, speed: float = 1_000.0) -> ModelMeasures:
    """Plausible measurements of a run's model."""
    return ModelMeasures(
        exported=run.best_checkpoint,
        file_bytes=4 * run.parameters,
        state_size=256 * STATES[run.config.network.cell],
        characters_per_second=speed,
    )
