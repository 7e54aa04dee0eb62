"""The protobuf messages of ONNX that step models use, without the onnx package.

Field names and numbers are those of onnx.proto (ONNX 1.12, IR version 8). The messages live in a separate
pool, so they never conflict with the onnx package's. Fields that step models do not use are omitted on
purpose: they appear as unknown fields, and `unknown_field` names them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields
from google.protobuf.message import DecodeError, EncodeError, Message

_Field = descriptor_pb2.FieldDescriptorProto
_INT32, _INT64, _STRING, _BYTES = _Field.TYPE_INT32, _Field.TYPE_INT64, _Field.TYPE_STRING, _Field.TYPE_BYTES
_VARINT, _BYTES_FOLLOW, _FIXED_SIZES = 0, 2, {1: 8, 5: 4}  # wire types

# message -> (number, name, type or message, repeated?)
_MESSAGES: Final[dict[str, list[tuple[int, str, Any, bool]]]] = {
    "ModelProto": [
        (1, "ir_version", _INT64, False),
        (2, "producer_name", _STRING, False),
        (7, "graph", "GraphProto", False),
        (8, "opset_import", "OperatorSetIdProto", True),
        (14, "metadata_props", "StringStringEntryProto", True),
    ],
    "GraphProto": [
        (1, "node", "NodeProto", True),
        (2, "name", _STRING, False),
        (5, "initializer", "TensorProto", True),
        (11, "input", "ValueInfoProto", True),
        (12, "output", "ValueInfoProto", True),
    ],
    "NodeProto": [
        (1, "input", _STRING, True),
        (2, "output", _STRING, True),
        (3, "name", _STRING, False),
        (4, "op_type", _STRING, False),
        (5, "attribute", "AttributeProto", True),
        (7, "domain", _STRING, False),
    ],
    "AttributeProto": [
        (1, "name", _STRING, False),
        (3, "i", _INT64, False),
        (8, "ints", _INT64, True),
        (20, "type", _INT32, False),
    ],
    "TensorProto": [
        (1, "dims", _INT64, True),
        (2, "data_type", _INT32, False),
        (8, "name", _STRING, False),
        (9, "raw_data", _BYTES, False),
    ],
    "ValueInfoProto": [(1, "name", _STRING, False), (2, "type", "TypeProto", False)],
    "TypeProto": [(1, "tensor_type", "TypeProtoTensor", False)],
    "TypeProtoTensor": [(1, "elem_type", _INT32, False), (2, "shape", "TensorShapeProto", False)],
    "TensorShapeProto": [(1, "dim", "Dimension", True)],
    "Dimension": [(1, "dim_value", _INT64, False), (2, "dim_param", _STRING, False)],
    "OperatorSetIdProto": [(1, "domain", _STRING, False), (2, "version", _INT64, False)],
    "StringStringEntryProto": [(1, "key", _STRING, False), (2, "value", _STRING, False)],
}

_REJECTED: Final = {
    ("ModelProto", 20): "training information",
    ("ModelProto", 25): "functions",
    ("GraphProto", 15): "sparse tensors",
    ("AttributeProto", 2): "a floating-point attribute",
    ("AttributeProto", 4): "a string attribute",
    ("AttributeProto", 5): "a tensor attribute",
    ("AttributeProto", 6): "a graph attribute",
    ("AttributeProto", 10): "tensor attributes",
    ("AttributeProto", 11): "graph attributes",
    ("AttributeProto", 22): "a sparse tensor attribute",
    ("TensorProto", 4): "a tensor whose numbers are not stored as raw data",
    ("TensorProto", 13): "external data",
    ("TensorProto", 14): "a data location (external data)",
    ("TypeProto", 4): "a sequence type",
    ("TypeProto", 5): "a map type",
    ("TypeProto", 9): "an optional type",
}
"""The names of the most relevant unknown fields in errors."""

_KINDS: Final = {
    message: {number: kind for number, _, kind, _ in fields} for message, fields in _MESSAGES.items()
}

MAX_FIELDS: Final = 200_000
"""The most fields in a file, at all depths together; about 40 times what a large model has. A parsed message
can take 50 times the memory of its bytes, so fields are counted first."""

MAX_TEXT: Final = 16 * 1024 * 1024
"""The most bytes of all names, metadata and unknown fields together; about 16 times what the largest
vocabulary takes. Text in Python can take four times its bytes."""


_GRAPH, _INITIALIZER, _TENSOR_NAME = 7, 5, 8  # fields of ModelProto, GraphProto and TensorProto

_LARGE_TENSOR: Final = 4096
"""The size in bytes from which `separate_tensors` treats a tensor as large."""


@cache
def _model_class() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(name="charrnn_onnx.proto", package="charrnn", syntax="proto3")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for number, name, kind, repeated in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = described.field.add(number=number, name=name, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".charrnn.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("charrnn.ModelProto"))


def parse_model(data: bytes) -> Any:
    """Parse a ``ModelProto``.

    Raises:
        ValueError: the bytes are not a valid message, or have more than `MAX_FIELDS` fields or `MAX_TEXT`
            bytes of text.
    """
    _Budget().spend(data, 0, len(data), "ModelProto")
    model = _model_class()()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return model


def parse_again(data: bytes) -> Any:
    """Parse a ``ModelProto`` that was parsed before, or a part of one.

    Raises:
        MemoryError: there is too little memory.
    """
    model = _model_class()()
    try:
        model.ParseFromString(data)
    except DecodeError as error:  # since it was parsed before, only memory can be lacking
        raise MemoryError from error
    return model


def keep_outputs(data: bytes, names: Collection[str]) -> bytes:
    """Remove what only other outputs of a model need: nodes, initializers and inputs.

    Args:
        data: a model that was parsed before, with nodes in topological order.
        names: the outputs to keep.

    Raises:
        MemoryError: there is too little memory.
    """
    model = parse_again(data)
    graph = model.graph
    needed = set(names)
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed.isdisjoint(node.output):
            del graph.node[index]
        else:
            needed.update(node.input)
    for values, kept in ((graph.initializer, needed), (graph.input, needed), (graph.output, names)):
        for index in reversed(range(len(values))):
            if values[index].name not in kept:
                del values[index]
    try:
        smaller: bytes = model.SerializeToString()
    except EncodeError as error:
        raise MemoryError from error
    return smaller


def separate_tensors(data: bytes) -> tuple[bytes, list[bytes | memoryview], list[str]]:
    """Separate the large tensors of a model, so that the rest can be rewritten quickly.

    Concatenated messages are equivalent to the merged message, so the first part, changed or not, followed by
    the second one is a model again.

    Args:
        data: a model that was parsed before.

    Returns:
        The model without its large tensors; the large tensors as a list of buffers to concatenate, which are
        not copied; and their names.
    """
    view = memoryview(data)
    small: list[bytes | memoryview] = []
    large: list[bytes | memoryview] = []
    names = []
    for number, begin, content, end in _fields(data, 0, len(data)):
        if number != _GRAPH:
            small.append(view[begin:end])
            continue
        graph: list[bytes | memoryview] = []
        for inner, inner_begin, inner_content, inner_end in _fields(data, content, end):
            if inner == _INITIALIZER and inner_end - inner_content > _LARGE_TENSOR:
                large.append(view[inner_begin:inner_end])
                of_tensor = _fields(data, inner_content, inner_end)
                names += [data[at:stop].decode() for field, _, at, stop in of_tensor if field == _TENSOR_NAME]
            else:
                graph.append(view[inner_begin:inner_end])
        small += _message(_GRAPH, graph)
    return b"".join(small), _message(_GRAPH, large), names


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message that was parsed before: number, start, start of the content, end."""
    while at < end:
        begin = at
        tag, at = _read_varint(data, at, end)
        content = at
        if tag & 7 == _VARINT:
            _, at = _read_varint(data, at, end)
        elif tag & 7 == _BYTES_FOLLOW:
            size, content = _read_varint(data, at, end)
            at = content + size
        else:
            at += _FIXED_SIZES[tag & 7]
        yield tag >> 3, begin, content, at


