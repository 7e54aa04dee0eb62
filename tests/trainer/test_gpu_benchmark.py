"""What the benchmark for GPUs compares is the same network: as far as that can be seen on a CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.gpu import _operators, operators_model
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from reference import random_weights

STREAMS, SYMBOLS = 5, 65


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_graph_of_onnxs_operators_computes_what_ours_does(cell: str) -> None:
    weights = random_weights(cell, 2, 256, SYMBOLS)
    vocabulary = Vocabulary([chr(32 + index) for index in range(SYMBOLS)])
    ours = build_step_model(fold_weights(cell, 2, weights), vocabulary, {}).SerializeToString()
    draw = np.random.default_rng(0)
    size = 256 * (4 if cell == "lstm" else 2)
    feeds = {
        "token": draw.integers(0, SYMBOLS, STREAMS),
        "state": draw.uniform(-1, 1, (STREAMS, size)).astype(np.float32),
        "uniform": draw.integers(0, 2**24, STREAMS).astype(np.float32) * np.float32(2.0**-24),
        "temperature": np.full(STREAMS, 0.8, np.float32),
        "top_k": np.full(STREAMS, 40, np.int64),
        "top_p": np.full(STREAMS, 0.95, np.float32),
        "min_p": np.full(STREAMS, 0.01, np.float32),
    }
    names = ["logits", "next_state", "next_token"]
    logits, states, tokens = ort.InferenceSession(ours, providers=["CPUExecutionProvider"]).run(names, feeds)
    model = ort.InferenceSession(operators_model(cell, 2, weights), providers=["CPUExecutionProvider"])
    found = model.run(names, feeds)
    np.testing.assert_allclose(found[0], logits, atol=1e-4)
    np.testing.assert_allclose(found[1], states, atol=1e-5)
    np.testing.assert_array_equal(found[2], tokens)


def test_they_run_bound_to_buffers_that_take_turns() -> None:
    run = _operators("lstm", random_weights("lstm", 2, 256, SYMBOLS), STREAMS, device="cpu")
    assert run() == run() > 0
