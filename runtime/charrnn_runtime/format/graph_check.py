"""Checks the graph of a step model, node by node: known operators, known attributes, types and shapes.

Every value's type and shape is inferred from the inputs on, so that a graph cannot grow a value larger than
its model has any use for, whatever it is made of. Shapes are tuples in which `BATCH` means B.

Indices are checked to be in range too, since not every kernel of a GPU looks: the sampler counts symbols to
find the one that it takes, and a count is bounded by how many are counted (see `Value`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

BATCH: Final = -1
Shape = tuple[int, ...]

_MOST_AXES: Final = 2
_INT_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 7  # AttributeProto.AttributeType
_ITEM_TYPES: Final[dict[int, np.dtype[Any]]] = {
    spec.FLOAT: np.dtype("<f4"),
    spec.FLOAT16: np.dtype("<f2"),
    spec.UINT8: np.dtype("u1"),
    spec.INT8: np.dtype("i1"),
    spec.INT32: np.dtype("<i4"),
    spec.INT64: np.dtype("<i8"),
}


class Value(Record):
    """What is known of a value.

    Attributes:
        element_type: ONNX's number of its type.
        shape: its shape.
        constant: its numbers, where it is an initializer.
        below: a bound, where one is known: all of its numbers are in [0, below).
        flags: whether every number is known to be 0 or 1.
    """

    element_type: int
    shape: Shape
    constant: NDArray[Any] | None = None
    below: int | None = None
    flags: bool = False


class _Mismatch(Exception):
    """A node's inputs or attributes are not what its operator takes."""


def read_tensor(tensor: Any) -> Value:
    """An initializer's value.

    Raises:
        ModelFormatError: its type is not used by step models, it has more than two axes or an empty one, it
            does not have as many bytes as its shape needs, or it has numbers that are not finite.
    """
    name = tensor.name
    item_type = _ITEM_TYPES.get(tensor.data_type)
    if item_type is None:
        raise ModelFormatError(f"tensor {name!r} has element type {tensor.data_type}, which is not used here")
    if len(tensor.dims) > _MOST_AXES:
        raise ModelFormatError(
            f"tensor {name!r} has {len(tensor.dims):,} axes; at most {_MOST_AXES} are used here"
        )
    shape = tuple(tensor.dims)
    if any(size < 1 for size in shape):
        raise ModelFormatError(f"tensor {name!r} has the shape {shape}; every size must be 1 or more")
    raw_data = tensor.raw_data  # every look at it makes a copy
    needed, found = math.prod(shape) * item_type.itemsize, len(raw_data)
    if needed != found:
        raise ModelFormatError(f"tensor {name!r} of shape {shape} needs {needed:,} bytes, but has {found:,}")
    numbers = np.frombuffer(raw_data, dtype=item_type).reshape(shape)
    if item_type.kind == "f" and not np.isfinite(numbers).all():
        raise ModelFormatError(f"tensor {name!r} has numbers that are not finite (NaN or infinity)")
    return Value(tensor.data_type, shape, numbers)


class Sizes(Record):
    """How much a graph may and must hold, counted in numbers.

    Attributes:
        widest: the most that one value may have for one stream.
        in_all: the most that all computed values may have together, for one stream.
        weights: the least that the initializers must have together: a model that claims to be large has to
            bring its weights along.
        most_weights: the most that they may have: a small model has no use for more.
    """

    widest: int
    in_all: int
    weights: int
    most_weights: int


def check_graph(graph: Any, inputs: dict[str, Value], outputs: dict[str, Value], sizes: Sizes) -> None:
    """Check all nodes of a graph, in order.

    Args:
        graph: the ``GraphProto``.
        inputs: what the specification says of the inputs.
        outputs: what it says of the outputs.
        sizes: how much it may and must hold.

    Raises:
        ModelFormatError: a rule is broken; the message names the node.
    """
    values = dict(inputs)
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in values:
            raise ModelFormatError(f"the name {tensor.name!r} of a tensor is empty or already taken")
        values[tensor.name] = read_tensor(tensor)
    weights = sum(value.constant.size for value in values.values() if value.constant is not None)
    if weights < sizes.weights:
        raise ModelFormatError(
            f"its tensors have {weights:,} numbers; a model of its layers, hidden size and vocabulary has at "
            f"least {sizes.weights:,}"
        )
    if weights > sizes.most_weights:
        raise ModelFormatError(
            f"its tensors have {weights:,} numbers; a model of its layers, hidden size and vocabulary has at "
            f"most {sizes.most_weights:,}"
        )
    in_all = 0
    for node in graph.node:
        label = f"node {node.name!r} ({node.op_type})"
        made = _infer(node, label, values)
        if len(made) != len(node.output):
            raise ModelFormatError(f"{label} has {len(node.output)} outputs; it must have {len(made)}")
        for name, value in zip(node.output, made, strict=True):
            if not name or name in values:
                raise ModelFormatError(f"{label}: the output name {name!r} is empty or already taken")
            numbers = math.prod(size for size in value.shape if size != BATCH)
            if numbers > sizes.widest:
                raise ModelFormatError(
                    f"{label} makes a value of shape {_show(value.shape)}; one stream may need at most "
                    f"{sizes.widest:,} numbers"
                )
            in_all += numbers
            values[name] = value
        if in_all > sizes.in_all:
            raise ModelFormatError(
                f"the values up to {label} have {in_all:,} numbers for one stream; at most "
                f"{sizes.in_all:,} are allowed for a model of its sizes"
            )
    for name, wanted in outputs.items():
        found = values.get(name)
        if found is None or name in inputs or found.constant is not None:
            raise ModelFormatError(f"no node computes the output {name!r}")
        if (found.element_type, found.shape) != (wanted.element_type, wanted.shape):
            raise ModelFormatError(
                f"output {name!r} is computed with type {found.element_type} and shape {_show(found.shape)}; "
                f"expected type {wanted.element_type} and shape {_show(wanted.shape)}"
            )
        if wanted.below is not None and (found.below is None or found.below > wanted.below):
            raise ModelFormatError(
                f"output {name!r} is not computed as an index below {wanted.below:,}, as a count is"
            )


