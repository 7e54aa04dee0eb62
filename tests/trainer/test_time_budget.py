"""The plan for a time budget: its rule and its measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.data.split import split_text
from charrnn_trainer.recipes import RECIPES, recipe
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training import time_budget
from charrnn_trainer.training.held_out import SAMPLE, read_characters, sample_rows
from charrnn_trainer.training.rule import SMALL_SIZE, STEPS_PER_UNIT, Task
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.time_budget import plan_for_minutes

MILLION = 1_003_854


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine with a given step time at 512 units, which scales with the square of the units."""
    machine = {"seconds": 0.025}

    def seconds(_: object, config: TrainConfig) -> float:
        return machine["seconds"] * (config.network.hidden_size / 512) ** 2

    monkeypatch.setattr(time_budget.Measured, "seconds_per_step", seconds)
    monkeypatch.setattr(time_budget.Measured, "threads", lambda *_: 1)
    monkeypatch.setattr(
        time_budget.Measured, "seconds_for_steps", lambda _, config: 60 * config.optimization.minutes
    )
    return machine


def plan(minutes: float, /, text: int = MILLION, **settings: Any) -> TrainConfig:
    config = TrainConfig().replace(minutes=minutes, **settings)
    return plan_for_minutes(config, set(settings), text, 65).config


@pytest.mark.usefixtures("speed")
def test_three_minutes_at_25_ms_per_step_give_one_layer_of_448() -> None:
    config = plan(3)
    assert (config.network.layers, config.network.hidden_size) == (1, 448)
    assert config.network.embedding_size == 65
    assert (config.data.batch_size, config.data.seq_length, config.data.random_start) == (16, 64, True)
    assert config.optimization.schedule == "cosine"
    assert config.optimization.steps == MOST_STEPS
    assert config.optimization.minutes == 3
    assert 0.1 < config.network.dropout < 0.3
    assert config.network.weight_drop < 0.05


@pytest.mark.usefixtures("speed")
def test_more_time_gives_larger_networks_more_dropout_and_lower_learning_rates() -> None:
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
    assert steps[hidden] >= STEPS_PER_UNIT * hidden
    assert steps[hidden + 64] < STEPS_PER_UNIT * (hidden + 64)


@pytest.mark.usefixtures("speed")
def test_a_short_text_gets_a_small_network_and_batches_that_fit() -> None:
    config = plan(60, text=20_000)
    assert config.network.hidden_size == SMALL_SIZE
    tiny = plan(60, text=500)
    assert tiny.network.hidden_size == 64
    assert 2 * tiny.data.batch_size * tiny.data.seq_length <= 500


@pytest.mark.usefixtures("speed")
def test_given_settings_are_kept() -> None:
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
def test_tanh_cells_use_a_quarter_of_the_learning_rate() -> None:
    assert plan(3, cell="rnn").optimization.learning_rate == pytest.approx(
        plan(3).optimization.learning_rate / 4, rel=0.05
    )


# --- the time for steps ------------------------------------------------------------------------------------

ROWS = split_text(5_000_000, TrainConfig().data).rows()
SIZED = TrainConfig().replace(layers=1, hidden_size=512, embedding_size=65, batch_size=32, seq_length=64)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], time_budget.Measured]:
    """A machine of a given speed, at a given time after the start of the command, for a text of 5 MB."""
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)

    def machine(seconds_per_step: float, spent: float) -> time_budget.Measured:
        monkeypatch.setattr(time_budget, "time_steps", lambda *_, **__: (1, seconds_per_step))
        return time_budget.Measured(Task(4_500_000, 65), ROWS, RunClock(-spent))

    return machine


Machine = Callable[[float, float], time_budget.Measured]


