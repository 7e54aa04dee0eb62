"""The speed of a run: choice of threads, and detection of wrong plans. No clock is read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training import watch as watch_module
from charrnn_trainer.training.pace import SpeedWatch, ThreadPace, fastest_count, thread_counts
from charrnn_trainer.training.rule import Task
from charrnn_trainer.training.spinning import SPIN_COUNT, limit_spinning
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.watch import Watch

IDLE = {1: 0.09, 2: 0.06}
ONE_BUSY = {1: 0.1, 2: 0.5}
BOTH_BUSY = {1: 0.2, 2: 1.5}


def run(pace: ThreadPace, machine: dict[int, float], seconds: float) -> float:
    """Run steps for some seconds on a machine with these times; return their mean time."""
    spent, steps = 0.0, 0
    while spent < seconds:
        taken = machine[pace.count]
        pace.step_done(taken)
        spent, steps = spent + taken, steps + 1
    return spent / steps


@pytest.mark.parametrize("start", [1, 2])
def test_all_threads_are_used_on_an_idle_machine(start: int) -> None:
    pace = ThreadPace((1, 2), start)
    run(pace, IDLE, 30)
    assert run(pace, IDLE, 180) < 1.03 * IDLE[2]


@pytest.mark.parametrize("machine", [ONE_BUSY, BOTH_BUSY])
@pytest.mark.parametrize("start", [1, 2])
def test_under_load_it_is_little_slower_than_one_thread(machine: dict[int, float], start: int) -> None:
    pace = ThreadPace((1, 2), start)
    run(pace, machine, 15)
    assert run(pace, machine, 180) < 1.05 * machine[1]


def test_new_load_is_detected_within_steps_and_its_end_within_a_minute() -> None:
    pace = ThreadPace((1, 2), 2)
    run(pace, IDLE, 10)
    pace = settle(pace, IDLE)
    for _ in range(2):
        pace.step_done(BOTH_BUSY[2])
    assert pace.count == 1
    run(pace, BOTH_BUSY, 15)
    run(pace, IDLE, 60)
    assert settle(pace, IDLE).count == 2


def settle(pace: ThreadPace, machine: dict[int, float]) -> ThreadPace:
    """Run steps until no trial is active."""
    while pace.count != pace.home:
        pace.step_done(machine[pace.count])
    return pace


def test_intermittent_load_costs_little() -> None:
    pace = ThreadPace((1, 2), 2)
    spent, steps, best = 0.0, 0, 0.0
    while spent < 300:
        machine = ONE_BUSY if spent % 6 < 3 else IDLE
        taken = machine[pace.count]
        pace.step_done(taken)
        spent, steps, best = spent + taken, steps + 1, best + machine[1]
    assert spent < 1.1 * best  # never worse than one thread


def test_on_many_cores_some_are_left_free() -> None:
    counts = thread_counts(16)
    assert counts == (1, 2, 4, 8, 16)
    pace = ThreadPace(counts, 16)
    machine = {1: 1.6, 2: 0.8, 4: 0.4, 8: 0.25, 16: 2.0}
    run(pace, machine, 120)
    assert settle(pace, machine).count == 8


def test_a_single_slow_step_changes_nothing() -> None:
    pace = ThreadPace((1, 2), 2)
    for _ in range(8):
        pace.step_done(0.06)
    assert not pace.step_done(3.0)
    assert not pace.step_done(0.06)
    assert pace.count == 2


@pytest.mark.parametrize(
    ("times", "expected"),
    [({1: 0.1, 2: 0.06, 4: 0.04}, 4), ({1: 0.1, 2: 0.5, 4: 0.01}, 1), ({1: 0.1, 2: 0.06, 4: 0.07}, 2)],
)
def test_more_threads_are_tried_as_long_as_they_help(times: dict[int, float], expected: int) -> None:
    tried = []

    def time_step(count: int) -> float:
        tried.append(count)
        return times[count]

    assert fastest_count((1, 2, 4), time_step) == (expected, times[expected])
    assert tried[-1] <= 2 * expected


# --- replanning --------------------------------------------------------------------------------------------


def feed(speed: SpeedWatch, seconds: Iterator[float]) -> int | None:
    """The number of steps after which the plan is off; None if it never is."""
    for number, taken in enumerate(seconds, 1):
        if speed.step_done(taken):
            return number
    return None


def test_half_the_planned_speed_is_detected_within_seconds() -> None:
    speed = SpeedWatch(0.1)
    assert feed(speed, iter([0.1] * 500)) is None
    found = feed(speed, iter([0.25] * 500))
    assert found is not None
    assert found * 0.25 < 6
    assert speed.planned > 0.2
    assert feed(speed, iter([0.25] * 500)) is None
    assert feed(speed, iter([0.05] * 500)) is not None
    assert speed.planned < 0.13


def test_steps_of_many_seconds_are_detected_after_three() -> None:
    assert feed(SpeedWatch(0.1), iter([8.0] * 9)) == 3


@pytest.mark.parametrize("seconds", [0.06, 0.19])
def test_a_speed_near_the_planned_one_changes_nothing(seconds: float) -> None:
    assert feed(SpeedWatch(0.1), iter([seconds] * 500)) is None


# --- in a run ----------------------------------------------------------------------------------------------

CONFIG = TrainConfig().replace(minutes=3)
CPU = torch.device("cpu")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A torch with two threads; records the number that is set."""
    seen: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    return seen


