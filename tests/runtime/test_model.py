"""The public API: prime, step, generate and stream match plain NumPy."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charrnn_runtime
from charrnn_runtime import CharRNN, CharRNNError, Sampling, SettingError, State, UnknownCharacterError
from charrnn_runtime.state import UNSTARTED
from make_models import FOLDER, SmallModel
from reference import naive_generate, naive_step
from run_commands import command_environment

Load = Callable[[str], CharRNN]


def _naive(small: SmallModel, model: CharRNN, prompt: str, length: int, **options: Any) -> str:
    tokens = model.vocabulary.encode(prompt).tolist() or [model.info.start_token]
    sampled = naive_generate(small.cell, small.layers, small.weights(), tokens, length, **options)
    return model.vocabulary.decode(sampled)


# --- compared with plain NumPy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("LORD ", {}),
        ("", {}),
        ("L", {"temperature": 0.3}),
        ("LORD ", {"temperature": 3.0}),
        ("LORD ", {"top_k": 1}),
        ("LORD ", {"top_k": 5}),
        ("LORD ", {"top_p": 0.7}),
        ("LORD ", {"top_k": 9, "top_p": 0.8, "temperature": 1.5}),
        ("LORD ", {"top_p": 1e-6}),
        ("LORD ", {"min_p": 0.2}),
        ("LORD ", {"top_k": 20, "top_p": 0.9, "min_p": 0.05, "temperature": 1.5}),
        ("LORD ", {"temperature": 1e-4}),
        ("LORD ", {"temperature": 20.0}),
        ("the prompt is longer than a block of steps: it goes on, and on, and on, until it ends", {}),
    ],
)
def test_generate_matches_plain_numpy(
    exact: SmallModel, load: Load, prompt: str, options: dict[str, Any]
) -> None:
    model = load(exact.path.stem)
    expected = _naive(exact, model, prompt, 100, seed=5, **options)
    assert model.generate(prompt, 100, seed=5, **{"temperature": 0.8, **options}) == prompt + expected


def test_each_stream_of_a_list_matches_plain_numpy(exact: SmallModel, load: Load) -> None:
    model = load(exact.path.stem)
    prompts = ["LORD ", "", "K", "who is there, and what"]
    expected = [p + _naive(exact, model, p, 70, seed=2, stream=i) for i, p in enumerate(prompts)]
    assert model.generate(prompts, 70, seed=2) == expected


def test_step_matches_the_logits_and_states_of_plain_numpy(exact: SmallModel, load: Load) -> None:
    model = load(exact.path.stem)
    weights, row = exact.weights(), np.zeros(model.info.state_size)
    state = model.initial_state(1)
    token = model.info.start_token
    for position in range(40):
        logits, row = naive_step(exact.cell, exact.layers, weights, token, row)
        step = model.step(state, seed=3)
        np.testing.assert_allclose(step.logits[0], logits, atol=2e-5)
        np.testing.assert_allclose(step.state.rows[0], row, atol=2e-6)
        assert step.state.tokens.tolist() == step.tokens.tolist()
        assert step.state.positions.tolist() == [position + 1]
        state, token = step.state, int(step.tokens[0])


# --- different ways to generate ----------------------------------------------------------------------------


def _by_steps(model: CharRNN, state: State, length: int, **options: Any) -> list[str]:
    tokens = []
    for _ in range(length):
        step = model.step(state, **options)
        tokens.append(step.tokens)
        state = step.state
    return [model.vocabulary.decode(column) for column in np.array(tokens).T]


def test_prime_and_steps_give_the_same_as_generate(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    options = {"temperature": 0.9, "top_k": 20, "top_p": 0.95}
    whole = model.generate("LORD ", 50, seed=4, **options)  # type: ignore[call-overload]
    assert ["LORD " + text for text in _by_steps(model, model.prime("LORD "), 50, seed=4, **options)] == [
        whole
    ]


def test_steps_of_many_streams_give_the_same_as_generate(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    prompts = ["a", "be", "see", "x", ""]
    whole = model.generate(prompts, 30, seed=4)
    texts = _by_steps(model, model.prime(prompts), 30, seed=4)
    assert [prompt + text for prompt, text in zip(prompts, texts, strict=True)] == whole


@pytest.mark.parametrize("prompt", ["LORD ", "", "L", "x" * 200])
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 300])
def test_stream_gives_the_same_as_generate(lstm: CharRNN, prompt: str, length: int) -> None:
    live = lstm.stream(prompt, length, seed=6)
    assert prompt + "".join(live) == lstm.generate(prompt, length, seed=6)
    assert live.generated == length
    assert live.seed == 6


def test_a_stream_yields_several_chunks(lstm: CharRNN) -> None:
    pieces = list(lstm.stream("", 20_000, seed=1))
    assert len(pieces) > 3
    assert all(pieces)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.sampled_from(["", "LORD "]))
def test_continuing_from_a_state_equals_one_long_text(lengths: list[int], prompt: str) -> None:
    model = _shared()
    whole = model.generate(prompt, sum(lengths), seed=8)
    state = model.prime(prompt)
    parts = []
    for length in lengths:
        live = model.stream("", length, state=state, seed=8)
        parts.append("".join(live))
        state = live.state
    assert prompt + "".join(parts) == whole


@settings(max_examples=20)
@given(st.text("abc XYZé中", max_size=50), st.integers(0, 50))
def test_a_prompt_in_two_parts_equals_one_prompt(prompt: str, cut: int) -> None:
    model = _shared()
    state = model.prime(prompt[cut:], model.prime(prompt[:cut]))
    whole = model.prime(prompt)
    assert np.array_equal(state.rows, whole.rows)
    assert state.tokens.tolist() == whole.tokens.tolist()
    assert model.generate(state, 20, seed=1) == model.generate(whole, 20, seed=1)


_model: list[CharRNN] = []


def _shared() -> CharRNN:
    if not _model:
        _model.append(CharRNN.load(FOLDER / "gru-2x12-fp32.onnx", device="cpu"))
    return _model[0]


def test_generating_from_a_state_gives_only_the_new_text(lstm: CharRNN) -> None:
    whole = lstm.generate("LORD ", 60, seed=1)
    first = lstm.stream("LORD ", 20, seed=1)
    assert "LORD " + "".join(first) == whole[:25]
    assert lstm.generate(first.state, 40, seed=1) == [whole[25:]]
    assert first.state.positions.tolist() == [20]


def test_generate_each_gives_states_to_continue_from(lstm: CharRNN) -> None:
    prompts = ["a", "LORD ", ""]
    whole = lstm.generate(prompts, 50, seed=3)
    first = list(lstm.generate_each(prompts, 20, seed=3))
    rest = lstm.generate(State.concatenate([stream.state for stream in first]), 30, seed=3)
    assert [s.prompt + s.text + more for s, more in zip(first, rest, strict=True)] == whole
    assert [s.index for s in first] == [0, 1, 2]


# --- forks -------------------------------------------------------------------------------------------------


def test_forks_differ_from_each_other_and_depend_only_on_their_numbers(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    forks = model.prime("LORD ").fork(5)
    together = model.generate(forks, 60, seed=11)
    assert len(set(together)) == 5
    assert [model.generate(forks[i], 60, seed=11)[0] for i in range(5)] == together
    assert together == [text[5:] for text in model.generate(["LORD "] * 5, 60, seed=11)]


def test_a_fork_with_a_higher_number_equals_the_stream_of_that_number(lstm: CharRNN) -> None:
    ninth = lstm.generate([""] * 10, 40, seed=2)[9]
    assert lstm.generate(lstm.initial_state().fork(1, first_number=9), 40, seed=2) == [ninth]


# --- seeds -------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_texts_and_other_seeds_give_others(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    again = CharRNN.load(small.path, device="cpu")
    text = model.generate("LORD ", 80, seed=1)
    assert text == model.generate("LORD ", 80, seed=1) == again.generate("LORD ", 80, seed=1)
    assert text != model.generate("LORD ", 80, seed=2)


def test_without_a_seed_each_text_differs(lstm: CharRNN) -> None:
    assert lstm.generate("", 50) != lstm.generate("", 50)
    live = lstm.stream("", 50)
    assert "".join(live) == lstm.generate("", 50, seed=live.seed)


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.uint64(2**64 - 1), np.int8(3)])
def test_any_seed_in_range_works(lstm: CharRNN, seed: int) -> None:
    assert lstm.generate("", 20, seed=seed) == lstm.generate("", 20, seed=int(seed))


# --- settings ----------------------------------------------------------------------------------------------


def _every_way(model: CharRNN) -> list[Callable[..., object]]:
    return [
        lambda **options: model.generate("LORD ", 10, **options),
        lambda **options: model.generate(["LORD ", ""], 10, **options),
        lambda **options: list(model.generate_each(["LORD "], 10, **options)),
        lambda **options: "".join(model.stream("LORD ", 10, **options)),
        lambda **options: model.step(model.prime("LORD "), **options),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 2},
        {"min_p": 1},
        {"min_p": -0.1},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": 0.5},
    ],
)
def test_invalid_settings_are_rejected_everywhere(lstm: CharRNN, options: dict[str, Any]) -> None:
    for way in _every_way(lstm):
        with pytest.raises(SettingError):
            way(**options)


@pytest.mark.parametrize("length", [-1, 1.5, 10.0, float("nan"), "10", None])
def test_a_length_is_a_nonnegative_integer(lstm: CharRNN, length: Any) -> None:
    for way in (
        lambda: lstm.generate("", length),
        lambda: lstm.generate([""], length),
        lambda: list(lstm.generate_each([""], length)),
        lambda: "".join(lstm.stream("", length)),
    ):
        with pytest.raises(SettingError, match="length must be"):
            way()


@pytest.mark.parametrize("rows", [0, -1, 1.5, 2**40])
def test_a_batch_size_is_a_positive_integer(lstm: CharRNN, rows: Any) -> None:
    with pytest.raises(SettingError, match="must be"):
        lstm.generate([""], 10, max_batch_size=rows)


def test_settings_can_have_numpy_types(lstm: CharRNN) -> None:
    plain: dict[str, Any] = {
        "length": 40,
        "seed": 7,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.75,
        "min_p": 0.125,
        "max_batch_size": 2,
    }
    numpys: dict[str, Any] = {
        "length": np.int32(40),
        "seed": np.uint8(7),
        "temperature": np.float32(0.5),
        "top_k": np.int64(9),
        "top_p": np.float64(0.75),
        "min_p": np.float32(0.125),
        "max_batch_size": np.int16(2),
    }
    assert lstm.generate(["LORD "] * 3, **numpys) == lstm.generate(["LORD "] * 3, **plain)


def test_greedy_selects_the_most_likely_with_any_seed(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    texts = {
        model.generate("LORD ", 60, seed=seed, top_k=1, temperature=t) for seed in (1, 2) for t in (0.5, 2.0)
    }
    assert len(texts) == 1
    state = model.prime("LORD ")
    for character in model.vocabulary.encode(texts.pop()[5:] if model.vocabulary.level == "char" else "")[
        :60
    ]:
        step = model.step(state, top_k=1)
        assert step.tokens[0] == character == step.logits[0].argmax()
        state = step.state


def test_a_huge_top_k_and_a_top_p_of_1_are_off(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    text = model.generate("LORD ", 60, seed=1)
    assert model.generate("LORD ", 60, seed=1, top_k=10**30) == text
    assert model.generate("LORD ", 60, seed=1, top_k=2**63 - 1, top_p=1, min_p=0) == text


def test_a_length_of_0_gives_only_the_prompt(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    assert model.generate("LORD ", 0, seed=1) == "LORD "
    assert model.generate(["a", "", "b"], 0) == ["a", "", "b"]
    assert model.generate([], 10) == []


# --- stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "LORD "])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_a_text_ends_before_the_stop_text(exact: SmallModel, load: Load, prompt: str, size: int) -> None:
    model = load(exact.path.stem)
    free = model.generate(prompt, 300, seed=9)[len(prompt) :]
    for at in (0, 1, 50, 200):
        stop = free[at : at + size]
        if "\ufffd" in stop:
            continue  # in no text, since it replaces invalid UTF-8
        expected = free[: free.index(stop)]
        assert model.generate(prompt, 300, seed=9, stop=stop) == prompt + expected
        assert "".join(model.stream(prompt, 300, seed=9, stop=stop)) == expected


def test_a_stop_text_in_the_prompt_does_not_stop(lstm: CharRNN) -> None:
    free = lstm.generate("LORD ", 40, seed=1)
    assert "LORD" not in free[5:]
    assert lstm.generate("LORD ", 40, seed=1, stop="LORD") == free


def test_a_stop_text_does_not_span_the_prompt_and_the_text(lstm: CharRNN) -> None:
    free = lstm.generate("LORD ", 40, seed=1)
    assert (
        lstm.generate("LORD ", 40, seed=1, stop=free[4:6]) == free[: max(free.find(free[4:6], 5), 0) or None]
    )


def test_a_stopped_stream_continues_after_the_stop_text(lstm: CharRNN) -> None:
    free = lstm.generate("", 100, seed=1)
    stop = free[30:33]
    live = lstm.stream("", 100, seed=1, stop=stop)
    before = "".join(live)
    assert before == free[: free.index(stop)]
    rest = lstm.generate(live.state, 100 - len(before) - 3, seed=1)[0]
    assert before + stop + rest == free


def test_an_empty_stop_text_is_rejected_by_every_method(lstm: CharRNN) -> None:
    for way in _every_way(lstm)[:4]:
        with pytest.raises(SettingError, match="stop must be a non-empty text"):
            way(stop="")


def test_a_stop_text_with_unknown_characters_is_rejected(lstm: CharRNN) -> None:
    with pytest.raises(SettingError, match="stop has characters that this model never writes: 'ß'"):
        lstm.generate("", 10, stop="aß")


def test_a_stop_text_that_is_longer_than_the_text_never_stops(lstm: CharRNN) -> None:
    free = lstm.generate("", 30, seed=1)
    assert lstm.generate("", 30, seed=1, stop=free + "x") == free


# --- unknown characters ------------------------------------------------------------------------------------


def test_unknown_characters_of_a_prompt_are_an_error_or_dropped(lstm: CharRNN) -> None:
    state = lstm.initial_state()
    ways: list[Callable[..., str]] = [
        lambda **o: lstm.generate("aßb", 10, seed=1, **o),
        lambda **o: lstm.generate(["aßb"], 10, seed=1, **o)[0],
        lambda **o: "ab" + "".join(lstm.stream("aßb", 10, seed=1, **o)),
        lambda **o: "ab" + lstm.generate(lstm.prime("aßb", state, **o), 10, seed=1)[0],
    ]
    for way in ways:
        with pytest.raises(UnknownCharacterError, match=r"'ß' \(U\+00DF\) at position 1"):
            way()
        assert way(unknown="skip") == lstm.generate("ab", 10, seed=1)


def test_a_prompt_of_only_unknown_characters_is_empty(lstm: CharRNN) -> None:
    assert lstm.generate("ßßß", 20, seed=1, unknown="skip") == lstm.generate("", 20, seed=1)


def test_no_character_is_unknown_to_a_byte_model(byte_model: CharRNN) -> None:
    text = byte_model.generate("ßカ\U0001f600", 20, seed=1)
    assert text.startswith("ßカ\U0001f600")


# --- bytes -------------------------------------------------------------------------------------------------


NOT_TEXT = b"\xff\xe4\xb8"
"""The last two bytes start a sequence that the model may complete."""


def test_the_bytes_of_a_stream_are_the_sampled_bytes(byte_model: CharRNN) -> None:
    data = b"".join(byte_model.stream_bytes(NOT_TEXT, 300, seed=1, temperature=3))
    tokens, state = [], byte_model.prime(NOT_TEXT)
    for _ in range(300):
        step = byte_model.step(state, seed=1, temperature=3)
        state = step.state
        tokens += step.tokens.tolist()
    assert data == bytes(tokens)
    with pytest.raises(UnicodeDecodeError):
        data.decode()


@pytest.mark.parametrize("stop", [None, "e", "\ufffd"])
def test_every_method_gives_the_same_bytes_and_text(byte_model: CharRNN, stop: str | None) -> None:
    options: dict[str, Any] = {"seed": 1, "temperature": 3, "stop": stop}
    data = b"".join(byte_model.stream_bytes(NOT_TEXT, 200, **options))
    assert "".join(byte_model.stream(NOT_TEXT, 200, **options)) == data.decode(errors="replace")
    whole = (NOT_TEXT + data).decode(errors="replace")
    assert byte_model.generate(NOT_TEXT, 200, **options) == whole
    assert byte_model.generate([NOT_TEXT], 200, **options) == [whole]
    (each,) = byte_model.generate_each([NOT_TEXT], 200, **options)
    assert (each.prompt, each.text) == ("\ufffd\ufffd", data.decode(errors="replace"))
    assert each.data == NOT_TEXT + data
    (state,) = byte_model.generate_each(byte_model.prime(NOT_TEXT), 200, **options)
    assert state.data == data


def test_a_prompt_can_end_within_a_utf_8_sequence_that_the_model_completes(byte_model: CharRNN) -> None:
    # Some seed samples a byte from 0x80 to 0xBF first, which completes the é of the prompt.
    for seed in range(100):
        text = byte_model.generate(b"\xc3", 1, seed=seed, temperature=3)
        if len(text) == 1 and text != "\ufffd":
            return
    raise AssertionError("the model never completed it")


def test_the_bytes_of_characters_are_utf_8(lstm: CharRNN) -> None:
    data = b"".join(lstm.stream_bytes("LORD é ", 60, seed=1, stop="z"))
    assert data.decode() == lstm.generate("LORD é ", 60, seed=1, stop="z").removeprefix("LORD é ")
    (each,) = lstm.generate_each(["aßb"], 10, seed=1, unknown="skip")
    assert each.data.decode() == each.prompt + each.text
    assert each.prompt == "ab"
    for way in (lstm.generate, lstm.stream, lstm.stream_bytes, lstm.prime, lstm.score):
        with pytest.raises(CharRNNError, match="reads characters, not bytes"):
            way(b"LORD")


def test_bytes_are_scored_unchanged(byte_model: CharRNN) -> None:
    score = byte_model.score(NOT_TEXT)
    assert score.characters == 3
    assert byte_model.score([NOT_TEXT, "é".encode()])[1].nats == byte_model.score("é").nats
    pieces = list(byte_model.score_stream([NOT_TEXT[:1], NOT_TEXT[1:]]))
    assert np.concatenate(pieces).tolist() == score.per_character.tolist()


def test_a_byte_string_is_not_treated_as_a_list_of_numbers(byte_model: CharRNN) -> None:
    with pytest.raises(SettingError, match="iterable of texts"):
        next(byte_model.generate_each(b"abc"))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="iterable of texts"):
        byte_model.score_each(b"abc")  # type: ignore[arg-type]


# --- states ------------------------------------------------------------------------------------------------


def test_a_state_belongs_to_its_model(lstm: CharRNN, byte_model: CharRNN) -> None:
    state = byte_model.prime("LORD ")
    for way in (lambda: lstm.step(state), lambda: lstm.generate(state, 5), lambda: lstm.prime("a", state)):
        with pytest.raises(SettingError, match=r"its rows have 24 numbers, but this model's have 48"):
            way()


@pytest.mark.parametrize("token", [65, -2, 2**40])
def test_a_state_with_a_token_out_of_range_is_rejected(lstm: CharRNN, token: int) -> None:
    state = State(np.zeros((1, 48), np.float32), np.array([token]), np.zeros(1, int), np.zeros(1, int))
    for way in (
        lambda: lstm.step(state),
        lambda: lstm.generate(state, 5),
        lambda: lstm.stream("", 5, state=state),
    ):
        with pytest.raises(SettingError, match="tokens that are not in this model's vocabulary"):
            way()


def test_stream_supports_one_stream_only(lstm: CharRNN) -> None:
    with pytest.raises(SettingError, match="it has 2 streams; expected 1"):
        lstm.stream("", 5, state=lstm.initial_state(2))


def test_one_text_primes_all_streams_and_a_list_primes_each(lstm: CharRNN) -> None:
    both = lstm.prime("LORD ", lstm.initial_state(2))
    assert both.numbers.tolist() == [0, 1]
    assert np.array_equal(both.rows[0], both.rows[1])
    each = lstm.prime(["LORD ", "a"])
    assert np.array_equal(each.rows[0], both.rows[0])
    assert np.array_equal(each.rows[1], lstm.prime("a").rows[0])
    with pytest.raises(SettingError, match="streams"):
        lstm.prime(["a", "b", "c"], lstm.initial_state(2))


@pytest.mark.parametrize("way", ["generate_each", "stream", "stream_bytes", "prime"])
def test_a_stream_that_read_and_sampled_nothing_has_not_started(lstm: CharRNN, way: str) -> None:
    if way == "generate_each":
        states = [stream.state for stream in lstm.generate_each(["", ""], 0)]
    elif way == "prime":
        states = [lstm.prime("")]
    else:
        live = getattr(lstm, way)("", 0)
        assert list(live) == []
        states = [live.state]
    for number, state in enumerate(states):
        assert (state.tokens.tolist(), state.positions.tolist()) == ([UNSTARTED], [0])
        assert state.numbers.tolist() == [number]
        assert not state.rows.any()
    # So it has no effect: only the prompt is read.
    assert lstm.generate(states[0], 20, seed=1) == [lstm.generate("", 20, seed=1)]
    again = lstm.stream("LORD ", 20, state=states[0], seed=1)
    assert "LORD " + "".join(again) == lstm.generate("LORD ", 20, seed=1)


def test_priming_with_nothing_changes_nothing(lstm: CharRNN) -> None:
    state = lstm.prime("")
    assert state.tokens.tolist() == [UNSTARTED]
    primed = lstm.prime(["", "a"], lstm.prime(["b", ""]))
    assert primed.tokens.tolist() == lstm.vocabulary.encode("ba").tolist()


@pytest.mark.parametrize("batch", [0, -1, 2**40])
def test_a_state_has_at_least_one_stream(lstm: CharRNN, batch: int) -> None:
    with pytest.raises(SettingError, match="batch must be between 1 and"):
        lstm.initial_state(batch)


# --- threads and interruptions -----------------------------------------------------------------------------


def test_sixteen_threads_can_share_a_model(lstm: CharRNN) -> None:
    def work(number: int) -> tuple[str, list[str], str]:
        return (
            lstm.generate("LORD ", 60, seed=number),
            lstm.generate(["a", "b", "c"][: number % 3 + 1], 40, seed=number, stop="x"),
            "".join(lstm.stream("k", 50, seed=number))
            + lstm.vocabulary.decode(lstm.step(lstm.prime("q"), seed=number).tokens),
        )

    expected = [work(number) for number in range(16)]
    start = threading.Barrier(16)

    def at_once(number: int) -> list[tuple[str, list[str], str]]:
        start.wait()
        return [work(number) for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(at_once, range(16))) == [[each] * 3 for each in expected]


def test_a_generator_closed_midway_leaves_the_model_usable(lstm: CharRNN) -> None:
    expected = lstm.generate(["LORD ", "a"], 100, seed=3)
    for _ in range(5):
        streams = lstm.generate_each(["LORD "] * 100, 50, seed=1, max_batch_size=3)
        next(streams)
        streams.close()  # type: ignore[attr-defined]
        live = lstm.stream("x", 1000, seed=1)
        next(live)
        del live
        assert lstm.generate(["LORD ", "a"], 100, seed=3) == expected


def _free_buffers(model: CharRNN) -> int:
    return sum(len(kept) for kept in model._engine._free.values())


@pytest.mark.parametrize("way", ["stream", "stream_bytes"])
def test_a_live_stream_closed_midway_returns_its_buffers(lstm: CharRNN, way: str) -> None:
    lstm.generate("a", 1)
    free = _free_buffers(lstm)
    for end in ("close", "with", "del"):
        live = getattr(lstm, way)("x", 10_000, seed=1)
        first = next(live)
        assert _free_buffers(lstm) == free - 1
        if end == "close":
            live.close()
            live.close()
            assert list(live) == []
        elif end == "with":
            with contextlib.suppress(_Expected), live as entered:
                assert entered is live
                raise _Expected
            assert list(live) == []
        else:
            del live
        assert _free_buffers(lstm) == free
        assert first


def test_closing_a_live_stream_before_it_starts_is_harmless(lstm: CharRNN) -> None:
    with lstm.stream("x", 10, seed=1) as live:
        pass
    assert list(live) == []
    assert live.generated == 0


class _Expected(Exception):
    pass


@pytest.mark.parametrize("error", [_Expected, KeyboardInterrupt])
def test_an_exception_in_the_prompts_propagates_and_leaves_the_model_unchanged(
    lstm: CharRNN, error: type[BaseException]
) -> None:
    def prompts() -> Iterator[str]:
        yield from ["LORD "] * 7
        raise error

    expected = lstm.generate(["LORD "] * 3, 40, seed=1, max_batch_size=2)
    with pytest.raises(error):
        list(lstm.generate_each(prompts(), 40, seed=1, max_batch_size=2))
    assert lstm.generate(["LORD "] * 3, 40, seed=1, max_batch_size=2) == expected


@pytest.mark.parametrize("error", [_Expected, KeyboardInterrupt])
def test_an_exception_during_a_run_propagates_and_leaves_the_model_unchanged(
    lstm: CharRNN, error: type[BaseException]
) -> None:
    def progress(_: int) -> None:
        raise error

    expected = lstm.generate(["LORD ", "a"], 100, seed=3)
    with pytest.raises(error):
        list(lstm.generate_each(["LORD ", "a"], 100, seed=3, on_progress=progress))
    assert lstm.generate(["LORD ", "a"], 100, seed=3) == expected


def test_prompts_are_drawn_as_rows_become_free(lstm: CharRNN) -> None:
    drawn = 0

    def prompts() -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield "LORD "

    streams = lstm.generate_each(prompts(), 40, seed=1, max_batch_size=4)
    first = [next(streams).text for _ in range(10)]
    assert first == [text[5:] for text in lstm.generate(["LORD "] * 10, 40, seed=1)]
    assert drawn < 30


def test_one_text_is_not_treated_as_a_list_of_characters(lstm: CharRNN) -> None:
    with pytest.raises(SettingError, match="not one text"):
        list(lstm.generate_each("LORD ", 5))
    with pytest.raises(SettingError, match="not one text"):
        list(lstm.score_each("LORD "))


def test_prompt_iterators_and_progress_callbacks_can_use_the_model(lstm: CharRNN) -> None:
    def prompts() -> Iterator[str]:
        for number in range(5):
            yield lstm.generate("", 3, seed=number)

    def progress(_: int) -> None:
        lstm.generate("", 2, seed=9)

    streams = lstm.generate_each(prompts(), 10, seed=1, max_batch_size=2, on_progress=progress)
    assert [stream.prompt + stream.text for stream in streams] == lstm.generate(list(prompts()), 10, seed=1)


def test_progress_counts_every_character_once(lstm: CharRNN) -> None:
    amounts: list[int] = []
    list(
        lstm.generate_each(
            ["a", "the prompt", "", "x" * 90], 77, seed=1, max_batch_size=2, on_progress=amounts.append
        )
    )
    assert sum(amounts) == 4 * 77


# --- the module --------------------------------------------------------------------------------------------


def test_public_names_exist_and_are_sufficient() -> None:
    assert charrnn_runtime.__all__ == sorted(charrnn_runtime.__all__)
    for name in charrnn_runtime.__all__:
        assert getattr(charrnn_runtime, name) is not None
    assert {"CharRNN", "Vocabulary", "State", "CharRNNError", "ModelFormatError", "__version__"} <= set(
        charrnn_runtime.__all__
    )
    for name in charrnn_runtime.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(charrnn_runtime, name), CharRNNError)


@pytest.mark.parametrize("module", ["typer", "rich", "torch", "onnx", "charrnn_trainer", "click"])
def test_importing_imports_neither_commands_nor_trainer(module: str) -> None:
    code = f"import sys, charrnn_runtime; sys.exit({module!r} in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env=command_environment(), check=False).returncode == 0
    )


def test_a_model_describes_itself(lstm: CharRNN) -> None:
    assert "lstm 2x12" in repr(lstm)
    assert lstm.device == "cpu"
    assert lstm.info.vocabulary is lstm.vocabulary


# --- options shared by all methods -------------------------------------------------------------------------


def test_sampling_can_be_one_object_or_its_fields_everywhere(lstm: CharRNN) -> None:
    sampling = Sampling(1.3, top_k=9, top_p=0.8, min_p=0.1)
    fields: dict[str, Any] = {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.1}
    ways: list[Callable[..., object]] = [
        lambda **o: lstm.generate("LORD ", 40, seed=1, **o),
        lambda **o: lstm.generate(["LORD ", "a"], 40, seed=1, **o),
        lambda **o: [each.data for each in lstm.generate_each(["LORD "], 40, seed=1, **o)],
        lambda **o: "".join(lstm.stream("LORD ", 40, seed=1, **o)),
        lambda **o: b"".join(lstm.stream_bytes("LORD ", 40, seed=1, **o)),
        lambda **o: lstm.step(lstm.prime("LORD "), seed=1, **o).tokens.tolist(),
        lambda **o: lstm.request("LORD ", 40, seed=1, **o).sampling,
    ]
    for way in ways:
        assert way(sampling=sampling) == way(**fields)
        with pytest.raises(SettingError, match="give either sampling or top_k, not both"):
            way(sampling=sampling, top_k=3)
        with pytest.raises(TypeError, match="unknown option 'topk'"):
            way(topk=3)


@pytest.mark.parametrize("level", ["char", "byte"])
@pytest.mark.parametrize("echo", [True, False])
def test_echo_includes_the_prompt_in_the_result(
    lstm: CharRNN, byte_model: CharRNN, level: str, echo: bool
) -> None:
    model = lstm if level == "char" else byte_model
    prompt = "LORD é" if level == "byte" else "LORD "
    rest = model.generate(prompt, 60, seed=1).removeprefix(prompt)
    expected = (prompt if echo else "") + rest
    assert model.generate(prompt, 60, seed=1, echo=echo) == expected
    assert model.generate([prompt], 60, seed=1, echo=echo) == [expected]
    assert "".join(model.stream(prompt, 60, seed=1, echo=echo)) == expected
    assert b"".join(model.stream_bytes(prompt, 60, seed=1, echo=echo)).decode(errors="replace") == expected
    # A state has no prompt, but can be combined with one.
    state = model.prime(prompt)
    assert model.generate(state, 60, seed=1, echo=echo) == [rest]
    half = model.prime(prompt[:2])
    text = "".join(model.stream(prompt[2:], 60, state=half, seed=1, echo=echo))
    assert text == (prompt[2:] if echo else "") + rest


def test_an_echoed_prompt_of_bytes_can_end_within_a_utf_8_sequence(
    byte_model: CharRNN,
) -> None:
    for seed in range(20):
        whole = byte_model.generate(NOT_TEXT, 30, seed=seed, temperature=3)
        text = "".join(byte_model.stream(NOT_TEXT, 30, seed=seed, temperature=3, echo=True))
        assert text == whole


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["a", "j", "jg", "gj", "xx", "Z", "\n"]), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_the_first_of_several_stop_texts_ends_a_text(stops: list[str], seed: int) -> None:
    model = _shared()
    free = model.generate("", 120, seed=seed)
    ends = [(free.find(stop) + len(stop), free.find(stop)) for stop in stops if stop in free]
    expected = free[: min(ends)[1]] if ends else free
    assert model.generate("", 120, seed=seed, stop=stops) == expected
    assert model.generate([""] * 2, 120, seed=seed, stop=tuple(stops))[0] == expected
    assert "".join(model.stream("", 120, seed=seed, stop=stops)) == expected


@pytest.mark.parametrize("stop", [["a", ""], [1], [b"a"]])
def test_each_stop_text_must_have_at_least_one_character(lstm: CharRNN, stop: Any) -> None:
    for way in _every_way(lstm)[:4]:
        with pytest.raises(SettingError, match="stop must be a non-empty text"):
            way(stop=stop)


def test_a_drawn_seed_is_reported(lstm: CharRNN) -> None:
    (each,) = lstm.generate_each(["a"], 50)
    assert each.text == lstm.generate("a", 50, seed=each.seed)[1:]
    state = lstm.prime("a")
    step = lstm.step(state)
    assert step.tokens.tolist() == lstm.step(state, seed=step.seed).tokens.tolist()
    assert len({lstm.step(state).seed for _ in range(5)}) == 5


# --- log-probabilities -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 65])
def test_log_probabilities_match_plain_numpy(exact: SmallModel, load: Load, count: int) -> None:
    model = load(exact.path.stem)
    if count > len(model.vocabulary):
        pytest.skip("the vocabulary is smaller")
    (each,) = model.generate_each(["LORD "], 40, seed=1, temperature=2.0, top_k=30, logprobs=count)
    assert each.logprobs is not None
    weights, row = exact.weights(), np.zeros(model.info.state_size)
    tokens = model.vocabulary.encode("LORD ").tolist()
    sampled = list(each.data[5:]) if model.vocabulary.level == "byte" else model.vocabulary.encode(each.text)
    assert len(each.logprobs) == 40
    for token in tokens:
        logits, row = naive_step(exact.cell, exact.layers, weights, token, row)
    for place, token in enumerate(sampled):
        expected = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        assert each.logprobs.chosen[place] == pytest.approx(expected[token], abs=3e-5)
        most_likely = each.logprobs.most_likely[place]
        assert len(set(most_likely.tolist())) == count
        np.testing.assert_allclose(each.logprobs.values[place], expected[most_likely], atol=3e-5)
        np.testing.assert_allclose(expected[most_likely], np.sort(expected)[::-1][:count], atol=3e-5)
        logits, row = naive_step(exact.cell, exact.layers, weights, int(token), row)


def test_log_probabilities_change_no_text_and_do_not_depend_on_other_streams(lstm: CharRNN) -> None:
    prompts = ["LORD ", "", "a", "x" * 70] * 3
    plain = list(lstm.generate_each(prompts, 50, seed=1, stop="j"))
    told = list(lstm.generate_each(prompts, 50, seed=1, stop="j", logprobs=2, max_batch_size=5))
    for index, (one, other) in enumerate(zip(plain, told, strict=True)):
        assert (one.text, one.logprobs) == (other.text, None)
        assert other.logprobs is not None
        # Only those of the text, without the stop text.
        assert len(other.logprobs) == len(other.text)
        state = lstm.initial_state().fork(1, index)
        scheduler = lstm.scheduler()
        scheduler.submit(lstm.request(one.prompt, 50, state=state, seed=1, stop="j", logprobs=2))
        outputs = scheduler.run_block()
        while not outputs:
            outputs = scheduler.run_block()
        assert outputs[0].logprobs is not None
        alone = outputs[0].logprobs[: len(other.text)]
        np.testing.assert_array_equal(other.logprobs.chosen, alone.chosen)
        np.testing.assert_array_equal(other.logprobs.most_likely, alone.most_likely)
        np.testing.assert_array_equal(other.logprobs.values, alone.values)


def test_the_log_probabilities_of_a_text_match_its_score(lstm: CharRNN) -> None:
    (each,) = lstm.generate_each([""], 80, seed=1, logprobs=0)
    assert each.logprobs is not None
    # Without a prompt, a stream reads the start token first, as in scoring.
    np.testing.assert_allclose(-each.logprobs.chosen, lstm.score(each.text).per_character, atol=1e-5)


@pytest.mark.parametrize("count", [-1, 66, 1.5, "2"])
def test_no_more_log_probabilities_than_symbols_can_be_requested(lstm: CharRNN, count: Any) -> None:
    with pytest.raises(SettingError, match="logprobs must be"):
        list(lstm.generate_each(["a"], 5, logprobs=count))