def _message(number: int, parts: Collection[bytes | memoryview]) -> list[bytes | memoryview]:
    """The encoding of a field that is a message with some fields, as a list of buffers."""
    size = sum(len(part) for part in parts)
    return [_varint(number << 3 | _BYTES_FOLLOW), _varint(size), *parts]


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


class _Budget:
    """The remaining numbers of fields and text bytes that a message may have."""

    def __init__(self) -> None:
        self.fields = MAX_FIELDS
        self.text = MAX_TEXT

    def spend(self, data: bytes, at: int, end: int, message: str) -> None:
        """Count the fields and text of a message in ``data[at:end]``, recursively.

        Raises:
            ValueError: the limits are exceeded, or the encoding is invalid.
        """
        kinds = _KINDS[message]
        while at < end:
            self.fields -= 1
            tag, at = _read_varint(data, at, end)
            kind = kinds.get(tag >> 3)
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, at = _read_varint(data, at, end)
            elif wire_type == _BYTES_FOLLOW:
                size, at = _read_varint(data, at, end)
                if size > end - at:
                    raise ValueError("a field continues past the end")
                if isinstance(kind, str):
                    self.spend(data, at, at + size, kind)
                elif kind in (_INT32, _INT64):
                    self.fields -= size  # packed numbers: at most one per byte
                elif kind in (_STRING, None):
                    self.text -= size
                at += size
            elif wire_type in _FIXED_SIZES:
                at += _FIXED_SIZES[wire_type]
            else:
                raise ValueError(f"a field has the wire type {wire_type}, which is not used in step models")
            if self.fields < 0:
                raise ValueError(f"there are more than {MAX_FIELDS:,} fields")
            if self.text < 0:
                raise ValueError(f"there are more than {MAX_TEXT:,} bytes of text")
        if at > end:
            raise ValueError("a field continues past the end")


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Decode the varint at ``at``; returns its value and the position after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number has no end")


def unknown_field(message: Any) -> str | None:
    """The name of the first unknown field, searched at all depths; None if there is none."""
    kind = message.DESCRIPTOR.name
    unknown: Any = unknown_fields.UnknownFieldSet(message)
    for field in unknown:
        return _REJECTED.get((kind, field.field_number), f"field {field.field_number} of {kind}")
    for _, name, field_type, repeated in _MESSAGES[kind]:
        if not isinstance(field_type, str) or not (repeated or message.HasField(name)):
            continue
        for child in getattr(message, name) if repeated else (getattr(message, name),):
            found = unknown_field(child)
            if found is not None:
                return found
    return None
