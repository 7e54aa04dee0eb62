"""Streams as rows of one batch: the output of a stream does not depend on other rows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN, Output, Request, Scheduler, State
from charrnn_runtime.backends.buffers import BLOCK
from charrnn_runtime.backends.session import width
from charrnn_runtime.scheduling.in_order import in_order
from make_models import FOLDER, SmallModel

Load = Callable[[str], CharRNN]

_models: dict[str, CharRNN] = {}


def _model(name: str = "gru-2x12-fp32") -> CharRNN:
    if name not in _models:
        _models[name] = CharRNN.load(FOLDER / f"{name}.onnx", device="cpu")
    return _models[name]


def _alone(model: CharRNN, prompts: list[str], length: int, **options: object) -> list[str]:
    """Each stream run alone, under its own number."""
    texts = []
    for number, prompt in enumerate(prompts):
        state = model.initial_state().fork(1, first_number=number)
        texts.append(prompt + "".join(model.stream(prompt, length, state=state, **options)))  # type: ignore[arg-type]
    return texts


prompts = st.lists(st.text("abc XYZ\n", max_size=90), min_size=1, max_size=40)


@settings(max_examples=40)
@given(
    prompts, st.integers(0, 100), st.integers(1, 45), st.one_of(st.none(), st.sampled_from(["a", "ZZ", " "]))
)
def test_a_stream_does_not_depend_on_concurrent_streams(
    prompts: list[str], length: int, rows: int, stop: str | None
) -> None:
    model = _model()
    together = model.generate(prompts, length, seed=5, max_batch_size=rows, stop=stop)
    assert together == _alone(model, prompts, length, seed=5, stop=stop)


def test_all_models_keep_streams_independent(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    draw = random.Random(1)
    prompts = ["".join(draw.choices("ABCabc xyz", k=draw.randrange(40))) for _ in range(40)]
    expected = _alone(model, prompts, 25, seed=3, temperature=1.2)
    for rows in (1, 3, 17, 33):
        assert model.generate(prompts, 25, seed=3, temperature=1.2, max_batch_size=rows) == expected, rows


def test_states_and_logits_are_bit_identical_with_any_number_of_streams(
    small: SmallModel, load: Load
) -> None:
    model = load(small.path.stem)
    draw = np.random.RandomState(0)
    whole = State(
        draw.uniform(-1, 1, (300, model.info.state_size)).astype(np.float32),
        draw.randint(0, len(model.vocabulary), 300),
        np.arange(300),
        np.zeros(300, np.int64),
    )
    all_at_once = model.step(whole, seed=1)
    for streams in ([0], [299], [5, 200], [1, 2, 3], list(range(17)), list(range(40, 290))):
        some = model.step(whole[streams], seed=1)
        assert np.array_equal(some.state.rows, all_at_once.state.rows[streams])
        assert np.array_equal(some.logits, all_at_once.logits[streams])
        assert np.array_equal(some.tokens, all_at_once.tokens[streams])


def test_lengths_and_stop_texts_end_streams_independently(lstm: CharRNN) -> None:
    prompts = ["", "LORD ", "x" * 150, "a", "bb", "the quick brown fox", "?"] * 9
    free = lstm.generate(prompts, 120, seed=1)
    stopped = lstm.generate(prompts, 120, seed=1, stop="j", max_batch_size=5)
    assert len({len(text) for text in stopped}) > 5
    for prompt, long, short in zip(prompts, free, stopped, strict=True):
        rest = long[len(prompt) :]
        assert short == prompt + (rest[: rest.index("j")] if "j" in rest else rest)


def test_streams_are_returned_in_order_as_soon_as_possible(lstm: CharRNN) -> None:
    # The first is the longest: nothing may come before it, and all others follow immediately.
    prompts = ["x" * 400, *["a"] * 30]
    texts = list(lstm.generate_each(prompts, 10, seed=1, max_batch_size=4))
    assert [stream.index for stream in texts] == list(range(31))
    assert [stream.prompt for stream in texts] == prompts


def test_streams_run_a_bounded_number_ahead_of_the_first(lstm: CharRNN) -> None:
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        yield lstm.request("x" * 20_000, 1, seed=1)  # as long as thousands of others
        for number in range(10_000):
            drawn += 1
            yield lstm.request("a", 1, seed=1, number=number)

    outputs = in_order(lstm.scheduler(max_batch_size=2), requests(), held=1000)
    next(outputs)
    assert drawn <= 1000 // 33 + 2


def test_many_short_requests_all_finish(lstm: CharRNN) -> None:
    texts = lstm.generate(["a"] * 3000, 2, seed=1, max_batch_size=64)
    assert len(texts) == 3000
    assert all(len(text) == 3 for text in texts)
    assert texts[:50] == _alone(lstm, ["a"] * 50, 2, seed=1)


def test_requests_of_length_0_take_no_row_and_end_immediately(lstm: CharRNN) -> None:
    assert lstm.generate([""] * 500, 0, max_batch_size=2) == [""] * 500
    streams = list(lstm.generate_each(["a", "", "bc"], 0))
    assert [stream.prompt for stream in streams] == ["a", "", "bc"]
    assert [stream.text for stream in streams] == [""] * 3
    state = State.concatenate([stream.state for stream in streams])
    assert lstm.generate(state[[0, 2]], 20, seed=1) == [
        text[n:] for text, n in zip(_alone(lstm, ["a", "", "bc"], 20, seed=1)[::2], (1, 2), strict=True)
    ]


def test_no_requests_give_nothing(lstm: CharRNN) -> None:
    assert lstm.scheduler().run_block() == []
    assert list(in_order(lstm.scheduler(), [])) == []
    assert list(lstm.generate_each(iter(()), 5)) == []


def test_requests_of_different_lengths_share_a_batch_that_becomes_narrower(lstm: CharRNN) -> None:
    lengths = [1, 500, 3, BLOCK, BLOCK + 1, 0, 200, 77, 2, 310, 9, 40, 33, 64, 65, 128, 5, 8]
    requests = [lstm.request("LORD ", length, number=number, seed=7) for number, length in enumerate(lengths)]
    outputs = list(in_order(lstm.scheduler(), requests))
    assert [output.request for output in outputs] == requests
    whole = _alone(lstm, ["LORD "] * len(lengths), 500, seed=7)
    for index, (output, length) in enumerate(zip(outputs, lengths, strict=True)):
        assert lstm.vocabulary.decode(output.tokens) == whole[index][5 : 5 + length]
        assert output.finished == "length"
        assert output.state.positions.tolist() == [length]
        assert output.state.numbers.tolist() == [index]
        rest = lstm.generate(output.state, 500 - length, seed=7)[0]
        assert rest == whole[index][5 + length :]


def test_live_requests_yield_chunks_and_others_only_their_result(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 0.02)
    monkeypatch.setattr("charrnn_runtime.scheduling.lane.time.perf_counter", lambda: next(clock))
    live, other = (lstm.request("LORD ", 600, number=n, seed=7, live=not n) for n in (0, 1))
    outputs = _run(lstm.scheduler(), [live, other])
    assert len(outputs[live]) > 2
    assert all(len(output.tokens) for output in outputs[live])
    assert [output.finished for output in outputs[live]] == [None] * (len(outputs[live]) - 1) + ["length"]
    assert len(outputs[other]) == 1
    texts = [_text(lstm, outputs[request]) for request in (live, other)]
    assert texts == [text[5:] for text in _alone(lstm, ["LORD "] * 2, 600, seed=7)]


def _run(scheduler: Scheduler, requests: list[Request]) -> dict[Request, list[Output]]:
    """All outputs of each request."""
    scheduler.submit(*requests)
    outputs: dict[Request, list[Output]] = {request: [] for request in requests}
    while scheduler.busy:
        for output in scheduler.run_block():
            outputs[output.request].append(output)
    return outputs


def _text(model: CharRNN, outputs: list[Output]) -> str:
    return model.vocabulary.decode(np.concatenate([output.tokens for output in outputs]))


@pytest.fixture(scope="module")
def never_stopped(lstm: CharRNN) -> list[tuple[str, str]]:
    """Prompts, and the output of each stream without a stop text."""
    prompts = ["LORD ", "a", ""] * 12
    texts = _alone(lstm, prompts, 400, seed=2)
    return [(prompt, text.removeprefix(prompt)) for prompt, text in zip(prompts, texts, strict=True)]


@pytest.mark.parametrize("stop", ["j", "jg", "!x", "ggggggggggggggggggg"])
def test_a_stop_text_across_blocks_and_narrower_batches_is_detected(
    lstm: CharRNN, never_stopped: list[tuple[str, str]], stop: str
) -> None:
    prompts = [prompt for prompt, _ in never_stopped]
    expected = [prompt + text.partition(stop)[0] for prompt, text in never_stopped]
    for rows in (5, 36) if len(stop) > 1 else (1, 5, 36):
        assert lstm.generate(prompts, 400, seed=2, stop=stop, max_batch_size=rows) == expected
    alone = "".join(lstm.stream("LORD ", 400, seed=2, stop=stop, echo=True))
    assert alone == expected[0]


@pytest.mark.parametrize("place", range(BLOCK - 10, BLOCK + 3))  # blocks begin with the prompt
def test_a_stop_text_across_a_block_boundary_is_detected(
    lstm: CharRNN, never_stopped: list[tuple[str, str]], place: int
) -> None:
    prompt, text = never_stopped[0]
    stop = text[place : place + 3]
    (found,) = lstm.generate_each([prompt], 400, seed=2, stop=stop)
    assert found.text == text.partition(stop)[0]
    assert found.state.positions.tolist() == [text.index(stop) + 3]  # and nothing more is sampled


@given(st.integers(1, 10_000))
def test_a_batch_is_at_most_slightly_wider_than_its_streams(streams: int) -> None:
    wide = width(streams)
    assert streams <= wide <= streams + streams // 8
    assert width(wide) == wide


def test_batches_have_few_widths() -> None:
    assert len({width(streams) for streams in range(1, 257)}) <= 48


def test_random_numbers_are_correct_far_into_a_text(lstm: CharRNN) -> None:
    # Numbers are drawn thousands at a time, which must not affect them.
    whole = lstm.generate("", 9000, seed=4)
    state = lstm.initial_state()
    text = ""
    for length in (4095, 1, 1, 903, 4000):
        live = lstm.stream("", length, state=state, seed=4)
        text += "".join(live)
        state = live.state
    assert text == whole


def test_the_first_chunk_of_a_live_stream_comes_immediately_and_later_ones_at_intervals(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stopped clock, everything after the first chunk comes at the end."""
    monkeypatch.setattr("charrnn_runtime.scheduling.lane.time.perf_counter", lambda: 100.0)
    scheduler = lstm.scheduler()
    for number in (0, 1):
        scheduler.submit(lstm.request("LORD ", 300, seed=1, number=number, live=True))
        outputs = []
        while scheduler.busy:
            outputs += scheduler.run_block()
        assert len(outputs) == 2
        assert [output.finished for output in outputs] == [None, "length"]
        text = "".join(lstm.vocabulary.decode(output.tokens) for output in outputs)
        assert text == list(lstm.generate_each(["LORD "] * 2, 300, seed=1))[number].text
    scheduler.close()
