"""Units that track a readable property: planted ones are found, with the score of a naive count."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from charrnn_runtime import State, Trace, Vocabulary
from charrnn_runtime.format import spec
from charrnn_runtime.view.readable import (
    FoundUnit,
    _Counts,
    before_line_end,
    find_units,
    in_brackets,
    in_quotes,
    line_position,
    uppercase,
)

TEXT = (
    """The first said "I will (or shall) go", and went.
THEN the second (who had waited [long]) said:
"Now it is my turn!" It was a LONG way.
"""
    * 40
)

LAYOUT = spec.state_layout("lstm", 1, 8)  # h0 and c0, 8 numbers each


def _marked(text: str, inside: NDArray[np.bool_]) -> str:
    return "".join(character if here else "." for character, here in zip(text, inside, strict=True))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('say "go" now', '...."go.....'),
        ('"a\n\n"b" c', '..\n\n"b...'.replace("\n", ".")),  # an unclosed quote ends with its paragraph
        ("he said 'I go,' and", "........'I go,....."),
        ("'tis the king's house's end'", "." * 28),
        ("the lords' and 'em' it", "." * 22),
        ("„so“ and «so» and “so”", "„so......«so......“so."),
        ("x = d['key']", "......'key.."),
        ("'", "."),
        ("", ""),
    ],
)
def test_quotes_are_distinguished_from_apostrophes(text: str, inside: str) -> None:
    assert _marked(text, in_quotes(text)) == inside


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("a(b[c]d)e", ".(b[c]d.."),
        ("f(x { y ) z", ".(x { y ..."),
        (":( sad\n\nnew", ".( sad\n....".replace("\n", "\n")),
        ("{a\n\nb} c", "{a\n\nb..."),
        ("1) 2]", "....."),
    ],
)
def test_brackets_nest_and_end_with_their_paragraph(text: str, inside: str) -> None:
    assert _marked(text, in_brackets(text)) == inside


def test_lines_and_capitals_are_recognized() -> None:
    assert line_position("ab\n\ncde").tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert _marked("ab\n\ncde\n", before_line_end("ab\n\ncde\n")) == ".b....e."
    assert _marked("aBÉ1", uppercase("aBÉ1")) == ".BÉ."


def _trace(vocabulary: Vocabulary, text: str | bytes, states: NDArray[np.float32]) -> Trace:
    ids = vocabulary.encode(text)
    logprobs = np.full((len(ids), len(vocabulary)), -np.log(len(vocabulary)), np.float32)
    return Trace(ids, states, logprobs, vocabulary, LAYOUT, State.start(1, states.shape[1]))


def _planted(text: str, draw: np.random.RandomState) -> NDArray[np.float32]:
    """States in which some units track a property and the others do not."""
    states = draw.uniform(-0.9, 0.9, (len(text), 16)).astype(np.float32)
    states[:, 3] = np.where(in_quotes(text), 0.8, -0.8)
    states[:, 8 + 5] = -0.02 * line_position(text)  # a cell state, low where the position is high
    states[:, 6] += 3 * in_brackets(text)
    states[:, 1] = np.where(uppercase(text), -0.7, 0.1)
    return np.clip(states, -0.999, 0.999)


def _found(
    text: str | bytes, vocabulary: Vocabulary, states: NDArray[np.float32], chunk: int
) -> list[FoundUnit]:
    ids = vocabulary.encode(text)
    whole = _trace(vocabulary, text, states)
    parts = [
        Trace(
            ids[begin : begin + chunk],
            states[begin : begin + chunk],
            whole.logprobs[begin : begin + chunk],
            vocabulary,
            LAYOUT,
            whole.state,
        )
        for begin in range(0, len(ids), chunk)
    ]
    return find_units(vocabulary, LAYOUT, ids, parts)


@pytest.mark.parametrize("chunk", [37, 1000, 10**6])
def test_planted_units_are_found_however_the_text_is_chunked(chunk: int) -> None:
    vocabulary = Vocabulary.from_text(TEXT)
    found = {
        each.follows: each
        for each in _found(TEXT, vocabulary, _planted(TEXT, np.random.RandomState(1)), chunk)
    }
    assert (found["quotes"].unit, found["quotes"].score, found["quotes"].sign) == ("h0:3", 1.0, 1)
    assert (found["uppercase"].unit, found["uppercase"].score, found["uppercase"].sign) == ("h0:1", 1.0, -1)
    assert found["brackets"].unit == "h0:6"
    assert found["brackets"].score > 0.99
    position = found["line position"]
    assert (position.unit, position.measure, position.sign) == ("c0:5", "r", -1)
    assert position.score > 0.95
    assert re.fullmatch(r"c0:5 follows line position \(r [01]\.\d{3}, falling\)", str(position))


def test_units_that_track_no_property_score_at_chance_level() -> None:
    """On text not used to select the unit; on the selection text, the best of many would look good."""
    states = np.random.RandomState(3).uniform(-1, 1, (len(TEXT), 16)).astype(np.float32)
    for each in _found(TEXT, Vocabulary.from_text(TEXT), states, 500):
        assert abs(each.score - (0.5 if each.measure == "AUC" else 0.0)) < 0.1, each


def test_the_best_unit_comes_first_and_missing_properties_are_omitted() -> None:
    text = "No brackets and no quotes are in these lines.\nThey have Capitals, and they have an END.\n" * 20
    found = _found(text, Vocabulary.from_text(text), _planted(text, np.random.RandomState(2)), 300)
    assert {each.follows for each in found} == {"line position", "uppercase", "line end next"}
    assert found[0].follows == "uppercase"
    assert _found("", Vocabulary.from_text("a"), np.zeros((0, 16), np.float32), 10) == []
    assert _found("a", Vocabulary.from_text("a"), np.zeros((1, 16), np.float32), 10) == []


def test_bytes_of_a_character_are_merged() -> None:
    text = ('Она сказала "я иду" и ушла. Потом пришла.\n' * 40).encode()
    characters = text.decode()
    inside = np.repeat(in_quotes(characters), [len(each.encode()) for each in characters])
    states = np.random.RandomState(4).uniform(-0.5, 0.5, (len(text), 16)).astype(np.float32)
    states[:, 2] = np.where(inside, 0.9, 0.0)
    found = {each.follows: each for each in _found(text, Vocabulary.of_bytes(), states, 333)}
    assert (found["quotes"].unit, found["quotes"].score) == ("h0:2", 1.0)
    _found(b"\xff\xfe(\xd0" * 50, Vocabulary.of_bytes(), states[:200], 50)  # lone bytes are not an error


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([-0.9, -0.25, 0.5, 0.9]), st.booleans()), min_size=2, max_size=40))
def test_the_auc_is_the_share_of_correctly_ordered_pairs(pairs: list[tuple[float, bool]]) -> None:
    inside = [value for value, label in pairs if label]
    outside = [value for value, label in pairs if not label]
    if inside and outside:
        won = sum((a > b) + (a == b) / 2 for a in inside for b in outside)
        counts = _Counts(LAYOUT, {"any": np.array([label for _, label in pairs])})
        states = np.repeat(np.array([[value] for value, _ in pairs], np.float32), 16, axis=1)
        counts.add(states[:1], np.arange(1))
        counts.add(states[1:], np.arange(1, len(states)))
        expected = 2 * won / len(inside) / len(outside) - 1
        np.testing.assert_allclose(counts.told("any"), np.full(16, expected))


def test_the_correlation_matches_numpy() -> None:
    draw = np.random.RandomState(5)
    states, numbers = draw.uniform(-3, 3, (50, 16)).astype(np.float32), draw.uniform(0, 60, 50)
    counts = _Counts(LAYOUT, {"any": numbers})
    counts.add(states[:20], np.arange(20))
    counts.add(states[20:], np.arange(20, 50))
    states[:, 8:] = np.tanh(states[:, 8:])
    expected = [np.corrcoef(column, numbers)[0, 1] for column in states.T]
    np.testing.assert_allclose(counts.told("any"), expected, atol=1e-6)
