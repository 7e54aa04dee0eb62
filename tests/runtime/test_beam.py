"""Beam search against all continuations of a tiny model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime import CharRNN, State
from make_models import FOLDER, SmallModel
from reference import naive_step

Load = Callable[[str], CharRNN]

MODEL = CharRNN.load(FOLDER / "lstm-2x12-fp32.onnx", device="cpu", threads=1)
SYMBOLS = MODEL.vocabulary.symbols


def _nats_after(model: CharRNN, prompt: str, texts: list[str]) -> list[float]:
    """-ln p of each text after a prompt, which follows a newline, as in scoring."""
    before = model.score(prompt).nats if prompt else 0.0
    return [each.nats - before for each in model.score([prompt + text for text in texts])]


def test_enough_beams_find_the_most_likely_of_all_continuations() -> None:
    everything = ["".join(each) for each in itertools.product(SYMBOLS, repeat=2)]
    nats = dict(zip(everything, _nats_after(MODEL, "LORD ", everything), strict=True))
    most_likely = sorted(everything, key=nats.__getitem__)
    found = MODEL.beam("\nLORD ", 2, beams=len(SYMBOLS))
    assert [each.text for each in found[:5]] == most_likely[:5]
    assert len(found) == len(SYMBOLS)
    whole = MODEL.beam("\nLORD ", 2, beams=len(everything) + 7)
    assert len(whole) == len(everything)
    assert [each.nats for each in whole] == sorted(each.nats for each in whole)
    np.testing.assert_allclose([each.nats for each in whole], [nats[each.text] for each in whole], atol=1e-4)
    assert math.fsum(math.exp(-each.nats) for each in whole) == pytest.approx(1.0, abs=1e-5)


def test_with_a_stop_text_all_ends_are_found_and_their_probabilities_sum_to_one() -> None:
    stops = [SYMBOLS[10], SYMBOLS[20] + SYMBOLS[30]]
    found = MODEL.beam("", 2, beams=10_000, stop=stops)
    # Texts that stop immediately, and all other texts of two characters.
    assert len(found) == 1 + (len(SYMBOLS) - 1) * len(SYMBOLS)
    assert math.fsum(math.exp(-each.nats) for each in found) == pytest.approx(1.0, abs=1e-5)
    by_text = {(each.text, each.finish_reason, each.characters): each for each in found}
    assert len(by_text) == len(found)
    assert by_text["", "stop", 1].nats == pytest.approx(MODEL.score(stops[0]).nats, abs=1e-4)
    assert by_text["", "stop", 2].nats == pytest.approx(MODEL.score(stops[1]).nats, abs=1e-4)
    for each in found:
        assert not any(stop in each.text for stop in stops)
        if each.finish_reason == "length":
            assert each.characters == len(each.text)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_one_beam_equals_greedy(small: SmallModel, load: Load, length: int) -> None:
    model = load(small.path.stem)
    (found,) = model.beam("the ", length, beams=1)
    assert found.data == b"".join(model.stream_bytes("the ", length, top_k=1))
    assert found.finish_reason == "length"
    assert found.characters == length


@given(
    prompt=st.text("LORD ING:\n", max_size=6),
    length=st.integers(1, 12),
    beams=st.sampled_from([1, 2, 3, 8, 17]),
    stop=st.one_of(st.none(), st.lists(st.text("aeiou \n", min_size=1, max_size=2), max_size=3)),
)
def test_scores_match_score_and_are_sorted(
    prompt: str, length: int, beams: int, stop: list[str] | None
) -> None:
    found = MODEL.beam("\n" + prompt, length, beams=beams, stop=stop)
    assert 1 <= len(found) <= beams
    nats = [each.nats for each in found]
    assert nats == sorted(nats)
    written = []
    for each in found:
        ends = stop if each.finish_reason == "stop" and stop else [""]
        texts = [each.text + end for end in ends if len(each.text + end) == each.characters]
        scores = _nats_after(MODEL, prompt, texts)
        assert min(abs(score - each.nats) for score in scores) < 1e-3
        assert each.bits == pytest.approx(each.nats / math.log(2))
        assert each.bits_per_character == pytest.approx(each.bits / each.characters)
        assert each.characters == length or each.finish_reason == "stop"
        written.append((each.text, each.finish_reason, each.characters, each.nats))
    assert len(set(written)) == len(written)


def test_beam_search_matches_plain_numpy(exact: SmallModel, load: Load) -> None:
    """A beam search as simple as possible, over Python lists."""
    model, beams, length = load(exact.path.stem), 4, 6
    start = model.vocabulary.start_token
    hidden = exact.weights()["rnn.weight_hh_l0"].shape[1]
    zeros = np.zeros(exact.layers * hidden * (2 if exact.cell == "lstm" else 1))
    alive: list[tuple[float, list[int], int, np.ndarray]] = [(0.0, [], start, zeros)]
    for _ in range(length):
        extended = []
        for nats, ids, token, state in alive:
            logits, after = naive_step(exact.cell, exact.layers, exact.weights(), token, state)
            losses = np.log(np.exp(logits - logits.max()).sum()) - (logits - logits.max())
            extended += [(nats + loss, [*ids, one], one, after) for one, loss in enumerate(losses)]
        alive = sorted(extended, key=lambda each: each[0])[:beams]
    found = model.beam("", length, beams=beams)
    assert [each.data for each in found] == [model.vocabulary.decode_bytes(ids) for _, ids, _, _ in alive]
    np.testing.assert_allclose([each.nats for each in found], [each[0] for each in alive], atol=1e-3)


def test_more_beams_find_a_text_at_least_as_likely_at_small_lengths() -> None:
    best = [MODEL.beam("KING", 3, beams=beams)[0].nats for beams in (1, 8, 65 * 65)]
    assert best == sorted(best, reverse=True)


def test_a_stream_continues_from_where_a_continuation_ends() -> None:
    found = MODEL.beam("KING ", 10, beams=4)[2]
    state = MODEL.prime("KING " + found.text)
    np.testing.assert_allclose(found.state.rows, state.rows, atol=1e-5)
    assert found.state.tokens.tolist() == state.tokens.tolist()
    assert found.state.positions.tolist() == [10]
    assert MODEL.generate(found.state, 30, top_k=1) == MODEL.generate(state, 30, top_k=1)
    again = MODEL.beam("", 5, beams=4, state=MODEL.prime("KING "))
    assert [each.text for each in again] == [each.text for each in MODEL.beam("KING ", 5, beams=4)]


def test_a_length_of_zero_returns_immediately() -> None:
    (found,) = MODEL.beam("KING ", 0, beams=4)
    assert (found.text, found.nats, found.characters, found.finish_reason) == ("", 0.0, 0, "length")
    assert found.bits_per_character == 0.0
    assert isinstance(found.state, State)


def test_at_the_byte_level_it_finds_bytes(byte_model: CharRNN) -> None:
    found = byte_model.beam(b"\n\xc3", 3, beams=8)
    assert all(each.data.decode(errors="replace") == each.text for each in found)
    assert [each.characters for each in found] == [3] * 8
    nats = byte_model.score([b"\xc3" + each.data for each in found])
    before = byte_model.score(b"\xc3").nats
    np.testing.assert_allclose(
        [each.nats for each in found], [each.nats - before for each in nats], atol=1e-4
    )