def _infer(node: Any, label: str, values: dict[str, Value]) -> list[Value]:
    rule = _RULES.get(node.op_type)
    if node.domain != (rule.domain if rule else ""):
        raise ModelFormatError(f"{label} is of the foreign domain {node.domain!r}")
    if rule is None:
        raise ModelFormatError(f"{label}: this operator is not on the list of those that export writes")
    attributes = _attributes(node, label)
    missing = [name for name in node.input if name not in values]
    if missing:
        raise ModelFormatError(f"{label} reads {missing[0]!r}, which nothing before it computes")
    if len(node.input) != rule.inputs and not (rule.inputs == _MANY and node.input):
        raise ModelFormatError(f"{label} has {len(node.input)} inputs; it must have {rule.inputs}")
    if set(attributes) != set(rule.attributes):
        raise ModelFormatError(
            f"{label} has the attributes {sorted(attributes)}; it must have {sorted(rule.attributes)}"
        )
    for name, allowed in rule.attributes.items():
        if allowed is not None and attributes[name] not in allowed:
            raise ModelFormatError(f"{label}: {name} is {attributes[name]}; allowed is {allowed}")
    try:
        return rule.infer([values[name] for name in node.input], attributes)
    except _Mismatch as mismatch:
        shapes = ", ".join(_show(values[name].shape) for name in node.input)
        raise ModelFormatError(f"{label} does not fit its inputs of shapes {shapes}: {mismatch}") from None


def _attributes(node: Any, label: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == _INT_ATTRIBUTE and not attribute.ints:
            value: Any = attribute.i
        elif attribute.type == _INTS_ATTRIBUTE and not attribute.i:
            value = list(attribute.ints)
        else:
            raise ModelFormatError(
                f"{label}: the attribute {attribute.name!r} has a type that is not used here"
            )
        if attribute.name in found:
            raise ModelFormatError(f"{label}: the attribute {attribute.name!r} occurs twice")
        found[attribute.name] = value
    return found


def _show(shape: Shape) -> str:
    return "[" + ", ".join("batch" if size == BATCH else str(size) for size in shape) + "]"


# --- the operators -----------------------------------------------------------------------------------------


def _require(condition: bool, expected: str) -> None:
    if not condition:
        raise _Mismatch(f"expected {expected}")


def _require_row(value: Value, *element_types: int) -> int:
    """The width of a value of shape ``[B, width]``."""
    _require(len(value.shape) == 2 and value.shape[0] == BATCH, "a value of shape [batch, width]")
    _require(value.element_type in element_types, f"one of the types {element_types}")
    return value.shape[1]


def _constant(value: Value, element_type: int, shape: Shape | None = None) -> NDArray[Any]:
    if value.constant is None or value.element_type != element_type:
        raise _Mismatch(f"expected a constant of type {element_type}")
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
    # [batch, 1] and [batch] would make [batch, batch]: streams would meet, and memory grow with their square.
    _require(BATCH not in sizes[1:], "the batch on the first axis alone")
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
    """One and the same column of every row."""
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
        below = int(numbers.sum(axis=0).max()) + 1  # it counts those that are 1
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


class _Rule(Record):
    """One operator: how many inputs, which attributes with which values (None: the rule itself looks)."""

    infer: Callable[[Sequence[Value], dict[str, Any]], list[Value]]
    inputs: int
    attributes: dict[str, list[Any] | None]
    domain: str = ""


_MANY: Final = -1
_CASTS: Final[list[Any]] = [spec.FLOAT, spec.FLOAT16, spec.INT64]

_RULES: Final = {
    "Add": _Rule(_arithmetic, 2, {}),
    "Cast": _Rule(_cast, 1, {"to": _CASTS}),
    "Concat": _Rule(_concat, _MANY, {"axis": [1]}),
    "CumSum": _Rule(_cumsum, 2, {}),
    "Div": _Rule(_arithmetic, 2, {}),
    "Gather": _Rule(_gather, 2, {"axis": [0, 1]}),
    "GreaterOrEqual": _Rule(_comparison, 2, {}),
    "Identity": _Rule(_same, 1, {}),
    "Less": _Rule(_comparison, 2, {}),
    "LessOrEqual": _Rule(_comparison, 2, {}),
    "MatMul": _Rule(_matmul, 2, {}),
    "Max": _Rule(_arithmetic, _MANY, {}),
    "Min": _Rule(_arithmetic, 2, {}),
    "Mul": _Rule(_arithmetic, 2, {}),
    "QGemm": _Rule(_qgemm, 7, {}, spec.CONTRIB_DOMAIN),
    "QuantizeLinear": _Rule(_quantize, 3, {}),
    "Reshape": _Rule(_reshape, 2, {}),
    "Sigmoid": _Rule(_same, 1, {}),
    "Softmax": _Rule(_same, 1, {"axis": [1]}),
    "Split": _Rule(_split, 2, {"axis": [1]}),
    "Sub": _Rule(_arithmetic, 2, {}),
    "Tanh": _Rule(_same, 1, {}),
    "TopK": _Rule(_topk, 2, {"axis": [1]}),
    "Unsqueeze": _Rule(_unsqueeze, 2, {}),
}