@pytest.mark.parametrize("minutes", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("seconds_per_step", [0.05, 0.5])
def test_preparation_steps_and_validations_fill_the_time(
    measured: Machine, minutes: float, seconds_per_step: float
) -> None:
    config = SIZED.replace(minutes=minutes, val_sample=SAMPLE, precision="fp32", onednn=False, device="cpu")
    machine = measured(seconds_per_step, 9.0)
    a_character = seconds_per_step / (32 * 64)
    sample = a_character * read_characters(sample_rows(ROWS, SAMPLE))
    whole = min(a_character * read_characters(ROWS), 0.1 * 60 * minutes)
    on_the_way = machine.validations(config)
    assert on_the_way == min(10, int(0.05 * 60 * minutes / sample))
    total = machine.seconds_for_steps(config) + 9.0 + on_the_way * sample + sample + whole
    assert total < 60 * minutes or machine.seconds_for_steps(config) == 0.1 * 60 * minutes
    assert total > 0.9 * 60 * minutes - 2.0


def test_without_time_to_measure_speed_is_estimated(measured: Machine) -> None:
    config = SIZED.replace(minutes=0.5, precision="fp32", onednn=False, device="cpu")
    machine = measured(0.6, 0.0)
    assert machine.seconds_per_step(config) == 0.6  # and four steps of it are all the time there is
    wide = config.replace(hidden_size=1024)
    assert 3.0 < machine.seconds_per_step(wide) / 0.6 < 4.0
    assert machine.seconds_per_step(config.replace(batch_size=64)) == pytest.approx(1.2)


def test_a_list_is_measured_in_batches_of_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []

    def time_steps(_: object, config: TrainConfig, *__: object, **___: object) -> tuple[int, float]:
        shapes.append((config.data.batch_size, config.data.seq_length))
        return 1, 0.01

    monkeypatch.setattr(time_budget, "time_steps", time_steps)
    config = SIZED.replace(minutes=1, precision="fp32", onednn=False, device="cpu", hidden_size=8)
    for length in (0, 8, 63, 64, 500):
        task = Task(4_500_000, 65, line_length=length)
        time_budget.Measured(task, None, RunClock()).seconds_per_step(config)
    assert shapes == [(32, 64), (256, 8), (32, 63), (32, 64), (32, 64)]


@pytest.mark.parametrize(
    ("minutes", "settings", "words"),
    [
        (3, {}, f"3 minutes allow about {180 / 0.1:,.0f} steps: LSTM, "),
        (
            3,
            {"steps": 10**6},
            f"3 minutes allow about {180 / 0.1:,.0f} of the 1,000,000 requested steps: LSTM, ",
        ),
        (1, {}, f"1 minute allows about {60 / 0.1:,.0f} steps: LSTM, "),
        (0.001, {}, "0.001 minutes allow about 1 step: LSTM, "),
        (0.001, {"steps": 1}, "0.001 minutes allow about the 1 requested step: LSTM, "),
        (1, {"steps": 1}, "the 1 requested step takes about 0.0017 of the 1 minute: LSTM, "),
        (3, {"steps": 60}, f"the 60 requested steps take about {60 * 0.1 / 60:g} of the 3 minutes: LSTM, "),
        (
            900,
            {"batch_size": 100, "seq_length": 100},
            f"{150 * MILLION / 10_000:,.0f} steps are enough and take about 25 of the 900 minutes: LSTM, ",
        ),
    ],
)
def test_the_plan_says_whether_time_or_steps_end_the_run(
    speed: dict[str, float], minutes: float, settings: dict[str, Any], words: str
) -> None:
    speed["seconds"] = 0.1  # of 512 units
    settings = {"hidden_size": 512, "cell": "lstm", **settings}
    config = TrainConfig().replace(minutes=minutes, **settings)
    assert plan_for_minutes(config, set(settings), MILLION, 65).words.startswith(words)


@pytest.mark.usefixtures("speed")
def test_a_plan_validates_as_often_as_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, expected in ((0, MOST_STEPS), (3, 2_351)):
        monkeypatch.setattr(time_budget.Measured, "validations", lambda *_, count=count: count)
        assert plan(3).run.eval_every == expected
    assert plan(3).data.val_sample == SAMPLE
    assert plan(3, val_sample=7).data.val_sample == 7


@pytest.mark.usefixtures("speed")
def test_a_pretrained_network_uses_a_third_of_the_learning_rate() -> None:
    def rate(*fixed: str, fine_tunes: bool) -> float:
        config = TrainConfig().replace(minutes=3)
        made = plan_for_minutes(config, {*fixed}, MILLION, 65, fine_tunes=fine_tunes).config
        return made.optimization.learning_rate

    assert rate(fine_tunes=True) == pytest.approx(rate(fine_tunes=False) / 3, rel=0.05)
    assert rate("learning_rate", fine_tunes=True) == TrainConfig().optimization.learning_rate


def test_measuring_the_speed_does_not_change_random_numbers() -> None:
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
