"""The output of charrnn-triton, and its errors. `tests/hosts/test_triton_server.py` runs Triton."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from charrnn_runtime.errors import CharRNNError, DeviceError, ModelFormatError, SettingError
from charrnn_runtime.files import WriteError, write_whole
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.triton import BACKENDS, MODEL_PY, Service, config, write_repository
from make_models import SmallModel
from run_commands import Command

Load = Callable[[str], Any]

MESSAGES: dict[str, dict[str, str]] = {
    "Config": {
        "name": "string",
        "backend": "string",
        "max_batch_size": "int32",
        "input": "*Tensor",
        "output": "*Tensor",
        "model_transaction_policy": "Policy",
        "sequence_batching": "Sequences",
        "instance_group": "*Instances",
        "parameters": "*Parameter",
    },
    "Tensor": {
        "name": "string",
        "data_type": "Type",
        "dims": "*int64",
        "reshape": "Reshape",
        "optional": "bool",
    },
    "Reshape": {"shape": "*int64"},
    "Policy": {"decoupled": "bool"},
    "Sequences": {"max_sequence_idle_microseconds": "uint64", "oldest": "Oldest", "state": "*State"},
    "Oldest": {"max_candidate_sequences": "int32"},
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "Type",
        "dims": "*int64",
        "initial_state": "*Initial",
    },
    "Initial": {"name": "string", "data_type": "Type", "dims": "*int64", "zero_data": "bool"},
    "Instances": {"count": "int32", "kind": "Kind"},
    "Parameter": {"key": "string", "value": "Value"},
    "Value": {"string_value": "string"},
}
"""The fields of Triton's ModelConfig that are written. In protobuf text, fields have names but no numbers."""

ENUMS = {
    "Type": ("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT64", "TYPE_INT64", "TYPE_FP32", "TYPE_STRING"),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}


def config_class() -> Any:
    """The message class for the fields above."""
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="triton", syntax="proto3")
    for enum_name, values in ENUMS.items():
        enum = file.enum_type.add(name=enum_name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            if kind in MESSAGES or kind in ENUMS:
                field.type = field.TYPE_ENUM if kind in ENUMS else field.TYPE_MESSAGE
                field.type_name = f".triton.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.Config"))


CONFIG = config_class()


def parsed(text: str) -> Any:
    return text_format.Parse(text, CONFIG())


def type_name(value: int) -> str:
    return ENUMS["Type"][value]


def written(done: subprocess.CompletedProcess[bytes]) -> Path:
    assert done.returncode == 0, done.stderr.decode()
    return Path(os.fsdecode(done.stdout).removesuffix("\n"))


