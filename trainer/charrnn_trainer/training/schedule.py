"""Learning-rate schedules."""

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
"""Each schedule's factor of the learning rate, as a function of the fraction of the run that is done."""


def learning_rate(config: OptimizationConfig, step: int, done: float) -> float:
    """The learning rate of a step.

    It rises linearly during the warm-up, then stays constant, or decays to zero at the end of the run: along
    half a cosine (Loshchilov and Hutter 2017, without restarts), or linearly.

    Args:
        config: the settings.
        step: the step, counted from 0.
        done: the fraction of the run that is done (`progress`).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    return config.learning_rate * FACTORS[config.schedule](done)


def progress(
    config: OptimizationConfig, step: int, seconds: float, seconds_for_steps: float | None = None
) -> float:
    """The fraction of a run that is done before a step.

    It counts time under a time budget, else steps. The warm-up steps are not counted, so that the learning
    rate decays from its peak; under a time budget, all time counts.

    Args:
        config: the settings.
        step: the number of steps done.
        seconds: the time that they took.
        seconds_for_steps: the part of a time budget that is for steps; None for all of it.
    """
    if step >= config.steps:
        return 1.0
    by_steps = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    budget = 60.0 * config.minutes if seconds_for_steps is None else seconds_for_steps
    by_time = 0.0 if not config.minutes else seconds / budget if budget > 0.0 else 1.0
    return min(1.0, max(by_steps, by_time))
