"""The buffers for GPUs, held in the CPU's memory: all of it but the kernels is the same there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from charrnn_runtime import CharRNN, session
from charrnn_runtime.buffers import BLOCK, Sizes, run_options
from charrnn_runtime.cuda_buffers import CudaBuffers
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.session import Engine
from make_models import SmallModel


class OnCpu(CudaBuffers):
    """The GPU's buffers, which onnxruntime holds on the CPU."""

    device = "cpu"


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[SmallModel], CharRNN]:
    """Loads a model whose buffers are those of a GPU."""
    monkeypatch.setattr(session, "CudaBuffers", OnCpu)

    def load(small: SmallModel) -> CharRNN:
        engine = _engine_of_gpu(small, monkeypatch)
        return CharRNN(engine.info, engine)

    return load


def _engine_of_gpu(small: SmallModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose graphs are those of a GPU, which run on the CPU."""
    engine = Engine(read_model_file(small.path), "cpu")
    monkeypatch.setattr(engine, "device", "cuda")
    monkeypatch.setattr(
        engine, "_create_session", lambda _, graph: Engine._create_session(engine, "cpu", graph)
    )
    return engine


def test_they_write_what_those_of_the_cpu_write(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    prompts = ["LORD ", "", "A" * (BLOCK + 5), "To be"] * 3
    texts = [
        model.generate(prompts, 2 * BLOCK + 3, max_batch_size=5, seed=4, top_k=20, top_p=0.9)
        for model in (CharRNN.load(small.path, device="cpu"), on_device(small))
    ]
    assert texts[0] == texts[1]


def test_a_block_of_steps_copies_states_once_however_many_streams_end_and_join(
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
    # Sixteen streams begin at a time, four times over.
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

    def noted(self: ort.OrtValue, array: NDArray[np.float32]) -> None:
        if array.dtype == np.float32 and array.ndim == 1:
            sent.append(array.tolist())
        update(self, array)

    monkeypatch.setattr(ort.OrtValue, "update_inplace", noted)
    model = on_device(exact)
    for temperature in (0.5, 0.5, 0.75):
        model.generate(["A"] * 4, 4 * BLOCK, seed=1, temperature=temperature, top_p=0.9)
    expected = [[value] * 4 for value in (0.0, 0.5, 0.75, float(np.float32(0.9)))]  # each once
    assert sorted(sent) == expected


def test_they_stop_where_those_of_the_cpu_stop(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    model = CharRNN.load(exact.path, device="cpu")
    whole = model.generate(["A", "B", "C"], 60, seed=1)
    stop = whole[0][20:22]
    assert on_device(exact).generate(["A", "B", "C"], 60, seed=1, stop=stop) == model.generate(
        ["A", "B", "C"], 60, seed=1, stop=stop
    )


def test_they_score_prime_and_step_as_those_of_the_cpu_do(
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


def test_each_binding_has_a_cuda_graph_of_its_own(exact: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    real = run_options

    def without_graph(graph: int | None = None) -> object:
        asked.append(graph)
        return real()  # the CPU has no graphs to capture

    monkeypatch.setattr("charrnn_runtime.cuda_buffers.run_options", without_graph)
    engine = _engine_of_gpu(exact, monkeypatch)
    for _ in range(2):
        made = OnCpu(engine._session(2, "any"), _sizes(engine, rows=2), graphs=True)
        for steps in (BLOCK, 3, BLOCK):  # an odd number of steps turns the two state buffers around
            made.run(steps)
            made.tokens[0] = made.tokens[steps]
    graphs = [graph for graph in asked if graph is not None]
    assert len(graphs) == len(set(graphs)) == 2 * 2 * BLOCK


def test_the_addresses_of_a_slot_are_aligned_as_kernels_expect(
    exact: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine_of_gpu(exact, monkeypatch)
    made = OnCpu(engine._session(3, "any"), _sizes(engine, rows=3))
    assert made._uniform_stride * 4 % 256 == 0
    assert made._uniform_stride >= 3


def _sizes(engine: Engine, *, rows: int) -> Sizes:
    return Sizes(rows=rows, state_size=engine.info.state_size, vocabulary_size=len(engine.info.vocabulary))
