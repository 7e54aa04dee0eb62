"""The learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from charrnn_trainer.config import OptimizationConfig

FACTORS: Final[Mapping[str, Callable[[float], float]]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
"""The share of the learning rate that each schedule leaves, by how much of the run is done."""


def learning_rate(config: OptimizationConfig, step: int, done: float) -> float:
    """The learning rate of a step.

    It rises in a straight line over the warm-up, then stays, or falls to zero at the end of the run: along
    half a cosine (Loshchilov and Hutter 2017, without restarts), or in a straight line.

    Args:
        config: the settings.
        step: the step, counted from 0.
        done: how much of the run is done, from 0 to 1 (`progress`).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    return config.learning_rate * FACTORS[config.schedule](done)


def progress(
    config: OptimizationConfig, step: int, seconds: float, seconds_for_steps: float | None = None
) -> float:
    """How much of a run is done before a step, from 0 to 1.

    Under a time budget the time counts, and all of it; else the steps do, without the warm-up, so that the
    learning rate falls from its highest point.

    Args:
        config: the settings.
        step: how many steps are done.
        seconds: the time that they took.
        seconds_for_steps: of a time budget, what is for steps; None is all of it.
    """
    if step >= config.steps:
        return 1.0
    by_steps = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    budget = 60.0 * config.minutes if seconds_for_steps is None else seconds_for_steps
    by_time = 0.0 if not config.minutes else seconds / budget if budget > 0.0 else 1.0
    return min(1.0, max(by_steps, by_time))