def refused(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert re.fullmatch(r"charrnn-triton: error: .+\n", said)
    return said


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# --- configurations ----------------------------------------------------------------------------------------


def test_the_step_form_names_the_tensors_of_the_model(small: SmallModel) -> None:
    """As reported by onnxruntime, like in Triton's backend: a batch axis, which is omitted, and the rest."""
    info = read_model_file(small.path).info
    served = parsed(config(info, Service("x", backend="onnxruntime")))
    (state,) = served.sequence_batching.state
    given = {each.name: (type_name(each.data_type), list(each.reshape.shape)) for each in served.input}
    given[state.input_name] = (type_name(state.data_type), list(state.dims))
    session = onnxruntime.InferenceSession(small.path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    assert given == {each.name: (kinds[each.type], each.shape[1:]) for each in session.get_inputs()}
    wanted = {each.name: (kinds[each.type], each.shape[1:]) for each in session.get_outputs()}
    assert (type_name(state.data_type), list(state.dims)) == wanted[state.output_name]
    for each in served.output:
        shape = list(each.reshape.shape if each.HasField("reshape") else each.dims)
        assert (type_name(each.data_type), shape) == wanted[each.name]


def test_in_the_step_form_no_shape_is_empty_and_sequences_start_from_zeros(small: SmallModel) -> None:
    info = read_model_file(small.path).info
    served = parsed(config(info, Service("x", backend="onnxruntime", max_batch_size=5)))
    assert served.max_batch_size == 5
    assert all(len(each.dims) == 1 for each in [*served.input, *served.output])
    (state,) = served.sequence_batching.state
    (begin,) = state.initial_state
    assert (list(begin.dims), begin.data_type) == (list(state.dims), state.data_type)
    assert begin.zero_data
    assert np.prod(state.dims) == info.state_size
    assert served.sequence_batching.oldest.max_candidate_sequences >= served.max_batch_size


@pytest.mark.parametrize(
    ("name", "device", "kind"),
    [
        ("lstm-2x12-fp32", "auto", "KIND_AUTO"),
        ("lstm-2x12-fp32", "cpu", "KIND_CPU"),
        ("lstm-2x12-fp16", "cuda", "KIND_GPU"),
        ("lstm-2x12-int8", "auto", "KIND_CPU"),
    ],
)
def test_the_step_form_runs_on_the_given_device_and_int8_on_a_cpu(
    load: Load, name: str, device: str, kind: str
) -> None:
    service = Service("x", backend="onnxruntime", device=device, instances=3, threads=2)
    served = parsed(config(load(name).info, service))
    assert [(each.count, ENUMS["Kind"][each.kind]) for each in served.instance_group] == [(3, kind)]
    assert {each.key: each.value.string_value for each in served.parameters} == {"intra_op_thread_count": "2"}


def test_the_text_form_accepts_the_options_of_a_stream(load: Load) -> None:
    served = parsed(config(load("lstm-2x12-fp32").info, Service("x", device="cpu", threads=2)))
    assert (served.backend, served.max_batch_size, served.model_transaction_policy.decoupled) == (
        "python",
        0,
        True,
    )
    assert all(each.optional for each in served.input)
    names = {each.name for each in served.input}
    assert {each.name for each in spec.SETTINGS} | {"prompt", "length", "seed", "stop"} <= names
    assert {each.key: each.value.string_value for each in served.parameters} == {
        "device": "cpu",
        "threads": "2",
    }
    compile(MODEL_PY, "model.py", "exec")


# --- files -------------------------------------------------------------------------------------------------


def test_a_model_is_copied_unchanged_next_to_its_configuration(
    triton: Command, lstm_path: Path, tmp_path: Path
) -> None:
    for backend, more in (("python", {"1/model.py"}), ("onnxruntime", set())):
        folder = written(
            triton(lstm_path, tmp_path / "all" / "models", "--backend", backend, "--name", backend)
        )
        assert folder == tmp_path / "all" / "models" / backend
        found = files(folder)
        assert found.keys() == {"config.pbtxt", "1/model.onnx"} | more
        assert found["1/model.onnx"] == lstm_path.read_bytes()
        served = parsed(found["config.pbtxt"].decode())
        assert (served.name, served.backend) == (backend, backend)
    assert sorted(path.name for path in (tmp_path / "all" / "models").iterdir()) == sorted(BACKENDS)


def test_the_file_name_gives_the_model_name(triton: Command, lstm_path: Path, tmp_path: Path) -> None:
    assert written(triton(lstm_path, tmp_path)).name == lstm_path.stem


def test_nothing_is_replaced_unless_requested(triton: Command, lstm_path: Path, tmp_path: Path) -> None:
    folder = written(triton(lstm_path, tmp_path, "--name", "a"))
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"another version")
    (folder / "config.pbtxt").write_text("altered by hand")
    before = files(folder)
    assert "already exists; choose another --name, or use --force" in refused(
        triton(lstm_path, tmp_path, "--name", "a"), 1
    )
    assert files(folder) == before
    again = triton(lstm_path, tmp_path, "--name", "a", "--backend", "onnxruntime", "--force")
    assert written(again) == folder
    assert b"replaced version 1 of" in again.stderr
    after = files(folder)
    assert after.keys() == {"config.pbtxt", "1/model.onnx", "2/model.onnx"}
    assert after["2/model.onnx"] == b"another version"
    assert parsed(after["config.pbtxt"].decode()).backend == "onnxruntime"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".a", "-a", 'a"b', "a b", "a\nb", "ä"])
