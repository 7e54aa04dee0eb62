"""Early ends of runs, retention of checkpoints, and state resets."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn_runtime.errors import SettingError
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.nn.network import CharNetwork, State
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import checkpoint_files, find_checkpoint
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.training import pace, resolving, saving, validator
from charrnn_trainer.training.api import resume, train, train_in
from charrnn_trainer.training.events import Event, Logged, Notice, Saved, Started, Stepped, Validated
from charrnn_trainer.training.held_out import ReadingTimes
from charrnn_trainer.training.rule import Task
from charrnn_trainer.training.time_budget import Plan
from marks import first_daily
from tiny_runs import TEXT, TINY

CORPUS = Corpus.from_text(TEXT, name="hamlet")


def steps_kept(run: Path) -> list[int]:
    return [load_checkpoint(path).step for path in checkpoint_files(run)]


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The validation losses of runs, in order; the last one repeats."""
    planned: list[float] = []

    def next_loss(*_: Any) -> float:
        return planned.pop(0) if len(planned) > 1 else planned[0]

    monkeypatch.setattr(validator, "validation_loss", next_loss)
    return planned


# --- patience ----------------------------------------------------------------------------------------------


def test_patience_ends_a_run_after_so_many_validations_without_a_new_best(
    tmp_path: Path, validations: list[float]
) -> None:
    validations += [2.0, 1.0, 1.5, 0.9, 1.0, 0.9, 0.1]
    config = TINY.replace(eval_every=1, save_every=100, steps=50, patience=2)
    result = train(config, CORPUS, out=tmp_path / "run")
    assert (result.step, result.stopped) == (6, False)
    assert steps_kept(tmp_path / "run") == [4, 6]


def test_a_run_ended_by_patience_continues_with_more_patience(
    tmp_path: Path, validations: list[float]
) -> None:
    validations += [1.0, 2.0]
    config = TINY.replace(eval_every=1, save_every=100, steps=8, patience=1)
    assert train(config, CORPUS, out=tmp_path / "run").step == 2
    assert resume(tmp_path / "run").step == 2
    assert resume(tmp_path / "run", changes={"patience": 3}).step == 4
    assert resume(tmp_path / "run", changes={"patience": 0}).step == 8


def test_early_stopping_is_reported_with_the_last_step(tmp_path: Path, validations: list[float]) -> None:
    validations += [3.0, 2.0, 2.5, 2.1]
    events: list[Event] = []
    config = TINY.replace(eval_every=1, save_every=100, steps=50, patience=2)
    assert train(config, CORPUS, events.append, out=tmp_path / "run").step == 4
    assert [event.step for event in events if isinstance(event, Logged)][-1] == 4
    told = "stopped early: 2 validations in a row without a new best; to continue, give a larger patience"
    assert [event.message for event in events if isinstance(event, Notice)][-1].startswith(told)
    events.clear()
    assert resume(tmp_path / "run", events.append).step == 4
    assert [event.message for event in events if isinstance(event, Notice)][-1].startswith(told)


def test_patience_needs_validations() -> None:
    with pytest.raises(SettingError, match=r"patience=2 needs validations, but val_fraction=0"):
        TINY.replace(patience=2, val_fraction=0.0)


def test_without_patience_no_validation_ends_a_run(validations: list[float]) -> None:
    validations += [1.0, 2.0]
    assert train(TINY.replace(eval_every=1, steps=9), CORPUS).step == 9


# --- retention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [(0, [2, 3, 4, 6, 8, 9]), (1, [3, 8, 9]), (2, [3, 6, 8, 9])])
def test_the_newest_checkpoints_are_kept_and_always_the_best_and_the_last(
    tmp_path: Path, validations: list[float], keep: int, kept: list[int]
) -> None:
    validations += [3.0, 2.0, 1.0, 4.0]
    config = TINY.replace(eval_every=1, save_every=2, steps=9, keep=keep)
    train(config, CORPUS, out=tmp_path / "run")
    assert steps_kept(tmp_path / "run") == kept


