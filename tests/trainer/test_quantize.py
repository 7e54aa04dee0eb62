"""Products in each precision: rounding of weights, and independence of streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from charrnn_trainer.export.graph.quantize import quantize_matrix
from step_graphs import Network, Stepper, initializers

CELLS = ("lstm", "gru", "rnn")

matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.one_of(
        st.just(0.0),
        st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
        st.floats(-1, 1, width=32, allow_subnormal=False),
    ),
)


@given(matrices)
def test_rounded_weights_stay_in_the_range_without_saturation(weight: NDArray[np.float64]) -> None:
    quantized, scale = quantize_matrix(weight)
    assert quantized.dtype == np.int8
    assert quantized.shape == weight.shape
    assert quantized.min() >= -64
    assert quantized.max() <= 63
    # Two neighbouring products of a uint8 and such a weight fit into 16 bits, whatever the uint8 are.
    assert 2 * 255 * int(np.abs(quantized.astype(int)).max()) < 2**15
    assert scale > 0


@given(matrices)
def test_every_weight_is_rounded_within_half_a_scale_or_clipped(weight: NDArray[np.float64]) -> None:
    quantized, scale = quantize_matrix(weight)
    inside = (weight >= -64 * scale) & (weight <= 63 * scale)
    error = np.abs(quantized * scale - weight)
    assert (error[inside] <= scale * 0.5 * (1 + 1e-9)).all()
    np.testing.assert_array_equal(quantized[weight > 63 * scale], 63)
    np.testing.assert_array_equal(quantized[weight < -64 * scale], -64)


@example(np.array([[3.9e-37]]))
@given(matrices)
def test_no_matrix_is_worse_than_at_the_scale_of_its_largest_weight(weight: NDArray[np.float64]) -> None:
    quantized, scale = quantize_matrix(weight)
    plain = np.abs(weight).max() / 63 or 1.0
    at_plain = np.clip(np.rint(weight / plain), -64, 63) * plain
    error, plain_error, size = (
        np.sqrt(np.square(values).mean())
        for values in (quantized * scale - weight, at_plain - weight, weight)
    )
    # The scale is stored in float32, so even the plain one is rounded, and none is below the
    # smallest normal number: values near zero are rounded by up to half of that.
    assert error <= plain_error + 1e-6 * size + np.finfo(np.float32).tiny / 2


def test_a_few_large_weights_do_not_coarsen_the_others() -> None:
    weight = np.random.RandomState(0).normal(0.0, 0.1, (200, 300))
    weight[7, 11] = 1.0
    quantized, scale = quantize_matrix(weight)
    plain = 1.0 / 63
    error = np.square(quantized * scale - weight).mean()
    assert error < 0.7 * np.square(np.rint(weight / plain) * plain - weight).mean()


@given(matrices)
def test_the_scale_is_representable_in_a_file(weight: NDArray[np.float64]) -> None:
    _, scale = quantize_matrix(weight)
    assert scale == float(np.float32(scale))


@given(matrices, st.integers(-20, 20))
def test_matrices_of_any_size_are_rounded_the_same_way(weight: NDArray[np.float64], power: int) -> None:
    # Scales are float32, whose smallest numbers are coarse; no network has weights as small as these.
    assume(not weight.any() or np.abs(weight).max() >= 1e-20)
    quantized, scale = quantize_matrix(weight)
    again, scale_again = quantize_matrix(weight * 2.0**power)
    np.testing.assert_array_equal(again, quantized)
    if weight.any():
        assert scale_again == scale * 2.0**power


def test_a_matrix_of_zeros_stays_zero() -> None:
    quantized, scale = quantize_matrix(np.zeros((3, 4)))
    assert not quantized.any()
    assert np.isfinite(scale)


# --- int8 files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forgetful(Network):
    """A network whose recurrent weights are multiplied by a number."""

    factor: float = 0.0

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        weights = super().weights
        for layer in range(self.layers):
            weights[f"rnn.weight_hh_l{layer}"] *= np.float32(self.factor)
        return weights


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("factor", [0.0, 1e-44, 1e-38, 1e-30, 1e-12, 1e-8, 1e-4])
def test_zero_recurrent_weights_do_not_affect_the_others(cell: str, factor: float) -> None:
    # Biases are stored as integers at the scale of the product. The scale must not be so small
    # that they do not fit.
    network = Forgetful(cell, factor=factor)
    rows = 4 * len(network.symbols)
    tokens, states = np.arange(rows) % len(network.symbols), network.random_states(rows)
    exact, _, exact_after = Stepper(network.model("fp32")).step(tokens, states)
    found, _, found_after = Stepper(network.model("int8")).step(tokens, states)
    assert np.abs(found - exact).mean() / exact.std() < 0.03
    assert np.abs(found_after - exact_after).mean() / exact_after.std() < 0.03


@pytest.mark.parametrize("cell", CELLS)
def test_every_product_of_an_int8_file_uses_quantized_weights(cell: str) -> None:
    model = Network(cell, 3).model("int8")
    constants = initializers(model)
    products = [node for node in model.graph.node if node.op_type == "QGemm"]
    assert len(products) == {"lstm": 4, "rnn": 4, "gru": 8}[cell]
    # One more product counts symbols.
    others = [node for node in model.graph.node if node.op_type in ("MatMul", "MatMulInteger", "Gemm")]
    assert [node.input[1] for node in others] == ["ones"]
    for node in products:
        weight = constants[node.input[3]]
        assert weight.dtype == np.int8
        assert weight.min() >= -64
        assert weight.max() <= 63


@pytest.mark.parametrize("cell", CELLS)
def test_int8_scales_are_constants_so_nothing_is_computed_from_the_batch(cell: str) -> None:
    model = Network(cell).model("int8")
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "QGemm"):
            assert constants[node.input[1]] == np.float32(1 / 127)
            assert constants[node.input[2]] == 128
        if node.op_type == "QGemm":
            assert constants[node.input[4]].shape == ()
            assert constants[node.input[5]] == 0
    assert {"QuantizeLinear", "QGemm"} <= {node.op_type for node in model.graph.node}
    forbidden = {"DynamicQuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum"}
    assert forbidden.isdisjoint(node.op_type for node in model.graph.node)


def test_the_bias_of_a_product_is_rounded_to_half_a_unit_of_its_sums() -> None:
    network = Network("lstm", 1)
    model = network.model("int8")
    constants = initializers(model)
    product = next(node for node in model.graph.node if node.output[0] == "logits")
    unit = float(constants[product.input[1]]) * float(constants[product.input[4]])
    kept = constants[product.input[6]]
    assert kept.dtype == np.int32
    np.testing.assert_allclose(kept * unit, network.weights["output.bias"], atol=unit * 0.5001)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_are_stored_in_the_dtype_of_the_precision(precision: str) -> None:
    stored = {tensor.name: tensor.data_type for tensor in Network("gru").model(precision).graph.initializer}
    expected = {
        "fp32": onnx.TensorProto.FLOAT,
        "fp16": onnx.TensorProto.FLOAT16,
        "int8": onnx.TensorProto.INT8,
    }
    assert stored["layer0_recurrent"] == stored["output"] == expected[precision]


# --- independence of streams -------------------------------------------------------------------------------

WIDE = 160
"""Wide enough that products run through the blocked kernels, with sizes that fill no block."""


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_stream_is_bit_identical_in_a_batch_of_any_size(cell: str, precision: str) -> None:
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
def test_other_rows_of_a_batch_do_not_affect_a_stream(precision: str) -> None:
    network = Network("lstm", 2, hidden_size=WIDE)
    stepper = Stepper(network.model(precision))
    states = network.random_states(8)
    quiet: tuple[NDArray[Any], ...] = stepper.step(np.zeros(8, np.int64), states)
    others = states.copy()
    others[1:] *= 100.0
    loud: tuple[NDArray[Any], ...] = stepper.step(np.array([0, 5, 6, 7, 8, 9, 10, 11]), others)
    for one, other in zip(quiet, loud, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
