"""Traces of a model at each symbol of a text, against plain NumPy and against its score."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN, OutOfMemoryError, SettingError, UnknownCharacterError
from charrnn_runtime.backends.buffers import Buffers
from charrnn_runtime.view.cells import shown_symbol
from make_models import FOLDER, SmallModel
from reference import naive_step

TEXT = "LORD of the text, who reads it all:\nAnd then some."

Load = Callable[[str], CharRNN]


def test_states_and_log_probabilities_match_plain_numpy(exact: SmallModel, load: Load) -> None:
    model, weights = load(exact.path.stem), exact.weights()
    trace = model.trace(TEXT)
    row, token = np.zeros(model.info.state_size), model.info.start_token
    logits, row = naive_step(exact.cell, exact.layers, weights, token, row)
    for place, symbol in enumerate(model.vocabulary.encode(TEXT).tolist()):
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        np.testing.assert_allclose(trace.logprobs[place], expected, atol=3e-5)
        logits, row = naive_step(exact.cell, exact.layers, weights, symbol, row)
        np.testing.assert_allclose(trace.states[place], row, atol=3e-5)
    assert len(trace) == len(TEXT)
    assert trace.text == TEXT
    assert trace.ids.dtype == np.int64
    assert trace.states.dtype == trace.logprobs.dtype == np.float32


def test_surprise_is_bit_identical_to_the_score(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    trace, score = model.trace(TEXT), model.score(TEXT)
    taken = trace.logprobs[np.arange(len(TEXT)), trace.ids]
    np.testing.assert_array_equal(-taken, score.per_character)
    assert trace.bits.mean() == pytest.approx(score.bits_per_character, abs=1e-5)
    np.testing.assert_allclose(np.exp(trace.logprobs).sum(axis=1), 1.0, atol=1e-5)


_models: list[CharRNN] = []


def _model() -> CharRNN:
    if not _models:
        _models.append(CharRNN.load(FOLDER / "lstm-2x12-int8.onnx", device="cpu"))
    return _models[0]


@settings(max_examples=20)
@given(st.text("abc XYZ\n", max_size=60), st.lists(st.integers(0, 60)))
def test_chunks_concatenate_to_the_trace_of_the_whole(text: str, cuts: list[int]) -> None:
    model, edges = _model(), [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    whole = model.trace(text)
    parts = list(model.trace_stream(text[begin:end] for begin, end in pairwise(edges)))
    for name in ("ids", "states", "logprobs"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    np.testing.assert_array_equal(parts[-1].state.rows, whole.state.rows)


def test_a_trace_continues_from_a_state(lstm: CharRNN) -> None:
    whole = lstm.trace("LORD of all")
    begun = lstm.trace("LORD ")
    rest = lstm.trace("of all", state=begun.state)
    np.testing.assert_array_equal(rest.states, whole.states[5:])
    np.testing.assert_array_equal(rest.logprobs, whole.logprobs[5:])
    primed = lstm.trace("of all", state=lstm.prime("\nLORD "))  # the start token is the newline's
    np.testing.assert_array_equal(primed.states, rest.states)
    assert lstm.trace("", state=begun.state).state is begun.state
    with pytest.raises(SettingError, match="2 streams"):
        lstm.trace("a", state=lstm.initial_state(2))


@pytest.mark.parametrize("chunks", [["ab\ncd\n\ne"], ["ab", "\nc", "d\n", "\n", "e"]])
def test_each_line_can_be_read_from_a_zero_state(lstm: CharRNN, chunks: list[str]) -> None:
    parts = list(lstm.trace_stream(chunks, by_line=True))
    lines = [lstm.trace(line) for line in ("ab\n", "cd\n", "\n", "e")]
    for name in ("ids", "states", "logprobs"):
        expected = np.concatenate([getattr(line, name) for line in lines])
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), expected)
    assert [len(part) for part in parts] == [len(chunk) for chunk in chunks]


def test_a_chunk_is_traced_before_the_next_is_read(lstm: CharRNN) -> None:
    asked: list[int] = []

    def chunks() -> Iterator[str]:
        for number in range(3):
            asked.append(number)
            yield "LORD "

    traces = lstm.trace_stream(chunks())
    next(traces)
    assert asked == [0]


def test_an_unknown_character_is_reported_with_its_position_in_the_text(lstm: CharRNN) -> None:
    with pytest.raises(UnknownCharacterError, match="at position 6"):
        list(lstm.trace_stream(["LORD", "of☃"]))
    assert lstm.trace("LO☃RD", unknown="skip").text == "LORD"


def test_bytes_are_symbols_at_the_byte_level(byte_model: CharRNN) -> None:
    trace = byte_model.trace(b"\xc3\xa9\xff")
    assert trace.ids.tolist() == [0xC3, 0xA9, 0xFF]
    assert trace.text == "é\ufffd"
    np.testing.assert_array_equal(byte_model.trace("é").states, trace.states[:2])


def test_units_are_named_by_the_state_layout(lstm: CharRNN, load: Load) -> None:
    trace = lstm.trace(TEXT)
    assert len(trace.units) == lstm.info.state_size
    assert trace.units[:2] == ("h0:0", "h0:1")
    assert trace.units[-1] == "c1:11"
    np.testing.assert_array_equal(trace.unit("h1:3"), trace.states[:, 15])
    np.testing.assert_array_equal(trace.unit("1:3"), np.tanh(trace.states[:, 24 + 15]))
    gru = load("gru-2x12-fp32").trace("LORD")
    np.testing.assert_array_equal(gru.unit("1:3"), gru.states[:, 15])


@pytest.mark.parametrize(
    "name", ["2:0", "0:12", "c2:0", "h0", "h0:", ":1", "0:-1", "0:1.0", "0:²", "x0:1", ""]
)
def test_an_unknown_unit_is_an_error_that_lists_the_valid_ones(lstm: CharRNN, name: str) -> None:
    with pytest.raises(SettingError, match="a layer from 0 to 1 and an index from 0 to 11"):
        lstm.trace("a").unit(name)


def test_the_most_likely_symbols_come_first(lstm: CharRNN) -> None:
    trace = lstm.trace(TEXT)
    ids, probabilities = trace.most_likely(3)
    assert ids.shape == probabilities.shape == (len(TEXT), 3)
    np.testing.assert_array_equal(ids[:, 0], trace.logprobs.argmax(axis=1))
    assert (np.diff(probabilities, axis=1) <= 0).all()
    np.testing.assert_allclose(probabilities[:, 0], np.exp(trace.logprobs.max(axis=1)))
    assert trace.most_likely(10**4)[0].shape[1] == len(lstm.vocabulary)


def test_an_empty_text_has_an_empty_trace(lstm: CharRNN) -> None:
    trace = lstm.trace("")
    assert (trace.states.shape, trace.logprobs.shape) == ((0, 48), (0, len(lstm.vocabulary)))
    assert (len(trace), trace.text, trace.bits.shape) == (0, "", (0,))
    assert list(lstm.trace_stream([])) == []


def test_out_of_memory_is_a_package_error(lstm: CharRNN, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object) -> Any:
        raise MemoryError

    monkeypatch.setattr(Buffers, "_run_straight", without_memory)
    with pytest.raises(OutOfMemoryError, match="out of memory on cpu"):
        lstm.trace("abc")


def test_a_trace_is_shown_in_notebooks_with_its_text_escaped(byte_model: CharRNN) -> None:
    text = b"<script>&\"'\xff\x00\n" + "\u2028é".encode()
    shown = byte_model.trace(text)._repr_html_()
    text_alone = re.sub(r"<span [^<>]*>|</span>|</?pre[^<>]*>", "", shown)
    assert text_alone == "&lt;script&gt;&amp;&quot;&#x27;▯␀↵\n▯é"
    assert shown.count('<span title="') == 16
    assert not set(shown) & {"\x00", "\u2028"}
    long = byte_model.trace(b"a" * 2003)._repr_html_()
    assert long.count("<span") == 2000
    assert long.endswith("<p>and 3 more symbols</p>")


def test_a_tooltip_names_the_most_likely_symbols(lstm: CharRNN) -> None:
    trace = lstm.trace("LORD")
    ids, probabilities = trace.most_likely(5)
    likely = html.escape(f"{shown_symbol(lstm.vocabulary, int(ids[3, 0]))} {probabilities[3, 0]:.1%}")
    assert f'title="{trace.bits[3]:.2f} bits; most likely: {likely}, ' in trace._repr_html_()
    assert repr(trace) == f"Trace(4 symbols, 48 units, {len(lstm.vocabulary)} probabilities each)"
