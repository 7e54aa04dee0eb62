"""What is known of the values in a graph: type, shape, and the contents of constants."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

BATCH: Final = -1
"""Stands for the number of streams in shapes."""

Shape = tuple[int, ...]

_MOST_AXES: Final = 2
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
        element_type: its ONNX element type.
        shape: its shape.
        constant: its contents, if it is an initializer.
        below: a bound, if one is known: all its numbers are in [0, below).
        flags: whether all its numbers are known to be 0 or 1.
    """

    element_type: int
    shape: Shape
    constant: NDArray[Any] | None = None
    below: int | None = None
    flags: bool = False


def read_tensor(tensor: Any) -> Value:
    """Read an initializer.

    Raises:
        ModelFormatError: its type is not used by step models, it has more than two axes or an empty one, its
            number of bytes does not match its shape, or it has numbers that are not finite.
    """
    name = tensor.name
    item_type = _ITEM_TYPES.get(tensor.data_type)
    if item_type is None:
        raise ModelFormatError(f"tensor {name!r} has the unsupported element type {tensor.data_type}")
    if len(tensor.dims) > _MOST_AXES:
        raise ModelFormatError(
            f"tensor {name!r} has {len(tensor.dims):,} axes; at most {_MOST_AXES} are allowed"
        )
    shape = tuple(tensor.dims)
    if any(size < 1 for size in shape):
        raise ModelFormatError(f"tensor {name!r} has the shape {shape}; every size must be 1 or more")
    raw_data = tensor.raw_data  # each access makes a copy
    needed, found = math.prod(shape) * item_type.itemsize, len(raw_data)
    if needed != found:
        raise ModelFormatError(f"tensor {name!r} of shape {shape} needs {needed:,} bytes, but has {found:,}")
    numbers = np.frombuffer(raw_data, dtype=item_type).reshape(shape)
    if item_type.kind == "f" and not np.isfinite(numbers).all():
        raise ModelFormatError(f"tensor {name!r} has numbers that are not finite (NaN or infinity)")
    return Value(tensor.data_type, shape, numbers)


def shape_text(shape: Shape) -> str:
    """A shape as printed in messages: ``[batch, 65]``."""
    return "[" + ", ".join("batch" if size == BATCH else str(size) for size in shape) + "]"
