"""Products in each precision: how weights are rounded, and that no stream depends on another."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from charrnn_trainer.graph.quantize import quantize_columns
from step_graphs import Network, Stepper, initializers

CELLS = ("lstm", "gru", "rnn")

matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.one_of(st.just(0.0), st.floats(-1e6, 1e6, width=32), st.floats(-1, 1, width=32)),
)


@given(matrices)
def test_every_weight_is_kept_within_half_a_scale(weight: NDArray[np.float64]) -> None:
    columns, scales = quantize_columns(weight)
    assert columns.shape == weight.shape
    assert scales.shape == weight.shape[1:]
    assert (scales > 0).all()
    error = np.abs(columns * scales - weight)
    assert (error <= scales * 0.5 * (1 + 1e-9)).all()


@given(matrices)
def test_rounded_weights_stay_where_no_processor_saturates(weight: NDArray[np.float64]) -> None:
    columns, _ = quantize_columns(weight)
    assert columns.dtype == np.int8
    assert columns.min() >= -64
    assert columns.max() <= 63
    # Two neighbouring products of a uint8 and such a weight fit into 16 bits, whatever the uint8 are.
    assert 2 * 255 * int(np.abs(columns.astype(int)).max()) < 2**15


@given(matrices)
def test_each_column_uses_its_range_to_one_end(weight: NDArray[np.float64]) -> None:
    columns, _ = quantize_columns(weight)
    for column, values in zip(columns.T, weight.T, strict=True):
        if values.any():
            assert column.min() == -64 or column.max() == 63
        else:
            assert not column.any()


@given(matrices, st.integers(-20, 20))
def test_a_column_is_rounded_alike_at_any_size_and_beside_any_other(
    weight: NDArray[np.float64], power: int
) -> None:
    columns, scales = quantize_columns(weight)
    alone = [quantize_columns(weight[:, [index]] * 2.0**power) for index in range(weight.shape[1])]
    np.testing.assert_array_equal(np.concatenate([column for column, _ in alone], axis=1), columns)
    for index in np.flatnonzero(weight.any(axis=0)):
        assert alone[index][1][0] == scales[index] * 2.0**power


def test_a_column_of_zeros_stays_zero() -> None:
    columns, scales = quantize_columns(np.array([[0.0, 1.0], [0.0, -2.0]]))
    np.testing.assert_array_equal(columns[:, 0], [0, 0])
    assert np.isfinite(scales).all()
    np.testing.assert_array_equal(columns[:, 1], [32, -64])


def test_a_network_with_a_dead_gate_still_gives_finite_logits() -> None:
    class DeadGate(Network):
        @property
        def weights(self) -> dict[str, NDArray[np.float32]]:
            weights = super().weights
            weights["rnn.weight_hh_l0"][: self.hidden_size] = 0.0
            return weights

    network = DeadGate()
    logits, _, state = Stepper(network.model("int8")).step([0, 1], network.random_states(2))
    assert np.isfinite(logits).all()
    assert np.isfinite(state).all()


@pytest.mark.parametrize("cell", CELLS)
def test_int8_files_hold_the_rounded_weights_of_every_product(cell: str) -> None:
    model = Network(cell, 3).model("int8")
    constants = initializers(model)
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == {"lstm": 4, "rnn": 4, "gru": 8}[cell]
    assert not any(node.op_type in ("MatMul", "Gemm") for node in model.graph.node)
    for node in products:
        assert constants[node.input[1]].dtype == np.int8
        assert constants[node.input[1]].min() >= -64
        assert constants[node.input[1]].max() <= 63


@pytest.mark.parametrize("cell", CELLS)
def test_int8_scales_are_constants_so_nothing_is_computed_from_the_batch(cell: str) -> None:
    model = Network(cell).model("int8")
    constants = initializers(model)
    quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantized
    for node in quantized:
        assert constants[node.input[1]] == np.float32(1 / 127)
        assert constants[node.input[2]] == 128
    forbidden = {"DynamicQuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum"}
    assert forbidden.isdisjoint(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_are_stored_in_the_type_of_the_precision(precision: str) -> None:
    stored = {tensor.name: tensor.data_type for tensor in Network("gru").model(precision).graph.initializer}
    expected = {
        "fp32": onnx.TensorProto.FLOAT,
        "fp16": onnx.TensorProto.FLOAT16,
        "int8": onnx.TensorProto.INT8,
    }
    assert stored["layer0_recurrent"] == stored["output"] == expected[precision]


# --- no stream depends on another --------------------------------------------------------------------------

WIDE = 160
"""Wide enough that products run through the blocked kernels, with sizes that fill no block."""


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_stream_is_the_same_to_the_last_bit_in_a_batch_of_any_size(cell: str, precision: str) -> None:
    network = Network(cell, 2, hidden_size=WIDE)
    stepper = Stepper(network.model(precision))
    rows = 64
    tokens, states = np.arange(rows) % len(network.symbols), network.random_states(rows)
    whole: tuple[NDArray[Any], ...] = stepper.step(tokens, states, 0.7)
    for size in (*range(1, 18), rows):
        for first in {0, rows - size}:
            part: tuple[NDArray[Any], ...] = stepper.step(
                tokens[first : first + size], states[first : first + size], 0.7
            )
            for one, other in zip(whole, part, strict=True):
                np.testing.assert_array_equal(one[first : first + size], other)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_stands_in_the_other_rows_changes_nothing(precision: str) -> None:
    network = Network("lstm", 2, hidden_size=WIDE)
    stepper = Stepper(network.model(precision))
    states = network.random_states(8)
    quiet: tuple[NDArray[Any], ...] = stepper.step(np.zeros(8, np.int64), states)
    others = states.copy()
    others[1:] *= 100.0
    loud: tuple[NDArray[Any], ...] = stepper.step(np.array([0, 5, 6, 7, 8, 9, 10, 11]), others)
    for one, other in zip(quiet, loud, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
