"""The buffers for GPUs in CPU memory, where everything except the kernels is the same."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from charrnn_runtime import CharRNN
from charrnn_runtime.backends import cuda_buffers, session
from charrnn_runtime.backends.buffers import BLOCK, Sizes
from charrnn_runtime.backends.cuda_buffers import CudaBuffers, GraphBuffers
from charrnn_runtime.backends.cuda_turns import in_graph_thread, turns
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format.reader import read_model_file
from make_models import SmallModel


class OnCpu(CudaBuffers):
    """The GPU's buffers, with onnxruntime values on the CPU."""

    device = "cpu"


class GraphsOnCpu(GraphBuffers):
    """Buffers with steps that would be captured."""

    device = "cpu"


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[SmallModel], CharRNN]:
    """Loads a model with GPU buffers."""
    monkeypatch.setattr(session, "CudaBuffers", OnCpu)
    monkeypatch.setattr(session, "GraphBuffers", GraphsOnCpu)

    def load(small: SmallModel) -> CharRNN:
        engine = _engine_of_gpu(small, monkeypatch)
        return CharRNN(engine.info, engine)

    return load


def _engine_of_gpu(small: SmallModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with the graphs for a GPU, which run on the CPU."""
    engine = Engine(read_model_file(small.path), "cpu")
    monkeypatch.setattr(engine, "device", "cuda")
    monkeypatch.setattr(
        engine, "_create_session", lambda _, graph: Engine._create_session(engine, "cpu", graph)
    )
    return engine


def test_gpu_buffers_give_the_same_results_as_cpu_buffers(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    prompts = ["LORD ", "", "A" * (BLOCK + 5), "To be"] * 3
    texts = [
        model.generate(prompts, 2 * BLOCK + 3, max_batch_size=5, seed=4, top_k=20, top_p=0.9)
        for model in (CharRNN.load(small.path, device="cpu"), on_device(small))
    ]
    assert texts[0] == texts[1]


def test_a_block_copies_states_once_however_many_streams_end_and_join(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    for name in ("read_state", "write_state"):
        real = getattr(CudaBuffers, name)

        def counted(self: CudaBuffers, *values: object, _real: object = real, _name: str = name) -> object:
            copies.append(_name)
            return _real(self, *values)  # type: ignore[operator]

        monkeypatch.setattr(OnCpu, name, counted)
    model = on_device(small)
    model.generate(["A"] * 64, 2 * BLOCK, max_batch_size=16, seed=1)
    # Four rounds of sixteen streams each.
    assert copies.count("read_state") == 4
    assert copies.count("write_state") == 4
    copies.clear()
    model.score(["LORD"] * 128)
    assert len(copies) <= 2 + 1 + 1


def test_settings_go_to_the_device_when_they_change(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[float]] = []
    update = ort.OrtValue.update_inplace

    def noted(self: ort.OrtValue, array: Any) -> None:
        if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 1:
            sent.append(array.tolist())
        update(self, array)

    monkeypatch.setattr(ort.OrtValue, "update_inplace", noted)
    model = on_device(exact)
    for temperature in (0.5, 0.5, 0.75):
        model.generate(["A"] * 4, 4 * BLOCK, seed=1, temperature=temperature, top_p=0.9)
    expected = [[value] * 4 for value in (0.0, 0.5, 0.75, float(np.float32(0.9)))]  # each once
    assert sorted(sent) == expected


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], Any]]:
    """The copies to and from the device: the direction, shape and type of each."""
    copies: list[tuple[str, tuple[int, ...], Any]] = []
    update, numpy = ort.OrtValue.update_inplace, ort.OrtValue.numpy

    def updated(self: ort.OrtValue, source: Any) -> None:
        update(self, source)
        to_device = isinstance(source, np.ndarray)
        array = source if to_device else numpy(source)
        copies.append(("to" if to_device else "from", array.shape, array.dtype))

    def fetched(self: ort.OrtValue) -> NDArray[Any]:
        array: NDArray[Any] = numpy(self)
        copies.append(("from", array.shape, array.dtype))
        return array

    monkeypatch.setattr(ort.OrtValue, "update_inplace", updated)
    monkeypatch.setattr(ort.OrtValue, "numpy", fetched)
    return copies


def test_the_tokens_of_a_block_are_fetched_in_one_copy(
    exact: SmallModel,
    on_device: Callable[[SmallModel], CharRNN],
    copied: list[tuple[str, tuple[int, ...], Any]],
) -> None:
    on_device(exact).generate(["A"] * 3, 5 * BLOCK, seed=1)
    tokens = [(way, shape[0]) for way, shape, kind in copied if kind == np.int64 and len(shape) == 2]
    assert tokens.count(("from", BLOCK)) == 5
    assert len(tokens) == 5 + 5  # the first tokens of each block are sent to the device


def test_given_tokens_are_sent_in_one_copy_and_their_logits_fetched_in_one(
    exact: SmallModel,
    on_device: Callable[[SmallModel], CharRNN],
    copied: list[tuple[str, tuple[int, ...], Any]],
) -> None:
    model = on_device(exact)
    copied.clear()
    model.score("A" * 3 * BLOCK)
    blocks = [(way, kind, shape[0]) for way, shape, kind in copied if len(shape) == 2 and shape[0] > 1]
    assert blocks.count(("to", np.dtype(np.int64), BLOCK)) == 3
    assert blocks.count(("from", np.dtype(np.float32), BLOCK)) == 3
    assert len(copied) < 20


def test_only_states_of_joining_and_leaving_streams_are_copied(
    exact: SmallModel,
    monkeypatch: pytest.MonkeyPatch,
    copied: list[tuple[str, tuple[int, ...], Any]],
) -> None:
    engine = _engine_of_gpu(exact, monkeypatch)
    made = OnCpu(engine._session(64, "any"), _sizes(engine, rows=64))
    made._far = 3  # so that few rows are enough for this test
    size = made.sizes.state_size
    expected = np.random.default_rng(0).standard_normal((64, size), np.float32)
    made.write_state(slice(None), expected)
    copied.clear()

    def rows_copied() -> list[tuple[str, int]]:
        rows = [(way, shape[0]) for way, shape, _ in copied]
        copied.clear()
        return rows

    read: list[Any] = [[5], [62, 63, 20, 21], [7, 5, 9], [40, 40, 41], [*range(64)], slice(10, 20)]
    for rows in (*read, np.array([], np.int64)):
        np.testing.assert_array_equal(made.read_state(rows), expected[rows])
    assert rows_copied() == [("from", n) for n in (1, 2, 2, 5, 2, 64, 10)]
    written: list[Any] = [[3], [30, 31, 60], np.array([14, 12, 10]), slice(5, 9)]
    for rows in written:
        states = np.random.default_rng(1).standard_normal((len(np.arange(64)[rows]), size), np.float32)
        expected[rows] = states
        made.write_state(rows, states)
        expected[50] = 0.0
        made.write_state([50], 0.0)
    assert rows_copied() == [
        *[("to", 1), ("to", 1)],
        *[("to", 2), ("to", 1), ("to", 1)],
        *[("from", 5), ("to", 5), ("to", 1)],  # including the gap between them
        *[("to", 4), ("to", 1)],
    ]
    np.testing.assert_array_equal(made.read_state(slice(None)), expected)


def test_rows_never_used_before_start_at_zero(exact: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine_of_gpu(exact, monkeypatch)
    for rows in (None, [1], slice(None)):
        made = OnCpu(engine._session(3, "any"), _sizes(engine, rows=3))
        for held in made._device_states:
            held.update_inplace(np.full(held.shape(), np.nan, np.float32))  # uninitialized memory
        if rows is not None:
            made.write_state(rows, 0.5)
        made.run(2)
        made.read_state(slice(None))
        assert np.isfinite(made.read_state(slice(None))).all()


def test_the_host_waits_for_the_last_step_and_other_threads_for_all_steps(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _noted_runs(monkeypatch, OnCpu)
    model = on_device(exact)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: model.generate(["A"] * 3, 2 * BLOCK + 1, seed=seed), range(8)))
    blocks: list[list[int]] = [[]]
    for thread, waits in ran:
        blocks[-1].append(thread)
        if waits:
            blocks.append([])
    assert blocks.pop() == []
    assert all(len(set(threads)) == 1 for threads in blocks)
    assert max(map(len, blocks)) == BLOCK


def test_all_work_with_cuda_graphs_runs_in_one_thread(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _noted_runs(monkeypatch, GraphsOnCpu)
    both = cuda_buffers._both_options
    monkeypatch.setattr(cuda_buffers, "_both_options", lambda _=None: both())  # the CPU does not capture
    model = on_device(exact)
    expected = model.generate(["A"] * 3, 2 * BLOCK + 1, seed=1)
    model = on_device(exact)  # one that keeps no buffers without graphs
    model._engine._cuda_graphs = True
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: model.generate(["A"] * 3, 2 * BLOCK + 1, seed=1), range(8)))
    assert texts == [expected] * 8
    assert {thread for thread, _ in ran} == {in_graph_thread(threading.get_ident)}


def test_while_a_graph_is_captured_no_other_thread_uses_the_gpu(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    using: set[str] = set()
    met: list[set[str]] = []

    def noted(kind: str) -> None:
        real = getattr(turns, kind)

        @contextmanager
        def turn() -> Iterator[None]:
            with real():
                name = f"{kind} {threading.get_ident()}"
                using.add(name)
                met.append(set(using))
                time.sleep(0.001)
                yield
                using.discard(name)

        monkeypatch.setattr(turns, kind, turn)

    noted("shared")
    noted("alone")
    both = cuda_buffers._both_options
    monkeypatch.setattr(cuda_buffers, "_both_options", lambda _=None: both())
    models = [on_device(exact), on_device(exact)]
    models[0]._engine._cuda_graphs = True
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: models[n % 2].generate(["A"] * (1 + n // 2), 70, seed=n), range(8)))
    captures = [each for each in met if any("alone" in name for name in each)]
    assert captures
    assert all(len(each) == 1 for each in captures)
    assert any(len(each) > 1 for each in met)


def test_waiting_for_a_turn_does_not_block_returning_buffers(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    model = on_device(exact)
    expected = model.generate("A", 5, seed=1)
    again = on_device(exact)
    with ThreadPoolExecutor(1) as pool:
        with turns.alone():
            text = pool.submit(again.generate, "A", 5, seed=1)
            time.sleep(0.1)  # it has progressed as far as it can
            # Like a generator that Python garbage collects in the capturing thread.
            assert again._engine._lock.acquire(timeout=5)
            again._engine._lock.release()
            assert not text.done()
        assert text.result() == expected


def test_an_interrupted_wait_for_the_graphs_thread_ends_with_its_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.05)
        ended.set()

    def interrupt() -> None:
        begun.wait()
        signal.raise_signal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            in_graph_thread(work)
        assert ended.is_set()


def test_gpu_buffers_stop_at_the_same_step_as_cpu_buffers(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    model = CharRNN.load(exact.path, device="cpu")
    whole = model.generate(["A", "B", "C"], 60, seed=1)
    stop = whole[0][20:22]
    assert on_device(exact).generate(["A", "B", "C"], 60, seed=1, stop=stop) == model.generate(
        ["A", "B", "C"], 60, seed=1, stop=stop
    )


def test_gpu_buffers_score_prime_and_step_like_cpu_buffers(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    models = [CharRNN.load(small.path, device="cpu"), on_device(small)]
    text = "To be, or not to be: that is the question, my LORD"
    losses = [model.score([text, "A", ""])[0].per_character for model in models]
    np.testing.assert_array_equal(losses[0], losses[1])
    states = [model.prime(["LORD ", "To be"]) for model in models]
    np.testing.assert_array_equal(states[0].rows, states[1].rows)
    steps = [model.step(state, seed=3) for model, state in zip(models, states, strict=True)]
    np.testing.assert_array_equal(steps[0].logits, steps[1].logits)
    np.testing.assert_array_equal(steps[0].tokens, steps[1].tokens)
    np.testing.assert_array_equal(steps[0].state.rows, steps[1].state.rows)


def test_each_binding_has_a_separate_cuda_graph(exact: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    real = cuda_buffers._both_options

    def without_graph(graph: int | None = None) -> tuple[object, object]:
        asked.append(graph)
        return real()  # the CPU has no graphs

    monkeypatch.setattr(cuda_buffers, "_both_options", without_graph)
    engine = _engine_of_gpu(exact, monkeypatch)
    for _ in range(2):
        made = GraphsOnCpu(engine._session(2, "any"), _sizes(engine, rows=2))
        for steps in (BLOCK, 3, BLOCK):  # an odd number of steps swaps the two state buffers
            made.run(steps)
            made.tokens[0] = made.tokens[steps]
    graphs = [graph for graph in asked if graph is not None]
    assert len(graphs) == len(set(graphs)) == 2 * 2 * BLOCK


@pytest.mark.parametrize("rows", [1, 3, 33, 64])
def test_the_addresses_of_a_slot_are_aligned_as_kernels_expect(
    exact: SmallModel, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    engine = _engine_of_gpu(exact, monkeypatch)
    made = OnCpu(engine._session(rows, "any"), _sizes(engine, rows=rows, keeps_logits=True))
    for slots in (made._device_tokens, made._device_uniforms, made._device_logits):
        addresses = np.array([slots.address(slot) for slot in range(BLOCK)])
        assert not ((addresses - addresses[0]) % 256).any()
        assert (np.diff(addresses) >= slots.on_host[0].nbytes).all()


def _noted_runs(monkeypatch: pytest.MonkeyPatch, kind: type[CudaBuffers]) -> list[tuple[int, bool]]:
    """Records the thread of each step and allocation, and whether the host waits for it."""
    ran: list[tuple[int, bool]] = []
    use, allocate = kind._use, kind._allocate

    def noted(self: CudaBuffers, session: Any) -> None:
        use(self, session)
        run = self._run_bound

        def run_bound(binding: Any, options: Any) -> None:
            try:
                waits = options.get_run_config_entry("disable_synchronize_execution_providers") != "1"
            except RuntimeError:  # no such entry
                waits = True
            ran.append((threading.get_ident(), waits))
            time.sleep(0)
            run(binding, options)

        self._run_bound = run_bound

    def allocated(self: CudaBuffers) -> None:
        ran.append((threading.get_ident(), True))
        allocate(self)

    monkeypatch.setattr(kind, "_use", noted)
    monkeypatch.setattr(kind, "_allocate", allocated)
    return ran


def _sizes(engine: Engine, *, rows: int, keeps_logits: bool = False) -> Sizes:
    return Sizes(
        rows=rows,
        state_size=engine.info.state_size,
        vocabulary_size=len(engine.info.vocabulary),
        keeps_logits=keeps_logits,
    )
