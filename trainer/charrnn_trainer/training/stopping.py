"""Decides whether a run has ended."""

from __future__ import annotations

from collections.abc import Sequence

from charrnn_trainer.runs.header import Evaluation
from charrnn_trainer.train_config import TrainConfig


def why_ended(config: TrainConfig, step: int, done: float, evaluations: Sequence[Evaluation]) -> str | None:
    """The reason why a run has ended, in words; None if it has not.

    Args:
        config: its settings.
        step: the number of steps done.
        done: the fraction of the run that is done, by its steps or its time (`schedule.progress`).
        evaluations: its validations so far.
    """
    if step >= config.optimization.steps:
        return f"all {step:,} steps are done"
    if done >= 1.0:
        return f"its {config.optimization.minutes:g} minutes are used up"
    patience = config.run.patience
    waited = _since_best(evaluations)
    if 0 < patience <= waited:
        return f"{waited} validations in a row without a new best"
    return None


def _since_best(evaluations: Sequence[Evaluation]) -> int:
    """The number of validations since the best one."""
    best = min(evaluations, key=lambda item: item.validation_loss, default=None)
    return 0 if best is None else sum(item.step > best.step for item in evaluations)
