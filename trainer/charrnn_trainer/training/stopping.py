"""When a run has come to its end."""

from __future__ import annotations

from collections.abc import Sequence

from charrnn_trainer.runs.header import Evaluation
from charrnn_trainer.train_config import TrainConfig


def why_ended(config: TrainConfig, step: int, done: float, evaluations: Sequence[Evaluation]) -> str | None:
    """Why a run is at its end, in words; None if it is not.

    Args:
        config: its settings.
        step: how many steps are done.
        done: how much of the run is done, by its steps or its time (`schedule.progress`).
        evaluations: its validations so far.
    """
    if step >= config.optimization.steps:
        return f"all {step:,} steps are done"
    if done >= 1.0:
        return f"its {config.optimization.minutes:g} minutes are over"
    patience = config.run.patience
    waited = _since_best(evaluations)
    if 0 < patience <= waited:
        return f"{waited} validations in a row without a new best"
    return None


def _since_best(evaluations: Sequence[Evaluation]) -> int:
    """How many validations there were since the best one."""
    best = min(evaluations, key=lambda item: item.validation_loss, default=None)
    return 0 if best is None else sum(item.step > best.step for item in evaluations)
