"""The complete step graph: operators, metadata and determinism."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import check_model_bytes
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from reference import naive_generate, naive_uniform
from step_graphs import SYMBOLS, Network, Stepper, element_types, initializers, metadata

CELLS = ("lstm", "gru", "rnn")
PRECISIONS = ("fp32", "fp16", "int8")

every_model = pytest.mark.parametrize(
    ("network", "precision"),
    [
        pytest.param(Network(cell, layers, embedding_size=size), precision, id=f"{cell}-{layers}-{precision}")
        for cell in CELLS
        for layers, size in ((1, 0), (2, 5), (3, 0))
        for precision in PRECISIONS
    ],
)

ANYWHERE = {
    *(
        "Add",
        "Cast",
        "Concat",
        "CumSum",
        "Div",
        "Gather",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
    ),
    *("MatMul", "Max", "Min", "Mul", "Reshape", "Sigmoid", "Softmax", "Split", "Sub", "Tanh", "TopK"),
    *("Unsqueeze",),
}
"""The operators of fp32 and fp16 files."""

CPU_ALONE = {"QGemm", "QuantizeLinear"}
"""Additional operators of int8 files; QGemm is an onnxruntime contrib operator."""

_FLOAT, _HALF, _INT64, _BOOL = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
)
_ARITHMETIC = {_FLOAT, _HALF, _INT64}

CUDA_KERNELS = {
    "Add": [_ARITHMETIC, _ARITHMETIC],
    "Cast": [{_FLOAT, _HALF, _INT64, _BOOL}],
    "Concat": [_ARITHMETIC],
    "CumSum": [{_FLOAT, _HALF, _INT64}, {_INT64}],
    "Div": [_ARITHMETIC, _ARITHMETIC],
    "Gather": [_ARITHMETIC, {_INT64}],
    "GreaterOrEqual": [_ARITHMETIC, _ARITHMETIC],
    "Identity": [_ARITHMETIC],
    "Less": [_ARITHMETIC, _ARITHMETIC],
    "LessOrEqual": [_ARITHMETIC, _ARITHMETIC],
    "MatMul": [{_FLOAT, _HALF}, {_FLOAT, _HALF}],
    "Max": [_ARITHMETIC] * 3,
    "Min": [_ARITHMETIC, _ARITHMETIC],
    "Mul": [_ARITHMETIC, _ARITHMETIC],
    "Reshape": [{_FLOAT, _HALF, _INT64, _BOOL}, {_INT64}],
    "Sigmoid": [{_FLOAT, _HALF}],
    "Softmax": [{_FLOAT, _HALF}],
    "Split": [_ARITHMETIC, {_INT64}],
    "Sub": [_ARITHMETIC, _ARITHMETIC],
    "Tanh": [{_FLOAT, _HALF}],
    "TopK": [{_FLOAT, _HALF, _INT64}, {_INT64}],
    "Unsqueeze": [{_FLOAT, _HALF, _INT64, _BOOL}, {_INT64}],
}
"""The types of each input for which onnxruntime has a CUDA kernel at opset 17, by docs/OperatorKernels.md."""

ON_THE_CPU = {"CumSum": [1], "Reshape": [1], "Split": [1], "TopK": [1], "Unsqueeze": [1]}
"""Inputs that CUDA kernels read on the CPU: they must be constants, or each step would copy them there."""


# --- operators and constants -------------------------------------------------------------------------------


@every_model
def test_the_onnx_checker_accepts_the_model(network: Network, precision: str) -> None:
    onnx.checker.check_model(network.model(precision), full_check=True)


@every_model
def test_the_runtime_loads_the_model(network: Network, precision: str) -> None:
    model = network.model(precision)
    info = check_model_bytes(model.SerializeToString(deterministic=True), "model").info
    assert (info.cell, info.layers, info.hidden_size) == (network.cell, network.layers, network.hidden_size)
    assert info.precision == precision


@every_model
def test_only_allowed_operators_are_used(network: Network, precision: str) -> None:
    model = network.model(precision)
    used = {node.op_type for node in model.graph.node}
    assert used <= (ANYWHERE | CPU_ALONE if precision == "int8" else ANYWHERE)
    assert used.isdisjoint({"Shape", "If", "Loop", "Scan", "LSTM", "GRU", "RNN"})
    for node in model.graph.node:
        assert node.domain == ("com.microsoft" if node.op_type == "QGemm" else "")
    assert not model.functions
    assert not any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        for node in model.graph.node
        for attribute in node.attribute
    )


@every_model
def test_versions_are_set_explicitly(network: Network, precision: str) -> None:
    model = network.model(precision)
    assert model.ir_version == 8
    own = [("com.microsoft", 1)] if precision == "int8" else []
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17), *own]


@every_model
def test_inputs_and_outputs_match_the_contract(network: Network, precision: str) -> None:
    graph = network.model(precision).graph
    sizes = {"batch": "batch", "state_size": network.state_size, "vocab": len(network.symbols)}
    for values, specs in ((graph.input, spec.INPUTS), (graph.output, spec.OUTPUTS)):
        found = [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]
        expected = [(each.name, each.element_type, [sizes[axis] for axis in each.axes]) for each in specs]
        assert found == expected


@every_model
def test_every_constant_and_every_value_is_used(network: Network, precision: str) -> None:
    graph = network.model(precision).graph
    read = {name for node in graph.node for name in node.input}
    # Only the values of TopK are used, not the indices.
    made = {name for node in graph.node for name in node.output[: 1 if node.op_type == "TopK" else None]}
    outputs = {each.name for each in spec.OUTPUTS}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert {each.name for each in spec.INPUTS} <= read
    assert made <= read | outputs


@every_model
def test_the_file_has_no_external_data(network: Network, precision: str) -> None:
    graph = network.model(precision).graph
    assert not graph.sparse_initializer
    for tensor in graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
        assert tensor.HasField("raw_data")


# --- CUDA --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_node_has_a_cuda_kernel_for_its_types(cell: str, precision: str) -> None:
    for layers in (1, 2):
        model = Network(cell, layers).model(precision)
        types = element_types(model)
        for node in model.graph.node:
            kernel = CUDA_KERNELS[node.op_type]
            for position, name in enumerate(node.input):
                assert types[name] in kernel[min(position, len(kernel) - 1)], (node.op_type, name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cell", CELLS)
def test_inputs_that_cuda_kernels_read_on_the_cpu_are_constants(cell: str, precision: str) -> None:
    model = Network(cell).model(precision)
    constants = initializers(model)
    seen = set()
    for node in model.graph.node:
        for position in ON_THE_CPU.get(node.op_type, ()):
            assert node.input[position] in constants
            seen.add(node.op_type)
    assert seen == set(ON_THE_CPU)


# --- metadata ----------------------------------------------------------------------------------------------


@every_model
def test_the_metadata_has_all_keys_of_the_contract_and_no_others(network: Network, precision: str) -> None:
    keys = [f"charrnn.{key}" for key in spec.METADATA_KEYS]
    assert sorted(metadata(network.model(precision))) == sorted(keys)
    assert len(network.model(precision).metadata_props) == len(keys)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_metadata_of_an_lstm(precision: str) -> None:
    training = {"step": 7, "train_loss": 1.25, "corpus": {"name": "né"}}
    found = metadata(Network("lstm", 2, 12).model(precision, training))
    values = {key.removeprefix("charrnn."): value for key, value in found.items()}
    assert json.loads(values.pop("vocabulary")) == list(SYMBOLS)
    assert json.loads(values.pop("state_layout")) == [
        *(["h0", 0, 12], ["h1", 12, 12]),
        *(["c0", 24, 12], ["c1", 36, 12]),
    ]
    assert json.loads(values.pop("training")) == training
    assert values == {
        "format": "step",
        "version": "1",
        "cell": "lstm",
        "layers": "2",
        "hidden_size": "12",
        "level": "char",
        "start_token": "0",
        "lines": "false",
        "top_k_max": str(len(SYMBOLS)),
        "precision": precision,
    }


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_the_state_of_other_cells_has_no_c(cell: str) -> None:
    layout = json.loads(metadata(Network(cell, 3, 4).model())["charrnn.state_layout"])
    assert layout == [["h0", 0, 4], ["h1", 4, 4], ["h2", 8, 4]]


def test_a_stream_starts_with_the_newline_at_any_place_in_the_vocabulary() -> None:
    assert metadata(Network(symbols="ab\nc").model())["charrnn.start_token"] == "2"
    assert metadata(Network(symbols="abc").model())["charrnn.start_token"] == "0"


@pytest.mark.parametrize(("lines", "written"), [(True, "true"), (False, "false")])
def test_the_metadata_says_whether_the_model_learned_from_lines(lines: bool, written: str) -> None:
    network = Network()
    folded = fold_weights(network.cell, network.layers, network.weights)
    model = build_step_model(folded, Vocabulary(SYMBOLS), {}, lines=lines)
    assert metadata(model)["charrnn.lines"] == written
    assert check_model_bytes(model.SerializeToString(), "model").info.lines is lines


def test_a_byte_level_model_stores_no_symbols() -> None:
    network = Network("gru", 1, symbols="".join(map(chr, range(256))))
    folded = fold_weights(network.cell, network.layers, network.weights)
    model = build_step_model(folded, Vocabulary.of_bytes(), {})
    found = metadata(model)
    assert (found["charrnn.level"], found["charrnn.vocabulary"]) == ("byte", "[]")
    assert (found["charrnn.start_token"], found["charrnn.top_k_max"]) == ("10", "256")
    check_model_bytes(model.SerializeToString(), "model")


def test_the_metadata_of_a_large_vocabulary_state_the_top_k_limit() -> None:
    network = Network("rnn", 1, 4, embedding_size=3, symbols="".join(map(chr, range(0x4E00, 0x4E00 + 2_000))))
    model = network.model()
    assert metadata(model)["charrnn.top_k_max"] == "1024"
    assert check_model_bytes(model.SerializeToString(), "model").info.top_k_max == 1_024


@pytest.mark.parametrize("symbols", ["a", "\0\x1f\"\\'", "\u2028\U0001f600\U00010ffff", "\ufeff\uffff\ud7ff"])
def test_any_symbols_round_trip_through_the_metadata(symbols: str) -> None:
    model = Network("rnn", 1, 3, symbols=symbols).model()
    read = check_model_bytes(model.SerializeToString(), "model").info.vocabulary
    assert read == Vocabulary(symbols)


# --- determinism -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_weights_give_the_same_bytes(cell: str, precision: str) -> None:
    one, other = (Network(cell).model(precision, {"b": 1, "a": [2]}) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_the_bytes_do_not_depend_on_the_process() -> None:
    code = (
        "import hashlib; from step_graphs import Network; "
        "print(hashlib.sha256(Network().model('int8', {'x': 1, 'y': 2})"
        ".SerializeToString(deterministic=True)).hexdigest())"
    )
    tests = Path(__file__).resolve().parent.parent
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": other_seed}
    environment["PYTHONPATH"] = os.pathsep.join([str(tests), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    ours = Network().model("int8", {"x": 1, "y": 2}).SerializeToString(deterministic=True)
    assert done.stdout == f"{hashlib.sha256(ours).hexdigest()}\n"


def test_the_order_of_the_training_facts_does_not_affect_the_bytes() -> None:
    one = Network().model(training={"a": 1, "b": 2})
    other = Network().model(training={"b": 2, "a": 1})
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


# --- it writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_it_generates_the_same_text_as_a_naive_loop(cell: str) -> None:
    network = Network(cell, 2)
    stepper = Stepper(network.model())
    state = np.zeros((1, network.state_size), np.float32)
    token, written = 1, []
    for position in range(200):
        uniform = naive_uniform(seed=5, stream=0, position=position)
        _, tokens, state = stepper.step([token], state, uniform, 0.8)
        token = int(tokens[0])
        written.append(token)
    assert written == naive_generate(cell, 2, network.weights, [1], 200, seed=5)
