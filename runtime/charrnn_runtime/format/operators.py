"""The operators of step models: their inputs, and the types and shapes of their outputs.

A rule infers what is known of a node's outputs from its inputs and attributes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_runtime.format.values import BATCH, Shape, Value
from charrnn_runtime.record import Record


class Mismatch(Exception):
    """The inputs or attributes of a node are invalid for its operator."""


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise Mismatch(f"expected {expected}")


def _require_row(value: Value, *element_types: int) -> int:
    """The width of a value of shape ``[B, width]``."""
    _require(len(value.shape) == 2 and value.shape[0] == BATCH, "a value of shape [batch, width]")
    _require(value.element_type in element_types, f"one of the types {element_types}")
    return value.shape[1]


def _constant(value: Value, element_type: int, shape: Shape | None = None) -> NDArray[Any]:
    if value.constant is None or value.element_type != element_type:
        raise Mismatch(f"expected a constant of type {element_type}")
    _require(shape is None or value.shape == shape, f"a constant of shape {shape}")
    return value.constant


def _broadcast(first: Shape, second: Shape) -> Shape:
    rank = max(len(first), len(second))
    sizes = []
    for one, other in zip(
        (1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True
    ):
        _require(one == other or 1 in (one, other), "shapes that broadcast")
        sizes.append(other if one == 1 else one)
    # [batch, 1] and [batch] would make [batch, batch]: streams would mix, and memory grow quadratically.
    _require(BATCH not in sizes[1:], "the batch on the first axis only")
    return tuple(sizes)


def _arithmetic(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    _require(all(value.element_type == spec.FLOAT for value in inputs), "float32 values")
    return [Value(spec.FLOAT, functools.reduce(_broadcast, (value.shape for value in inputs)))]


def _comparison(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    one, other = inputs
    _require(one.element_type == other.element_type, "two values of one type")
    _require(one.element_type in (spec.FLOAT, spec.INT64), "float32 or int64 values")
    return [Value(spec.BOOL, _broadcast(one.shape, other.shape))]


def _same(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    _require(inputs[0].element_type == spec.FLOAT, "a float32 value")
    return [Value(spec.FLOAT, inputs[0].shape)]


def _cast(inputs: Sequence[Value], attributes: dict[str, Any]) -> list[Value]:
    value, to = inputs[0], attributes["to"]
    below = value.below if to == spec.INT64 else None
    flags = value.element_type == spec.BOOL and to == spec.FLOAT
    return [Value(to, value.shape, below=below, flags=flags)]


def _gather(inputs: Sequence[Value], attributes: dict[str, Any]) -> list[Value]:
    table, indices = inputs
    if attributes["axis"] == 1:
        return _column(table, indices)
    _require(table.element_type in (spec.FLOAT, spec.INT32), "a table of float32 or int32")
    _constant(table, table.element_type)
    _require(len(table.shape) == 2, "a table of two axes")
    _require(indices.element_type == spec.INT64 and indices.shape == (BATCH,), "int64 [batch] indices")
    rows = table.shape[0]
    _require(indices.below is not None and indices.below <= rows, f"indices below {rows:,}")
    return [Value(table.element_type, (BATCH, table.shape[1]))]


def _column(value: Value, index: Value) -> list[Value]:
    """The same column of every row."""
    width = _require_row(value, spec.FLOAT)
    column = int(_constant(index, spec.INT64, (1,))[0])
    _require(0 <= column < width, f"a column below {width:,}")
    return [Value(spec.FLOAT, (BATCH, 1))]


def _split(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, sizes = inputs
    width = _require_row(value, spec.FLOAT)
    parts = _constant(sizes, spec.INT64)
    _require(
        parts.ndim == 1 and bool((parts > 0).all()) and sum(map(int, parts)) == width,
        f"positive sizes that sum to {width}",
    )
    return [Value(spec.FLOAT, (BATCH, int(part))) for part in parts]


def _concat(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    kind = inputs[0].element_type
    _require(kind in (spec.FLOAT, spec.FLOAT16, spec.UINT8), "float or uint8 values")
    return [Value(kind, (BATCH, sum(_require_row(value, kind) for value in inputs)))]


def _matmul(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, weight = inputs
    width = _require_row(value, spec.FLOAT, spec.FLOAT16)
    numbers = _constant(weight, value.element_type)
    _require(len(weight.shape) == 2 and weight.shape[0] == width, f"a constant matrix of {width} rows")
    below = None
    if value.flags and bool(np.isin(numbers, (0, 1)).all()):
        below = int(numbers.sum(axis=0).max()) + 1  # counts the ones
    return [Value(value.element_type, (BATCH, weight.shape[1]), below=below)]


def _qgemm(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, scale, zero_point, weight, weight_scale, weight_zero_point, added = inputs
    width = _require_row(value, spec.UINT8)
    _require(float(_constant(scale, spec.FLOAT, ())) > 0, "a positive scale")
    _constant(zero_point, spec.UINT8, ())
    _constant(weight, spec.INT8)
    _require(len(weight.shape) == 2 and weight.shape[0] == width, f"a constant matrix of {width} rows")
    _require(float(_constant(weight_scale, spec.FLOAT, ())) > 0, "a positive weight scale")
    _constant(weight_zero_point, spec.INT8, ())
    columns = weight.shape[1]
    if added.constant is not None:
        _constant(added, spec.INT32, (columns,))
    else:
        _require(_require_row(added, spec.INT32) == columns, f"rows of {columns} numbers to add")
    return [Value(spec.FLOAT, (BATCH, columns))]


def _quantize(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, scale, zero_point = inputs
    width = _require_row(value, spec.FLOAT)
    _require(float(_constant(scale, spec.FLOAT, ())) > 0, "a positive scale")
    _constant(zero_point, spec.UINT8, ())
    return [Value(spec.UINT8, (BATCH, width))]


def _unsqueeze(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, axes = inputs
    _require(value.shape == (BATCH,), "a value of shape [batch]")
    _require(_constant(axes, spec.INT64, (1,))[0] == 1, "axes [1]")
    return [Value(value.element_type, (BATCH, 1), below=value.below)]


def _topk(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, k = inputs
    width = _require_row(value, spec.FLOAT)
    count = int(_constant(k, spec.INT64, (1,))[0])
    _require(1 <= count <= width, f"k between 1 and {width}")
    return [Value(spec.FLOAT, (BATCH, count)), Value(spec.INT64, (BATCH, count), below=width)]


def _cumsum(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, axis = inputs
    _require(int(_constant(axis, spec.INT64, ())) == 1, "axis 1")
    return [Value(spec.FLOAT, (BATCH, _require_row(value, spec.FLOAT)))]


def _reshape(inputs: Sequence[Value], _: dict[str, Any]) -> list[Value]:
    value, shape = inputs
    _require(_require_row(value, spec.FLOAT) == 1, "a value of shape [batch, 1]")
    _require(_constant(shape, spec.INT64, (1,))[0] == -1, "the shape [-1]")
    return [Value(spec.FLOAT, (BATCH,), below=value.below)]


class Rule(Record):
    """An operator: its number of inputs, and its attributes' allowed values (None: up to the rule)."""

    infer: Callable[[Sequence[Value], dict[str, Any]], list[Value]]
    inputs: int
    attributes: dict[str, list[Any] | None]
    domain: str = ""


