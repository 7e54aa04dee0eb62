"""The lane for GPUs, run on the CPU's memory: all of it but the kernels is the same there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from charrnn_runtime import CharRNN, session
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.session import BLOCK, CudaLane, Engine
from make_models import SmallModel


class OnCpu(CudaLane):
    """The GPU's lane with buffers that onnxruntime holds on the CPU."""

    device = "cpu"


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[SmallModel], CharRNN]:
    """Loads a model whose lanes are those of a GPU."""
    monkeypatch.setattr(session, "CudaLane", OnCpu)

    def load(small: SmallModel) -> CharRNN:
        file = read_model_file(small.path)
        engine = Engine(file, "cpu")
        monkeypatch.setattr(engine, "device", "cuda")
        monkeypatch.setattr(
            engine, "_create_session", lambda _, **how: Engine._create_session(engine, "cpu", **how)
        )
        return CharRNN(file.info, engine)

    return load


def test_it_writes_what_the_lane_of_the_cpu_writes(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    primes = ["LORD ", "", "A" * (BLOCK + 5), "To be"] * 3
    texts = [
        model.generate(primes, 2 * BLOCK + 3, rows=5, seed=4, top_k=20, top_p=0.9)
        for model in (CharRNN.load(small.path, device="cpu"), on_device(small))
    ]
    assert texts[0] == texts[1]


def test_a_block_of_steps_copies_states_once_however_many_streams_end_and_join(
    small: SmallModel, on_device: Callable[[SmallModel], CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    for name in ("read_state", "write_state"):
        real = getattr(CudaLane, name)

        def counted(self: CudaLane, *values: object, _real: object = real, _name: str = name) -> object:
            copies.append(_name)
            return _real(self, *values)  # type: ignore[operator]

        monkeypatch.setattr(OnCpu, name, counted)
    model = on_device(small)
    model.generate(["A"] * 64, 2 * BLOCK, rows=16, seed=1)
    # Sixteen streams begin at a time, four times over.
    assert copies.count("read_state") == 4
    assert copies.count("write_state") == 4
    copies.clear()
    model.score(["LORD"] * 128)
    assert len(copies) <= 2 + 1 + 1


def test_it_stops_where_the_lane_of_the_cpu_stops(
    exact: SmallModel, on_device: Callable[[SmallModel], CharRNN]
) -> None:
    model = CharRNN.load(exact.path, device="cpu")
    whole = model.generate(["A", "B", "C"], 60, seed=1)
    stop = whole[0][20:22]
    assert on_device(exact).generate(["A", "B", "C"], 60, seed=1, stop=stop) == model.generate(
        ["A", "B", "C"], 60, seed=1, stop=stop
    )


def test_it_scores_primes_and_steps_as_the_lane_of_the_cpu_does(
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
    real = session._run_options

    def without_graph(graph: int | None = None) -> object:
        asked.append(graph)
        return real()  # the CPU has no graphs to capture

    monkeypatch.setattr(session, "_run_options", without_graph)
    engine = Engine(read_model_file(exact.path), "cpu")
    size, symbols = engine.info.state_size, len(engine.info.vocabulary)
    for _ in range(2):
        lane = OnCpu(engine._session(2, True), size, symbols, 2, 0, True, graphs=True)
        for steps in (BLOCK, 3, BLOCK):  # an odd number of steps turns the two state buffers around
            lane.run(steps)
            lane.tokens[0] = lane.tokens[steps]
    graphs = [graph for graph in asked if graph is not None]
    assert len(graphs) == len(set(graphs)) == 2 * 2 * BLOCK


def test_the_addresses_of_a_slot_are_aligned_as_kernels_expect(exact: SmallModel) -> None:
    engine = Engine(read_model_file(exact.path), "cpu")
    lane = OnCpu(engine._session(3, True), engine.info.state_size, len(engine.info.vocabulary), 3, 0, True)
    assert lane._uniform_stride * 4 % 256 == 0
    assert lane._uniform_stride >= 3
