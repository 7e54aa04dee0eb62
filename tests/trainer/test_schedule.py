"""Learning-rate schedules."""

from __future__ import annotations

import math

import pytest

from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.train_config import SETTINGS
from charrnn_trainer.training.schedule import FACTORS, learning_rate, progress


def rates(schedule: str, warmup_steps: int = 0) -> list[float]:
    config = OptimizationConfig(steps=8, learning_rate=2.0, schedule=schedule, warmup_steps=warmup_steps)
    return [learning_rate(config, step, progress(config, step, 0.0)) for step in range(8)]


def test_every_named_schedule_exists() -> None:
    assert tuple(FACTORS) == SETTINGS["schedule"].choices


def test_a_constant_schedule_never_changes() -> None:
    assert rates("constant") == [2.0] * 8


def test_a_linear_schedule_decays_to_zero_after_the_last_step() -> None:
    assert rates("linear") == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])


def test_a_cosine_schedule_follows_half_a_cosine() -> None:
    assert rates("cosine") == pytest.approx([1 + math.cos(math.pi * step / 8) for step in range(8)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_linearly_to_the_full_rate(schedule: str) -> None:
    with_warmup = rates(schedule, warmup_steps=4)
    assert with_warmup[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert all(later <= 2.0 for later in with_warmup[4:])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_longer_than_the_run_is_allowed(schedule: str) -> None:
    assert rates(schedule, warmup_steps=16) == pytest.approx([2.0 * step / 16 for step in range(1, 9)])


def test_under_a_time_budget_progress_is_measured_in_time() -> None:
    config = OptimizationConfig(steps=1_000_000, minutes=2, schedule="linear", learning_rate=1.0)
    assert progress(config, 10, 30.0) == 0.25
    assert learning_rate(config, 10, progress(config, 10, 30.0)) == 0.75
    assert progress(config, 10, 500.0) == 1.0


def test_under_a_time_budget_the_steps_still_end_a_run() -> None:
    config = OptimizationConfig(steps=10, minutes=2)
    assert progress(config, 10, 1.0) == 1.0


def test_a_run_shorter_than_its_warm_up_ends_too() -> None:
    config = OptimizationConfig(steps=8, warmup_steps=16)
    assert progress(config, 7, 0.0) < 1.0
    assert progress(config, 8, 0.0) == 1.0