# --- a time budget -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second at every reading."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.usefixtures("clock")
def test_a_run_ends_at_its_time_limit_with_its_learning_rate_fully_decayed(tmp_path: Path) -> None:
    rates: list[float] = []
    shares: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            rates.append(event.learning_rate)
            shares.append(event.done)

    config = TINY.replace(
        minutes=2, steps=MOST_STEPS, schedule="linear", warmup_steps=0, learning_rate=1e-3
    ).replace(eval_every=1000, save_every=1000)
    result = train(config, CORPUS, listen, out=tmp_path / "run")
    assert 10 < result.step < 120
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1e-3
    assert shares == sorted(shares)
    assert max(shares) <= 1.0
    saved = load_checkpoint(checkpoint_files(tmp_path / "run")[-1])
    assert saved.seconds is not None
    assert saved.seconds >= 120


@pytest.mark.usefixtures("clock")
def test_a_resumed_run_has_only_its_remaining_time(tmp_path: Path) -> None:
    config = TINY.replace(minutes=1, steps=MOST_STEPS, eval_every=1000, save_every=1000)
    whole = train(config, CORPUS).step
    first = train(config, CORPUS, out=tmp_path / "run", should_stop=lambda: True)
    assert first.step == 1
    second = resume(tmp_path / "run")
    assert not second.stopped
    assert whole / 2 < second.step <= whole + 1
    begun: list[Started] = []
    third = resume(tmp_path / "run", lambda e: begun.append(e) if isinstance(e, Started) else None)
    assert third.step == second.step
    assert begun[0].done == 1.0
    assert resume(tmp_path / "run", changes={"minutes": 3.0}).step > second.step