def plan(**settings: object) -> Plan:
    config = CONFIG.replace(**settings)
    return Plan(config, "", 0.1, 2, frozenset(), Task(1_000_000, 65), 3)


def test_threads_adapt_to_the_load_under_a_time_budget(two_cores: list[int]) -> None:
    watch = Watch(CONFIG, plan(), CPU, 1)
    assert watch.threads == 2
    changed = [watch.step_done(taken) for taken in [0.06] * 30 + [1.0] * 2]
    assert changed[-1]
    assert (watch.threads, two_cores[-1]) == (1, 1)


@pytest.mark.parametrize(
    ("config", "device", "processes"),
    [
        (TrainConfig(), CPU, 1),
        (CONFIG.replace(threads=2), CPU, 1),
        (CONFIG, CPU, 2),
        (CONFIG, torch.device("cuda"), 1),
    ],
)
def test_threads_do_not_adapt_if_given_or_in_reproducible_runs(
    two_cores: list[int], config: TrainConfig, device: torch.device, processes: int
) -> None:
    watch = Watch(config, None, device, processes)
    assert not any(watch.step_done(taken) for taken in [0.06] * 30 + [1.0] * 30)
    assert not two_cores
    assert watch.threads == config.run.threads


@pytest.mark.usefixtures("two_cores")
def test_replanning_updates_settings_that_depend_on_steps_and_keeps_given_ones() -> None:
    config = CONFIG.replace(layers=1, hidden_size=512, batch_size=32, seq_length=64, dropout=0.3)
    old = Plan(config, "", 0.1, 2, frozenset({"weight_drop"}), Task(1_000_000, 65), 3)
    watch = Watch(config, old, CPU, 1)
    found = None
    for step in range(1, 100):
        found = watch.plan_anew(1.0, config, step, 150.0)
        if found is not None:
            break
    assert found is not None
    assert step < 6
    assert "steps now take 1 s instead of the planned 0.1 s; about 150 steps left" in found.words
    assert found.config.network.dropout < 0.3
    assert found.config.network.hidden_size == 512
    assert found.config.network.weight_drop == config.network.weight_drop
    assert found.config.run.eval_every < 100


def test_without_a_plan_nothing_is_replanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "ThreadPace", object)
    watch = Watch(CONFIG.replace(threads=1), None, CPU, 1)
    assert watch.plan_anew(100.0, CONFIG, 5, 10.0) is None


# --- spinning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_spinning_is_limited_unless_the_user_configured_it(own: dict[str, str]) -> None:
    environment: dict[str, str] = {}
    limit_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": SPIN_COUNT}
    limit_spinning(kept := dict(own))
    assert kept == own
