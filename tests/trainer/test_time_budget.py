"""The plan for a time budget: what the rule says, and that it measures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from charrnn_trainer import time_budget
from charrnn_trainer.config import MOST_STEPS, TrainConfig
from charrnn_trainer.recipes import RECIPES, recipe
from charrnn_trainer.time_budget import STEPS_A_UNIT, plan_for_minutes

MILLION = 1_003_854


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine that takes so many seconds for a step of 512 units, and else by the square of the units."""
    machine = {"seconds": 0.05}

    def seconds(_: object, config: TrainConfig) -> float:
        return machine["seconds"] * (config.network.hidden_size / 512) ** 2

    monkeypatch.setattr(time_budget._Clock, "seconds_a_step", seconds)
    return machine


def plan(minutes: float, /, text: int = MILLION, **settings: Any) -> TrainConfig:
    config = TrainConfig().replace(minutes=minutes, **settings)
    return plan_for_minutes(config, set(settings), text, 65).config


@pytest.mark.usefixtures("speed")
def test_three_minutes_at_a_twentieth_of_a_second_are_a_layer_of_512() -> None:
    config = plan(3)
    assert (config.network.layers, config.network.hidden_size) == (1, 512)
    assert config.network.embedding_size == 65
    assert (config.data.batch_size, config.data.seq_length, config.data.random_start) == (32, 64, True)
    assert config.optimization.schedule == "cosine"
    assert config.optimization.steps == MOST_STEPS
    assert config.optimization.minutes == 3
    assert 0.1 < config.network.dropout < 0.3
    assert config.network.weight_drop == 0


@pytest.mark.usefixtures("speed")
def test_more_time_gives_larger_networks_that_drop_more_and_learn_more_slowly() -> None:
    plans = [plan(minutes) for minutes in (0.2, 1, 3, 10, 40)]
    sizes = [each.network.hidden_size for each in plans]
    assert sizes == sorted(set(sizes))
    for name in ("dropout", "weight_drop"):
        shares = [getattr(each.network, name) for each in plans]
        assert shares == sorted(shares)
    rates = [each.optimization.learning_rate for each in plans]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("minutes", [0.1, 1, 3, 20])
def test_the_network_is_the_largest_that_leaves_enough_steps(speed: dict[str, float], minutes: float) -> None:
    hidden = plan(minutes).network.hidden_size
    steps = {size: 60 * minutes / (speed["seconds"] * (size / 512) ** 2) for size in (hidden, hidden + 64)}
    assert steps[hidden] >= STEPS_A_UNIT * hidden
    assert steps[hidden + 64] < STEPS_A_UNIT * (hidden + 64)


@pytest.mark.usefixtures("speed")
def test_a_short_text_gets_a_small_network_and_batches_that_fit() -> None:
    config = plan(60, text=20_000)
    assert config.network.hidden_size**2 <= 20_000
    tiny = plan(60, text=500)
    assert tiny.network.hidden_size == 64
    assert 2 * tiny.data.batch_size * tiny.data.seq_length <= 500


@pytest.mark.usefixtures("speed")
def test_what_was_given_stays() -> None:
    settings: dict[str, Any] = {
        "cell": "gru",
        "layers": 2,
        "hidden_size": 100,
        "embedding_size": 0,
        "batch_size": 7,
        "seq_length": 13,
        "dropout": 0.0,
        "learning_rate": 0.5,
        "steps": 9,
        "schedule": "linear",
        "weight_decay": 0.0,
        "clip": 3.0,
        "random_start": False,
        "eval_every": 4,
        "warmup_steps": 0,
    }
    config = plan(3, **settings)
    assert config == config.replace(**settings)


@pytest.mark.usefixtures("speed")
def test_tanh_cells_learn_at_a_quarter_of_the_rate() -> None:
    assert plan(3, cell="rnn").optimization.learning_rate == pytest.approx(
        plan(3).optimization.learning_rate / 4, rel=0.05
    )


@pytest.mark.usefixtures("speed")
def test_a_network_that_has_learned_before_learns_at_a_third_of_the_rate() -> None:
    def rate(*fixed: str, fine_tunes: bool) -> float:
        config = TrainConfig().replace(minutes=3)
        made = plan_for_minutes(config, {*fixed}, MILLION, 65, fine_tunes=fine_tunes).config
        return made.optimization.learning_rate

    assert rate(fine_tunes=True) == pytest.approx(rate(fine_tunes=False) / 3, rel=0.05)
    assert rate("learning_rate", fine_tunes=True) == TrainConfig().optimization.learning_rate


def test_the_speed_is_measured_and_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    config = plan(0.001, device="cpu", precision="fp32", onednn=False, threads=1)
    torch.testing.assert_close(torch.rand(3), expected)
    assert config.network.hidden_size == 64  # nothing larger learns in 60 ms


def test_every_recipe_is_a_valid_set_of_settings() -> None:
    for name, settings in RECIPES.items():
        assert recipe(name) == TrainConfig().replace(**settings)
    assert recipe("course") == TrainConfig()
