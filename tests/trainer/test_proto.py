"""The runtime's small protobuf reader against the onnx package: the same fields, the same numbers."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

import make_models
from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import proto
from charrnn_runtime.format.reader import check_model_bytes
from step_graphs import Network

MODELS = [pytest.param(model.path.read_bytes(), id=model.path.stem) for model in make_models.MODELS] + [
    pytest.param(
        Network(cell, 3, embedding_size=4).model(precision).SerializeToString(), id=f"{cell}-{precision}"
    )
    for cell in ("lstm", "gru", "rnn")
    for precision in ("fp32", "fp16", "int8")
]

TENSOR_TYPE = "TypeProto.Tensor"
DIMENSION = "TensorShapeProto.Dimension"
NAMES = {"TypeProtoTensor": TENSOR_TYPE, "Dimension": DIMENSION}
"""The reader's names of messages that are nested in the onnx package."""


def _onnx_name(message: str) -> str:
    return "onnx." + NAMES.get(message, message)


def _reader_fields(message: Any) -> dict[int, FieldDescriptor]:
    return {field.number: field for field in message.DESCRIPTOR.fields}


def _walk(descriptor: Any, seen: set[str] | None = None) -> dict[str, Any]:
    """All message descriptors that can be reached from one, by name."""
    found = {descriptor.name: descriptor}
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.name not in (seen or set()) | set(found):
            found |= _walk(field.message_type, (seen or set()) | set(found))
    return found


DESCRIPTORS = _walk(proto.parse_model(b"").DESCRIPTOR)


