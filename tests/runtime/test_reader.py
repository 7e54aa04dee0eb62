"""The loader: accepted models, and files rejected before onnxruntime sees them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN, CharRNNError, ModelFormatError
from charrnn_runtime.errors import one_line
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import check_model_bytes, read_model_file
from hostile_files import (
    BYTE,
    INT8,
    LSTM,
    add_node,
    add_tensor,
    changed,
    field,
    metadata,
    refusal,
    tensor,
)
from make_models import SYMBOLS, SmallModel


def test_the_metadata_of_a_valid_file_is_read(small: SmallModel) -> None:
    data = small.path.read_bytes()
    info = read_model_file(small.path).info
    assert (info.cell, info.layers, info.hidden_size) == (small.cell, small.layers, small.hidden_size)
    assert info.precision == small.precision
    assert info.vocabulary.level == small.level
    assert len(info.vocabulary) == small.vocabulary_size
    assert info.state_size == small.layers * small.hidden_size * (2 if small.cell == "lstm" else 1)
    assert [block.size for block in info.state_layout] == [small.hidden_size] * len(info.state_layout)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert info.file_bytes == len(data)
    assert info.start_token == info.vocabulary.encode("\n")[0]
    assert info.lines is False
    assert info.top_k_max == small.vocabulary_size
    assert info.training == {"corpus": {"name": "none: random weights for tests"}, "step": 0}
    assert info.path == str(small.path)


def test_metadata_can_be_written_as_json(small: SmallModel) -> None:
    info = read_model_file(small.path).info
    found = json.loads(json.dumps(info.as_dict()))
    assert found == info.as_dict()
    assert "".join(found["vocabulary"]) == ("".join(sorted(SYMBOLS)) if small.level == "char" else "")


def test_onnxruntime_gets_exactly_the_checked_bytes() -> None:
    # The order of the fields in the file does not matter: the validated message is serialized again.
    model_file = check_model_bytes(LSTM, "x")
    assert check_model_bytes(model_file.onnx_bytes, "x").onnx_bytes == model_file.onnx_bytes


# --- metadata ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", spec.METADATA_KEYS)
def test_every_metadata_key_is_required(key: str) -> None:
    assert f"charrnn.{key}" in refusal(changed(metadata(key, None)))


@pytest.mark.parametrize("key", spec.METADATA_KEYS)
def test_duplicate_metadata_keys_are_rejected(key: str) -> None:
    def twice(model: Any) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == f"charrnn.{key}")
        model.metadata_props.add(key=entry.key, value=entry.value)

    assert f"'charrnn.{key}' appears twice" in refusal(changed(twice))


def test_metadata_of_other_programs_is_allowed() -> None:
    data = changed(lambda model: model.metadata_props.add(key="author", value="somebody"))
    assert check_model_bytes(data, "x").info.cell == "lstm"


def _vocabulary(change: Callable[[list[Any]], Any]) -> str:
    symbols: list[Any] = sorted(SYMBOLS)
    change(symbols)
    return json.dumps(symbols)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "weights", "its format is 'weights'; expected 'step'"),
        ("format", "s" * 1000, "expected 'step'"),
        (
            "version",
            "2",
            "version is 2, but this charrnn-runtime reads versions up to 1; upgrade charrnn-runtime",
        ),
        ("version", "0", "charrnn.version is '0'; expected an integer from 1"),
        ("version", "", "charrnn.version is ''"),
        ("version", "1.0", "charrnn.version is '1.0'"),
        ("version", "١", "charrnn.version is '١'"),
        ("version", "9" * 100_000, "charrnn.version is '9999"),
        ("cell", "transformer", "charrnn.cell is 'transformer'; expected lstm or gru or rnn"),
        ("cell", "gru", "its state layout does not match 2 gru layers of 12"),
        ("layers", "0", "charrnn.layers is '0'; expected an integer from 1 to 32"),
        ("layers", "33", "charrnn.layers is '33'; expected an integer from 1 to 32"),
        ("layers", "-1", "charrnn.layers is '-1'"),
        ("layers", "3", "its state layout does not match 3 lstm layers of 12"),
        ("hidden_size", "16385", "expected an integer from 1 to 16,384"),
        ("hidden_size", "13", "its state layout does not match 2 lstm layers of 13"),
        ("level", "word", "charrnn.level is 'word'; expected char or byte"),
        ("level", "byte", "the byte level has its own 256 symbols"),
        ("vocabulary", "", "charrnn.vocabulary is not valid JSON"),
        ("vocabulary", "[", "charrnn.vocabulary is not valid JSON"),
        ("vocabulary", "{}", "charrnn.vocabulary is JSON of the wrong type; expected a list"),
        ("vocabulary", "[]", "no symbols"),
        ("vocabulary", "[" * 100_000, "charrnn.vocabulary is not valid JSON"),
        ("vocabulary", "[" * 100_000 + "]" * 100_000, "charrnn.vocabulary"),
        ("vocabulary", _vocabulary(lambda s: s.pop()), "charrnn.top_k_max is '65'; expected 64"),
        ("vocabulary", _vocabulary(lambda s: s.append("ü")), "charrnn.top_k_max is '65'; expected 66"),
        ("vocabulary", _vocabulary(lambda s: s.__setitem__(1, s[0])), "appears twice"),
        (
            "vocabulary",
            _vocabulary(lambda s: s.__setitem__(1, "ab")),
            "symbol 1 must be one character, not 'ab'",
        ),
        (
            "vocabulary",
            _vocabulary(lambda s: s.__setitem__(1, "x" * 10**6)),
            "symbol 1 must be one character",
        ),
        ("vocabulary", _vocabulary(lambda s: s.__setitem__(1, 5)), "symbol 1 must be one character, not 5"),
        ("vocabulary", _vocabulary(lambda s: s.__setitem__(1, ["a"])), "symbol 1 must be one character"),
        ("vocabulary", _vocabulary(lambda s: s.__setitem__(1, "\udc00")), "a lone surrogate"),
        ("vocabulary", json.dumps([chr(i + 0x10000) for i in range(65_537)]), "at most 65,536"),
        ("state_layout", "{}", "expected a list"),
        ("state_layout", "[]", "its state layout does not match"),
        ("state_layout", '[["h0", 0, 12]]', "expected [['h0', 0, 12], ['h1', 12, 12]]..."),
        ("start_token", "65", "charrnn.start_token is '65'; expected an integer from 0 to 64"),
        ("start_token", "-1", "charrnn.start_token is '-1'"),
        ("start_token", "newline", "charrnn.start_token is 'newline'"),
        ("lines", "", "charrnn.lines is ''; expected true or false"),
        ("lines", "True", "charrnn.lines is 'True'; expected true or false"),
        ("lines", "1", "charrnn.lines is '1'; expected true or false"),
        ("lines", "true ", "charrnn.lines is 'true '"),
        ("lines", "\x1b[2J" * 100_000, "charrnn.lines is '"),
        ("top_k_max", "64", "charrnn.top_k_max is '64'; expected 65"),
        ("precision", "fp64", "charrnn.precision is 'fp64'; expected fp32 or fp16 or int8"),
        ("training", "null", "expected a dict"),
        ("training", '{"loss": NaN}', "charrnn.training contains NaN, infinity"),
        ("training", '{"loss": 1e999}', "charrnn.training contains NaN, infinity"),
        ("training", '{"name": "\\ud800"}', "a lone surrogate"),
        ("training", '{"a":' * 50_000 + "1" + "}" * 50_000, "charrnn.training"),
        ("training", '{"n": ' + "9" * 5_000 + "}", "charrnn.training is not valid JSON"),
        ("training", '{"n": "' + "x" * 5_000_000 + '"}', "at most 4,194,304 are allowed"),
    ],
)
def test_metadata_that_violates_the_format_is_rejected(key: str, value: str, message: str) -> None:
    assert message in refusal(changed(metadata(key, value)))


def test_metadata_that_is_not_utf_8_is_rejected() -> None:
    data = LSTM + field(14, field(1, b"charrnn.extra") + field(2, b"\xff\xfe"))
    assert "is truncated or damaged" in refusal(data)


@pytest.mark.parametrize("count", [64, 66])
def test_a_vocabulary_of_another_size_than_the_logits_is_rejected(count: int) -> None:
    symbols = [*sorted(SYMBOLS), "ü"][:count]

    def change(model: Any) -> None:
        metadata("vocabulary", json.dumps(symbols))(model)
        metadata("top_k_max", str(count))(model)

    assert f"output 'logits' has the shape ['batch', 65]; expected ['batch', {count}]" in refusal(
        changed(change)
    )


def test_an_extra_symbol_in_the_byte_vocabulary_is_rejected() -> None:
    assert "give no others" in refusal(changed(metadata("vocabulary", '["a"]'), BYTE))


def test_other_file_types_are_identified(tmp_path: Path) -> None:
    checkpoint = tmp_path / "lstm step2.safetensors"
    checkpoint.write_bytes((16).to_bytes(8, "little") + b'{"a":"b"}       ')
    with pytest.raises(
        ModelFormatError, match="a safetensors file; if it is a checkpoint, export it"
    ) as found:
        read_model_file(checkpoint)
    assert str(found.value).endswith(f": charrnn-export '{checkpoint}' my.onnx")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"LORD"))
    with pytest.raises(ModelFormatError, match=r"it is a gzip-compressed file$"):
        read_model_file(tmp_path / "text.gz")


def test_another_onnx_file_is_distinguished_from_a_broken_one() -> None:
    def forget(model: Any) -> None:
        del model.metadata_props[:]

    assert "another kind of ONNX file; charrnn-export creates charrnn models" in refusal(changed(forget))


# --- versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 7, 9, 14, -1, 2**63 - 1])
def test_another_ir_version_is_rejected(version: int) -> None:
    def change(model: Any) -> None:
        model.ir_version = version

    assert f"its IR version is {version}; expected 8" in refusal(changed(change))


@pytest.mark.parametrize(
    "opsets",
    [
        [],
        [("", 16)],
        [("", 18)],
        [("", -17)],
        [("ai.onnx", 17)],
        [("", 17), ("", 17)],
        [("", 17), ("com.microsoft", 1)],
        [("", 17), ("evil\nline" * 1000, 1)],
        [("com.microsoft", 1), ("", 17)],
    ],
)
def test_other_operator_sets_are_rejected(opsets: list[tuple[str, int]]) -> None:
    def change(model: Any) -> None:
        del model.opset_import[:]
        for domain, version in opsets:
            model.opset_import.add(domain=domain, version=version)

    assert "its operator sets are" in refusal(changed(change))
    assert "17" in refusal(changed(change))


# --- inputs and outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["input", "output"])
def test_inputs_and_outputs_must_match_the_format_in_order(what: str) -> None:
    count = len(spec.INPUTS if what == "input" else spec.OUTPUTS)

    def values(model: Any) -> Any:
        return getattr(model.graph, what)

    for index in range(count):
        assert f"its {what}s are" in refusal(
            changed(lambda model, index=index: values(model).__delitem__(index))  # type: ignore[misc]
        )

        def rename(model: Any, index: int = index) -> None:
            values(model)[index].name = "other"

        assert f"its {what}s are" in refusal(changed(rename))
    assert f"its {what}s are" in refusal(changed(lambda model: values(model).add(name="more")))
    assert f"its {what}s are" in refusal(
        changed(lambda model: values(model).add().CopyFrom(values(model)[0]))
    )
    assert f"its {what}s are" in refusal(changed(lambda model: values(model).reverse()))


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (index, kind)
        for index, each in enumerate([*spec.INPUTS, *spec.OUTPUTS])
        for kind in (0, 1, 2, 6, 7, 8, 9, 10, 11, 99, -1)
        if kind != each.element_type
    ],
)
def test_inputs_and_outputs_must_have_the_types_of_the_format(index: int, kind: int) -> None:
    specs = [*spec.INPUTS, *spec.OUTPUTS]

    def change(model: Any) -> None:
        [*model.graph.input, *model.graph.output][index].type.tensor_type.elem_type = kind

    message = refusal(changed(change))
    assert f"{specs[index].name!r} has element type {kind}; expected {specs[index].element_type}" in message


def _dims(*sizes: int | str) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        del value.type.tensor_type.shape.dim[:]
        for size in sizes:
            if isinstance(size, str):
                value.type.tensor_type.shape.dim.add(dim_param=size)
            else:
                value.type.tensor_type.shape.dim.add(dim_value=size)

    return change


@pytest.mark.parametrize(
    "shape",
    [
        [],
        ["batch"],
        ["batch", 48, 1],
        ["batch", 47],
        ["batch", 0],
        ["batch", -48],
        ["batch", 2**62],
        ["batch", "width"],
        ["batch", "batch"],
        ["rows", 48],
        [1, 48],
        [-1, 48],
        [48, "batch"],
        ["batch\x1b[31m" * 1000, 48],
    ],
)
def test_inputs_and_outputs_must_have_the_shapes_of_the_format(shape: list[int | str]) -> None:
    for find in (lambda model: model.graph.input[1], lambda model: model.graph.output[2]):
        message = refusal(changed(lambda model, find=find: _dims(*shape)(find(model))))  # type: ignore[misc]
        assert "has the shape" in message
    assert "expected ['batch', 48]" in refusal(
        changed(lambda model: _dims("batch", 47)(model.graph.input[1]))
    )


def test_a_dimension_with_a_size_and_a_name_is_rejected() -> None:
    def change(model: Any) -> None:
        model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "batch"

    assert "has the shape" in refusal(changed(change))


def test_a_value_without_a_type_is_rejected() -> None:
    assert "element type 0" in refusal(changed(lambda model: model.graph.input[0].ClearField("type")))


# --- sizes -------------------------------------------------------------------------------------------------


def test_too_many_nodes_are_rejected() -> None:
    def change(model: Any) -> None:
        for i in range(spec.MAX_NODES):
            add_node(model, "Tanh", ["state"], [f"made{i}"])

    assert "nodes; at most 2,048 are allowed" in refusal(changed(change))


def test_many_wide_values_are_rejected_even_if_each_is_allowed() -> None:
    def change(model: Any) -> None:
        for i in range(200):
            add_node(model, "Tanh", ["state"], [f"made{i}"])

    assert "numbers for one stream; at most" in refusal(changed(change))


def test_a_model_that_claims_to_be_large_must_contain_its_weights() -> None:
    # 32 layers of 16,384 would need states of a million numbers for a file of a few thousand bytes.
    layout = [[b.name, b.start, b.size] for b in spec.state_layout("lstm", 32, 16_384)]

    def change(model: Any) -> None:
        metadata("layers", "32")(model)
        metadata("hidden_size", "16384")(model)
        metadata("state_layout", json.dumps(layout))(model)
        for value in (model.graph.input[1], model.graph.output[2]):
            _dims("batch", 2 * 32 * 16_384)(value)

    message = refusal(changed(change))
    assert "its tensors have 5,891 numbers" in message
    assert "has at least 34,36" in message


def test_a_small_model_cannot_contain_unlimited_weights() -> None:
    heavy = np.zeros((1_000, 1_000), np.float32)
    message = refusal(changed(lambda model: add_tensor(model, "heavy", heavy)))
    assert "its tensors have 1,005,891 numbers" in message
    assert "at most 118,648" in message


@pytest.mark.parametrize("operator", ["QGemm", "QuantizeLinear"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_for_the_gpu_contains_no_cpu_only_operators(precision: str, operator: str) -> None:
    def change(model: Any) -> None:
        metadata("precision", precision)(model)
        add_node(model, operator, ["state"])

    message = refusal(changed(change))
    assert f"is a {operator}, which runs only on the CPU" in message
    assert "it is allowed in int8 files" in message
    assert "its operator sets are" in refusal(changed(metadata("precision", precision), INT8))


# --- files -------------------------------------------------------------------------------------------------


def _load(path: Path | str) -> str:
    with pytest.raises(CharRNNError) as caught:
        CharRNN.load(path, device="cpu")
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert (
        _load(tmp_path / "none.onnx")
        == f"{tmp_path}/none.onnx: no such file; charrnn-export creates model files"
    )


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    assert _load(tmp_path).endswith("is a folder; give a model file, as charrnn-export writes it")
    for run in (tmp_path / "a run", tmp_path / "a run" / "deeper"):
        run.mkdir()
        (run / "lstm-1x8-step3.safetensors").touch()
    (tmp_path / "a run" / "lstm-1x8-step3.safetensors").unlink()
    for run in (tmp_path / "a run", tmp_path / "a run" / "deeper"):
        assert _load(run).endswith(f"make a model of the best: charrnn-export '{run}' my.onnx")
    (tmp_path / "x.onnx").touch()
    assert _load(tmp_path).endswith(f"is a folder; give a model file, such as {tmp_path / 'x.onnx'}")


def test_a_path_through_a_file_cannot_be_read(lstm_path: Path) -> None:
    assert "cannot be read: Not a directory" in _load(lstm_path / "x.onnx")


def test_a_path_with_a_null_byte_cannot_be_read() -> None:
    with pytest.raises(CharRNNError, match="cannot be read"):
        CharRNN.load("a\0b", device="cpu")


def test_an_overlong_file_name_cannot_be_read(tmp_path: Path) -> None:
    assert "File name too long" in _load(tmp_path / ("n" * 300))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_is_rejected_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.onnx")
    assert "is not a regular file" in _load(tmp_path / "fifo.onnx")


@pytest.mark.skipif(os.name != "posix", reason="needs device files")
def test_a_device_file_is_rejected_without_reading_it_forever() -> None:
    assert "is not a regular file" in _load("/dev/zero")


def test_a_file_that_cannot_be_opened_is_named(lstm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert _load(lstm_path) == f"{lstm_path} cannot be read: Permission denied"


def test_an_empty_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "empty.onnx is not a valid charrnn model: its metadata has no" in _load(tmp_path / "empty.onnx")


@pytest.mark.parametrize(
    "content", [b"LORD of the text\n" * 100, b"\x00" * 1000, b"PK\x03\x04" + b"z" * 500, b"\x80\x04."]
)
def test_files_of_other_kinds_are_not_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "is not a valid charrnn model" in _load(path)


def test_a_huge_sparse_file_is_rejected_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    if path.stat().st_blocks > 10_000:
        pytest.skip("this file system has no sparse files")
    assert "it has 3,221,225,472 bytes; at most 536,870,912 are allowed" in _load(path)


def test_a_file_that_grows_beyond_the_limit_while_it_is_read_is_rejected(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "MAX_FILE_BYTES", 100)
    with pytest.raises(ModelFormatError, match="at most 100 are allowed"):
        read_model_file(lstm_path)


def test_files_truncated_anywhere_are_rejected(tmp_path: Path) -> None:
    for length in np.linspace(0, len(LSTM) - 1, 200).astype(int):
        path = tmp_path / "cut.onnx"
        path.write_bytes(LSTM[:length])
        with pytest.raises(ModelFormatError) as caught:
            CharRNN.load(path, device="cpu")
        assert str(caught.value).isprintable(), length


def test_a_model_with_trailing_bytes_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "longer.onnx"
    path.write_bytes(LSTM + b"more")
    with pytest.raises(ModelFormatError):
        CharRNN.load(path, device="cpu")


def test_external_weights_are_rejected_even_if_the_file_exists(in_folder: Path) -> None:
    weights = tensor_bytes("table")
    (in_folder / "weights.bin").write_bytes(weights)
    entry = field(13, field(1, "location") + field(2, "weights.bin"))
    entry += field(13, field(1, "length") + field(2, str(len(weights))))

    def change(model: Any) -> None:
        table = tensor(model, "table")
        table.ClearField("raw_data")
        table.MergeFromString(entry + field(14, 1))

    (in_folder / "model.onnx").write_bytes(changed(change))
    with pytest.raises(ModelFormatError, match="it has external data, which step models do not"):
        CharRNN.load("model.onnx", device="cpu")


def tensor_bytes(name: str) -> bytes:
    found: list[bytes] = []
    changed(lambda model: found.append(tensor(model, name).raw_data))
    return found[0]


def test_a_graph_that_passes_the_checks_but_does_not_run_is_rejected(tmp_path: Path) -> None:
    # Streams have no second axis to normalise over: no rule checks this, but onnxruntime does.
    path = tmp_path / "axis.onnx"
    path.write_bytes(changed(lambda model: add_node(model, "Softmax", ["uniform"], attributes={"axis": 1})))
    with pytest.raises(ModelFormatError, match="is not a valid charrnn model: onnxruntime reports") as caught:
        CharRNN.load(path, device="cpu")
    assert str(caught.value).isprintable()


def test_a_graph_whose_numbers_overflow_is_rejected(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        tensor(model, "output_bias").raw_data = np.full(65, 3e38, np.float32).tobytes()
        tensor(model, "output").raw_data = np.full((12, 65), 3e38, np.float32).tobytes()
        tensor(model, "table").raw_data = np.full((65, 48), 50.0, np.float32).tobytes()
        tensor(model, "layer1_weights_bias").raw_data = np.full(48, 50.0, np.float32).tobytes()

    path = tmp_path / "overflow.onnx"
    path.write_bytes(changed(change))
    with pytest.raises(ModelFormatError, match="a trial step gave logits or states that are not finite"):
        CharRNN.load(path, device="cpu")


def test_axes_are_counted_before_their_sizes_are_multiplied() -> None:
    # Their product would have a million bits; more of them would take minutes.
    def change(model: Any) -> None:
        del tensor(model, "table").dims[:]
        tensor(model, "table").dims.extend([2**62] * 20_000)

    assert "has 20,000 axes; at most 2 are allowed" in refusal(changed(change))


def test_messages_are_one_line_of_bounded_length() -> None:
    assert one_line("plain, and as it was: é中") == "plain, and as it was: é中"
    assert one_line("a\nb\x1b[31m\u2028\ud800") == "a\\nb\\x1b[31m\\u2028\\ud800"
    assert one_line("x" * 1000) == "x" * 497 + "..."
