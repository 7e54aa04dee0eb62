"""Run folders: the data that is read, and invalid folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer.compare.measure import choose_checkpoints
from charrnn_trainer.compare.records import read_runs
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.checkpoint import load_checkpoint, read_header
from charrnn_trainer.training.api import train
from compared_runs import record, train_tiny
from tiny_runs import TEXT, TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs."""
    folder = tmp_path_factory.mktemp("records")
    train_tiny(folder / "lstm")
    train_tiny(folder / "gru", cell="gru", val_fraction=0.0)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A writable copy of it."""
    shutil.copytree(trained, tmp_path / "ckpt")
    return tmp_path / "ckpt"


# --- reading -----------------------------------------------------------------------------------------------


def test_a_run_is_read_as_recorded(trained: Path) -> None:
    (run,) = read_runs([trained / "lstm"])
    lines = [json.loads(line) for line in (trained / "lstm" / "history.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert run.steps.tolist() == list(range(1, 13))
    assert run.losses.tolist() == [line["loss"] for line in steps]
    assert run.total_seconds == pytest.approx(sum(line["seconds"] for line in steps))
    assert run.elapsed[-1] == pytest.approx(run.total_seconds)
    assert [item.step for item in run.validations] == [3, 6, 9, 12]
    assert run.best is not None
    assert run.best.loss == min(item.loss for item in run.validations)
    assert run.best_checkpoint.step == run.best.step
    network = load_checkpoint(run.checkpoints[0].path).network()
    assert run.parameters == network.parameter_count()
    assert (run.cell, run.step, run.finished) == ("LSTM", 12, True)


def test_a_folder_of_runs_expands_to_all_of_them_by_name(trained: Path) -> None:
    assert [run.name for run in read_runs([trained])] == ["gru", "lstm"]
    assert [run.name for run in read_runs([trained / "lstm", trained / "gru"])] == ["lstm", "gru"]


def test_runs_of_the_same_name_are_distinguished_by_their_folders(trained: Path, runs: Path) -> None:
    runs.rename(runs.with_name("other"))
    given = [trained / "lstm", runs.with_name("other") / "lstm"]
    assert [run.name for run in read_runs(given)] == [f"{trained.name}/lstm", "other/lstm"]


def test_a_run_without_validation_has_no_best_and_exports_its_last(trained: Path) -> None:
    (run,) = read_runs([trained / "gru"])
    assert run.best is None
    assert run.validations == ()
    assert run.best_checkpoint is run.checkpoints[-1]


def test_an_active_run_is_read_up_to_its_last_complete_line(runs: Path) -> None:
    history = runs / "lstm" / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:8]) + lines[8][:20])
    for checkpoint in (runs / "lstm").glob("*-step[!6]*.safetensors"):
        checkpoint.unlink()
    (run,) = read_runs([runs / "lstm"])
    assert not run.finished
    assert run.step == 6
    assert [item.step for item in run.validations] == [3, 6]


@pytest.mark.parametrize(
    "settings",
    [{"patience": 1, "learning_rate": 1e-9, "steps": 50}, {"minutes": 1e-4, "steps": MOST_STEPS}],
    ids=["patience", "minutes"],
)
def test_a_run_that_ended_on_a_scheduled_checkpoint_is_finished(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = TINY.replace(eval_every=1, save_every=1, **settings)
    result = train(config, Corpus.from_text(TEXT), out=tmp_path / "run")
    assert not result.stopped
    assert result.step < 50
    (run,) = read_runs([tmp_path / "run"])
    assert read_header(run.checkpoints[-1].path).kind == "scheduled"
    assert run.finished


def test_the_mean_of_steps_missing_from_the_history_is_none() -> None:
    run = record(losses=[4.0, 3.0, 2.0, 1.0])
    assert run.train_loss(4, 2) == 1.5
    assert run.train_loss(2, 20) == 3.5  # there are only two
    assert run.train_loss(5, 2) is None
    assert run.train_loss(0, 2) is None


@given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=30), st.integers(1, 8))
def test_the_lowest_training_loss_is_the_lowest_mean_of_consecutive_steps(
    losses: list[float], window: int
) -> None:
    run = record(losses=losses)
    window = min(window, len(losses))
    means = [float(np.mean(losses[end - window : end])) for end in range(window, len(losses) + 1)]
    assert run.lowest_train_loss(window) == pytest.approx(min(means))
    assert run.lowest_train_loss(100) == pytest.approx(np.mean(losses))


def test_the_best_validation_up_to_a_step_ignores_later_ones() -> None:
    run = record(losses=[2.0] * 9, validations={3: 2.0, 6: 2.5, 9: 1.5})
    found = [run.best_until(step) for step in (2, 3, 8, 9)]
    assert [item and item.loss for item in found] == [None, 2.0, 2.0, 1.5]


# --- selecting checkpoints for samples ---------------------------------------------------------------------


def chosen(rows: int, *steps: list[int]) -> list[list[int | None]]:
    runs = [record(losses=[1.0] * 9, checkpoints=each) for each in steps]
    table = choose_checkpoints(runs, rows)
    return [[None if entry is None else entry.step for entry in row] for row in table]


def test_samples_are_shown_side_by_side_at_common_steps() -> None:
    assert chosen(3, [1, 2, 3, 4, 5], [1, 3, 5]) == [[1, 1], [3, 3], [5, 5]]
    assert chosen(2, [1, 2, 3, 4, 5], [1, 3, 5]) == [[1, 1], [5, 5]]
    assert chosen(1, [1, 2, 3], [1, 2, 3]) == [[3, 3]]


def test_samples_of_runs_without_common_steps_are_spread_per_run() -> None:
    assert chosen(3, [1, 4, 7], [2, 9]) == [[1, 2], [4, 9], [7, None]]


def test_the_best_and_the_last_checkpoint_are_always_sampled() -> None:
    runs = [
        record(losses=[1.0] * 9, validations={2: 1.0, 3: 0.5, 4: 2.0, 9: 3.0}, checkpoints=[2, 3, 4, 9]),
        record(losses=[1.0] * 9, validations={2: 1.0, 4: 0.5}, checkpoints=[2, 4]),
    ]
    rows = [[entry and entry.step for entry in row] for row in choose_checkpoints(runs, 3)]
    assert rows == [[2, 2], [4, 4], [3, None], [9, None]]


@given(
    st.lists(
        st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True).map(sorted), min_size=1, max_size=4
    ),
    st.integers(1, 4),
)
def test_every_run_shows_its_last_checkpoint_once(steps: list[list[int]], rows: int) -> None:
    for column, (own, shown) in enumerate(zip(steps, zip(*chosen(rows, *steps), strict=True), strict=True)):
        there = [step for step in shown if step is not None]
        assert own[-1] in there, column
        assert len(set(there)) == len(there)
        assert set(there) <= set(own)


# --- rejection ---------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_a_run_is_rejected(runs: Path) -> None:
    (runs / "empty").mkdir()
    for path, words in [
        (runs / "nowhere", "does not exist"),
        (runs / "empty", "contains no run"),
        (runs / "lstm" / "config.toml", "is a file; give a run's folder"),
    ]:
        with pytest.raises(CharRNNError, match=words):
            read_runs([path])
    with pytest.raises(SettingError, match="at least one run"):
        read_runs([])


def test_a_run_given_twice_is_rejected(runs: Path) -> None:
    with pytest.raises(SettingError, match="lstm is given twice"):
        read_runs([runs, runs / "lstm"])


def test_a_run_without_a_checkpoint_is_rejected(runs: Path) -> None:
    for checkpoint in (runs / "lstm").glob("*-step*.safetensors"):
        checkpoint.unlink()
    with pytest.raises(CharRNNError, match="has no checkpoint yet"):
        read_runs([runs / "lstm"])


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[1]",
        "3",
        '{"loss": 1.0, "seconds": 1.0}',
        '{"step": 0, "loss": 1.0, "seconds": 1.0}',
        '{"step": true, "loss": 1.0, "seconds": 1.0}',
        '{"step": 99999999999999999999, "loss": 1.0, "seconds": 1.0}',
        '{"step": 1, "loss": NaN, "seconds": 1.0}',
        '{"step": 1, "loss": -1.0, "seconds": 1.0}',
        '{"step": 1, "loss": "1", "seconds": 1.0}',
        '{"step": 1, "loss": 1.0}',
        '{"step": 1, "loss": 1.0, "seconds": Infinity}',
        '{"step": 1, "validation_loss": null}',
        "[" * 100_000,
        "\x00",
        "\xff",
    ],
)
def test_an_invalid_history_line_is_named(runs: Path, line: str) -> None:
    history = runs / "lstm" / "history.jsonl"
    before = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(b"".join(before[:2]) + line.encode("latin-1") + b"\n" + b"".join(before[2:]))
    with pytest.raises(CharRNNError, match=r"history.jsonl: line 3 is not a valid line of a history"):
        read_runs([runs / "lstm"])


def test_a_missing_or_empty_history_is_rejected(runs: Path) -> None:
    history = runs / "lstm" / "history.jsonl"
    history.write_text("")
    with pytest.raises(CharRNNError, match="has no steps"):
        read_runs([runs / "lstm"])
    history.unlink()
    with pytest.raises(CharRNNError, match="cannot read the run's history"):
        read_runs([runs / "lstm"])