def test_the_reader_supports_every_message_type_of_a_step_model() -> None:
    assert set(DESCRIPTORS) == {
        *("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "TensorProto", "ValueInfoProto"),
        *("TypeProto", "TypeProtoTensor", "TensorShapeProto", "Dimension", "OperatorSetIdProto"),
        "StringStringEntryProto",
    }


@pytest.mark.parametrize("message", sorted(DESCRIPTORS))
def test_every_field_has_the_number_name_and_type_of_the_onnx_package(message: str) -> None:
    theirs = {field.number: field for field in _theirs(message).fields}
    for field in DESCRIPTORS[message].fields:
        other = theirs[field.number]
        assert field.name == other.name
        assert field.is_repeated == other.is_repeated
        if field.message_type is not None:
            assert _onnx_name(field.message_type.name) == other.message_type.full_name
        else:
            # An enum is read as the int32 that it is on the wire.
            wire = FieldDescriptor.TYPE_INT32 if other.type == FieldDescriptor.TYPE_ENUM else other.type
            assert field.type == wire


def _theirs(message: str) -> Any:
    nested: dict[str, Any] = {
        "TypeProtoTensor": onnx.TypeProto.Tensor,
        "Dimension": onnx.TensorShapeProto.Dimension,
    }
    return (nested.get(message) or getattr(onnx, message)).DESCRIPTOR


# --- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", MODELS)
def test_the_onnx_package_reads_the_same_values(data: bytes) -> None:
    _assert_same(proto.parse_model(data), onnx.load_from_string(data), "model")


def _assert_same(ours: Any, theirs: Any, place: str) -> None:
    """Every field known to the reader has the same value, and the onnx package finds no other field set."""
    known = _reader_fields(ours)
    assert {field.number for field, _ in theirs.ListFields()} <= set(known), place
    for number, field in known.items():
        other = next(other for other in theirs.DESCRIPTOR.fields if other.number == number)
        one, two = getattr(ours, field.name), getattr(theirs, other.name)
        where = f"{place}.{field.name}"
        if field.is_repeated:
            assert len(one) == len(two), where
        if field.message_type is None:
            assert (list(one) == list(two)) if field.is_repeated else (one == two), where
        elif field.is_repeated:
            for index, (item, other_item) in enumerate(zip(one, two, strict=True)):
                _assert_same(item, other_item, f"{where}[{index}]")
        elif ours.HasField(field.name):
            _assert_same(one, two, where)
        else:
            assert not theirs.HasField(other.name), where


@pytest.mark.parametrize("data", MODELS)
def test_a_serialized_model_is_equal_to_the_onnx_package(data: bytes) -> None:
    again = onnx.load_from_string(proto.parse_model(data).SerializeToString(deterministic=True))
    onnx.checker.check_model(again, full_check=True)
    assert _without_zeros(again) == _without_zeros(onnx.load_from_string(data))


def _without_zeros(message: Any) -> Any:
    """A message without explicit zeros and empty strings, which are equal to missing fields."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                _without_zeros(child)
        elif not field.is_repeated and not value:
            message.ClearField(field.name)
    return message


@pytest.mark.parametrize("data", MODELS)
def test_the_loader_passes_the_same_model_to_onnxruntime(data: bytes) -> None:
    handed_on = onnx.load_from_string(check_model_bytes(data, "model").onnx_bytes)
    assert _without_zeros(handed_on) == _without_zeros(onnx.load_from_string(data))


@pytest.mark.parametrize("data", MODELS)
def test_an_exported_model_has_no_unknown_field(data: bytes) -> None:
    assert proto.unknown_field(proto.parse_model(data)) is None


# --- unsupported fields ------------------------------------------------------------------------------------


def _places(model: onnx.ModelProto) -> dict[str, Any]:
    """One message of each kind inside a model."""
    node = next(node for node in model.graph.node if node.attribute)
    value = model.graph.input[0]
    return {
        "ModelProto": model,
        "GraphProto": model.graph,
        "NodeProto": node,
        "AttributeProto": node.attribute[0],
        "TensorProto": model.graph.initializer[0],
        "ValueInfoProto": value,
        "TypeProto": value.type,
        "TypeProtoTensor": value.type.tensor_type,
        "TensorShapeProto": value.type.tensor_type.shape,
        "Dimension": value.type.tensor_type.shape.dim[0],
        "OperatorSetIdProto": model.opset_import[0],
        "StringStringEntryProto": model.metadata_props[0],
    }


def _set(message: Any, field: FieldDescriptor) -> None:
    """Set a field to some value."""
    if field.message_type is not None:
        target = getattr(message, field.name)
        if field.is_repeated:
            target.add()
        else:
            target.SetInParent()
        return
    value: Any = 0
    if field.type == FieldDescriptor.TYPE_STRING:
        value = "x"
    elif field.type == FieldDescriptor.TYPE_BYTES:
        value = b"x"
    elif field.enum_type is not None:
        value = field.enum_type.values[0].number
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


LEFT_OUT = [
    (kind, field.name)
    for kind in sorted(DESCRIPTORS)
    for field in _theirs(kind).fields
    if field.number not in {own.number for own in DESCRIPTORS[kind].fields}
]


def test_dangerous_fields_are_not_supported() -> None:
    assert {
        ("TensorProto", "external_data"),
        ("TensorProto", "data_location"),
        ("ModelProto", "functions"),
        ("ModelProto", "training_info"),
        ("GraphProto", "sparse_initializer"),
        ("GraphProto", "quantization_annotation"),
        ("AttributeProto", "g"),
        ("AttributeProto", "graphs"),
        ("AttributeProto", "ref_attr_name"),
        ("AttributeProto", "t"),
    } <= set(LEFT_OUT)


@pytest.mark.parametrize(("kind", "name"), LEFT_OUT, ids=lambda value: value)
def test_every_unsupported_field_is_rejected(kind: str, name: str) -> None:
    model = Network().model()
    message = _places(model)[kind]
    _set(message, message.DESCRIPTOR.fields_by_name[name])
    data = model.SerializeToString()
    assert proto.unknown_field(proto.parse_model(data)) is not None
    with pytest.raises(ModelFormatError) as caught:
        check_model_bytes(data, "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("TensorProto", "external_data", "external data"),
        ("TensorProto", "data_location", "external data"),
        ("ModelProto", "functions", "functions"),
        ("AttributeProto", "g", "a graph attribute"),
        ("AttributeProto", "graphs", "graph attributes"),
        ("GraphProto", "sparse_initializer", "sparse tensors"),
        ("TensorProto", "float_data", "raw data"),
        ("TypeProto", "sequence_type", "a sequence type"),
        ("TypeProto", "map_type", "a map type"),
        ("TypeProto", "optional_type", "an optional type"),
        ("AttributeProto", "f", "floating-point"),
        ("AttributeProto", "s", "string"),
        ("AttributeProto", "t", "a tensor attribute"),
        ("AttributeProto", "tensors", "tensor attributes"),
        ("AttributeProto", "sparse_tensor", "sparse"),
        ("ModelProto", "training_info", "training"),
    ],
)
def test_important_unsupported_fields_are_named(kind: str, name: str, words: str) -> None:
    model = Network().model()
    message = _places(model)[kind]
    _set(message, message.DESCRIPTOR.fields_by_name[name])
    found = proto.unknown_field(proto.parse_model(model.SerializeToString()))
    assert found is not None
    assert words in found


# --- invalid bytes -----------------------------------------------------------------------------------------


SMALL = Network("rnn", 1, 2, symbols="ab").model().SerializeToString(deterministic=True)


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A small model with some bytes replaced."""
    start = draw(st.integers(0, len(SMALL)))
    end = draw(st.integers(start, min(start + 20, len(SMALL))))
    return SMALL[:start] + draw(st.binary(max_size=20)) + SMALL[end:]


@given(st.one_of(st.binary(max_size=200), altered()))
def test_any_bytes_are_an_error_or_read_as_the_onnx_package_reads_them(data: bytes) -> None:
    try:
        ours = proto.parse_model(data)
    except ValueError:
        return
    if proto.unknown_field(ours) is None:
        again = onnx.ModelProto.FromString(ours.SerializeToString())
        assert _without_zeros(again) == _without_zeros(onnx.ModelProto.FromString(data))


def test_bytes_that_end_within_a_field_are_an_error() -> None:
    data = Network().model().SerializeToString()
    for length in (1, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"."):
            proto.parse_model(data[:length])


def test_invalid_utf8_is_an_error() -> None:
    data = Network().model().SerializeToString()
    with pytest.raises(ValueError, match=r"."):
        proto.parse_model(data.replace(b"charrnn.cell", b"charrnn.\xff\xfell"))