def test_without_a_time_budget_checkpoints_contain_no_time(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    assert load_checkpoint(checkpoint_files(tmp_path / "run")[-1]).seconds is None


@pytest.mark.usefixtures("clock")
def test_a_time_budget_includes_preparation_and_the_final_validation() -> None:
    """With the fixture's clock, which advances by a second per reading."""
    config = TINY.replace(minutes=4, steps=MOST_STEPS, eval_every=1000, save_every=1000)
    all_of_it = train(config, CORPUS, began=0.0).step
    half_gone = train(config, CORPUS, began=time.perf_counter() - 120.0).step
    assert 2 < half_gone < 0.7 * all_of_it
    ends: list[float] = []
    train(config, CORPUS, lambda event: ends.append(time.perf_counter()), began=time.perf_counter())
    assert ends[-1] - ends[0] < 1.1 * 240


@pytest.mark.usefixtures("clock")
def test_a_budget_spent_before_the_first_step_still_allows_one_step(tmp_path: Path) -> None:
    result = train(TINY.replace(minutes=0.01), CORPUS, out=tmp_path / "run", began=-100.0)
    assert result.step == 1
    assert steps_kept(tmp_path / "run") == [1]
    assert resume(tmp_path / "run").step == 1


@pytest.mark.usefixtures("clock")
def test_intermediate_validations_take_at_most_a_twentieth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes a second by the fixture's clock."""
    monkeypatch.setattr(ReadingTimes, "expected", lambda *_: 1.0)
    events: list[Event] = []
    train(TINY.replace(minutes=5, steps=MOST_STEPS, eval_every=1, save_every=1), CORPUS, events.append)
    validations = sum(isinstance(event, Validated) for event in events)
    assert 3 <= validations <= 0.05 * 300 + 1


def test_a_run_continues_with_a_revised_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take a hundredth of the planned time allow more passes, and need more dropout."""
    monkeypatch.setattr(pace, "WINDOW", 0.0)
    config = TINY.replace(minutes=0.03, steps=MOST_STEPS, eval_every=10**6, save_every=10**6, dropout=0.0)
    plan = Plan(config, "", 100.0, 1, frozenset({"layers"}), Task(1_530, 22), 0)
    events: list[Event] = []
    with Run.create(tmp_path / "run") as run:
        result = train_in(run, config, CORPUS, events.append, plan=plan)
    assert any("instead of the planned" in event.message for event in events if isinstance(event, Notice))
    assert result.config.network.dropout > 0.0
    assert result.network.config.dropout == result.config.network.dropout
    assert result.network.rnn.dropout == result.config.network.dropout
    assert load_checkpoint(checkpoint_files(tmp_path / "run")[-1]).config == result.config
    assert RunFile.read(tmp_path / "run" / "config.toml").config == result.config


# --- saved by time -----------------------------------------------------------------------------------------


def test_timed_checkpoints_replace_one_another_and_leave_the_final_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.replace(eval_every=100, save_every=5)
    train(config, CORPUS, out=tmp_path / "plain")
    monkeypatch.setattr(saving, "_SAVE_AFTER", 0.0)
    seen: list[tuple[str, list[int]]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Saved):
            seen.append((event.kind, steps_kept(tmp_path / "timed")))

    train(config, CORPUS, listen, out=tmp_path / "timed")
    assert [kind for kind, _ in seen[:6]] == ["timed"] * 4 + ["scheduled", "timed"]
    # The best so far is also kept: the first validation is at step 5.
    assert [kept for _, kept in seen[:7]] == [[1], [2], [3], [4], [5], [5, 6], [5, 7]]
    assert steps_kept(tmp_path / "timed") == steps_kept(tmp_path / "plain")
    for path in checkpoint_files(tmp_path / "plain"):
        assert (tmp_path / "timed" / path.name).read_bytes() == path.read_bytes()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", first_daily([7, 2, 11]))
def test_resume_after_a_kill_at_a_timed_checkpoint_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    corpus = Corpus.from_text(TEXT * 60)  # long enough for a sample
    config = TINY.replace(val_sample=512, val_fraction=0.3)
    train(config, corpus, out=tmp_path / "whole")
    assert load_checkpoint(find_checkpoint(tmp_path / "whole")).whole_loss is not None
    monkeypatch.setattr(saving, "_SAVE_AFTER", 0.0)

    def kill(event: Event) -> None:
        if isinstance(event, Saved) and event.step == step:
            raise Killed

    with pytest.raises(Killed):
        train(config, corpus, kill, out=tmp_path / "killed")
    begun: list[Started] = []
    resume(tmp_path / "killed", lambda e: begun.append(e) if isinstance(e, Started) else None)
    assert begun[0].step == step
    assert steps_kept(tmp_path / "killed") == steps_kept(tmp_path / "whole")
    for path in checkpoint_files(tmp_path / "whole"):
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


# --- threads -----------------------------------------------------------------------------------------------


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Restore torch's number of threads after a test that fakes it, since training restores the fake one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("restored_threads")
def test_the_measured_number_of_threads_is_recorded_for_reproducible_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(resolving, "choose_threads", lambda *_: 1)
    events: list[Event] = []
    train(TINY.replace(threads=None), CORPUS, events.append, out=tmp_path / "run")
    told = [event.message for event in events if isinstance(event, Notice)]
    again = "--precision fp32 --no-onednn --threads 1"
    assert told == [
        "measuring the fastest way to train on this machine",
        "using 1 thread of 2, the fastest here",
        f"to repeat this run exactly, use the same seed and {again}, or its config.toml",
    ]
    assert RunFile.read(tmp_path / "run" / "config.toml").config.run.threads == 1
    assert load_checkpoint(checkpoint_files(tmp_path / "run")[-1]).config.run.threads == 1


# --- state resets ------------------------------------------------------------------------------------------


def states_read(monkeypatch: pytest.MonkeyPatch, reset_chance: float) -> list[torch.Tensor]:
    """The h and c, ``[2, L, B, H]``, before every step of a training of one pass."""
    seen: list[torch.Tensor] = []
    forward = CharNetwork.forward

    def spy(
        self: CharNetwork, tokens: torch.Tensor, state: State, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        if self.training:
            seen.append(torch.stack(state))
        return forward(self, tokens, state, targets)

    monkeypatch.setattr(CharNetwork, "forward", spy)
    train(TINY.replace(reset_chance=reset_chance, steps=10, batch_size=8), CORPUS)
    return seen


def test_state_resets_clear_whole_streams_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    later = torch.stack(states_read(monkeypatch, 0.5)[1:])  # (steps, 2, L, B, H)
    nothing = (later == 0).all(dim=4)  # (steps, 2, L, B)
    forgot = nothing[:, 0, 0]
    assert (nothing == forgot[:, None, None]).all()
    assert 0.25 < forgot.float().mean() < 0.75


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_reset_chance_of_0_never_and_of_1_always_resets_streams(
    monkeypatch: pytest.MonkeyPatch, chance: float, share: float
) -> None:
    later = torch.stack(states_read(monkeypatch, chance)[1:])
    assert (later == 0).all(dim=4).float().mean() == share
