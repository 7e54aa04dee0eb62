"""Requests that arrive, stop and are cancelled at random: each gives the same text as its stream alone."""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime import (
    CharRNN,
    CharRNNError,
    OutOfMemoryError,
    Output,
    QueueFullError,
    Request,
    Sampling,
    Scheduler,
    SettingError,
    State,
)
from charrnn_runtime.backends.buffers import BLOCK, Buffers
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.scheduling import scheduler as scheduler_module
from make_models import FOLDER

Load = Callable[[str], CharRNN]

_models: dict[tuple[str, int], CharRNN] = {}


def _model(name: str, threads: int) -> CharRNN:
    key = name, threads
    if key not in _models:
        _models[key] = CharRNN.load(FOLDER / f"{name}.onnx", device="cpu", threads=threads)
    return _models[key]


class Plan(NamedTuple):
    """A request and its events."""

    arrives: int  # the block before which it arrives
    prompt: str
    length: int
    number: int
    options: dict[str, Any]
    cancelled: int | None  # the block before which it is cancelled
    from_state: bool


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([None, 1, 5]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.0, 0.2]),
)
stops = st.lists(st.sampled_from(["a", "e", "ZZ", " the", "x"]), max_size=2, unique=True)
options = st.fixed_dictionaries(
    {
        "sampling": samplings,
        "seed": st.integers(0, 3),
        "stop": stops,
        "live": st.booleans(),
        "logprobs": st.sampled_from([None, None, None, 0, 3]),
    }
)
plans = st.builds(
    Plan,
    arrives=st.integers(0, 8),
    prompt=st.text("abc XYZ\n", max_size=50),
    length=st.integers(0, 90),
    number=st.integers(0, 5),
    options=options,
    cancelled=st.one_of(st.none(), st.none(), st.integers(0, 10)),
    from_state=st.booleans(),
)


@cache
def _primed(model: CharRNN) -> State:
    return model.prime("LORD ")


def _request(model: CharRNN, plan: Plan) -> Request:
    state = _primed(model).fork(1, plan.number) if plan.from_state else None
    return model.request(plan.prompt, plan.length, state=state, number=plan.number, **plan.options)


def _alone(model: CharRNN, plan: Plan) -> list[Output]:
    """The output of the stream in its own scheduler."""
    scheduler = model.scheduler(max_batch_size=1)
    scheduler.submit(_request(model, plan))
    outputs = []
    while scheduler.busy:
        outputs += scheduler.run_block()
    scheduler.close()
    return outputs


def _tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens.tolist()]


batches = given(st.lists(plans, min_size=1, max_size=14), st.integers(1, 9))


@pytest.mark.parametrize(("name", "threads"), [("gru-2x12-fp32", 1), ("lstm-2x12-int8", 3)])
@settings(max_examples=40)
@batches
def test_each_request_gives_the_same_text_as_its_stream_alone(
    name: str, threads: int, plans: list[Plan], max_batch_size: int
) -> None:
    _check_requests(name, threads, plans, max_batch_size)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["gru-2x12-fp32", "lstm-2x12-int8"])
@pytest.mark.parametrize("threads", [1, 3])
@settings(max_examples=300)
@batches
def test_each_of_many_requests_gives_the_same_text_as_its_stream_alone(
    name: str, threads: int, plans: list[Plan], max_batch_size: int
) -> None:
    _check_requests(name, threads, plans, max_batch_size)


def _check_requests(name: str, threads: int, plans: list[Plan], max_batch_size: int) -> None:
    model = _model(name, threads)
    scheduler = model.scheduler(max_batch_size=max_batch_size)
    requests = [_request(model, plan) for plan in plans]
    found: dict[Request, list[Output]] = {request: [] for request in requests}
    stopped = set()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(scheduler_module, "WORTH_A_LANE", 2)
        block = 0
        while block <= 10 or scheduler.busy:
            for request, plan in zip(requests, plans, strict=True):
                if plan.arrives == block:
                    scheduler.submit(request)
                if plan.cancelled == block:
                    scheduler.cancel(request)
                    if plan.arrives <= block:
                        stopped.add(request)
            for output in scheduler.run_block():
                assert output.request not in stopped
                found[output.request].append(output)
            block += 1
    scheduler.close()
    for request, plan in zip(requests, plans, strict=True):
        alone, outputs = _alone(model, plan), found[request]
        tokens, expected = _tokens(outputs), _tokens(alone)
        if request in stopped:
            assert tokens == expected[: len(tokens)]
        if request in stopped and not (outputs and outputs[-1].finished):
            continue
        assert tokens == expected
        assert [output.finished is None for output in outputs] == [True] * (len(outputs) - 1) + [False]
        assert outputs[-1].finished == alone[-1].finished
        for field in ("rows", "tokens", "numbers", "positions"):
            np.testing.assert_array_equal(
                getattr(outputs[-1].state, field), getattr(alone[-1].state, field), strict=True
            )
        if request.logprobs is not None:
            chosen = [each for output in outputs if output.logprobs for each in output.logprobs.chosen]
            assert chosen == [each for output in alone if output.logprobs for each in output.logprobs.chosen]
            assert len(chosen) == len(tokens)


