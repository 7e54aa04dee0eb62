"""The small protobuf reader: valid and invalid input."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.format import proto
from hostile_files import INT8, LSTM, add_raw, changed, field, refusal, tensor, varint


def test_a_valid_file_round_trips(small: Any) -> None:
    data = small.path.read_bytes()
    model = proto.parse_model(data)
    assert proto.unknown_field(model) is None
    again = proto.parse_model(model.SerializeToString(deterministic=True))
    assert again == model
    assert model.ir_version == 8
    assert all(entry.key.startswith("charrnn.") for entry in model.metadata_props)


def test_only_nodes_needed_by_the_kept_outputs_are_kept(small: Any) -> None:
    data = small.path.read_bytes()
    everything = proto.parse_model(data)
    outputs = [value.name for value in everything.graph.output]
    assert proto.parse_model(proto.keep_outputs(data, outputs)) == everything
    graph = proto.parse_model(proto.keep_outputs(data, ("logits", "next_state"))).graph
    assert [value.name for value in graph.output] == [name for name in outputs if name != "next_token"]
    read = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        assert any(name in read or name in ("logits", "next_state") for name in node.output)
    values = [value.name for value in (*graph.input, *graph.initializer)]
    assert set(values) == read - made
    # Unneeded nodes are removed, and nothing needed is missing.
    sampler = everything.graph.node[len(graph.node) :]
    assert {"TopK", "Softmax", "CumSum"} <= {node.op_type for node in sampler}
    assert list(everything.graph.node[: len(graph.node)]) == list(graph.node)


def test_a_model_and_its_separated_tensors_make_the_same_model(small: Any) -> None:
    data = small.path.read_bytes()
    everything = proto.parse_model(data)
    rest, large, names = proto.separate_tensors(data)
    without = proto.parse_model(rest)
    left = {each.name: each for each in without.graph.initializer}
    assert not any(name in left for name in names)
    assert {*left, *names} == {each.name for each in everything.graph.initializer}
    assert all(each.ByteSize() <= proto._LARGE_TENSOR for each in left.values())
    together = proto.parse_model(b"".join((rest, *large)))
    for model in (everything, together):
        ordered = sorted(model.graph.initializer, key=lambda each: str(each.name))
        del model.graph.initializer[:]
        model.graph.initializer.extend(ordered)
    assert together == everything


def test_a_model_in_several_parts_is_separated_correctly() -> None:
    # A graph given twice is merged, and varints may be of any length.
    tensors = [field(5, field(8, name) + field(9, b"x" * 5000)) for name in ("a", "b")]
    other = [field(5, field(8, "c") + field(9, b"x" * 3)), field(2, "name")]
    data = field(7, tensors[0] + other[0]) + varint(1 << 3) + varint(300) + field(7, other[1] + tensors[1])
    rest, large, names = proto.separate_tensors(data)
    assert names == ["a", "b"]
    assert rest == field(7, other[0]) + varint(1 << 3) + varint(300) + field(7, other[1])
    assert b"".join(large) == field(7, tensors[0] + tensors[1])


def test_parsing_again_can_only_run_out_of_memory() -> None:
    with pytest.raises(MemoryError):
        proto.keep_outputs(LSTM[:-5], ("logits",))


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    try:
        model = proto.parse_model(data)
    except ValueError:
        return
    proto.unknown_field(model)


@given(st.integers(0, len(LSTM) - 1))
def test_a_truncated_file_parses_or_raises_value_error(length: int) -> None:
    try:
        proto.parse_model(LSTM[:length])
    except ValueError:
        return
    # A cut between two top-level fields is not detectable; the missing fields are.
    assert "metadata" in refusal(LSTM[:length]) or "input" in refusal(LSTM[:length])


def _first_tensor(model: Any) -> Any:
    return tensor(model, "table")


def _first_attribute(model: Any) -> Any:
    return model.graph.node[0].attribute[0]


EXTERNAL = field(13, field(1, "location") + field(2, "weights.bin"))
GRAPH = field(1, field(1, "x") + field(4, "Identity"))

UNKNOWN: list[tuple[str, Callable[[Any], Any], bytes, str]] = [
    ("functions", lambda m: m, field(25, field(1, "f")), "functions"),
    ("training", lambda m: m, field(20, b""), "training information"),
    ("model domain", lambda m: m, field(4, "ai.example"), "field 4 of ModelProto"),
    ("model doc", lambda m: m, field(6, "text"), "field 6 of ModelProto"),
    ("graph doc", lambda m: m.graph, field(10, "text"), "field 10 of GraphProto"),
    ("value info", lambda m: m.graph, field(13, field(1, "x")), "field 13 of GraphProto"),
    ("quantization", lambda m: m.graph, field(14, b""), "field 14 of GraphProto"),
    ("sparse", lambda m: m.graph, field(15, b""), "sparse tensors"),
    ("graph metadata", lambda m: m.graph, field(16, b""), "field 16 of GraphProto"),
    ("node doc", lambda m: m.graph.node[0], field(6, "text"), "field 6 of NodeProto"),
    ("overload", lambda m: m.graph.node[0], field(8, "x"), "field 8 of NodeProto"),
    ("node metadata", lambda m: m.graph.node[0], field(9, b""), "field 9 of NodeProto"),
    ("float", _first_attribute, varint(2 << 3 | 5) + b"\0\0\0\0", "a floating-point attribute"),
    ("string", _first_attribute, field(4, "text"), "a string attribute"),
    ("tensor", _first_attribute, field(5, b""), "a tensor attribute"),
    ("graph attribute", _first_attribute, field(6, GRAPH), "a graph attribute"),
    ("floats", _first_attribute, field(7, b"\0\0\0\0"), "field 7 of AttributeProto"),
    ("strings", _first_attribute, field(9, "text"), "field 9 of AttributeProto"),
    ("tensors", _first_attribute, field(10, b""), "tensor attributes"),
    ("graphs", _first_attribute, field(11, GRAPH), "graph attributes"),
    ("attribute doc", _first_attribute, field(13, "text"), "field 13 of AttributeProto"),
    ("type", _first_attribute, field(14, b""), "field 14 of AttributeProto"),
    ("reference", _first_attribute, field(21, "x"), "field 21 of AttributeProto"),
    ("sparse tensor", _first_attribute, field(22, b""), "a sparse tensor attribute"),
    ("segment", _first_tensor, field(3, b""), "field 3 of TensorProto"),
    ("float data", _first_tensor, field(4, b"\0\0\0\0"), "whose numbers are not stored as raw data"),
    ("int32 data", _first_tensor, field(5, b"\1"), "field 5 of TensorProto"),
    ("string data", _first_tensor, field(6, b"\1"), "field 6 of TensorProto"),
    ("int64 data", _first_tensor, field(7, b"\1"), "field 7 of TensorProto"),
    ("double data", _first_tensor, field(10, b"\0" * 8), "field 10 of TensorProto"),
    ("uint64 data", _first_tensor, field(11, b"\1"), "field 11 of TensorProto"),
    ("external", _first_tensor, EXTERNAL, "external data"),
    ("location", _first_tensor, field(14, 1), "a data location"),
    ("default location", _first_tensor, field(14, 0), "a data location"),
    ("input doc", lambda m: m.graph.input[0], field(3, "text"), "field 3 of ValueInfoProto"),
    ("sequence", lambda m: m.graph.input[0].type, field(4, b""), "a sequence type"),
    ("map", lambda m: m.graph.input[0].type, field(5, b""), "a map type"),
    ("optional", lambda m: m.graph.input[0].type, field(9, b""), "an optional type"),
    ("denotation", lambda m: m.graph.input[0].type, field(6, "x"), "field 6 of TypeProto"),
    (
        "axis denotation",
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[0],
        field(3, "DATA_BATCH"),
        "field 3 of Dimension",
    ),
    ("operator set", lambda m: m.opset_import[0], field(3, 1), "field 3 of OperatorSetIdProto"),
    ("metadata", lambda m: m.metadata_props[0], field(3, 1), "field 3 of StringStringEntryProto"),
    ("high number", lambda m: m.graph, field(2**29 - 1, 1), "field 536870911 of GraphProto"),
    ("type of a field", lambda m: m.graph, field(2, 7), "field 2 of GraphProto"),
]


@pytest.mark.parametrize(
    ("where", "encoded", "message"), [case[1:] for case in UNKNOWN], ids=[c[0] for c in UNKNOWN]
)
def test_fields_unused_by_step_models_are_rejected_by_name(
    where: Callable[[Any], Any], encoded: bytes, message: str
) -> None:
    found = refusal(changed(lambda model: add_raw(where(model), encoded)))
    assert message in found
    assert "which step models do not" in found


def test_unused_fields_are_found_at_any_index_of_a_repeated_message() -> None:
    count = len(proto.parse_model(LSTM).graph.initializer)
    for index in range(count):
        data = changed(lambda model, index=index: add_raw(model.graph.initializer[index], EXTERNAL))  # type: ignore[misc]
        assert "external data" in refusal(data)


def test_a_graph_in_two_parts_is_read_as_one() -> None:
    # Protobuf merges a message that appears twice; nothing may hide in the second part.
    assert "sparse tensors" in refusal(LSTM + field(7, field(15, b"")))
    assert "external data" in refusal(LSTM + field(7, field(5, field(8, "late") + EXTERNAL)))


@pytest.mark.parametrize(
    "data",
    [
        field(7, field(1, b"") * 100_000),
        field(14, b"") * 100_000,
        field(99, 0) * 100_000,
        field(7, field(1, field(1, b"") * 100_000)),
        field(7, field(5, field(1, b"\1" * 200_000))),
        field(7, field(1, field(5, field(8, b"\1" * 200_000)))),
        field(7, b"") * 100_000,
    ],
    ids=["nodes", "metadata", "unknown", "inputs", "packed dims", "packed ints", "graphs"],
)
def test_many_tiny_fields_are_rejected_before_they_take_memory(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proto, "MAX_FIELDS", 20_000)  # a tenth, since traversal is slow with traced memory
    assert _peak_of_refusing(data, "more than 20,000 fields") < 1_000_000


def test_the_number_of_fields_is_limited() -> None:
    assert "more than 200,000 fields" in refusal(field(7, field(1, b"") * 1_000_000))


def _peak_of_refusing(data: bytes, message: str) -> int:
    tracemalloc.start()
    try:
        assert message in refusal(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        varint(7 << 3 | 2) + varint(2**40) + b"short",
        varint(7 << 3 | 3),
        varint(7 << 3 | 3) * 5000,
        varint(1 << 3 | 1) + b"\0",
        field(1, 8)[:-1],
        field(8, field(1, b"\xff\xfe")),
    ],
    ids=["no varint", "length", "group", "groups", "fixed", "cut varint", "no UTF-8"],
)
def test_bytes_that_are_not_protobuf_are_rejected(data: bytes) -> None:
    assert "not an ONNX file, or is truncated or damaged" in refusal(data)


def test_a_file_of_an_int8_model_has_far_fewer_fields_than_the_limit() -> None:
    budget = proto._Budget()
    budget.spend(INT8, 0, len(INT8), "ModelProto")
    assert 500 < proto.MAX_FIELDS - budget.fields < 5_000
    assert 500 < proto.MAX_TEXT - budget.text < 50_000


def test_oversized_strings_are_rejected_before_they_take_memory() -> None:
    for texts in (field(14, field(1, "key") + field(2, "x" * 4_000_000)) * 5, field(99, b"x" * 17_000_000)):
        assert "more than 16,777,216 bytes of text" in refusal(LSTM + texts)
