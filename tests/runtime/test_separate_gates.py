"""int8 models with a product for each gate: the same numbers, without split nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from charrnn_runtime.backends.buffers import SETTING_TYPES
from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import parse_model
from charrnn_runtime.graph.separate_gates import separate_gates
from hostile_files import FOLDER, INT8, LSTM, add_node, changed, node

GRU = (FOLDER / "gru-2x12-int8.onnx").read_bytes()


def _operators(data: bytes) -> Counter[str]:
    return Counter(each.op_type for each in parse_model(data).graph.node)


def _check_alike(data: bytes, other: bytes) -> None:
    """Check that two models give the same results."""
    draw = np.random.RandomState(0)
    rows = 7
    feeds = {"token": draw.randint(0, 60, rows), "uniform": draw.uniform(size=rows).astype(np.float32)}
    feeds |= {name: np.ones(rows, kind) for name, kind in SETTING_TYPES.items()}
    found = []
    for each in (data, other):
        session = ort.InferenceSession(each, providers=["CPUExecutionProvider"])
        state_size = session.get_inputs()[1].shape[1]
        feeds["state"] = np.random.RandomState(1).uniform(-1, 1, (rows, state_size)).astype(np.float32)
        found.append(session.run([output.name for output in spec.OUTPUTS], feeds))
    for one, another in zip(*found, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(("data", "gates"), [(INT8, 4 + 4), (GRU, 3 + 4)], ids=["lstm", "gru"])
def test_products_are_separated_if_their_results_are_split(data: bytes, gates: int) -> None:
    parted = separate_gates(data)
    assert _operators(parted)["QGemm"] == gates + 1  # plus the output layer's
    assert _operators(parted)["Split"] == 1  # for the state
    names = [tensor.name for tensor in parse_model(parted).graph.initializer]
    assert len(names) == len(set(names))
    assert len(parted) < len(data) + 2_500  # the weights are stored once
    _check_alike(data, parted)


def _gives_the_sums(model: Any) -> None:
    sums = next(each for each in model.graph.node if each.op_type == "Split" and "state" not in each.input)
    add_node(model, "Tanh", [sums.input[0]], ["tanh of the sums"])


def _adds_the_rows_twice(model: Any) -> None:
    rows = next(each for each in model.graph.node if each.op_type == "QGemm").input[6]
    add_node(model, "Cast", [rows], ["rows"], {"to": spec.FLOAT})


def _uses_names_of_parts(model: Any) -> None:
    taken = node(model, next(each for each in model.graph.node if each.op_type == "QGemm").output[0])
    for each in model.graph.node:
        if each.op_type == "Sigmoid":
            old, each.output[0] = each.output[0], f"{taken.input[3]}/part"
            for reader in model.graph.node:
                for index, name in enumerate(reader.input):
                    if name == old:
                        reader.input[index] = each.output[0]
            return


@pytest.mark.parametrize("data", [INT8, GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize("change", [_gives_the_sums, _adds_the_rows_twice, _uses_names_of_parts])
def test_other_graphs_give_the_same_results(change: Callable[[Any], None], data: bytes) -> None:
    other = changed(change, data)
    _check_alike(other, separate_gates(other))


def test_products_with_other_readers_are_unchanged() -> None:
    for change in (_gives_the_sums, _adds_the_rows_twice):
        other = changed(change, INT8)
        assert _operators(separate_gates(other))["QGemm"] == _operators(other)["QGemm"] + 3


def test_models_of_other_precisions_are_unchanged() -> None:
    assert parse_model(separate_gates(LSTM)) == parse_model(LSTM)
