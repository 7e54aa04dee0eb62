"""Models on a CUDA device. Skipped without one; see test_session for errors of CUDA."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from charrnn_runtime import CharRNN
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.graph.sampler import Cuts
from make_models import MODELS, SmallModel

pytestmark = pytest.mark.gpu

ON_GPU = [model for model in MODELS if model.precision != "int8"]


@pytest.fixture(params=ON_GPU, ids=lambda model: model.path.stem)
def small(request: pytest.FixtureRequest) -> SmallModel:
    model: SmallModel = request.param
    return model


@pytest.mark.parametrize("sampler", ["any", "few", "min_p", "none", None])
def test_every_node_is_assigned_to_the_gpu(small: SmallModel, sampler: Cuts | None) -> None:
    engine = Engine(read_model_file(small.path), "cuda")
    with engine.buffers(2, steps=1, sampler=sampler, keeps_logits=True):
        session = engine._session(2, sampler)
        assignment = {
            node.name: subgraph.ep_name
            for subgraph in session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
        }
    assert assignment
    assert set(assignment.values()) == {"CUDAExecutionProvider"}, assignment


def test_the_gpu_gives_the_logits_of_the_cpu(small: SmallModel) -> None:
    models = [CharRNN.load(small.path, device=device) for device in ("cpu", "cuda")]
    text = "To be, or not to be: that is the question"
    losses = [model.score(text).per_character for model in models]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4 if small.precision == "fp32" else 0.05)


def test_the_gpu_runs_the_requested_settings(small: SmallModel) -> None:
    assert CharRNN.load(small.path, device="auto").device == "cuda"
    assert CharRNN.load(small.path, device="cuda").device == "cuda"


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
@pytest.mark.parametrize("streams", [1, 3, 64, 1024])
def test_streams_on_the_gpu_generate_the_same_as_on_the_cpu(
    small: SmallModel, streams: int, graphs: bool
) -> None:
    if small.precision != "fp32":
        pytest.skip("fp16 products round differently on the two")
    prompts = ["LORD ", "", "A", "To be"] * (streams // 4 + 1)
    models = [
        CharRNN.load(small.path, device="cpu"),
        CharRNN.load(small.path, device="cuda", cuda_graphs=graphs),
    ]
    texts = [model.generate(prompts[:streams], 40, seed=5, top_k=20, top_p=0.9) for model in models]
    # A different order of summation may occasionally break a tie differently.
    same = sum(one == other for one, other in zip(*texts, strict=True))
    assert same >= 0.95 * streams


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_streams_join_leave_and_stop_on_the_gpu(small: SmallModel, graphs: bool) -> None:
    model = CharRNN.load(small.path, device="cuda", cuda_graphs=graphs)
    alone = [model.generate([prompt], 30, seed=2, top_k=1)[0] for prompt in ("A", "BC", "DEF")]
    together = model.generate(["A", "BC", "DEF"], 30, seed=2, top_k=1, max_batch_size=2)
    assert together == alone
    # Invalid UTF-8 becomes U+FFFD in the text, whose own bytes are never sampled.
    pairs = [alone[0][start : start + 2] for start in range(10, 30)]
    stop = next(pair for pair in pairs if "\ufffd" not in pair)
    end = alone[0].find(stop, 1)
    assert model.generate("A", 30, seed=2, top_k=1, stop=stop) == alone[0][:end]


@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_a_model_on_the_gpu_is_shared_by_threads(small: SmallModel, graphs: bool) -> None:
    model = CharRNN.load(small.path, device="cuda", cuda_graphs=graphs)
    prompts = [chr(ord("A") + index) for index in range(16)]
    expected = [model.generate(prompt, 100, seed=3, top_k=1) for prompt in prompts]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda prompt: model.generate(prompt, 100, seed=3, top_k=1), prompts))
    assert found == expected


def test_graphs_are_captured_while_other_models_load_and_run() -> None:
    path = ON_GPU[0].path
    expected = CharRNN.load(path, device="cuda").generate("A", 70, seed=3, top_k=1)

    def text(number: int) -> str:
        model = CharRNN.load(path, device="cuda", cuda_graphs=number % 2 == 0)
        return model.generate("A", 70, seed=3, top_k=1)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(text, range(12))) == [expected] * 12
