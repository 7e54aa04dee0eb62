"""Streams as rows of one batch: what a stream gives does not depend on its neighbours."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN, Sampling, State
from charrnn_runtime.batch import _WINDOW, Job, run_jobs
from charrnn_runtime.session import BLOCK, width
from make_models import FOLDER, SmallModel

Load = Callable[[str], CharRNN]

_models: dict[str, CharRNN] = {}


def _model(name: str = "gru-2x12-fp32") -> CharRNN:
    if name not in _models:
        _models[name] = CharRNN.load(FOLDER / f"{name}.onnx", device="cpu")
    return _models[name]


def _alone(model: CharRNN, primes: list[str], length: int, **options: object) -> list[str]:
    """Each stream run by itself, under its own number."""
    texts = []
    for number, prime in enumerate(primes):
        state = model.initial_state().fork(1, first_number=number)
        texts.append(prime + "".join(model.stream(prime, length, state=state, **options)))  # type: ignore[arg-type]
    return texts


primes = st.lists(st.text("abc XYZ\n", max_size=90), min_size=1, max_size=40)


@settings(max_examples=40)
@given(
    primes, st.integers(0, 100), st.integers(1, 45), st.one_of(st.none(), st.sampled_from(["a", "ZZ", " "]))
)
def test_a_stream_gives_the_same_whatever_runs_beside_it(
    primes: list[str], length: int, rows: int, stop: str | None
) -> None:
    model = _model()
    together = model.generate(primes, length, seed=5, rows=rows, stop=stop)
    assert together == _alone(model, primes, length, seed=5, stop=stop)


def test_all_models_keep_streams_apart(small: SmallModel, load: Load) -> None:
    model = load(small.path.stem)
    draw = random.Random(1)
    primes = ["".join(draw.choices("ABCabc xyz", k=draw.randrange(70))) for _ in range(70)]
    expected = _alone(model, primes, 60, seed=3, temperature=1.2)
    for rows in (1, 3, 17, 33, 70):
        assert model.generate(primes, 60, seed=3, temperature=1.2, rows=rows) == expected, rows


def test_states_and_logits_are_equal_to_the_bit_however_many_streams_run(
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


def test_lengths_and_stops_end_streams_apart(lstm: CharRNN) -> None:
    primes = ["", "LORD ", "x" * 150, "a", "bb", "the quick brown fox", "?"] * 9
    free = lstm.generate(primes, 120, seed=1)
    stopped = lstm.generate(primes, 120, seed=1, stop="j", rows=5)
    assert len({len(text) for text in stopped}) > 5
    for prime, long, short in zip(primes, free, stopped, strict=True):
        rest = long[len(prime) :]
        assert short == prime + (rest[: rest.index("j")] if "j" in rest else rest)


def test_streams_come_out_in_order_each_as_soon_as_it_can(lstm: CharRNN) -> None:
    # The first is the longest: nothing may come before it, all others right after it.
    primes = ["x" * 400, *["a"] * 30]
    texts = list(lstm.generate_each(primes, 10, seed=1, rows=4))
    assert [stream.index for stream in texts] == list(range(31))
    assert [stream.prime for stream in texts] == primes


def test_streams_run_no_further_ahead_of_the_first_than_the_window(lstm: CharRNN) -> None:
    drawn = 0

    def primes() -> Iterator[str]:
        nonlocal drawn
        yield "x" * 20_000  # as long as thousands of the others
        for _ in range(10_000):
            drawn += 1
            yield "a"

    streams = lstm.generate_each(primes(), 1, seed=1, rows=2)
    next(streams)
    assert drawn <= 2 * _WINDOW + 1


def test_many_short_jobs_all_come_out(lstm: CharRNN) -> None:
    texts = lstm.generate(["a"] * 3000, 2, seed=1, rows=64)
    assert len(texts) == 3000
    assert all(len(text) == 3 for text in texts)
    assert texts[:50] == _alone(lstm, ["a"] * 50, 2, seed=1)


def test_jobs_of_length_0_take_no_row_and_end_at_once(lstm: CharRNN) -> None:
    assert lstm.generate([""] * 500, 0, rows=2) == [""] * 500
    streams = list(lstm.generate_each(["a", "", "bc"], 0))
    assert [stream.prime for stream in streams] == ["a", "", "bc"]
    assert [stream.text for stream in streams] == [""] * 3
    state = State.concatenate([stream.state for stream in streams])
    assert lstm.generate(state[[0, 2]], 20, seed=1) == [
        text[n:] for text, n in zip(_alone(lstm, ["a", "", "bc"], 20, seed=1)[::2], (1, 2), strict=True)
    ]


def test_no_jobs_give_nothing(lstm: CharRNN) -> None:
    assert list(run_jobs(lstm._engine, [], Sampling(), 0)) == []
    assert list(lstm.generate_each(iter(()), 5)) == []


def _job(model: CharRNN, prime: str, length: int, number: int, *, live: bool = False) -> Job:
    return Job(model.initial_state().fork(1, number), model.vocabulary.encode(prime), length, live)


def test_jobs_of_different_lengths_share_a_batch_that_becomes_narrower(lstm: CharRNN) -> None:
    lengths = [1, 500, 3, BLOCK, BLOCK + 1, 0, 200, 77, 2, 310, 9, 40, 33, 64, 65, 128, 5, 8]
    jobs = [_job(lstm, "LORD ", length, number) for number, length in enumerate(lengths)]
    sampled: dict[int, list[int]] = {i: [] for i in range(len(jobs))}
    ends = {}
    for piece in run_jobs(lstm._engine, jobs, Sampling(0.8), 7):
        assert piece.index not in ends
        sampled[piece.index] += piece.tokens.tolist()
        if piece.state is not None:
            ends[piece.index] = piece.state
    whole = _alone(lstm, ["LORD "] * len(jobs), 500, seed=7)
    for index, length in enumerate(lengths):
        assert lstm.vocabulary.decode(sampled[index]) == whole[index][5 : 5 + length]
        state = ends[index]
        assert state.positions.tolist() == [length]
        assert state.numbers.tolist() == [index]
        rest = lstm.generate(state, 500 - length, seed=7)[0]
        assert rest == whole[index][5 + length :]


def test_live_jobs_give_pieces_as_they_go_and_others_only_at_their_end(lstm: CharRNN) -> None:
    jobs = [_job(lstm, "LORD ", 600, 0, live=True), _job(lstm, "LORD ", 600, 1)]
    pieces = list(run_jobs(lstm._engine, jobs, Sampling(0.8), 7))
    live = [piece for piece in pieces if piece.index == 0]
    assert len(live) > 2
    assert all(len(piece.tokens) for piece in live)
    assert [piece.state is None for piece in live] == [True] * (len(live) - 1) + [False]
    assert len([piece for piece in pieces if piece.index == 1]) == 1
    texts = [
        lstm.vocabulary.decode(np.concatenate([p.tokens for p in pieces if p.index == index]))
        for index in (0, 1)
    ]
    assert texts == [text[5:] for text in _alone(lstm, ["LORD "] * 2, 600, seed=7)]


@pytest.mark.parametrize("stop", ["j", "jg", "!x", "ggggggggggggggggggg"])
def test_a_stop_text_across_blocks_and_narrower_batches_is_seen(lstm: CharRNN, stop: str) -> None:
    primes = ["LORD ", "a", ""] * 12
    expected = _alone(lstm, primes, 400, seed=2, stop=stop)
    for rows in (1, 5, 36):
        assert lstm.generate(primes, 400, seed=2, stop=stop, rows=rows) == expected


@given(st.integers(1, 10_000))
def test_a_batch_is_as_wide_as_its_streams_or_little_wider(streams: int) -> None:
    wide = width(streams)
    assert streams <= wide <= streams + streams // 8
    assert width(wide) == wide


def test_batches_have_few_widths() -> None:
    assert len({width(streams) for streams in range(1, 257)}) <= 48


def test_random_numbers_are_drawn_right_far_into_a_text(lstm: CharRNN) -> None:
    # Numbers are drawn thousands at a time; the seams must not show.
    whole = lstm.generate("", 9000, seed=4)
    state = lstm.initial_state()
    text = ""
    for length in (4095, 1, 1, 903, 4000):
        live = lstm.stream("", length, state=state, seed=4)
        text += "".join(live)
        state = live.state
    assert text == whole