MANY: Final = -1
_CASTS: Final[list[Any]] = [spec.FLOAT, spec.FLOAT16, spec.INT64]

RULES: Final = {
    "Add": Rule(_arithmetic, 2, {}),
    "Cast": Rule(_cast, 1, {"to": _CASTS}),
    "Concat": Rule(_concat, MANY, {"axis": [1]}),
    "CumSum": Rule(_cumsum, 2, {}),
    "Div": Rule(_arithmetic, 2, {}),
    "Gather": Rule(_gather, 2, {"axis": [0, 1]}),
    "GreaterOrEqual": Rule(_comparison, 2, {}),
    "Identity": Rule(_same, 1, {}),
    "Less": Rule(_comparison, 2, {}),
    "LessOrEqual": Rule(_comparison, 2, {}),
    "MatMul": Rule(_matmul, 2, {}),
    "Max": Rule(_arithmetic, MANY, {}),
    "Min": Rule(_arithmetic, 2, {}),
    "Mul": Rule(_arithmetic, 2, {}),
    "QGemm": Rule(_qgemm, 7, {}, spec.CONTRIB_DOMAIN),
    "QuantizeLinear": Rule(_quantize, 3, {}),
    "Reshape": Rule(_reshape, 2, {}),
    "Sigmoid": Rule(_same, 1, {}),
    "Softmax": Rule(_same, 1, {"axis": [1]}),
    "Split": Rule(_split, 2, {"axis": [1]}),
    "Sub": Rule(_arithmetic, 2, {}),
    "Tanh": Rule(_same, 1, {}),
    "TopK": Rule(_topk, 2, {"axis": [1]}),
    "Unsqueeze": Rule(_unsqueeze, 2, {}),
}
