"""A model file with another sampler: the same network, and the same tokens for supported settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from charrnn_runtime import Sampling
from charrnn_runtime.backends.buffers import SETTING_TYPES
from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import parse_model, separate_tensors
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.graph.sampler import FEW, Cuts, add_sampler
from charrnn_runtime.graph.sampler_variants import GraphWriter, sampler_for, serves, with_sampler
from hostile_files import add_node, add_tensor, changed
from make_models import SmallModel

ROWS = 50
SETTINGS = [
    Sampling(),
    Sampling(0.3),
    Sampling(5.0, min_p=0.3),
    Sampling(1.0, min_p=0.01),
    Sampling(0.8, 1),
    Sampling(3.0, 1, 0.5, 0.2),
    Sampling(1.0, 7),
    Sampling(1.0, None, 0.9),
    Sampling(2.0, 10**9, 1.0 - 1e-12),
]


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@cache
def _session_of(path: Path, cuts: Cuts | None = None) -> ort.InferenceSession:
    """A session of a file, with another sampler or its own."""
    data = read_model_file(path).onnx_bytes
    return _session(data if cuts is None else _with_sampler(data, cuts))


def _with_sampler(data: bytes, cuts: Cuts) -> bytes:
    small, large, names = separate_tensors(data)
    return b"".join((with_sampler(small, names, cuts), *large))


def _walk(session: ort.InferenceSession, sampling: Sampling, size: int, symbols: int) -> list[NDArray[Any]]:
    """Logits, tokens and states of some steps, feeding back the sampled tokens."""
    draw = np.random.RandomState(1)
    token, state = draw.randint(0, symbols, ROWS), np.zeros((ROWS, size), np.float32)
    found: list[NDArray[Any]] = []
    for _ in range(8):
        feeds = {
            "token": token,
            "state": state,
            "uniform": (draw.randint(0, 2**24, ROWS) * 2.0**-24).astype(np.float32),
        }
        for name, value in sampling.inputs(min(symbols, spec.TOP_K_LIMIT)).items():
            feeds[name] = np.full(ROWS, value, SETTING_TYPES[name])
        logits, token, state = session.run([each.name for each in spec.OUTPUTS], feeds)
        found += [logits, token, state]
    return found


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_a_specialized_sampler_gives_the_same_as_the_file(small: SmallModel, sampling: Sampling) -> None:
    file = read_model_file(small.path)
    size, symbols = file.info.state_size, len(file.info.vocabulary)
    expected = _walk(_session_of(small.path), sampling, size, symbols)
    for cuts in {"any", sampling.cuts(file.info.top_k_max)}:
        found = _walk(_session_of(small.path, cuts), sampling, size, symbols)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 8.0, 10_000.0])
@pytest.mark.parametrize("size", [2 * FEW, 300, 1500])
def test_ranking_few_symbols_gives_the_same_as_ranking_all(temperature: float, size: int) -> None:
    draw = np.random.RandomState(0)
    logits = draw.normal(0, 3, (400, size)).astype(np.float32)
    logits[200:] = logits[200:].round()  # many ties, also at the edge of the kept symbols
    logits[399] = 0.0
    k_max = spec.top_k_max(size)
    rows = [
        Sampling(temperature, k, p, m)
        for k in (1, 2, FEW - 1, FEW)
        for p in (1.0, 0.999, 0.5, 1e-6)
        for m in (0.0, 0.02, 0.9)
    ]
    inputs = [rows[index % len(rows)].inputs(k_max) for index in range(len(logits))]
    feeds: dict[str, NDArray[Any]] = {
        name: np.array([each[name] for each in inputs], kind) for name, kind in SETTING_TYPES.items()
    }
    feeds["uniform"] = (draw.randint(0, 2**24, len(logits)) * 2.0**-24).astype(np.float32)
    tokens = [_sampled(logits, feeds, cuts) for cuts in ("any", "few")]
    np.testing.assert_array_equal(tokens[0], tokens[1])


def _sampled(logits: NDArray[np.float32], feeds: dict[str, NDArray[Any]], cuts: Cuts) -> NDArray[np.int64]:
    """The tokens that a sampler alone selects."""
    model = parse_model(b"")
    model.ir_version = 8
    model.opset_import.add(version=17)
    types = {np.dtype(np.float32): spec.FLOAT, np.dtype(np.int64): spec.INT64}
    for name, values in {"logits": logits, **feeds}.items():
        tensor = model.graph.input.add(name=name).type.tensor_type
        tensor.elem_type = types[values.dtype]
        for length in values.shape:
            tensor.shape.dim.add(dim_value=length)
    model.graph.output.add(name="next_token").type.tensor_type.elem_type = spec.INT64
    model.graph.name = "sampler"
    add_sampler(GraphWriter(model.graph, ()), "logits", logits.shape[1], cuts)
    (tokens,) = _session(model.SerializeToString()).run(None, {"logits": logits, **feeds})
    found: NDArray[np.int64] = tokens
    return found


@pytest.mark.parametrize("cuts", get_args(Cuts))
def test_a_variant_keeps_the_inputs_and_outputs_of_the_file(small: SmallModel, cuts: Cuts) -> None:
    session = _session_of(small.path, cuts)
    assert [value.name for value in session.get_inputs()] == [each.name for each in spec.INPUTS]
    assert [value.name for value in session.get_outputs()] == [each.name for each in spec.OUTPUTS]


def test_value_names_in_the_file_do_not_matter() -> None:
    def change(model: Any) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == "Mul":
                        names[index] = "sampler/Softmax"
        add_tensor(model, "sampler/k", np.ones((1, 1), np.float32))
        add_node(model, "Mul", ["state", "sampler/k"], ["sampler/TopK"])

    data = changed(change)
    for cuts in get_args(Cuts):
        _session(_with_sampler(data, cuts))


def test_settings_determine_the_truncation() -> None:
    assert [sampling.cuts(65) for sampling in SETTINGS] == [
        *("none", "none", "min_p", "min_p", "greedy", "greedy", "any", "any", "none")
    ]
    assert [sampling.cuts(256) for sampling in SETTINGS] == [
        *("none", "none", "min_p", "min_p", "greedy", "greedy", "few", "any", "none")
    ]
    assert [Sampling(top_k=k).cuts(256) for k in (2, FEW, FEW + 1, 256)] == ["few", "few", "any", "none"]
    assert [Sampling(top_k=2).cuts(size) for size in (2 * FEW - 1, 2 * FEW)] == ["any", "few"]
    assert Sampling(top_k=65).cuts(65) == "none"
    assert Sampling(top_k=64).cuts(65) == "any"
    assert Sampling(top_k=1).cuts(1) == "none"
    assert Sampling(min_p=1e-60).cuts(65) == "none"  # 0 in float32


def test_a_batch_uses_the_sampler_that_supports_all_of_its_rows() -> None:
    assert sampler_for(["none"]) == "none"
    assert sampler_for(["greedy", "greedy"]) == "greedy"
    assert sampler_for(["min_p", "none"]) == "min_p"
    assert sampler_for(["few", "greedy"]) == "few"
    mixed: list[list[Cuts]] = [
        ["greedy", "none"],
        ["greedy", "min_p"],
        ["any", "none"],
        ["few", "none"],
        ["few", "any"],
        ["none", "min_p", "greedy"],
    ]
    for rows in mixed:
        assert sampler_for(rows) == "any"


def test_a_sampler_supports_its_own_settings_and_less_truncation() -> None:
    serving = {
        sampler: {wanted for wanted in (*get_args(Cuts), None) if serves(sampler, wanted)}
        for sampler in (*get_args(Cuts), None)
    }
    assert serving == {
        "any": {*get_args(Cuts), None},
        "few": {"few", "greedy", None},
        "min_p": {"min_p", "none", None},
        "none": {"none", None},
        "greedy": {"greedy", None},
        None: {None},
    }