# --- samplers ----------------------------------------------------------------------------------------------

PLAIN, SOME, GREEDY, CUT = (Sampling(), Sampling(min_p=0.05), Sampling(top_k=1), Sampling(top_k=5, top_p=0.9))


def _samplers(monkeypatch: pytest.MonkeyPatch, model: CharRNN) -> list[tuple[int, Cuts | None]]:
    """Records the requested sessions, by rows and sampler."""
    asked: list[tuple[int, Cuts | None]] = []
    buffers = type(model._engine).buffers

    def noted(self: Any, rows: int, **sizes: Any) -> Any:
        asked.append((rows, sizes["sampler"]))
        return buffers(self, rows, **sizes)

    monkeypatch.setattr(type(model._engine), "buffers", noted)
    return asked


@pytest.mark.parametrize(
    ("samplings", "expected"),
    [
        ([PLAIN, PLAIN], "none"),
        ([PLAIN, SOME], "min_p"),
        ([GREEDY, Sampling(2.0, 1)], "greedy"),
        ([PLAIN, GREEDY], "any"),
        ([CUT], "any"),
        ([CUT, PLAIN], "any"),
    ],
)
def test_the_first_batch_makes_one_session_with_the_least_work(
    samplings: list[Sampling], expected: Cuts
) -> None:
    model = CharRNN.load(FOLDER / "lstm-2x12-int8.onnx", device="cpu", threads=1)
    scheduler = model.scheduler()
    scheduler.submit(*(model.request("ab", 50, sampling=sampling) for sampling in samplings))
    scheduler.submit(model.request("only read, so that how it would sample is all the same", 0, sampling=CUT))
    while scheduler.busy:
        scheduler.run_block()
    assert list(model._engine._sessions) == [(len(samplings) + 1, expected)]


def test_the_sampler_follows_streams_that_join_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("lstm-2x12-int8", 1)
    expected = {
        number: model.generate([""] * 4, length, seed=1, sampling=sampling)[number]
        for number, length, sampling in ((0, 5000, PLAIN), (1, 70, CUT), (2, 50, SOME), (3, 20, GREEDY))
    }
    asked = _samplers(monkeypatch, model)
    scheduler = model.scheduler(max_batch_size=2)
    found = {}

    def run(number: int, length: int, sampling: Sampling) -> None:
        scheduler.submit(model.request("", length, seed=1, number=number, sampling=sampling))
        for _ in range(4):
            for output in scheduler.run_block():
                found[output.request.number] = model.vocabulary.decode(output.tokens)

    run(0, 5000, PLAIN)
    run(1, 70, CUT)
    run(2, 50, SOME)
    run(3, 20, GREEDY)
    while scheduler.busy:
        for output in scheduler.run_block():
            found[output.request.number] = model.vocabulary.decode(output.tokens)
    assert found == expected
    samplers = [sampler for _, sampler in asked]
    assert samplers == ["none", "any", "none", "min_p", "none", "any", "none"]


def test_a_stream_about_to_end_does_not_change_its_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("lstm-2x12-int8", 1)
    asked = _samplers(monkeypatch, model)
    model.generate([""] * 2, 5, sampling=CUT)
    scheduler = model.scheduler(max_batch_size=2)
    scheduler.submit(model.request("", 40, sampling=PLAIN), model.request("", 3, sampling=CUT))
    while scheduler.busy:
        scheduler.run_block()
    assert asked == [(2, "any"), (2, "any")]


