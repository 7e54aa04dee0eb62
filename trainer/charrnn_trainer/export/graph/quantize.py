"""Affine maps in the precision of the file: x times a weight matrix plus a bias, in fp32, fp16 or int8.

Inputs and outputs are float32; the arithmetic in between depends on the precision. int8 is static:
activations have one fixed scale and each weight matrix has one scale, so that nothing is computed from the
batch and streams never affect each other.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_trainer.export.graph.builder import GraphBuilder
from charrnn_trainer.export.graph.weights import Matrix

_SCALES_TRIED: Final = 41
_LARGEST_ADDED: Final = 2**30
"""The largest number added to a product's int32 sums, which need the rest of the range."""


class Products(Protocol):
    """The matrix products of a precision."""

    def activation(self, value: str) -> str:
        """Prepare a float32 ``[B, H]`` value in [-1, 1] for products; done once for all uses."""

    def concatenate(self, first: str, second: str) -> str:
        """Concatenate two prepared values: ``[B, H], [B, H] -> [B, 2H]``."""

    def affine(self, activation: str, weight: Matrix, bias: Matrix, name: str) -> str:
        """A prepared ``[B, n]`` value times ``weight [n, m]`` plus ``bias [m]``: float32 ``[B, m]``."""

    def affine_lookup(self, activation: str, weight: Matrix, table: Matrix, token: str, name: str) -> str:
        """The same plus each stream's own row of ``table [V, m]``: ``table[token]``."""


class Fp32Products:
    """Plain float32."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder

    def activation(self, value: str) -> str:
        return value

    def concatenate(self, first: str, second: str) -> str:
        return self._builder.node("Concat", first, second, axis=1)

    def affine(self, activation: str, weight: Matrix, bias: Matrix, name: str) -> str:
        added = self._builder.constant(f"{name}_bias", bias.astype(np.float32))
        return self._builder.node("Add", self._multiply(activation, weight, name), added)

    def affine_lookup(self, activation: str, weight: Matrix, table: Matrix, token: str, name: str) -> str:
        rows = self._builder.constant("table", table.astype(np.float32))
        added = self._builder.node("Gather", rows, token, axis=0)  # (V, m), (B) -> (B, m)
        return self._builder.node("Add", self._multiply(activation, weight, name), added)

    def _multiply(self, activation: str, weight: Matrix, name: str) -> str:
        return self._builder.node(
            "MatMul", activation, self._builder.constant(name, weight.astype(np.float32))
        )


class Fp16Products(Fp32Products):
    """Operands in half precision; sums, states and everything else stay float32."""

    def activation(self, value: str) -> str:
        return self._builder.node("Cast", value, to=spec.FLOAT16)

    def _multiply(self, activation: str, weight: Matrix, name: str) -> str:
        product = self._builder.node(
            "MatMul", activation, self._builder.constant(name, weight.astype(np.float16))
        )
        return self._builder.node("Cast", product, to=spec.FLOAT)


class Int8Products:
    """uint8 activations at a fixed scale times int8 weights at one scale per matrix, summed in int32.

    onnxruntime's QGemm combines product, addition and scaling in one operator; the bias and the rows of the
    table are int32 at the product's scale. There is one scale per matrix rather than per column, since this
    makes the operator a quarter faster at one stream, and the loss in quality stays far below the bound.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._scale = builder.constant("activation_scale", np.array(spec.ACTIVATION_SCALE, np.float32))
        self._zero_point = builder.constant(
            "activation_zero_point", np.array(spec.ACTIVATION_ZERO_POINT, np.uint8)
        )
        self._weight_zero_point = builder.constant("weight_zero_point", np.array(0, np.int8))

    def activation(self, value: str) -> str:
        return self._builder.node("QuantizeLinear", value, self._scale, self._zero_point)

    def concatenate(self, first: str, second: str) -> str:
        return self._builder.node("Concat", first, second, axis=1)

    def affine(self, activation: str, weight: Matrix, bias: Matrix, name: str) -> str:
        quantized, scale = quantize_matrix(weight, _smallest_scale(bias))
        added = self._builder.constant(f"{name}_bias", _at_scale(bias, scale))
        return self._gemm(activation, quantized, scale, added, name)

    def affine_lookup(self, activation: str, weight: Matrix, table: Matrix, token: str, name: str) -> str:
        quantized, scale = quantize_matrix(weight, _smallest_scale(table))
        rows = self._builder.constant("table", _at_scale(table, scale))
        added = self._builder.node("Gather", rows, token, axis=0)  # (V, m), (B) -> (B, m)
        return self._gemm(activation, quantized, scale, added, name)

    def _gemm(self, activation: str, quantized: NDArray[np.int8], scale: float, added: str, name: str) -> str:
        return self._builder.node(
            "QGemm",
            activation,
            self._scale,
            self._zero_point,
            self._builder.constant(name, quantized),
            self._builder.constant(f"{name}_scale", np.array(scale, np.float32)),
            self._weight_zero_point,
            added,
            domain=spec.CONTRIB_DOMAIN,
        )


def quantize_matrix(weight: Matrix, smallest: float = 0.0) -> tuple[NDArray[np.int8], float]:
    """Quantize a matrix to int8 with one scale, chosen for the least mean squared error.

    Large weights are few; a scale that clips them rounds all others more finely.

    Args:
        weight: ``[n, m]``.
        smallest: the smallest allowed scale.

    Returns:
        ``int8 [n, m]`` in the format's range, and the scale: their product approximates ``weight``.
    """
    smallest = max(smallest, float(np.finfo(np.float32).tiny))
    largest = float(np.abs(weight).max())

    def rounded(scale: float) -> Matrix:
        return np.clip(np.rint(weight / scale), spec.WEIGHT_MIN, spec.WEIGHT_MAX)

    def error(scale: float) -> float:
        return float(np.square(rounded(scale) * scale - weight).mean())

    shares = np.linspace(1.0, 0.2, _SCALES_TRIED)
    scale = min((max(largest / spec.WEIGHT_MAX * share, smallest) for share in shares), key=error)
    # The file stores the scale in float32, so the weights are rounded at that value.
    scale = float(np.float32(scale))
    return rounded(scale).astype(np.int8), scale


def _smallest_scale(added: Matrix) -> float:
    """The smallest scale at which the added values fit into int32, for matrices close to zero."""
    return float(np.abs(added).max()) / (spec.ACTIVATION_SCALE * _LARGEST_ADDED)


def _at_scale(values: Matrix, scale: float) -> NDArray[np.int32]:
    """Values as int32 at the scale of a product's sums."""
    sums = np.rint(values / (np.float64(np.float32(spec.ACTIVATION_SCALE)) * scale))
    return np.clip(sums, -_LARGEST_ADDED, _LARGEST_ADDED).astype(np.int32)


def products_for(precision: str, builder: GraphBuilder) -> Products:
    """The products of a precision."""
    if precision == "int8":
        return Int8Products(builder)
    return Fp16Products(builder) if precision == "fp16" else Fp32Products(builder)
