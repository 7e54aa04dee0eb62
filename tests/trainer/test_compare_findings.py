"""The findings of a comparison, and the cells that it calls better, agree with the figures."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.compare.budget import Table
from charrnn_trainer.compare.cell_pair import CellPair, compare_cells
from charrnn_trainer.compare.comparable import NOISE, noise_of
from charrnn_trainer.compare.figures import listed, nats, shortened, signed
from charrnn_trainer.compare.findings import OVERFIT, find
from charrnn_trainer.compare.records import RunRecord
from compared_runs import measures, record

LOSSES = st.floats(0.5, 4.0, allow_nan=False)
GRU = "GRU against LSTM"


def cells_of(*runs: RunRecord, speeds: tuple[float, ...] = ()) -> CellPair | None:
    speeds = speeds or (1_000.0,) * len(runs)
    return compare_cells(runs, [measures(run, speed) for run, speed in zip(runs, speeds, strict=True)])


def findings(*runs: RunRecord) -> dict[str, str]:
    """The findings by title."""
    found = find(runs, cells_of(*runs))
    texts = {finding.title: finding.text for finding in found}
    assert len(texts) == len(found)
    return texts


def budgets(*runs: RunRecord) -> Table:
    """The table of budgets."""
    (table,) = (found.table for found in find(runs, cells_of(*runs)) if found.title == "Training budget")
    return table


def better(*runs: RunRecord, speeds: tuple[float, ...] = ()) -> dict[str, str]:
    """The better cell by figure."""
    table = cells_of(*runs, speeds=speeds)
    assert table is not None
    return {row.figure: row.better for row in table.rows}


# --- verdicts ----------------------------------------------------------------------------------------------


def test_a_gru_better_in_both_losses_wins_despite_a_larger_gap() -> None:
    lstm = record("lstm", [2.5, 2.1], {2: 2.2})
    gru = record("gru", [2.0, 1.2], {2: 2.0})
    said = better(lstm, gru)
    assert said["validation loss"] == "GRU"
    assert said["training loss after 2 steps"] == "GRU"
    assert said["validation minus training loss at the end"] == "-"
    assert "LSTM" not in said.values()
    assert "loss of the GRU is lower by 0.2000 nats (gru 2.0000, lstm 2.2000)" in findings(lstm, gru)[GRU]
    assert "gru has the lowest validation loss" in findings(lstm, gru)["Validation loss"]


def test_a_gru_worse_in_both_losses_is_worse_despite_a_smaller_gap() -> None:
    lstm = record("lstm", [2.0, 1.2], {2: 2.0})
    gru = record("gru", [2.5, 2.1], {2: 2.2})
    said = better(lstm, gru)
    assert said["validation loss"] == said["training loss after 2 steps"] == "LSTM"
    assert said["validation minus training loss at the end"] == "-"
    assert "loss of the LSTM is lower by 0.2000 nats (lstm 2.0000, gru 2.2000)" in findings(lstm, gru)[GRU]


@given(LOSSES, LOSSES)
def test_the_lower_validation_loss_is_better_whichever_cell_has_it(lstm: float, gru: float) -> None:
    runs = record("lstm", [2.0, 1.5], {2: lstm}), record("gru", [2.0, 1.5], {2: gru})
    said, verdict = findings(*runs), better(*runs)["validation loss"]
    if abs(gru - lstm) < NOISE:
        assert verdict == "level"
        assert "losses of gru and lstm are level" in said[GRU]
        assert "is level with it" in said["Validation loss"]
        assert "higher" not in said["Validation loss"]
    else:
        assert verdict == ("GRU" if gru < lstm else "LSTM")
        assert f"validation loss of the {verdict} is lower by {nats(abs(gru - lstm))} nats" in said[GRU]
        higher, loss = ("lstm", lstm) if gru < lstm else ("gru", gru)
        assert f"{higher} ({nats(loss)}, {signed(abs(gru - lstm))}) is higher" in said["Validation loss"]
    if gru != lstm:
        assert said["Validation loss"].startswith("gru" if gru < lstm else "lstm")


@given(LOSSES, LOSSES)
def test_verdicts_do_not_depend_on_the_order_of_runs(lstm: float, gru: float) -> None:
    runs = record("lstm", [2.0, lstm], {2: lstm}), record("gru", [2.0, gru], {2: gru})
    assert better(*runs) == better(*reversed(runs))
    assert findings(*runs)[GRU] == findings(*reversed(runs))[GRU]


def test_lower_costs_and_higher_speed_are_better() -> None:
    lstm, gru = record("lstm", seconds=0.4), record("gru", seconds=0.5)
    said = better(lstm, gru, speeds=(1_000.0, 500.0))
    assert said["seconds per training step"] == "LSTM"
    assert said["characters per second"] == "LSTM"
    assert said["parameters"] == said["file size"] == said["state size"] == "GRU"
    said = better(lstm, record("gru", seconds=0.401), speeds=(1_000.0, 1_500.0))
    assert said["seconds per training step"] == "level"
    assert said["characters per second"] == "GRU"
    table = cells_of(lstm, gru)
    assert table is not None
    (row,) = [row for row in table.rows if row.figure == "parameters"]
    assert (row.lstm, row.gru, row.change) == ("4,000", "3,000", "75 %")


def test_of_several_runs_of_a_cell_the_best_by_validation_is_compared() -> None:
    runs = [
        record("lstm", validations={2: 1.9}, name="worse"),
        record("lstm", [1.0, 0.5], name="unvalidated"),
        record("lstm", validations={2: 1.7}, name="better", learning_rate=0.01),
        record("gru", validations={2: 1.8}),
    ]
    table = cells_of(*runs)
    assert table is not None
    assert (table.lstm.name, table.gru.name) == ("better", "gru")
    assert "loss of the LSTM is lower by 0.1000 nats (better 1.7000, gru 1.8000)" in findings(*runs)[GRU]


# --- seed-to-seed noise ------------------------------------------------------------------------------------


def test_losses_within_seed_to_seed_noise_are_level() -> None:
    said = findings(record("lstm", validations={2: 1.500}), record("gru", validations={2: 1.509}))
    assert "lstm has the lowest validation loss, 1.5000" in said["Validation loss"]
    assert "gru (1.5090, +0.0090) is level with it" in said["Validation loss"]
    assert "seed-to-seed noise" in said["Validation loss"]
    assert "level" in said[GRU]
    assert "runs with another --seed" in said[GRU]


def test_measured_noise_is_used_if_it_exceeds_the_default() -> None:
    runs = [
        record("lstm", validations={2: 1.50}, name="a"),
        record("lstm", validations={2: 1.54}, name="b", seed=1),
        record("gru", validations={2: 1.47}),
    ]
    said = findings(*runs)
    assert "up to 0.0400 nats apart" in said["Validation loss"]
    assert "a (1.5000, +0.0300) is level with it" in said["Validation loss"]
    assert "b (1.5400, +0.0700) is higher" in said["Validation loss"]
    assert "are level" in said[GRU]
    assert better(*runs)["validation loss"] == "level"
    # Two seeds are level with one another, and nothing else is.
    assert noise_of(runs).level(1.50, 1.54)
    assert not noise_of(runs).level(1.50, 1.541)


@pytest.mark.parametrize(
    "other",
    [
        {"cell": "gru"},
        {"learning_rate": 0.01},
        {"text": "b"},
        {"train_tokens": 800},
        {"finished": False},
        {"seed": 0},  # nor does the same seed twice
        {"losses": [2.0, 1.5, 9.0]},  # it diverged
    ],
)
def test_only_runs_equal_in_all_but_the_seed_show_noise(other: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"losses": (2.0, 1.9), "cell": "lstm", "validations": {2: 1.9}, "seed": 1}
    one = record("lstm", (2.0, 1.9), {2: 1.5})
    assert noise_of([one, record(**arguments)]).measured
    assert not noise_of([one, record(**{**arguments, **other})]).measured


# --- unequal budgets ---------------------------------------------------------------------------------------


def test_unequal_budgets_are_reported_and_compared_at_equal_steps_and_equal_time() -> None:
    # The LSTM is slower, and lower step by step; the GRU did twice the steps.
    lstm = record("lstm", [4.0, 3.0, 2.0, 1.9], {2: 2.1, 4: 1.9}, seconds=2.0)
    gru = record("gru", [4.0, 3.5, 3.0, 2.0] + [1.5] * 4, {2: 3.0, 4: 2.0, 8: 1.6}, seconds=0.5)
    said = findings(lstm, gru)
    budget = said["Training budget"]
    assert "budgets are unequal" in budget
    assert "After 4 steps each, lstm has the lowest validation loss." in budget
    assert "After 4 s each, gru has the lowest validation loss." in budget
    assert budgets(lstm, gru) == (
        ("run", "steps", "time", "validation loss after 4 steps", "validation loss after 4 s"),
        ("lstm", "4", "8 s", "1.9000", "2.1000"),
        ("gru", "8", "4 s", "2.0000", "1.6000"),
    )
    assert "gru has the lowest validation loss, 1.6000" in said["Validation loss"]


def test_equal_steps_in_unequal_times_are_compared_at_the_shorter_time() -> None:
    lstm = record("lstm", [4.0, 3.0, 2.0, 1.0], seconds=2.0)
    gru = record("gru", [4.0, 3.6, 3.2, 2.8], seconds=1.0)
    budget = findings(lstm, gru)["Training budget"]
    assert "same number of steps in different times" in budget
    assert "unequal" not in budget
    # After 4 seconds the LSTM has done two steps, the GRU four; without validation the training loss tells.
    assert "After 4 s each, gru has the lowest training loss." in budget
    assert budgets(lstm, gru)[0][3:] == ("training loss after 4 s",)
    assert [row[-1] for row in budgets(lstm, gru)[1:]] == ["3.5000", "3.4000"]


def test_equal_time_with_unequal_steps_is_one_budget() -> None:
    lstm = record("lstm", [2.0] * 50, {50: 1.8}, seconds=0.2)
    gru = record("gru", [2.0] * 100, {100: 1.7}, seconds=0.1)
    budget = findings(lstm, gru)["Training budget"]
    assert "about the same time" in budget
    assert "After" not in budget
    assert budgets(lstm, gru)[1:] == (("lstm", "50", "10 s"), ("gru", "100", "10 s"))


@pytest.mark.parametrize("others", [3, 40])
def test_the_budgets_of_many_runs_are_a_table_with_a_short_summary(others: int) -> None:
    runs = [
        record("gru", [2.0] * (number + 2), {2: 1.9}, name=f"run{number}", seconds=number + 1)
        for number in range(others)
    ]
    runs.append(record("lstm", [2.0] * 9, {2: 1.5}))
    budget = findings(*runs)["Training budget"]
    assert len(budget.split()) < 60
    assert "After 2 steps each, lstm has the lowest validation loss." in budget
    assert len(budgets(*runs)) == len(runs) + 1
    level = findings(*runs[:-1])["Training budget"]
    assert ("run2 are level with it" in level) == (others == 3)
    assert ("33 more are level with it" in level) == (others == 40)


def test_equal_budgets_are_not_mentioned() -> None:
    assert "Training budget" not in findings(record("lstm"), record("gru"))


def test_a_run_cut_off_before_its_schedule_ends_is_reported_as_disadvantaged() -> None:
    def budget(schedule: str) -> str:
        short = record("lstm", [2.0] * 2, {2: 1.8}, schedule=schedule)
        long = record("gru", [2.0] * 8, {2: 1.9, 8: 1.7}, schedule=schedule)
        return findings(short, long)["Training budget"]

    assert "not yet decayed is at a disadvantage" in budget("cosine")
    assert "disadvantage" not in budget("constant")


def test_reasons_for_longer_times_are_reported() -> None:
    losses = [4.0, 3.0, 2.0, 1.0]
    slowed = record("lstm", losses, seconds=[1.0, 1.0, 1.0, 9.0], precision="bf16")
    even = record("gru", losses, seconds=1.0, precision="fp32")
    budget = findings(slowed, even)["Training budget"]
    assert "slowed some runs down (lstm: mean 3 s, median 1 s)" in budget
    assert "precision: bf16, fp32" in budget
    assert better(slowed, even)["seconds per training step"] == "level"  # the median is compared
    said = findings(record("lstm", losses, seconds=2.0), record("gru", losses, seconds=1.0))
    assert "slowed" not in said["Training budget"]


# --- the course of a run -----------------------------------------------------------------------------------


@given(st.lists(LOSSES, min_size=2, max_size=6))
def test_overfitting_is_reported_if_validation_loss_rose_while_training_loss_fell(
    validations: list[float],
) -> None:
    falling = [2.0 - 0.01 * step for step in range(len(validations))]
    run = record("lstm", falling, dict(enumerate(validations, start=1)))
    said = findings(run)
    lowest = min(validations)
    if validations[-1] - lowest < OVERFIT:
        assert "Overfitting" not in said
    else:
        assert f"rises from {nats(lowest)} to {nats(validations[-1])}" in said["Overfitting"]
    assert nats(lowest) in said["Validation loss"]


def test_overfitting_states_both_losses_and_the_checkpoint_that_is_exported() -> None:
    run = record("gru", [2.0] * 100 + [1.0] * 100, {100: 2.1, 200: 2.5}, checkpoints=[100, 200])
    text = findings(run)["Overfitting"]
    assert "gru overfits after step 100 of 200: its validation loss rises from 2.1000 to 2.5000" in text
    assert "while its training loss falls from 2.0000 to 1.0000" in text
    assert "Export takes the checkpoint of step 100." in text


def test_a_large_gap_is_no_overfitting_while_validation_still_falls() -> None:
    said = findings(record("lstm", [2.0, 0.5], {1: 2.5, 2: 2.4}))
    assert "Overfitting" not in said
    assert "lstm (step 2) was still improving" in said["Still improving"]


def test_a_run_that_has_levelled_off_is_neither_improving_nor_overfitting() -> None:
    said = findings(record("lstm", [2.0, 1.9, 1.8], {1: 2.1, 2: 2.001, 3: 2.0}))
    assert not {"Overfitting", "Still improving"} & set(said)


@pytest.mark.parametrize(
    "losses",
    [
        [3.0, 2.0, 1.5] * 100 + [3.5] * 100,  # it rose and stayed
        [2.0] * 200 + [4.5],  # its last step is worse than a uniform guess of 65 symbols
    ],
)
def test_a_diverged_run_is_reported_and_counts_for_no_cell(losses: list[float]) -> None:
    lstm = record("lstm", losses, {50: 2.2, len(losses): 4.0}, finished=False)
    gru = record("gru", [2.0] * len(losses), {50: 2.3, len(losses): 2.1})
    said = findings(lstm, gru)
    lowest = min(sum(losses[start : start + 100]) / 100 for start in range(len(losses) - 99))
    assert f"lstm diverged: its training loss fell to {nats(lowest)}" in said["Divergence"]
    assert f"then rose to {nats(losses[-1])}" in said["Divergence"]
    assert "learning rate below 0.005" in said["Divergence"]
    assert "One of them diverged, so this says little about the cells." in said[GRU]
    assert "Overfitting" not in said  # divergence is not overfitting


def test_normal_runs_are_not_called_diverged() -> None:
    assert "Divergence" not in findings(record("lstm", [4.2, 3.0, 2.0, 1.5]), record("gru", [4.6] * 3))


# --- runs that cannot be compared --------------------------------------------------------------------------


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
def test_validation_losses_on_different_text_are_not_compared(
    settings: dict[str, Any], others: dict[str, Any], same: bool
) -> None:
    one = record("lstm", validations={2: 1.5}, **settings)
    other = record("gru", validations={2: 1.4}, **others)
    said = findings(one, other)
    assert ("have different validation texts" not in said["Validation loss"]) == same
    assert ("is lower by" in said[GRU]) == same
    assert ("validation loss" in better(one, other)) == same


def test_a_single_run_is_described_with_the_command_for_the_other_cell() -> None:
    said = findings(record("lstm", [2.0, 1.5], {2: 1.6}))
    assert "lstm reached 1.6000 nats (2.308 bits) per character at step 2 of 2." in said["Validation loss"]
    assert said["Validation loss"].endswith("charrnn-train --config ckpt/lstm/config.toml --cell gru")
    assert findings(record("gru"))["Validation loss"].endswith("--config ckpt/gru/config.toml --cell lstm")
    alone = findings(record("gru", repeatable=False))["Validation loss"]
    assert alone.endswith("train another cell on the same text with the same settings.")
    assert GRU not in said
    assert cells_of(record("rnn"), record("gru")) is None


def test_without_validation_text_generalization_is_not_judged() -> None:
    said = findings(record("lstm"), record("gru"))
    assert "None of the runs has validation text." in said["Validation loss"]
    assert "it is unknown which is better on new text" in said[GRU]
    assert not any("validation" in figure for figure in better(record("lstm"), record("gru")))
    mixed = findings(record("lstm", validations={2: 1.6}), record("gru"))
    assert "Only lstm has validation text." in mixed["Validation loss"]
    assert "unknown" in mixed[GRU]


def test_losses_on_different_texts_are_not_compared() -> None:
    runs = record("lstm", validations={2: 1.6}), record("gru", validations={2: 1.2}, text="b")
    said = findings(*runs)
    assert "trained on different texts" in said["Validation loss"]
    assert "the text" in said["Settings"]
    assert not any("loss" in figure for figure in better(*runs))
    assert "different texts" in said[GRU]


def test_other_settings_that_differ_are_named() -> None:
    said = findings(record("lstm"), record("gru", learning_rate=0.01, dropout=0.2))["Settings"]
    assert "learning rate: 0.005, 0.01" in said
    assert "dropout: 0.0, 0.2" in said
    assert "the cell alone does not explain" in said
    same = findings(record("lstm"), record("gru", seed=5, eval_every=7))["Settings"]
    assert "All settings but the cell and the seed are the same" in same
    assert "in their states: LSTM 4 (h and c) and GRU 3 (h)." in same
    rates = findings(record("lstm", name="a"), record("lstm", name="b", learning_rate=0.01))["Settings"]
    assert rates == "The runs have the same cell and differ in learning rate: 0.005, 0.01."


def test_runs_that_differ_only_in_their_seed_differ_by_noise() -> None:
    said = findings(record("lstm", name="a"), record("lstm", name="b", seed=1))["Settings"]
    assert "differ only in the seed, so the differences are seed-to-seed noise" in said


def test_an_unfinished_run_is_reported() -> None:
    said = findings(record("lstm", finished=False), record("gru"))
    assert said["Unfinished"].startswith("lstm has not finished")
    assert "Unfinished" in findings(record("lstm", finished=False))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lstm", "gru", "rnn"]),
            st.lists(LOSSES, min_size=1, max_size=5),
            st.dictionaries(st.integers(1, 5), LOSSES, max_size=3),
            st.booleans(),
            st.sampled_from(["a", "b"]),
            st.sampled_from([0, 1]),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_findings_of_any_runs_are_complete_sentences(
    figures: list[tuple[str, list[float], dict[int, float], bool, str, int]],
) -> None:
    runs = [
        record(
            cell,
            losses,
            {step: loss for step, loss in validations.items() if step <= len(losses)},
            name=f"run{number}",
            finished=finished,
            text=text,
            seed=seed,
        )
        for number, (cell, losses, validations, finished, text, seed) in enumerate(figures)
    ]
    said = findings(*runs)
    assert "Validation loss" in said
    for text in said.values():
        assert re.search(r"(\.\)?|charrnn-train --config [\w/.]+ --cell \w+)$", text), text
        assert not re.search(r"None(?! of)|nan|  |\(\)|\.\.", text), text
    verdicts = cells_of(*runs)
    assert (verdicts is None) == (GRU not in said)


@pytest.mark.parametrize(
    ("items", "sentence"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_items_are_joined_as_in_a_sentence(items: list[str], sentence: str) -> None:
    assert listed(items) == sentence


def test_a_long_list_shows_the_first_items_and_counts_the_rest() -> None:
    assert shortened(list("abcdefg")) == list("abcdefg")
    assert shortened(list("abcdefghi")) == [*"abcdef", "3 more"]