def test_log_probabilities_do_not_depend_on_the_sampler() -> None:
    model = _model("gru-2x12-fp32", 1)
    alone = next(iter(model.generate_each(["LORD "], 60, seed=1, logprobs=3)))
    scheduler = model.scheduler()
    request = model.request("LORD ", 60, seed=1, logprobs=3)
    scheduler.submit(request, model.request("", 20, sampling=CUT), model.request("", 90, sampling=GREEDY))
    found = [output for _ in range(9) for output in scheduler.run_block() if output.request is request]
    assert [each.tokens.tolist() for each in found] == [model.vocabulary.encode(alone.text).tolist()]
    assert found[0].logprobs is not None
    assert alone.logprobs is not None
    np.testing.assert_array_equal(found[0].logprobs.values, alone.logprobs.values)


# --- the queue ---------------------------------------------------------------------------------------------


def test_requests_start_in_order_of_submission(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=2)
    requests = [lstm.request("", 5 + 7 * (number % 5), number=number, live=True) for number in range(12)]
    scheduler.submit(*requests)
    begun: list[Request] = []
    while scheduler.busy:
        for output in scheduler.run_block():
            if output.request not in begun:
                begun.append(output.request)
    places = [requests.index(request) for request in begun]
    # Two run at once, so adjacent ones may come in either order.
    assert all(abs(place - index) <= 1 for index, place in enumerate(places))


def test_no_request_waits_forever_though_others_keep_coming(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=4)
    early = lstm.request("", 40, number=0)
    scheduler.submit(*(lstm.request("", 3, number=n) for n in range(10)), early)
    for block in range(200):
        scheduler.submit(lstm.request("", 3, number=block), lstm.request("", 3, number=block + 1))
        if any(output.request is early for output in scheduler.run_block()):
            break
    else:
        raise AssertionError("it never ended")
    scheduler.close()
    assert not scheduler.busy


def test_a_full_queue_is_an_error(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=1, max_waiting=3)
    scheduler.submit(*(lstm.request("", 5, number=n) for n in range(3)))
    with pytest.raises(QueueFullError, match=r"the queue is full: 3 of at most 3 requests are queued"):
        scheduler.submit(lstm.request("", 5))
    scheduler.run_block()
    with pytest.raises(QueueFullError, match=r"the queue is full: 2 of at most 3"):
        scheduler.submit(lstm.request("", 5), lstm.request("", 5))  # both or none
    ended = 0
    while scheduler.busy:
        ended += sum(output.finished is not None for output in scheduler.run_block())
    assert ended <= 3


def test_on_start_is_called_when_a_request_gets_its_row(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=1)
    started: list[Request] = []
    scheduler.on_start = started.append
    one, two, nothing = lstm.request("", 40), lstm.request("", 2), lstm.request("", 0)
    scheduler.submit(one, two, nothing)
    assert (scheduler.running, scheduler.waiting, started) == (0, 3, [])
    scheduler.run_block()
    assert started == [one]
    while scheduler.busy:
        scheduler.run_block()
    assert started == [one, two, nothing]
    assert (scheduler.running, scheduler.waiting) == (0, 0)


def test_room_is_the_number_of_requests_that_can_join_at_once(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=3)
    assert scheduler.room == 3
    scheduler.submit(lstm.request("", 40), lstm.request("", 2))
    assert scheduler.room == 1
    scheduler.run_block()
    assert scheduler.room == 2
    scheduler.close()
    assert scheduler.room == 3


@pytest.mark.parametrize("size", [0, -1, 1.5, 2**40, "3"])
def test_a_scheduler_checks_its_batch_size(lstm: CharRNN, size: Any) -> None:
    with pytest.raises(SettingError, match="max_batch_size must be"):
        lstm.scheduler(max_batch_size=size)


# --- cancelling --------------------------------------------------------------------------------------------


def test_a_cancelled_request_frees_its_row_within_one_block(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=1)
    endless, following = lstm.request("", 10**9, live=True), lstm.request("", 1)
    scheduler.submit(endless, following)
    assert [output.request for output in scheduler.run_block()] == [endless]
    scheduler.cancel(endless)
    assert [output.request for output in scheduler.run_block()] == [following]
    assert not scheduler.busy


def test_cancelling_queued_finished_or_unknown_requests_is_harmless(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=1)
    first, waiting, stranger = (lstm.request("", 2, number=n) for n in range(3))
    scheduler.submit(first, waiting)
    scheduler.cancel(waiting)
    scheduler.cancel(stranger)
    assert [output.request for output in scheduler.run_block()] == [first]
    scheduler.cancel(first)
    assert not scheduler.busy
    assert scheduler.run_block() == []


