"""Validation on a sample: its position, its accuracy, and the final validation on the whole text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.config import DataConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.split import Rows, split_text
from charrnn_trainer.export.build import training_metadata
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
from charrnn_trainer.training import validator
from charrnn_trainer.training.api import train
from charrnn_trainer.training.events import Event, Validated, ValidatedWhole
from charrnn_trainer.training.held_out import (
    PIECE,
    SAMPLE,
    WARM_UP,
    ReadingTimes,
    read_characters,
    sample_rows,
)
from charrnn_trainer.training.validation import validation_loss
from tiny_runs import TINY


@given(st.integers(1_000, 30_000_000), st.integers(1, 300_000), st.sampled_from(["end", "spread"]))
def test_sample_pieces_are_disjoint_within_rows_and_cost_less_than_the_whole(
    tokens: int, characters: int, how: str
) -> None:
    rows = split_text(tokens, DataConfig(split=how)).rows()
    sample = sample_rows(rows, characters)
    if sample is rows:
        return
    assert isinstance(sample, Rows)
    assert read_characters(sample) < read_characters(rows)
    assert (sample.length, sample.warm_up) == (PIECE, min(WARM_UP, rows.warm_up))
    assert len(sample.begins) * PIECE == pytest.approx(
        characters, abs=(len(rows.begins) * PIECE + 1) / 2
    ) or (len(sample.begins) == len(rows.begins))
    each = len(sample.begins) // len(rows.begins)
    inside = sample.begins.reshape(len(rows.begins), each) - rows.begins[:, np.newaxis]
    assert inside.min() >= 0
    assert inside.max() + PIECE <= rows.length
    assert each == 1 or (np.diff(inside, axis=1) >= PIECE).all()
    assert (sample_rows(rows, characters).begins == sample.begins).all()


def test_the_whole_text_is_used_if_it_is_as_cheap_as_a_sample() -> None:
    rows = split_text(1_115_394, DataConfig()).rows()
    assert sample_rows(rows, 131_072) is rows
    assert sample_rows(rows, 0) is rows


NIGHTLY = pytest.mark.nightly


def verse(random: np.random.Generator) -> str:
    words = ["to", "be", "or", "not", "question", "nobler", "mind", "suffer", "slings", "arrows", "fortune"]
    return " ".join(random.choice(words, 7)) + ".\n"


def code(random: np.random.Generator) -> str:
    """Functions of different depths, whose lines are far easier to predict than their names."""
    name = "".join(random.choice(list("abcdefgh"), 5))
    lines = [f"    {'    ' * int(random.integers(3))}self.{name} = {name}\n"] * 2
    return f"def {name}(self):\n" + "".join(lines)


def log(random: np.random.Generator) -> str:
    day, hour, number = random.integers(1, 29), random.integers(24), random.integers(99)
    return f"2026-01-{day:02} {hour:02}:00 status installed x{number}\n"


@pytest.mark.parametrize("item", [pytest.param(verse, marks=NIGHTLY), pytest.param(code, marks=NIGHTLY), log])
def test_a_sample_is_within_half_a_percent_of_the_whole(
    item: Callable[[np.random.Generator], str],
) -> None:
    random = np.random.default_rng(7)
    text = "".join(item(random) for _ in range(26_000))[:1_000_000]
    corpus = Corpus.from_text(text)
    config = TINY.replace(
        layers=1, hidden_size=24, steps=150, learning_rate=0.01, dropout=0.0, weight_drop=0.0
    )
    config = config.replace(val_fraction=0.0, warmup_steps=0, reset_chance=0.0, seq_length=32)
    network = train(config, corpus).network
    rows = split_text(len(corpus), DataConfig(val_fraction=0.3)).rows()
    sample = sample_rows(rows, SAMPLE)
    assert read_characters(sample) < 0.7 * read_characters(rows)
    assert validation_loss(network, corpus.ids, sample) == pytest.approx(
        validation_loss(network, corpus.ids, rows), rel=0.005
    )


# --- in a run ----------------------------------------------------------------------------------------------

LONG = "to be, or not to be, that is the question:\nwhether 'tis nobler in the mind to suffer\n" * 1_200
CORPUS = Corpus.from_text(LONG, name="hamlet")  # 30,600 characters for validation, in 64 rows of 478
CONFIG = TINY.replace(val_sample=512, val_fraction=0.3, steps=9, eval_every=3, save_every=100)


def whole_loss(run: Path, corpus: Corpus, step: int) -> float:
    rows = split_text(len(corpus), CONFIG.data).rows()
    (path,) = (entry.path for entry in list_checkpoints(run) if entry.step == step)
    return validation_loss(load_checkpoint(path).network(), corpus.ids, rows)


def test_samples_select_the_best_checkpoint_and_the_whole_text_scores_it_at_the_end(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(CONFIG, CORPUS, events.append, out=tmp_path / "run")
    seen = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in seen] == [3, 6, 9]
    whole = [event for event in events if isinstance(event, ValidatedWhole)]
    assert len(whole) == 1
    assert result.best is not None
    assert whole[0].step == result.best.step
    assert (seen[0].characters, whole[0].characters) == (64 * 256, 64 * 478)
    expected = whole_loss(tmp_path / "run", CORPUS, result.best.step)
    assert whole[0].validation_loss == result.whole_loss == pytest.approx(expected, rel=1e-5)
    best = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert best.validation_loss == result.best.validation_loss
    assert training_metadata(best)["validation_loss"] == best.whole_loss == result.whole_loss
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["whole_loss"] == result.whole_loss


def test_an_earlier_best_checkpoint_is_scored_on_the_whole_text_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [1.0, 2.0, 3.0]
    real = validation_loss

    def loss(network: CharNetwork, ids: object, rows: Rows) -> float:
        return planned.pop(0) if planned else real(network, ids, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(validator, "validation_loss", loss)
    result = train(CONFIG, CORPUS, out=tmp_path / "run")
    assert result.best is not None
    assert result.best.step == 3
    best = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert (best.step, best.validation_loss) == (3, 1.0)
    assert best.whole_loss == pytest.approx(whole_loss(tmp_path / "run", CORPUS, 3), rel=1e-5)
    last = load_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert (last.validation_loss, last.whole_loss) == (3.0, None)


def test_a_sample_that_is_the_whole_text_is_read_once(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(CONFIG.replace(val_sample=10**6), CORPUS, events.append, out=tmp_path / "run")
    assert not [event for event in events if isinstance(event, ValidatedWhole)]
    assert result.whole_loss is None
    plain = train(CONFIG.replace(val_sample=0), CORPUS)
    assert [item.validation_loss for item in plain.evaluations] == [
        item.validation_loss for item in result.evaluations
    ]


# --- validation times --------------------------------------------------------------------------------------


def test_expected_times_follow_measured_validations() -> None:
    rows, sample = Rows(np.zeros(64, np.int64), 1_000, 500), Rows(np.zeros(512, np.int64), 256, 128)
    times = ReadingTimes()
    times.assume(1e-4, rows, sample)
    assert times.expected(rows) == pytest.approx(64 * 1_500 * 1e-4)
    times.note(sample, 2 * times.expected(sample))
    assert times.expected(rows) == pytest.approx(64 * 1_500 * 2e-4)
    assert times.within(rows, 64 * 1_000 * 2e-4) == dataclasses.replace(rows, length=500)
    assert times.within(rows, 0.0) == dataclasses.replace(rows, length=PIECE)
    assert times.within(rows, 1e9) == rows
