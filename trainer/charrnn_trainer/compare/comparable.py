"""Whether the losses of runs can be compared: the same text, settings and budget, and seed-to-seed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from charrnn_trainer.compare.figures import duration, nats
from charrnn_trainer.compare.records import RunRecord

WINDOW: Final = 100
"""A training loss at a step is the mean of the last 100 steps up to it (of all, if there are fewer)."""
NOISE: Final = 0.02
"""Losses in nats closer than this are level, unless the runs themselves show more seed-to-seed noise.

With three seeds, losses differed by up to 0.006 (LSTM) and 0.028 (GRU): docs/tried.md.
"""
DIVERGED: Final = 0.5
"""A run whose training loss ends this many nats above its lowest has diverged."""
EQUAL_TIME: Final = 1.05
"""Training times within this factor of one another count as equal."""
BUSY: Final = 1.2
"""If the mean time of a step is this many times the median, other programs slowed the run down."""

_COMPUTING: Final = ("device", "precision", "onednn", "threads")
"""The settings that affect the speed of a step."""
_IGNORED: Final = (
    *("cell", "seed"),
    *("eval_every", "save_every", "log_every", "keep", "tensorboard"),
    *("device", "onednn", "threads"),
)
"""The settings that are compared, are random, or do not affect losses."""


@dataclass(frozen=True)
class Noise:
    """The seed-to-seed noise: the difference of losses that may be due to chance.

    Attributes:
        nats: losses closer than this are level.
        measured: whether it was measured between runs that differ only in their seed.
    """

    nats: float
    measured: bool

    @property
    def sentence(self) -> str:
        """The sentence that explains which losses are treated as level."""
        if self.measured:
            return (
                f"Runs that differ only in their seed are up to {nats(self.nats)} nats apart, so losses "
                "closer than that are treated as level."
            )
        return (
            f"Losses less than {self.nats:g} nats apart are treated as level: such differences are "
            "within seed-to-seed noise."
        )

    def level(self, one: float, other: float) -> bool:
        """Whether two losses are too close to tell which is better."""
        return abs(one - other) < self.nats or one == other


def noise_of(runs: Sequence[RunRecord]) -> Noise:
    """The seed-to-seed noise: `NOISE`, or the difference between runs of different seeds if it is larger."""
    repeated: dict[str, dict[int, float]] = {}  # the settings: a loss for each seed
    for run in runs:
        if run.best is not None and run.finished and not diverged(run):
            settings = {name: value for name, value in _settings(run).items() if name not in _IGNORED}
            key = repr((run.config.network.cell, sorted(settings.items()), split_of(run)))
            repeated.setdefault(key, {}).setdefault(run.config.run.seed, run.best.loss)
    widest = max((max(seeds.values()) - min(seeds.values()) for seeds in repeated.values()), default=0.0)
    # The widest pair is itself level, so the limit lies just above it.
    return Noise(math.nextafter(widest, math.inf), measured=True) if widest >= NOISE else Noise(NOISE, False)


def diverged(run: RunRecord) -> bool:
    """Whether a run's training loss rose far above its lowest, or above that of a uniform guess."""
    lowest = run.lowest_train_loss(WINDOW)
    uniform = math.log(run.symbols)
    worse_than_guessing = float(run.losses[-1]) > uniform and lowest < uniform - DIVERGED
    return run.last_train_loss(WINDOW) > lowest + DIVERGED or worse_than_guessing


# --- the same text and settings ----------------------------------------------------------------------------


def same_text(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs were trained on one text, at one level."""
    return len({(run.corpus.sha256, run.config.data.level) for run in runs}) == 1


def same_split(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs validate on the same part of the same text."""
    return same_text(runs) and len({split_of(run) for run in runs}) == 1


def split_of(run: RunRecord) -> tuple[object, ...]:
    """Everything that determines the validation text."""
    data = run.config.data
    drawn_by = (run.config.run.seed, data.val_lines, data.val_fraction) if data.lines else ()
    return run.corpus.sha256, run.corpus.train_tokens, data.split, data.lines, *drawn_by


def differences(runs: Sequence[RunRecord]) -> list[str]:
    """The settings other than cell and seed that affect losses and differ, such as ``steps: 6000, 3000``."""
    return _differing(runs, [name for run in runs for name in _settings(run) if name not in _IGNORED])


def computing_differences(runs: Sequence[RunRecord]) -> list[str]:
    """The settings that affect the speed of a step and differ, such as ``precision: bf16, fp32``."""
    return _differing(runs, _COMPUTING)


def _differing(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    tables = [_settings(run) for run in runs]
    found = []
    for name in dict.fromkeys(names):
        values = [table.get(name) for table in tables]
        if any(value != values[0] for value in values):
            distinct = dict.fromkeys(_shown(value) for value in values)
            found.append(f"{name.replace('_', ' ')}: {', '.join(distinct)}")
    return found


def _shown(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _settings(run: RunRecord) -> dict[str, Any]:
    return {name: value for section in run.config.to_dict().values() for name, value in section.items()}


# --- the same budget ---------------------------------------------------------------------------------------


def same_steps(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs did the same number of steps, on batches of one size."""
    return same_batches(runs) and len({run.step for run in runs}) == 1


def same_batches(runs: Sequence[RunRecord]) -> bool:
    """Whether a step reads the same number of characters in all runs."""
    return len({(run.config.data.batch_size, run.config.data.seq_length) for run in runs}) == 1


def same_time(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs trained for about the same time, or had the same value of --minutes."""
    minutes = {run.config.optimization.minutes for run in runs}
    seconds = [run.total_seconds for run in runs]
    given = len(minutes) == 1 and minutes != {0.0} and all(run.finished for run in runs)
    return given or max(seconds) <= EQUAL_TIME * min(seconds)


def step_after(run: RunRecord, seconds: float) -> int:
    """The last step that a run completed within some seconds of training steps; 0 if none."""
    done = run.steps[run.elapsed <= seconds * (1 + 1e-9)]
    return int(done[-1]) if len(done) else 0


def busy(runs: Sequence[RunRecord]) -> list[str]:
    """The runs slowed down by other programs, with the mean and median time of a step."""
    return [
        f"{run.name}: mean {duration(float(run.seconds.mean()))}, median {duration(run.batch_seconds)}"
        for run in runs
        if run.total_seconds > BUSY * run.batch_seconds * len(run.seconds)
    ]
