"""The graphs that run on a CPU: bit-identical to the graph of the file, with states kept in parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from charrnn_runtime import CharRNNError, Sampling
from charrnn_runtime.backends.buffers import BLOCK, SETTING_TYPES, Buffers
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, check_model_bytes, read_model_file
from charrnn_runtime.graph.cpu_graph import StatePart, mass_limits, rounded
from charrnn_runtime.graph.sampler import Cuts
from hostile_files import INT8, LSTM, add_node, add_tensor, changed, node
from make_models import SmallModel

SERVED: dict[Cuts, list[Sampling]] = {
    "none": [Sampling(), Sampling(0.3), Sampling(5.0)],
    "min_p": [Sampling(5.0, min_p=0.3), Sampling(1.0, min_p=0.01), Sampling()],
    "greedy": [Sampling(0.8, 1), Sampling(3.0, 1, 0.5, 0.2)],
    "few": [Sampling(0.9, 7, 0.8), Sampling(1.2, 2), Sampling(0.8, 1)],
    "any": [
        *(
            Sampling(0.8, k, p, m)
            for k in (1, 5, 39, 40, 64, None)
            for p in (0.5, 0.95, 1.0)
            for m in (0, 0.1)
        )
    ],
}


def _rows_of(sampler: Cuts, rows: int) -> list[Sampling]:
    return [SERVED[sampler][row % len(SERVED[sampler])] for row in range(rows)]


def _files_steps(
    file: ModelFile, settings: list[Sampling], states: NDArray[np.float32], uniforms: NDArray[np.float32]
) -> list[list[NDArray[Any]]]:
    """Logits, tokens and states of some steps of the file's own graph, feeding back the sampled tokens."""
    session = _files_session(file.onnx_bytes)
    inputs = [each.inputs(file.info.top_k_max) for each in settings]
    feeds = {name: np.array([each[name] for each in inputs], kind) for name, kind in SETTING_TYPES.items()}
    feeds |= {"token": np.arange(len(settings)) % len(file.info.vocabulary), "state": states}
    found: list[list[NDArray[Any]]] = []
    for uniform in uniforms:
        logits, feeds["token"], feeds["state"] = session.run(
            [each.name for each in spec.OUTPUTS], {**feeds, "uniform": uniform}
        )
        found.append([logits, feeds["token"], feeds["state"]])
    return found


@cache
def _files_session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@cache
def _engine(path: Path) -> Engine:
    return Engine(read_model_file(path), "cpu")


