"""The rule that makes settings of a time budget: from numbers to settings, without measuring anything.

It came from measurements of minutes to hours on tinyshakespeare: one wide layer learns more than two narrow
ones, and small batches more than large ones; the wider the layer, the more steps it needs, and the more often
a text is read, the more a network must be kept from learning it by heart.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from charrnn_trainer.batches import fit_batch
from charrnn_trainer.config import MOST_STEPS, ONE_HOT_LIMIT, TrainConfig

HIDDEN_SIZES: Final = tuple(range(64, 1025, 64))
STEPS_A_UNIT: Final = 6.0
"""A network gets the largest hidden size that leaves it so many steps for each unit: at 512 units, 3,072."""


@dataclass(frozen=True)
class Task:
    """What there is to learn.

    Attributes:
        train_tokens: how many characters the text has for training.
        vocabulary_size: V.
        processes: how many train together.
        fine_tunes: whether the network has learned another text before.
    """

    train_tokens: int
    vocabulary_size: int
    processes: int = 1
    fine_tunes: bool = False


class Machine(Protocol):
    """How fast settings run, and for how long: measured, or for a test made up.

    Of the settings that are asked for, everything counts that a step's time depends on: the cell, layers,
    sizes, batch and length. What only the rule derives from the number of steps is not settled by then.
    """

    def seconds_a_step(self, config: TrainConfig) -> float:
        """The time that a step takes with these settings."""

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """The time that is left for steps with these settings, when all else is taken off."""


@dataclass(frozen=True)
class Choice:
    """What the rule chose.

    Attributes:
        config: all settings.
        steps: about how many steps they leave time for.
    """

    config: TrainConfig
    steps: float


def choose(config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine) -> Choice:
    """The settings that give the best network in the time that a machine has.

    The rule, where a setting is not fixed: one layer; batches of 32 rows by 64 characters (by 96 from 768
    units on); the largest of `HIDDEN_SIZES` that leaves `STEPS_A_UNIT` steps for each of its units, and whose
    square is not above the number of characters (a short text teaches no large network); AdamW's weight decay
    0.05, the clip 1; passes start anywhere, and a stream forgets with a chance of 0.2 %. `derived` tells what
    follows from the number of steps.

    Args:
        config: settings, of which those named in ``fixed`` stay.
        fixed: the names of settings that were given.
        task: what there is to learn. Batches have the next number of rows that its processes can share
            equally.
        machine: how fast it is learned.
    """
    reads_as_one_hot = task.vocabulary_size <= ONE_HOT_LIMIT and not config.network.tie_weights
    embedding = task.vocabulary_size if reads_as_one_hot else None
    base = {
        "layers": 1,
        "embedding_size": embedding,
        "batch_size": task.processes * math.ceil(32 / task.processes),
        "random_start": True,
        "reset_chance": 0.002,
        "steps": MOST_STEPS,
        "schedule": "cosine",
        "weight_decay": 0.05,
        "clip": 1.0,
    }
    config = replace_open(config, fixed, base)
    sizes = [size for size in HIDDEN_SIZES if size * size <= task.train_tokens] or [HIDDEN_SIZES[0]]
    if "hidden_size" in fixed:
        sizes = [config.network.hidden_size]
    config = _largest_that_fits(sizes, config, fixed, task, machine)
    steps = _steps(config, machine)
    return Choice(replace_open(config, fixed, derived(config, steps, task)), steps)


def derived(config: TrainConfig, steps: float, task: Task) -> dict[str, Any]:
    """The settings that follow from how many steps a network gets, by name; they can change in mid-run.

    From the steps follow the passes over the text: dropout before the output rises from none at one pass to a
    half at 16, the drop of recurrent weights from none at 8 passes to a half at 28. The learning rate is
    2.1 / H, at most 0.008 (for tanh cells a quarter), after 3 % warm-up, along the schedule to the end.
    """
    network = config.network
    passes = passes_over_text(config, steps, task)
    rate = min(0.008, 2.1 / network.hidden_size) * (0.25 if network.cell == "rnn" else 1.0)
    return {
        "dropout": _rise(passes, 1.0, 16.0),
        "weight_drop": _rise(passes, 8.0, 28.0),
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": max(1, round(0.03 * steps)),
    }


def passes_over_text(config: TrainConfig, steps: float, task: Task) -> float:
    """How often the text for training is read in so many steps."""
    return steps * config.data.batch_size * config.data.seq_length / task.train_tokens


def replace_open(config: TrainConfig, fixed: Collection[str], values: dict[str, Any]) -> TrainConfig:
    """The settings with ``values`` put in, but for those that are fixed."""
    return config.replace(**{name: value for name, value in values.items() if name not in fixed})


def _largest_that_fits(
    sizes: list[int], config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine
) -> TrainConfig:
    """The settings with the largest hidden size that leaves enough steps."""

    def with_size(hidden: int) -> TrainConfig:
        length = config.data.seq_length if "seq_length" in fixed else 96 if hidden >= 768 else 64
        batch, length = fit_batch(task.train_tokens, config.data.batch_size, length)
        return config.replace(hidden_size=hidden, batch_size=batch, seq_length=length)

    low, high = 0, len(sizes)  # the first size is taken in any case; from index high on, none fits
    while high - low > 1:
        middle = (low + high) // 2
        if _steps(with_size(sizes[middle]), machine) >= STEPS_A_UNIT * sizes[middle]:
            low = middle
        else:
            high = middle
    return with_size(sizes[low])


def _steps(config: TrainConfig, machine: Machine) -> float:
    """How many steps there is time for."""
    return min(config.optimization.steps, machine.seconds_for_steps(config) / machine.seconds_a_step(config))


def _rise(value: float, low: float, high: float) -> float:
    """From 0 at ``low`` in a straight line to a half at ``high``, to two digits."""
    return round(min(0.5, max(0.0, 0.5 * (value - low) / (high - low))), 2)