def test_names_that_escape_the_repository_are_rejected(name: str) -> None:
    with pytest.raises(SettingError, match="name must consist of"):
        Service(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "tensorrt"}, "backend must be python or onnxruntime"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
        ({"instances": 0}, "instances must be between 1 and"),
        ({"threads": 0}, "threads must be between 1 and"),
        ({"max_batch_size": 8}, "max_batch_size requires backend=onnxruntime"),
        ({"max_batch_size": 0, "backend": "onnxruntime"}, "max_batch_size must be between 1 and"),
    ],
    ids=str,
)
def test_invalid_services_are_rejected(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Service("a", **options)


def test_invalid_options_are_a_one_line_error_and_write_nothing(
    triton: Command, lstm_path: Path, tmp_path: Path
) -> None:
    said = refused(triton(lstm_path, tmp_path / "models", "--max-batch-size", "8"), 2)
    assert "--max-batch-size requires --backend onnxruntime" in said
    assert "--name must consist of" in refused(triton(lstm_path, tmp_path / "models", "--name", "a/b"), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_served_writes_nothing(lstm_path: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(CharRNNError, match="no such file"):
        write_repository(tmp_path / "none.onnx", models, Service("a"))
    (tmp_path / "cut.onnx").write_bytes(lstm_path.read_bytes()[:3000])
    with pytest.raises(ModelFormatError, match="is not a valid charrnn model"):
        write_repository(tmp_path / "cut.onnx", models, Service("a"))
    with pytest.raises(DeviceError, match="device=cpu"):
        write_repository(lstm_path.with_name("lstm-2x12-int8.onnx"), models, Service("a", device="cuda"))
    assert not models.exists()


def test_a_repository_that_cannot_be_written_is_one_error(
    triton: Command, lstm_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    assert "a is a file; give a folder" in refused(triton(lstm_path, tmp_path / "a"), 1)
    with pytest.raises(CharRNNError, match="is not a folder; choose another name"):
        write_repository(lstm_path, tmp_path, Service("a"), force=True)
    with pytest.raises(WriteError, match="cannot write"):
        write_repository(lstm_path, tmp_path, Service("n" * 300))
    assert files(tmp_path) == {"a": b"mine"}


def test_an_empty_repository_is_rejected(triton: Command, lstm_path: Path, in_folder: Path) -> None:
    assert "REPOSITORY must not be empty" in refused(triton(lstm_path, "", cwd=in_folder), 2)
    assert list(in_folder.iterdir()) == []


def test_the_target_of_a_symlink_is_not_replaced(lstm_path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to("elsewhere")
    for force in (False, True):
        with pytest.raises(CharRNNError, match="is a symbolic link"):
            write_repository(lstm_path, tmp_path, Service("a"), force=force)
    assert files(tmp_path) == {}


def test_a_replacement_is_reported_only_if_version_1_existed(
    triton: Command, lstm_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "a" / "2").mkdir(parents=True)
    for said in (False, True):
        done = triton(lstm_path, tmp_path, "--name", "a", "--force")
        written(done)
        assert (b"replaced version 1" in done.stderr) == said


def test_the_server_command_is_quoted_for_a_shell(triton: Command, lstm_path: Path, in_folder: Path) -> None:
    for name, word in (("my models", "'my models'"), ("-models", "./-models")):
        done = triton("--", lstm_path, name, cwd=in_folder)
        written(done)
        assert f"tritonserver --model-repository {word}\n" in done.stderr.decode()


def test_help_names_the_devices_of_triton(triton: Command) -> None:
    said = triton("--help").stdout.decode()
    assert "--device auto|cpu|cuda " in said
    assert "webgpu" not in said


def test_a_full_disk_leaves_the_old_files_and_nothing_else(
    lstm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = write_repository(lstm_path, tmp_path, Service("a"))
    before = files(tmp_path)

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".py":
            raise WriteError(path, OSError(28, "No space left on device"))
        write_whole(path, content)

    monkeypatch.setattr("charrnn_runtime.triton.write_whole", full)
    with pytest.raises(WriteError, match="No space left"):
        write_repository(lstm_path, tmp_path, Service("b"))
    with pytest.raises(WriteError, match="No space left"):
        write_repository(lstm_path, tmp_path, Service("a"), force=True)
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
