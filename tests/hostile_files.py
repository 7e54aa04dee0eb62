"""Creates invalid model files: parses a valid one, changes it and writes it again.

Fields that charrnn_runtime.format.proto deliberately omits are encoded by hand: a message preserves unknown
fields when it is serialized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from charrnn_runtime import ModelFormatError
from charrnn_runtime.format import proto, spec
from charrnn_runtime.format.reader import check_model_bytes

FOLDER = Path(__file__).resolve().parent / "models"
LSTM = (FOLDER / "lstm-2x12-fp32.onnx").read_bytes()
INT8 = (FOLDER / "lstm-2x12-int8.onnx").read_bytes()
BYTE = (FOLDER / "lstm-1x12-fp32-byte.onnx").read_bytes()

Change = Callable[[Any], object]

TYPES = {
    np.dtype(np.float32): spec.FLOAT,
    np.dtype(np.float16): spec.FLOAT16,
    np.dtype(np.uint8): spec.UINT8,
    np.dtype(np.int8): spec.INT8,
    np.dtype(np.int32): spec.INT32,
    np.dtype(np.int64): spec.INT64,
}


def changed(change: Change, data: bytes = LSTM) -> bytes:
    """A file with a change applied to its parsed message."""
    model = proto.parse_model(data)
    change(model)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def refusal(data: bytes) -> str:
    """The loader's error for some bytes, which must be one line of readable length."""
    with pytest.raises(ModelFormatError) as caught:
        check_model_bytes(data, "model.onnx")
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) <= 500
    return message


# --- protobuf by hand --------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A varint: seven bits per byte; negative numbers as their 64-bit complement."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, content: int | bytes | str) -> bytes:
    """One field: a number as a varint; bytes and text prefixed with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def add_raw(message: Any, encoded: bytes) -> None:
    """Append encoded fields, known or unknown, to a message."""
    message.MergeFromString(encoded)


# --- changes -----------------------------------------------------------------------------------------------


def metadata(key: str, value: str | None) -> Change:
    """Sets a metadata key (without its prefix); None removes it."""

    def change(model: Any) -> None:
        name = spec.METADATA_PREFIX + key
        entries = [(entry.key, entry.value) for entry in model.metadata_props]
        del model.metadata_props[:]
        for found, old in entries:
            if found != name:
                model.metadata_props.add(key=found, value=old)
            elif value is not None:
                model.metadata_props.add(key=name, value=value)

    return change


def node(model: Any, output: str) -> Any:
    """The node that computes a value."""
    return next(node for node in model.graph.node if output in node.output)


def tensor(model: Any, name: str) -> Any:
    """An initializer."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def add_tensor(model: Any, name: str, numbers: NDArray[Any]) -> None:
    """Add an initializer."""
    model.graph.initializer.add(
        name=name, dims=numbers.shape, data_type=TYPES[numbers.dtype], raw_data=numbers.tobytes()
    )


def add_node(
    model: Any,
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str] = ("made",),
    attributes: dict[str, int | list[int]] | None = None,
    domain: str = "",
) -> None:
    """Add a node at the end."""
    made = model.graph.node.add(
        op_type=operator, input=inputs, output=outputs, name=f"added {operator}", domain=domain
    )
    for name, value in (attributes or {}).items():
        if isinstance(value, int):
            made.attribute.add(name=name, i=value, type=2)
        else:
            made.attribute.add(name=name, ints=value, type=7)
