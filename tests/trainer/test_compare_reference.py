"""Training losses compared with a reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.compare.reference import beside_reference, page, read_reference
from compared_runs import record

COURSE = Path(__file__).parent.parent / "data" / "course_losses.csv"


def table(text: str, folder: Path) -> Path:
    path = folder / "losses.csv"
    path.write_bytes(text.encode())
    return path


def the_page(losses: dict[str, dict[int, float]], *runs: object, **changes: str) -> str:
    settings = {"title": "Beside", "reference": "theirs", "command": "c", "picture": "p.png", "alt": "a"}
    return page(beside_reference(runs, losses), **{**settings, **changes})  # type: ignore[arg-type]


def test_the_course_losses_cover_every_200_steps_to_4600_for_both_cells() -> None:
    losses = read_reference(COURSE)
    assert set(losses) == {"lstm", "gru"}
    for of_cell in losses.values():
        assert list(of_cell) == list(range(200, 4_601, 200))
    assert losses["lstm"][200] == 2.1588
    assert losses["gru"][4_600] == 1.1497


def test_our_loss_is_the_mean_of_the_20_steps_up_to_it() -> None:
    run = record("lstm", [float(step) for step in range(1, 101)])
    (beside,) = beside_reference([run], {"lstm": {50: 10.0, 100: 200.0, 10: 5.5, 101: 3.0}})
    assert [(row.step, row.ours) for row in beside.rows] == [(10, 5.5), (50, 40.5), (100, 90.5), (101, None)]
    assert [row.difference for row in beside.rows] == [0.0, 30.5, -109.5, None]


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (-0.01, "at or below the reference's at all 2 steps;"),
        (0.02, "at or below the reference's at 0 of 2 steps, and more than 0.03 above it at none;"),
        (0.04, "at or below the reference's at 0 of 2 steps, and more than 0.03 above it at 2;"),
    ],
)
def test_statements_about_a_table_match_its_figures(apart: float, words: str) -> None:
    run = record("gru", [2.0] * 1_200)
    level = 2.0 - apart
    losses = {200: 0.5, 1_000: level, 1_200: level}  # steps before 1,000 do not count
    (beside,) = beside_reference([run], {"gru": losses})
    assert words in beside.summary
    sign = "+" if apart > 0 else "−"
    assert f"the difference is {sign}{abs(apart):.4f} on average, and at most" in beside.summary


def test_a_run_with_fewer_steps_than_the_reference_says_so() -> None:
    run = record("gru", [2.0] * 1_100)
    (beside,) = beside_reference([run], {"gru": {1_000: 2.0, 1_200: 2.0}})
    assert "at all 1 steps" in beside.summary
    assert "no loss yet at 1 of the 2 steps" in beside.summary
    (short,) = beside_reference([record("gru", [2.0] * 30)], {"gru": {20: 2.0, 1_200: 2.0}})
    assert short.summary.startswith("there is nothing to compare from step 1,000 on")


def test_the_page_shows_every_step_of_every_run() -> None:
    runs = [record("lstm", [2.0] * 1_200), record("gru", [1.5] * 600, name="other")]
    losses = {"lstm": {200: 2.5, 1_000: 1.9}, "gru": {200: 1.5, 1_000: 1.4}}
    text = the_page(losses, *runs)
    assert "## LSTM\n" in text
    assert "## GRU (other)\n" in text
    for row in (
        "| 200 | 2.0000 | 2.5000 | −0.5000 |",
        "| 1,000 | 2.0000 | 1.9000 | +0.1000 |",
        "| 200 | 1.5000 | 1.5000 | +0.0000 |",
        "| 1,000 | - | 1.4000 | - |",
    ):
        assert row in text
    assert text.startswith("<!-- made by charrnn-compare -->\n\n# Beside\n")
    assert "![a](p.png)" in text


def test_names_are_escaped_on_the_page() -> None:
    run = record("lstm", [2.0] * 30, name="a|b <script> [x](y) *z*")
    text = the_page({"lstm": {20: 2.0}}, run, reference="`it`\n# no", command="```\nrm")
    assert "<script>" not in text
    assert "\\<script\\>" in text
    assert "\n# no" not in text
    assert len(re.findall("^```", text, re.MULTILINE)) == 2


def test_a_cell_missing_from_the_reference_is_rejected() -> None:
    with pytest.raises(CharRNNError, match="has the cell rnn, but the reference has only lstm, gru"):
        beside_reference([record("rnn")], {"lstm": {1: 1.0}, "gru": {1: 1.0}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column cell"),
        ("cell,step\nlstm,1\n", "has no column training_loss_nats"),
        ("cell,step,training_loss_nats\n", "has no rows"),
        ("cell,step,training_loss_nats\nlstm,x,1\n", "is not a valid table"),
        ("cell,step,training_loss_nats\nlstm,1\n", "is not a valid table"),
        ("cell,step,training_loss_nats\nlstm,1,nan\n", "is not a valid table"),
        ("cell,step,training_loss_nats\nlstm,0,1\n", "is not a valid table"),
        ("cell,step,training_loss_nats\nlstm,1,1\nlstm,1,2\n", "is not a valid table"),
        ("cell,step,training_loss_nats\nlstm,1,1\x00\n", "is not a valid table"),
        (f'cell,step,training_loss_nats\nlstm,1,"{"1" * 200_000}"\n', "is not a valid table"),
    ],
)
def test_an_invalid_table_is_rejected(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match=words):
        read_reference(table(text, tmp_path))


def test_a_binary_or_missing_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_bytes(b"\xff\xfe\x00cell")
    with pytest.raises(CharRNNError, match="is not a valid table"):
        read_reference(tmp_path / "losses.csv")
    with pytest.raises(CharRNNError, match="cannot read the reference"):
        read_reference(tmp_path / "nowhere.csv")


def test_other_columns_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = table("seconds,training_loss_nats,cell,step\r\n9,1.5, LSTM ,7\r\n", tmp_path)
    assert read_reference(path) == {"lstm": {7: 1.5}}