def _random(file: ModelFile, rows: int, steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    draw = np.random.RandomState(rows)
    states = draw.uniform(-1, 1, (rows, file.info.state_size)).astype(np.float32)
    return states, (draw.randint(0, 2**24, (steps, rows)) * 2.0**-24).astype(np.float32)


def _fill(buffers: Buffers, settings: list[Sampling], symbols: int) -> None:
    buffers.tokens[0] = np.arange(len(settings)) % symbols
    for name in SETTING_TYPES:
        buffers.settings[name][:] = [each.inputs(spec.top_k_max(symbols))[name] for each in settings]


def _check_against_the_file(engine: Engine, sampler: Cuts, rows: int) -> None:
    file, symbols, steps = engine.file, len(engine.info.vocabulary), 11
    settings = _rows_of(sampler, rows)
    states, uniforms = _random(file, rows, steps)
    expected = _files_steps(file, settings, states, uniforms)
    with engine.buffers(rows, sampler=sampler, keeps_logits=True) as buffers:
        _fill(buffers, settings, symbols)
        buffers.write_state(slice(None), states)
        for first, end in ((0, 4), (4, 7), (7, steps)):  # an odd number of steps swaps the buffers
            buffers.uniforms[: end - first] = uniforms[first:end]
            buffers.run(end - first)
            for slot, (logits, tokens, _) in enumerate(expected[first:end]):
                np.testing.assert_array_equal(buffers.logits[slot], logits)
                np.testing.assert_array_equal(buffers.tokens[slot + 1], tokens)
            np.testing.assert_array_equal(buffers.read_state(slice(None)), expected[end - 1][2])
            buffers.tokens[0] = buffers.tokens[end - first]


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("sampler", get_args(Cuts))
def test_every_sampler_is_bit_identical_to_the_file(small: SmallModel, sampler: Cuts, rows: int) -> None:
    _check_against_the_file(_engine(small.path), sampler, rows)


def test_states_are_read_back_as_written(small: SmallModel) -> None:
    engine = Engine(read_model_file(small.path), "cpu")
    states = np.random.RandomState(0).normal(0, 3, (5, engine.info.state_size)).astype(np.float32)
    with engine.buffers(5) as buffers:
        buffers.write_state(slice(None), states)
        buffers.write_state([3, 1], states[[1, 3]])
        buffers.write_state(np.array([4]), 0.0)
        states[[3, 1]], states[4] = states[[1, 3]], 0.0
        for rows in (slice(None), slice(2), [4, 0], np.array([1]), 2):
            np.testing.assert_array_equal(buffers.read_state(rows), states[rows])
        buffers.read_state(slice(None))[:] = 7.0  # a copy
        np.testing.assert_array_equal(buffers.read_state(slice(None)), states)


@pytest.mark.parametrize("read_as", ["float", "rounded", "both"])
def test_each_block_of_the_state_is_kept_in_separate_buffers(read_as: str) -> None:
    name = {"float": "lstm-2x12-fp32", "rounded": "lstm-2x12-int8", "both": "gru-2x12-int8"}[read_as]
    parts = _parts(read_model_file(SmallModel(name[: name.index("-")], 2, name[-4:]).path))
    hidden = [part for part in parts if part.start < 24]
    assert [(part.start, part.size) for part in parts] == [
        (start, 12) for start in range(0, 48 if name.startswith("lstm") else 24, 12)
    ]
    assert all((part.rounded is not None) == (read_as != "float") for part in hidden)
    assert all((part.reads is not None) == (read_as != "rounded") for part in hidden)
    assert all(part.rounded is None and part.reads is not None for part in parts if part not in hidden)


def _parts(file: ModelFile) -> tuple[StatePart, ...]:
    engine = Engine(file, "cpu")
    with engine.buffers(1):
        return engine._parts


# --- graphs that export does not write --------------------------------------------------------------------


def _reads_the_state_twice(model: Any) -> None:
    sizes = next(each for each in model.graph.node if "state" in each.input).input[1]
    node(model, "next_state").output[0] = "joined"
    add_node(model, "Split", ["state", sizes], ["a", "b", "c", "d"], {"axis": 1})
    add_node(model, "Split", ["joined", sizes], ["e", "f", "g", "h"], {"axis": 1})
    model.graph.node[-1].name = "another"  # names of nodes are unique
    add_node(model, "Sub", ["e", "a"], ["less"])
    add_node(model, "Concat", ["less", "f", "g", "h"], ["next_state"], {"axis": 1})


def _joins_in_two_steps(model: Any) -> None:
    joined = node(model, "next_state")
    joined.output[0] = "joined"
    add_node(model, "Identity", ["joined"], ["next_state"])


def _passes_a_block_on(model: Any) -> None:
    joined = node(model, "next_state")
    joined.input[0] = next(each for each in model.graph.node if "state" in each.input).output[0]


def _gives_a_block_twice(model: Any) -> None:
    joined = node(model, "next_state")
    joined.input[1] = joined.input[0]


def _rounds_otherwise_once(model: Any) -> None:
    add_tensor(model, "other_scale", np.array(0.01, np.float32))
    next(each for each in model.graph.node if each.op_type == "QuantizeLinear").input[1] = "other_scale"


def _rounds_otherwise(model: Any) -> None:
    add_tensor(model, "other_scale", np.array(0.01, np.float32))
    for each in model.graph.node:
        if each.op_type == "QuantizeLinear":
            each.input[1] = "other_scale"


@pytest.mark.parametrize(
    ("change", "data", "whole"),
    [
        (_reads_the_state_twice, LSTM, True),
        (_joins_in_two_steps, LSTM, True),
        (_joins_in_two_steps, INT8, True),
        (_passes_a_block_on, LSTM, True),
        (_gives_a_block_twice, LSTM, True),
        (_gives_a_block_twice, INT8, True),
        (_rounds_otherwise_once, INT8, False),
        (_rounds_otherwise, INT8, False),
    ],
)
def test_other_graphs_match_their_files(change: Callable[[Any], None], data: bytes, whole: bool) -> None:
    file = check_model_bytes(changed(change, data), "model.onnx")
    assert (len(_parts(file)) == 1) == whole
    _check_against_the_file(Engine(file, "cpu"), "any", 3)


def test_blocks_with_a_width_other_than_the_state_are_an_error_and_never_written() -> None:
    def change(model: Any) -> None:
        add_tensor(model, "widths", np.array([5, 19, 12, 12], np.int64))
        node(model, "next_state").output[0] = "joined"
        add_node(model, "Split", ["joined", "widths"], ["e", "f", "g", "h"], {"axis": 1})
        add_node(model, "Concat", ["e", "f", "g", "h"], ["next_state"], {"axis": 1})

    engine = Engine(check_model_bytes(changed(change), "model.onnx"), "cpu")
    with engine.buffers(2) as buffers, pytest.raises(CharRNNError, match="cannot run a step of the model"):
        buffers.run(1)


# --- prepared settings -------------------------------------------------------------------------------------


def test_states_are_rounded_like_onnxruntime() -> None:
    from charrnn_runtime.format.proto import parse_model

    model = parse_model(b"")
    model.ir_version = 8
    model.opset_import.add(version=17)
    model.graph.name = "rounding"
    for values, name, kind in ((model.graph.input, "x", spec.FLOAT), (model.graph.output, "y", spec.UINT8)):
        tensor = values.add(name=name).type.tensor_type
        tensor.elem_type = kind
        tensor.shape.dim.add(dim_param="n")
    add_tensor(model, "scale", np.array(spec.ACTIVATION_SCALE, np.float32))
    add_tensor(model, "zero_point", np.array(spec.ACTIVATION_ZERO_POINT, np.uint8))
    add_node(model, "QuantizeLinear", ["x", "scale", "zero_point"], ["y"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    halves = (np.arange(-140, 140) + 0.5) * np.float32(spec.ACTIVATION_SCALE)
    near = [np.nextafter(halves.astype(np.float32), np.float32(side)) for side in (-9, 9)]
    random = np.random.RandomState(0).uniform(-1.1, 1.1, 200_000).astype(np.float32)
    odd = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 2.0, -2.0], np.float32)
    values = np.concatenate([halves.astype(np.float32), *near, random, odd])
    np.testing.assert_array_equal(rounded(values), session.run(None, {"x": values})[0])
    assert rounded(0.0) == spec.ACTIVATION_ZERO_POINT


@pytest.mark.parametrize("size", [1, 5, 65, 1500])
def test_limits_truncate_at_the_rank_or_the_mass(size: int) -> None:
    most = spec.top_k_max(size)
    choices = sorted({1, 2, 7, 8, 9, 40, most - 1, most} & set(range(1, most + 1)))
    for largest in choices:
        top_k = np.array([k for k in choices if k <= largest for _ in range(3)], np.int64)
        top_p = np.array([0.5, 0.999999, 1.0] * (len(top_k) // 3), np.float32)
        limits = mass_limits(top_k, top_p, size)
        ranked = limits.shape[1]
        assert largest <= ranked <= min(largest + 7, most)
        masses = np.linspace(0, 1.000001, ranked).astype(np.float32)
        for k, p, limit in zip(top_k, top_p, limits, strict=True):
            for rank in range(1, ranked + 1):
                ends = (k < most and rank >= k) or (p < 1 and masses[rank - 1] >= p)
                assert (masses[rank - 1] >= limit[rank - 1]) == ends


def test_settings_that_change_between_blocks_are_prepared_again(small: SmallModel) -> None:
    file = read_model_file(small.path)
    engine, symbols = Engine(file, "cpu"), len(file.info.vocabulary)
    wanted = [Sampling(0.9, 5), Sampling(0.9, 40, 0.9), Sampling(0.9, 1), Sampling(0.9, None, 0.5)]
    states, uniforms = _random(file, 3, BLOCK)
    with engine.buffers(3, sampler="any") as buffers:
        for settings in (wanted[:3], wanted[1:], [wanted[2]] * 3, wanted[:3]):
            _fill(buffers, settings, symbols)
            buffers.write_state(slice(None), states)
            buffers.uniforms[:] = uniforms
            buffers.run(BLOCK)
            expected = _files_steps(file, settings, states, uniforms)
            np.testing.assert_array_equal(buffers.tokens[1:], [tokens for _, tokens, _ in expected])
