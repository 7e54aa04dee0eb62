"""Measure the exported models of runs: samples, speed and file size.

The models are built in memory and read back by the runtime's loader, as in users' programs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from charrnn_runtime.backends.session import Engine
from charrnn_runtime.errors import CharRNNError, SettingError, UnknownCharacterError
from charrnn_runtime.model import CharRNN
from charrnn_runtime.sampling import Sampling
from charrnn_trainer.compare.records import RunRecord
from charrnn_trainer.export.build import build
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import CheckpointEntry

SPEED_LENGTH: Final = 2_000
SPEED_REPEATS: Final = 5
"""A model's speed is the median of 5 texts of 2,000 characters, with the models taking turns."""


@dataclass(frozen=True)
class SampleSettings:
    """Settings of samples.

    Attributes:
        prompt: the text that every sample continues; empty starts each with the model's start token.
        length: the number of characters to generate.
        seed: decides the random numbers, the same for every sample.
        temperature: see `charrnn_runtime.sampling.Sampling`.
    """

    prompt: str = ""
    length: int = 300
    seed: int = 1
    temperature: float = 0.8


@dataclass(frozen=True)
class Sample:
    """A text generated from a checkpoint of a run.

    Attributes:
        checkpoint: the checkpoint.
        text: the text, without the prompt.
    """

    checkpoint: CheckpointEntry
    text: str


@dataclass(frozen=True, eq=False)
class ModelMeasures:
    """Measurements of a run's exported model.

    Attributes:
        exported: the checkpoint that export takes and that was measured.
        file_bytes: the size of the step model in fp32.
        state_size: S, the number of values that a stream carries from character to character.
        characters_per_second: how fast it generates one stream on one thread of the CPU.
    """

    exported: CheckpointEntry
    file_bytes: int
    state_size: int
    characters_per_second: float


def measure_models(runs: Sequence[RunRecord]) -> list[ModelMeasures]:
    """Export each run's best checkpoint, and measure how fast it generates.

    Raises:
        CheckpointError: a checkpoint is broken.
        CharRNNError: a model cannot be built or run.
    """
    models, sizes = [], []
    for run in runs:
        model, size = _step_model(run.best_checkpoint)
        models.append(model)
        sizes.append(size)
    speeds = _speeds(models)
    return [
        ModelMeasures(run.best_checkpoint, size, model.info.state_size, speed)
        for run, model, size, speed in zip(runs, models, sizes, speeds, strict=True)
    ]


def _step_model(entry: CheckpointEntry) -> tuple[CharRNN, int]:
    """The exported model of a checkpoint, and its file size in bytes."""
    built = build(load_checkpoint(entry.path), "fp32")
    return CharRNN(built.file.info, Engine(built.file, "cpu")), len(built.data)


def _speeds(models: Sequence[CharRNN]) -> list[float]:
    """Characters per second of each, one stream on one thread."""
    times: list[list[float]] = [[] for _ in models]
    for repeat in range(SPEED_REPEATS + 1):
        for model, taken in zip(models, times, strict=True):
            begin = time.perf_counter()
            model.generate("", SPEED_LENGTH, seed=repeat)
            taken.append(time.perf_counter() - begin)
    return [SPEED_LENGTH / statistics.median(taken[1:]) for taken in times]  # the first is a warm-up


# --- samples -----------------------------------------------------------------------------------------------


def choose_checkpoints(runs: Sequence[RunRecord], rows: int) -> list[list[CheckpointEntry | None]]:
    """The checkpoints to sample from: rows with one checkpoint per run, or None.

    There are at most ``rows`` rows of steps that the runs have in common, from the first to the last. If
    fewer than two are common, each run's steps are spread separately. Two more rows hold the best and the
    last checkpoints of the runs for which no other row has them.
    """
    by_step = [{entry.step: entry for entry in run.checkpoints} for run in runs]
    common = sorted(set.intersection(*(set(entries) for entries in by_step)))
    if len(common) > 1:
        chosen = [_spread(common, rows)] * len(runs)
    else:
        chosen = [_spread(list(entries), rows) for entries in by_step]
    table: list[list[CheckpointEntry | None]] = [
        [
            entries[steps[row]] if row < len(steps) else None
            for entries, steps in zip(by_step, chosen, strict=True)
        ]
        for row in range(max(len(steps) for steps in chosen))
    ]
    for wanted in ([run.best_checkpoint for run in runs], [run.checkpoints[-1] for run in runs]):
        missing = [
            entry if all(entry is not row[column] for row in table) else None
            for column, entry in enumerate(wanted)
        ]
        if any(missing):
            table.append(missing)
    return table


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of some steps, evenly spread by index, including the first and the last.

    With a count of 1, the last.
    """
    if count == 1 or len(steps) == 1:
        return [steps[-1]]
    count = min(count, len(steps))
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def write_samples(
    runs: Sequence[RunRecord], settings: SampleSettings, rows: int, report: Callable[[str], None]
) -> list[list[Sample | None]]:
    """Generate samples at several checkpoints of each run: rows with one sample per run.

    Raises:
        SettingError: a setting is invalid.
        CharRNNError: a run does not know a character of the prompt, or a checkpoint is broken.
    """
    _check_temperature(settings.temperature)  # before anything is loaded
    table: list[list[Sample | None]] = []
    for row in choose_checkpoints(runs, rows):
        samples: list[Sample | None] = []
        for run, entry in zip(runs, row, strict=True):
            if entry is None:
                samples.append(None)
                continue
            report(f"{run.name}, step {entry.step:,}: generating {settings.length:,} characters")
            samples.append(Sample(entry, _write(run, entry, settings)))
        table.append(samples)
    return table


def _check_temperature(temperature: float) -> None:
    try:
        Sampling(temperature)
    except SettingError as error:
        # Without the advice to use top_k 1, which a comparison does not have.
        raise SettingError(str(error).partition("; ")[0], "temperature") from error


def _write(run: RunRecord, entry: CheckpointEntry, settings: SampleSettings) -> str:
    model, _ = _step_model(entry)
    try:
        text = model.generate(
            settings.prompt, settings.length, seed=settings.seed, temperature=settings.temperature
        )
    except UnknownCharacterError as error:
        unknown = ", ".join(f"{character!r}" for character in error.characters[:5])
        raise CharRNNError(
            f"--prime {settings.prompt!r} has characters that {run.folder} does not know: {unknown}; use "
            "only characters that occur in all the runs' texts"
        ) from None
    return text.removeprefix(settings.prompt)
