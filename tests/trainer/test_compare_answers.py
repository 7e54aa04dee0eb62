"""What a comparison says in words is true of the figures that it was given."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.compare.answers import EVEN, OVERFIT, Answer, answer
from charrnn_trainer.compare.figures import listed, nats, signed
from charrnn_trainer.compare.records import RunRecord
from compared_runs import measures, record

LOSSES = st.floats(0.5, 4.0, allow_nan=False)
RESULTS, FITS, REASONS, GRU = range(4)


def answers(*runs: RunRecord, speeds: tuple[float, ...] = ()) -> list[Answer]:
    speeds = speeds or (1_000.0,) * len(runs)
    return answer(runs, [measures(run, speed) for run, speed in zip(runs, speeds, strict=True)])


def words(item: Answer) -> str:
    return "\n".join([*item.paragraphs, *item.gains, *item.losses, *item.even, *item.after])


def every_word(items: list[Answer]) -> str:
    return "\n".join(words(item) for item in items)


# --- which is better ---------------------------------------------------------------------------------------


@given(LOSSES, LOSSES)
def test_the_lower_validation_loss_is_called_lower_whichever_cell_has_it(lstm: float, gru: float) -> None:
    said = answers(record("lstm", [2.0, 1.5], {2: lstm}), record("gru", [2.0, 1.5], {2: gru}))
    conclusion = said[GRU].after[0]
    line = f"best validation loss: {nats(gru)} against {nats(lstm)} ({signed(gru - lstm)})"
    if abs(gru - lstm) < EVEN:
        assert line in said[GRU].even
        assert "the two are even" in conclusion
    elif gru < lstm:
        assert line in said[GRU].gains
        assert f"the GRU is better here, by {nats(lstm - gru)} nats" in conclusion
    else:
        assert line in said[GRU].losses
        assert f"the LSTM is better here, by {nats(gru - lstm)} nats" in conclusion
    if gru != lstm:
        lower = "gru" if gru < lstm else "lstm"
        assert f"{lower} comes lowest: {nats(min(gru, lstm))} nats" in said[RESULTS].paragraphs[0]


@given(LOSSES, LOSSES)
def test_the_lower_training_loss_is_called_lower_whichever_cell_has_it(lstm: float, gru: float) -> None:
    said = answers(record("lstm", [4.0, lstm]), record("gru", [4.0, gru]))
    one, other = (4.0 + lstm) / 2, (4.0 + gru) / 2  # means of all steps, since there are few
    line = f"training loss at step 2: {nats(other)} against {nats(one)} ({signed(other - one)})"
    reading = said[REASONS].paragraphs[-1]
    if abs(other - one) < EVEN:
        assert line in said[GRU].even
        assert "the two fit their text alike" in reading
    elif other < one:
        assert line in said[GRU].gains
        assert "the GRU fits its text better" in reading
    else:
        assert line in said[GRU].losses
        assert "the LSTM fits its text better" in reading


def test_costs_are_gained_or_lost_by_the_figures_too() -> None:
    lstm, gru = record("lstm", seconds=0.4), record("gru", seconds=0.5)
    said = answers(lstm, gru, speeds=(1_000.0, 500.0))[GRU]
    assert "seconds a batch: 0.5 against 0.4 (125 %)" in said.losses
    assert "characters a second generated: 500 against 1,000 (50 %)" in said.losses
    assert "parameters: 3,000 against 4,000 (75 %)" in said.gains
    said = answers(lstm, record("gru", seconds=0.401), speeds=(1_000.0, 1_500.0))[GRU]
    assert "seconds a batch: 0.401 against 0.4 (100 %)" in said.even
    assert "characters a second generated: 1,500 against 1,000 (150 %)" in said.gains


def test_the_same_time_is_compared_where_one_is_slower() -> None:
    slow = record("lstm", [4.0, 3.0, 2.0, 1.0], seconds=2.0)
    fast = record("gru", [4.0, 3.6, 3.2, 2.8], seconds=1.0)
    said = answers(slow, fast)
    # After 4 seconds the slow one has done two steps, the fast one four.
    assert "After the same time, 4 s of training steps, gru is at 3.4000 and lstm at 3.5000" in words(
        said[RESULTS]
    )
    assert "training loss after 4 s: 3.4000 against 3.5000 (−0.1000)" in said[GRU].gains


def test_a_time_that_other_work_has_stretched_is_called_so() -> None:
    even, stretched = [1.0] * 4, [1.0, 1.0, 1.0, 9.0]
    losses = [4.0, 3.0, 2.0, 1.0]
    said = answers(record("lstm", losses, seconds=stretched), record("gru", losses, seconds=even))
    assert "far above the median (lstm: 3 s, and 1)" in words(said[RESULTS])
    assert "seconds a batch: 1 against 1 (100 %)" in said[GRU].even
    said = answers(record("lstm", losses, seconds=even), record("gru", losses, seconds=even))
    assert "far above the median" not in words(said[RESULTS])


def test_the_step_by_which_the_better_one_was_as_far_is_named() -> None:
    slow = record("lstm", [3.0] * 100 + [2.0] * 100)
    fast = record("gru", [3.0] * 50 + [2.0] * 50 + [1.0] * 100)
    said = words(answers(slow, fast)[RESULTS])
    assert "gru is lowest with 1.0000 nats (mean of 100 steps), and lstm has 2.0000 (+1.0000)" in said
    # Of the 100 steps up to 125, 25 were at 3, 50 at 2 and 25 at 1.
    assert "gru had come down to the 2.0000 of lstm by step 125 already" in said


@pytest.mark.parametrize(
    ("settings", "others", "same"),
    [
        ({}, {"seed": 1}, True),
        ({"split": "spread"}, {"split": "spread", "seed": 1}, True),
        ({}, {"split": "spread"}, False),
        ({}, {"lines": True}, False),
        ({"lines": True, "val_lines": 9}, {"lines": True, "val_lines": 9, "batch_size": 3}, True),
        ({"lines": True, "val_lines": 9}, {"lines": True, "val_lines": 9, "seed": 1}, False),
        ({"lines": True, "val_lines": 9}, {"lines": True}, False),
    ],
)
def test_runs_that_validate_on_other_parts_are_told_apart(
    settings: dict[str, Any], others: dict[str, Any], same: bool
) -> None:
    one = record("lstm", validations={2: 1.5}, **settings)
    other = record("gru", validations={2: 1.4}, **others)
    said = words(answers(one, other)[RESULTS])
    assert ("They keep different parts of their texts" not in said) == same


# --- overfitting -------------------------------------------------------------------------------------------


@given(st.lists(LOSSES, min_size=2, max_size=6))
def test_overfitting_is_said_where_validation_rose_again_and_only_there(validations: list[float]) -> None:
    run = record("lstm", [2.0] * len(validations), dict(enumerate(validations, start=1)))
    said = words(answers(run)[FITS])
    lowest = min(validations)
    if validations[-1] == lowest and validations.index(lowest) == len(validations) - 1:
        assert "it shows no overfitting yet" in said
    elif validations[-1] - lowest < OVERFIT:
        assert "then stays level" in said
    else:
        assert f"From there its validation loss rises to {nats(validations[-1])}" in said
    assert f"{nats(lowest)}" in said


def test_a_gap_that_grew_is_called_learning_by_heart() -> None:
    run = record("gru", [2.0] * 100 + [1.0] * 100, {100: 2.1, 200: 2.5}, checkpoints=[100, 200])
    said = words(answers(run)[FITS])
    assert "best at step 100 of 200" in said
    assert "from 2.0000 to 1.0000, so the gap between the two goes from 0.1000 to 1.5000: it overfits" in said
    assert "Export takes the checkpoint of step 100" in said


# --- runs that do not fit together -------------------------------------------------------------------------


def test_one_run_alone_is_described_and_asks_for_the_other_cell() -> None:
    said = answers(record("lstm", [2.0, 1.5], {2: 1.6}))
    assert "lowest validation loss 1.6000 nats" in words(said[RESULTS])
    assert "There is no run of GRU among these" in words(said[GRU])
    assert "charrnn-train --cell gru, with the same settings" in words(said[GRU])
    assert (said[GRU].gains, said[GRU].losses, said[GRU].even) == ((), (), ())
    assert "no run of LSTM and GRU" in words(answers(record("rnn"))[GRU])


def test_without_validation_text_nothing_is_said_of_new_text() -> None:
    said = answers(record("lstm"), record("gru"))
    assert "None of the runs kept text for validation" in words(said[RESULTS])
    assert "kept no text for validation" in words(said[FITS])
    assert "not known from these runs" in said[GRU].after[0]
    assert not any("validation" in line for line in (*said[GRU].gains, *said[GRU].losses, *said[GRU].even))
    mixed = answers(record("lstm", validations={2: 1.6}), record("gru"))
    assert "Only lstm kept text for validation" in words(mixed[RESULTS])
    assert "not known from these runs" in mixed[GRU].after[0]


def test_runs_on_different_texts_are_not_weighed_by_their_losses() -> None:
    said = answers(record("lstm", validations={2: 1.6}), record("gru", validations={2: 1.2}, text="b"))
    assert "read different texts" in words(said[RESULTS])
    assert "their texts" in words(said[REASONS])
    assert not any("loss" in line for line in (*said[GRU].gains, *said[GRU].losses, *said[GRU].even))
    assert "not weighed" in said[GRU].after[0]


def test_other_settings_that_differ_are_named() -> None:
    said = words(answers(record("lstm"), record("gru", learning_rate=0.01, dropout=0.2))[REASONS])
    assert "learning rate: 0.005, 0.01" in said
    assert "dropout: 0.0, 0.2" in said
    assert "cannot be put down to the cell alone" in said
    assert "fits its text better" not in said
    same = words(answers(record("lstm"), record("gru", seed=5, eval_every=7))[REASONS])
    assert "All other settings but the seed are the same" in same


def test_a_difference_in_how_it_was_computed_is_named_beside_the_time() -> None:
    said = words(answers(record("lstm", precision="bf16"), record("gru", precision="fp32"))[RESULTS])
    assert "They did not compute alike (precision: bf16, fp32)" in said


def test_runs_that_differ_in_their_seed_alone_differ_by_chance() -> None:
    said = words(answers(record("lstm", name="a"), record("lstm", name="b", seed=1))[REASONS])
    assert "differ in nothing but the seed" in said


def test_an_unfinished_run_is_called_so() -> None:
    said = answers(record("lstm", finished=False), record("gru"))
    assert "lstm is not finished" in words(said[RESULTS])
    assert "so far" in words(answers(record("lstm", finished=False))[RESULTS])


def test_of_several_runs_of_a_cell_the_best_is_weighed() -> None:
    runs = [
        record("lstm", validations={2: 1.9}, name="worse"),
        record("lstm", validations={2: 1.7}, name="better"),
        record("gru", validations={2: 1.8}),
    ]
    said = answers(*runs)[GRU]
    assert "gru (GRU) is set against better (LSTM)" in said.paragraphs[0]
    assert "best validation loss: 1.8000 against 1.7000 (+0.1000)" in said.losses


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lstm", "gru", "rnn"]),
            st.lists(LOSSES, min_size=1, max_size=5),
            st.dictionaries(st.integers(1, 5), LOSSES, max_size=3),
            st.booleans(),
            st.sampled_from(["a", "b"]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_runs_get_whole_sentences(
    figures: list[tuple[str, list[float], dict[int, float], bool, str]],
) -> None:
    runs = [
        record(
            cell,
            losses,
            {step: loss for step, loss in validations.items() if step <= len(losses)},
            name=f"run{number}",
            finished=finished,
            text=text,
        )
        for number, (cell, losses, validations, finished, text) in enumerate(figures)
    ]
    items = answers(*runs)
    assert [bool(item.paragraphs) for item in items] == [True] * 4
    for paragraph in (paragraph for item in items for paragraph in (*item.paragraphs, *item.after)):
        assert paragraph.endswith(".")
        assert not re.search(r"None(?! of)|nan|  |\(\)|\.\.", paragraph), paragraph
    assert "run0" in every_word(items)


@pytest.mark.parametrize(
    ("items", "sentence"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_items_are_listed_as_in_a_sentence(items: list[str], sentence: str) -> None:
    assert listed(items) == sentence
