"""The learning rate of every step."""

from __future__ import annotations

import math

from charrnn_trainer.config import OptimizationConfig


def learning_rate(config: OptimizationConfig, step: int) -> float:
    """The learning rate of a step, counted from 0.

    It rises in a straight line over the warm-up, then stays, or falls to zero at the end of the last step:
    along half a cosine (Loshchilov and Hutter 2017, without restarts), or in a straight line.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)  # in [0, 1)
    if config.schedule == "linear":
        return config.learning_rate * (1.0 - done)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
