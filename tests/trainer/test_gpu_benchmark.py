"""The contenders of the GPU benchmark are the same network, as far as a CPU can verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from benchmarks import gpu
from benchmarks.contenders import STEPS
from benchmarks.gpu import _model, _operators, _steps, operators_model
from charrnn_runtime.backends.buffers import Buffers
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from reference import random_weights

STREAMS, SYMBOLS = 5, 65


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_graph_of_standard_onnx_operators_matches_ours(cell: str) -> None:
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


def test_operators_run_with_alternating_bound_buffers() -> None:
    run = _operators("lstm", random_weights("lstm", 2, 256, SYMBOLS), STREAMS, device="cpu")
    assert run() == run() > 0


def test_the_bare_loop_continues_from_the_previous_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _model(tmp_path, "gru", random_weights("gru", 2, 256, SYMBOLS), "fp32")
    read: list[Any] = []
    run_steps = Buffers.run

    def noted(self: Buffers, steps: int, *given: Any) -> int:
        first = self.tokens[0].tolist()
        ran = run_steps(self, steps, *given)
        read.append((first, self.tokens[ran].tolist()))
        return ran

    monkeypatch.setattr(Buffers, "run", noted)
    run = _steps(path, STREAMS, graphs=False, device="cpu")
    assert run() == run() == STEPS * STREAMS
    (first, last), (next_first, next_last) = read
    assert first == [0] * STREAMS
    assert next_first == last
    assert next_last != last


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A machine with a GPU whose contenders take no time; returns the rows that were started."""
    rows: list[tuple[str, int]] = []

    def contenders(folder: Path, cell: str, weights: Any, streams: int) -> dict[str, Callable[[], int]]:
        if rows and streams == 99:
            raise RuntimeError("out of memory")
        rows.append((cell, streams))
        user = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
        assert [each.fp32_precision for each in user] == ["ieee", "ieee"]
        return {"torch eager": lambda: streams, "charrnn fp32": lambda: streams}

    monkeypatch.setattr(gpu, "_missing", lambda: None)
    monkeypatch.setattr(gpu, "_contenders", contenders)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    return rows


@pytest.mark.filterwarnings("ignore::UserWarning")  # that there is no GPU
def test_each_row_is_written_as_soon_as_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_gpu: list[tuple[str, int]]
) -> None:
    file = tmp_path / "gpu.json"
    options = ["--cells", "gru", "--streams", "3", "7", "99", "--repeats", "1", "--seconds", "0.001"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options, "--json", str(file)])
    with pytest.raises(RuntimeError, match="out of memory"):
        gpu.main()
    assert a_gpu == [("gru", 3), ("gru", 7)]
    rows = json.loads(file.read_text())["speed"]
    assert [(row["cell"], row["streams"]) for row in rows] == a_gpu


def test_the_contender_of_onnxs_operators_computes_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ort, "InferenceSession", lambda _, providers: asked.extend(providers))
    with pytest.raises((RuntimeError, AttributeError)):
        _operators("lstm", random_weights("lstm", 2, 256, SYMBOLS), STREAMS)
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"})]
