"""Products in the precision of the file: x times a weight matrix, in fp32, fp16 or int8.

A product takes and gives float32 values; what happens between is the precision's own business. int8 is
static: activations have one fixed scale and weights one scale a column, so that nothing is computed from the
batch and one stream never depends on another.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime import contract
from charrnn_trainer.graph.builder import GraphBuilder
from charrnn_trainer.graph.weights import Matrix


class Products(Protocol):
    """How a precision multiplies."""

    def activation(self, value: str) -> str:
        """Prepare a float32 ``[B, H]`` value in [-1, 1] for `multiply`; done once, used by many products."""

    def concatenate(self, first: str, second: str) -> str:
        """Put two prepared values side by side: ``[B, H], [B, H] -> [B, 2H]``."""

    def multiply(self, activation: str, weight: Matrix, name: str) -> str:
        """A prepared ``[B, n]`` value times ``weight [n, m]``: float32 ``[B, m]``."""


class Fp32Products:
    """Plain float32."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder

    def activation(self, value: str) -> str:
        return value

    def concatenate(self, first: str, second: str) -> str:
        return self._builder.node("Concat", first, second, axis=1)

    def multiply(self, activation: str, weight: Matrix, name: str) -> str:
        return self._builder.node(
            "MatMul", activation, self._builder.constant(name, weight.astype(np.float32))
        )


class Fp16Products(Fp32Products):
    """Operands in half precision; sums, states and everything else stay float32."""

    def activation(self, value: str) -> str:
        return self._builder.node("Cast", value, to=contract.FLOAT16)

    def multiply(self, activation: str, weight: Matrix, name: str) -> str:
        product = self._builder.node(
            "MatMul", activation, self._builder.constant(name, weight.astype(np.float16))
        )
        return self._builder.node("Cast", product, to=contract.FLOAT)


class Int8Products(Fp32Products):
    """uint8 activations at a fixed scale times int8 weights with one scale a column."""

    def __init__(self, builder: GraphBuilder) -> None:
        super().__init__(builder)
        self._scale = builder.constant("activation_scale", np.array(contract.ACTIVATION_SCALE, np.float32))
        self._zero_point = builder.constant(
            "activation_zero_point", np.array(contract.ACTIVATION_ZERO_POINT, np.uint8)
        )

    def activation(self, value: str) -> str:
        return self._builder.node("QuantizeLinear", value, self._scale, self._zero_point)

    def multiply(self, activation: str, weight: Matrix, name: str) -> str:
        builder = self._builder
        columns, scales = quantize_columns(weight)
        product = builder.node("MatMulInteger", activation, builder.constant(name, columns), self._zero_point)
        product = builder.node("Cast", product, to=contract.FLOAT)
        return builder.node(
            "Mul",
            product,
            builder.constant(f"{name}_scale", (scales * contract.ACTIVATION_SCALE).astype(np.float32)),
        )


def quantize_columns(weight: Matrix) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Round a matrix to int8 with one scale a column.

    Args:
        weight: ``[n, m]``.

    Returns:
        ``int8 [n, m]`` in the contract's range, and ``float64 [m]``: their product is near ``weight``, within
        half a scale everywhere.
    """
    # The range is lopsided (-64 to 63): the scale is the smallest that holds both ends of the column.
    scales = np.maximum(weight.max(axis=0) / contract.WEIGHT_MAX, weight.min(axis=0) / contract.WEIGHT_MIN)
    scales = np.where(scales > 0, scales, 1.0)
    columns = np.clip(np.rint(weight / scales), contract.WEIGHT_MIN, contract.WEIGHT_MAX)
    return columns.astype(np.int8), scales


def products_for(precision: str, builder: GraphBuilder) -> Products:
    """The products of a precision."""
    kinds = {"fp32": Fp32Products, "fp16": Fp16Products, "int8": Int8Products}
    return kinds[precision](builder)