# --- threads -----------------------------------------------------------------------------------------------


def _during_a_block(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Let another thread finish some work while the next block runs."""
    run = Buffers.run
    done: list[threading.Thread] = []

    def slow(self: Buffers, *arguments: Any) -> int:
        if not done:
            done.append(threading.Thread(target=work))
            done[0].start()
            done[0].join(10)
            assert not done[0].is_alive()  # it did not wait for the block
        return run(self, *arguments)

    monkeypatch.setattr(Buffers, "run", slow)


def test_a_request_can_be_submitted_while_a_block_runs(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = lstm.scheduler()
    first, second = lstm.request("a", 50, number=0, seed=1), lstm.request("bc", 60, number=1, seed=1)
    scheduler.submit(first)
    _during_a_block(monkeypatch, lambda: scheduler.submit(second))
    found = {}
    while scheduler.busy:
        for output in scheduler.run_block():
            found[output.request] = lstm.vocabulary.decode(output.tokens)
    assert found[first] == lstm.generate("a", 50, seed=1)[1:]
    assert found[second] == lstm.generate(["", "bc"], 60, seed=1)[1][2:]


def test_a_request_can_be_cancelled_while_its_block_runs(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = lstm.scheduler()
    gone, other = lstm.request("a", 10, number=0, live=True), lstm.request("bc", 60, number=1)
    scheduler.submit(gone, other)
    _during_a_block(monkeypatch, lambda: scheduler.cancel(gone))
    outputs = []
    while scheduler.busy:
        outputs += scheduler.run_block()
    assert [output.request for output in outputs] == [other]


def test_sixteen_threads_can_submit_and_cancel_while_another_runs(lstm: CharRNN) -> None:
    scheduler = lstm.scheduler(max_batch_size=8)
    expected = [lstm.generate([""] * 4, 30, seed=number)[number % 4] for number in range(16)]
    wanted: list[list[Request]] = [[] for _ in range(16)]

    def work(number: int) -> None:
        for _ in range(20):
            gone = lstm.request("", 1000, number=number)
            request = lstm.request("", 30, seed=number, number=number % 4)
            scheduler.submit(gone, request)
            wanted[number].append(request)
            scheduler.cancel(gone)

    found: dict[Request, str] = {}
    with ThreadPoolExecutor(16) as pool:
        working = [pool.submit(work, number) for number in range(16)]
        while scheduler.busy or not all(each.done() for each in working):
            for output in scheduler.run_block():
                if output.request.max_length == 30:
                    found[output.request] = lstm.vocabulary.decode(output.tokens)
    for each in working:
        each.result()
    assert len(found) == 16 * 20
    for number, requests in enumerate(wanted):
        assert {found[request] for request in requests} == {expected[number]}


def _threads_that_run(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    names: set[str] = set()
    run = Buffers.run

    def noted(self: Buffers, *arguments: Any) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.001)  # so that one thread cannot do all the work
        return run(self, *arguments)

    monkeypatch.setattr(Buffers, "run", noted)
    return names


@pytest.mark.parametrize("streams", [1, 64])
def test_many_streams_use_several_threads_and_a_single_one_uses_one(
    monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    one, several = _model("lstm-2x12-int8", 1), _model("lstm-2x12-int8", 3)
    prompts = ["LORD " * (number % 5) for number in range(streams)]
    expected = one.generate(prompts, 70, seed=1)
    scores = [score.nats for score in one.score(prompts)]
    names = _threads_that_run(monkeypatch)
    assert several.generate(prompts, 70, seed=1) == expected
    assert [score.nats for score in several.score(prompts)] == scores
    if streams == 1:
        assert names == {threading.current_thread().name}
    else:
        assert len(names - {threading.current_thread().name}) == 3


def test_all_cores_of_the_process_are_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 4}, raising=False)
    assert CharRNN.load(FOLDER / "lstm-2x12-int8.onnx", device="cpu")._engine.threads == 3


def test_streams_are_divided_evenly_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("lstm-2x12-int8", 3)
    asked = []
    buffers = type(model._engine).buffers

    def noted(self: Any, rows: int, **sizes: Any) -> Any:
        asked.append(rows)
        return buffers(self, rows, **sizes)

    monkeypatch.setattr(type(model._engine), "buffers", noted)
    model.generate([""] * 60, 5, seed=1)
    assert asked == [20, 20, 20]


def test_an_error_in_a_thread_propagates_and_the_model_remains_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model("lstm-2x12-int8", 3)
    expected = model.generate([""] * 60, 40, seed=1)

    def fail(*_: Any) -> int:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(Buffers, "run", fail)
        with pytest.raises(OutOfMemoryError, match="lower max_batch_size"):
            model.generate([""] * 60, 40, seed=1)
    assert model.generate([""] * 60, 40, seed=1) == expected


# --- requests ----------------------------------------------------------------------------------------------


def test_a_request_has_something_to_read_and_a_length(lstm: CharRNN) -> None:
    with pytest.raises(SettingError, match="prompt must not be empty"):
        Request(np.empty(0, np.int64), 5)
    for length in (-1, 1.5, "3"):
        with pytest.raises(SettingError, match="length must be"):
            Request(np.zeros(1, np.int64), length)  # type: ignore[arg-type]
    with pytest.raises(CharRNNError, match="seed must be"):
        Request(np.zeros(1, np.int64), 5, seed=-1)


def test_a_scheduler_closed_midway_returns_its_buffers(lstm: CharRNN) -> None:
    def kept() -> int:
        return sum(len(free) for free in lstm._engine._free.values())

    lstm.generate([""] * 2, 5)
    before = kept()
    scheduler = lstm.scheduler(max_batch_size=2)
    scheduler.submit(lstm.request("", 500), lstm.request("", 500))
    scheduler.run_block()
    assert kept() == before - 1
    scheduler.close()
    assert kept() == before
    assert scheduler.run_block() == []
    scheduler.submit(lstm.request("", 3))  # and it can be used again
    assert len(scheduler.run_block()) == 1
    scheduler.close()


def test_a_long_stream_among_short_ones_completes(lstm: CharRNN) -> None:
    # Longer than the shared arrays, so that it is copied out repeatedly.
    scheduler = lstm.scheduler(max_batch_size=3)
    long = lstm.request("", 3000, seed=1)
    scheduler.submit(long)
    number, text = 1, ""
    while not text:
        while scheduler.room:
            scheduler.submit(lstm.request("ab", 40 + number % 60, number=number))
            number += 1
        for output in scheduler.run_block():
            if output.request is long:
                text = lstm.vocabulary.decode(output.tokens)
    scheduler.close()
    assert text == lstm.generate("", 3000, seed=1)


def test_memory_stays_flat_over_many_short_requests(lstm: CharRNN) -> None:
    scheduler: Scheduler = lstm.scheduler(max_batch_size=16)

    def run(count: int) -> int:
        submitted = 0
        while submitted < count or scheduler.busy:
            while submitted < count and scheduler.room > 0:
                live, logprobs = submitted % 3 == 0, 2 if submitted % 7 == 0 else None
                scheduler.submit(
                    lstm.request("ab"[: submitted % 3], submitted % 4, live=live, logprobs=logprobs)
                )
                submitted += 1
            scheduler.run_block()
        gc.collect()  # cycles count until they are collected
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = run(300)
        after = run(1400)
    finally:
        tracemalloc.stop()
        scheduler.close()
    assert after - before < 70_000  # 50 bytes per request


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked for as Unix systems tell it")
def test_the_scheduler_s_own_time_can_be_measured() -> None:
    from benchmarks.scheduler import MODEL, NoEngine, measure, short_requests

    engine: Any = NoEngine(read_model_file(MODEL).info)
    everything, block = measure(engine, 100, 2 * BLOCK)
    assert everything > block > 0
    before, after, seconds = short_requests(engine, 500)
    assert after >= before > 0
    assert seconds > 0


def test_final_states_continue_in_other_requests(lstm: CharRNN) -> None:
    whole = lstm.generate("LORD ", 3 * BLOCK, seed=2)
    scheduler = lstm.scheduler()
    state: State | None = None
    text = "LORD "
    for prompt in ("LORD ", "", ""):
        scheduler.submit(lstm.request(prompt, BLOCK, state=state, seed=2))
        (output,) = scheduler.run_block() or scheduler.run_block() or scheduler.run_block()
        text += lstm.vocabulary.decode(output.tokens)
        state = output.state
    assert text == whole
