"""Model repositories for NVIDIA's Triton Inference Server, in two forms.

"python" runs this package in Triton's Python backend: requests are texts. "onnxruntime" runs the model in
Triton's ONNX Runtime backend: requests are single characters of a sequence, whose state Triton keeps (its
documentation calls this implicit state). A repository contains a folder for each model:

    NAME/config.pbtxt     Triton's ModelConfig, as protobuf text
    NAME/1/model.onnx     the step model, unchanged
    NAME/1/model.py       for "python" only
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

from charrnn_runtime.arguments import choice, whole_number_from
from charrnn_runtime.errors import CharRNNError, DeviceError, SettingError
from charrnn_runtime.files import WriteError, write_whole
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelInfo, read_model_file
from charrnn_runtime.record import Record

BACKENDS: Final = ("python", "onnxruntime")
DEFAULT_MAX_BATCH_SIZE: Final = 64
DEVICES: Final = ("auto", "cpu", "cuda")  # Triton supports no others
MAX_INSTANCES: Final = 1_024
MAX_THREADS: Final = 4_096

_KINDS: Final = {"cpu": "KIND_CPU", "cuda": "KIND_GPU", "auto": "KIND_AUTO"}
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SEQUENCES: Final = 1_024
"""The minimum number of sequences that Triton keeps states for; more sequences are queued."""

_IDLE_MICROSECONDS: Final = 60_000_000
"""How long Triton keeps the state of an idle sequence; its default is only a second."""

_TYPES: Final = {spec.INT64: "TYPE_INT64", spec.FLOAT: "TYPE_FP32"}
_INPUTS: Final = {
    "prompt": "TYPE_STRING",
    "length": "TYPE_INT64",
    "seed": "TYPE_UINT64",
    "temperature": "TYPE_FP32",
    "top_k": "TYPE_INT64",
    "top_p": "TYPE_FP32",
    "min_p": "TYPE_FP32",
    "unknown": "TYPE_STRING",
    "stream": "TYPE_BOOL",
}
"""The inputs for "python", all optional, with one value each; ``stop`` takes several."""

MODEL_PY: Final = '''\
"""A model for Triton's Python backend, written by charrnn-triton: each request is a text.

All texts run as a batch in one scheduler. The server's Python needs charrnn-runtime.
"""

import asyncio
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton
from charrnn_runtime import CharRNN

FINAL = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        settings = json.loads(args["model_config"])["parameters"]
        device, threads = (settings[name]["string_value"] for name in ("device", "threads"))
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.model = CharRNN.load(path, device=device, threads=int(threads) or None)  # 0: all cores

    async def execute(self, requests):
        await asyncio.gather(*map(self.answer, requests))

    async def answer(self, request):
        sender, text = request.get_response_sender(), ""
        try:
            given = {each.name(): each.as_numpy().ravel().tolist() for each in request.inputs()}
            stop = [each.decode() for each in given.pop("stop", [])]
            options = {name: value[0] for name, value in given.items()}
            piecewise = options.pop("stream", False)
            for name in options.keys() & {"prompt", "unknown"}:
                if name == "unknown" or self.model.vocabulary.level == "char":
                    options[name] = options[name].decode()
            async with self.model.stream_async(stop=stop, **options) as pieces:
                async for piece in pieces:
                    if sender.is_cancelled():
                        break
                    text += piece
                    if piecewise:
                        sender.send(response(text))
                        text = ""
            if not piecewise:
                sender.send(response(text))
            sender.send(flags=FINAL)
        except Exception as error:
            sender.send(triton.InferenceResponse(error=triton.TritonError(str(error))), flags=FINAL)


def response(text):
    return triton.InferenceResponse([triton.Tensor("text", np.array([text.encode()], np.object_))])
'''
"""The program for "python"."""


class Service(Record):
    """The settings with which Triton serves a model.

    Attributes:
        name: the name of the model.
        backend: one of `BACKENDS`.
        device: "auto", "cpu" or "cuda".
        instances: the number of instances (for "onnxruntime" on a GPU: per GPU).
        threads: CPU threads per instance. None means one for "onnxruntime", whose steps are too small for
            more, and all cores for "python".
        max_batch_size: the maximum number of sequences per step, for "onnxruntime".

    Raises:
        SettingError: on construction, if a value is invalid.
    """

    name: str
    backend: str = "python"
    device: str = "auto"
    instances: int = 1
    threads: int | None = None
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingError(
                "name must consist of letters, digits, underscores, hyphens and dots, and start with one of "
                f"the first three, not {self.name!r}",
                "name",
            )
        choice("backend", self.backend, BACKENDS)
        choice("device", self.device, DEVICES)
        whole_number_from("instances", self.instances, 1, MAX_INSTANCES)
        if self.threads is not None:
            whole_number_from("threads", self.threads, 1, MAX_THREADS)
        if self.max_batch_size is None:
            return
        if self.backend == "python":
            raise SettingError(
                "max_batch_size requires backend=onnxruntime; with backend=python, the scheduler of this "
                "package chooses it",
                "max_batch_size",
                "backend",
            )
        whole_number_from("max_batch_size", self.max_batch_size, 1, spec.MAX_STREAMS)


def config(info: ModelInfo, service: Service) -> str:
    """The contents of config.pbtxt.

    Raises:
        DeviceError: the model is int8 and the device is a GPU.
    """
    if info.precision == "int8" and service.device == "cuda":
        raise DeviceError(
            "this model is int8, which runs on the CPU only; use device=cpu, or export it for the GPU with "
            "charrnn-export --precision fp32 (or fp16)",
            "device",
        )
    head = f'name: "{service.name}"\nbackend: "{service.backend}"\n'
    return head + (_text_config(service) if service.backend == "python" else _step_config(info, service))


def _text_config(service: Service) -> str:
    """The configuration for requests that are texts."""
    inputs = [_tensor(name, kind, "1", "optional: true") for name, kind in _INPUTS.items()]
    inputs.append(_tensor("stop", "TYPE_STRING", "-1", "optional: true"))
    return (
        "max_batch_size: 0\n"
        "model_transaction_policy { decoupled: true }\n"
        + _list("input", inputs)
        + _list("output", [_tensor("text", "TYPE_STRING", "1")])
        # The program itself decides whether to use a GPU.
        + _instances(service, "KIND_CPU")
        + _parameter("device", service.device)
        + _parameter("threads", str(service.threads or 0))
    )


def _step_config(info: ModelInfo, service: Service) -> str:
    """The configuration for requests that are characters.

    The step model's tensors have one value per row, so their shape without the batch axis is []. Triton does
    not allow empty ``dims``: clients use [1], which is reshaped.
    """
    max_batch_size = service.max_batch_size or DEFAULT_MAX_BATCH_SIZE
    scalar = "reshape: { shape: [ ] }"
    inputs = [
        _tensor(each.name, _TYPES[each.element_type], "1", scalar)
        for each in spec.INPUTS
        if each.name != "state"
    ]
    outputs = [
        _tensor("next_token", "TYPE_INT64", "1", scalar),
        _tensor("logits", "TYPE_FP32", str(len(info.vocabulary))),
    ]
    state = f"data_type: TYPE_FP32\n      dims: [ {info.state_size} ]"
    return (
        f"max_batch_size: {max_batch_size}\n"
        + _list("input", inputs)
        + _list("output", outputs)
        + "sequence_batching {\n"
        f"  max_sequence_idle_microseconds: {_IDLE_MICROSECONDS}\n"
        f"  oldest {{ max_candidate_sequences: {max(_SEQUENCES, max_batch_size)} }}\n"
        "  state [\n"
        "    {\n"
        '      input_name: "state"\n'
        '      output_name: "next_state"\n'
        f"      {state}\n"
        f'      initial_state {{\n      name: "zeros"\n      {state}\n      zero_data: true\n      }}\n'
        "    }\n"
        "  ]\n"
        "}\n"
        + _instances(service, "KIND_CPU" if info.precision == "int8" else _KINDS[service.device])
        + _parameter("intra_op_thread_count", str(service.threads or 1))
    )


def _tensor(name: str, kind: str, dims: str, more: str = "") -> str:
    return f'{{ name: "{name}" data_type: {kind} dims: [ {dims} ]{" " if more else ""}{more} }}'


def _list(field: str, items: list[str]) -> str:
    return f"{field} [\n  " + ",\n  ".join(items) + "\n]\n"


def _instances(service: Service, kind: str) -> str:
    return f"instance_group [ {{ count: {service.instances} kind: {kind} }} ]\n"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


def write_repository(
    model_path: Path, repository: Path, service: Service, *, force: bool = False
) -> tuple[Path, bool]:
    """Write a model to a repository, which is created if necessary.

    Args:
        model_path: the step model.
        repository: the folder of all models.
        service: the settings.
        force: whether to replace the configuration and version 1 of an existing model. Its other versions are
            kept.

    Returns:
        The model's folder, and whether version 1 was replaced.

    Raises:
        ModelFormatError: the file is not a step model.
        DeviceError: the model is int8 and the device is a GPU.
        WriteError: the repository cannot be written.
        CharRNNError: the file cannot be read, or the model already exists.
    """
    info = read_model_file(model_path).info
    files = {"1/model.onnx": model_path.read_bytes()}
    if hashlib.sha256(files["1/model.onnx"]).hexdigest() != info.sha256:
        raise CharRNNError(f"{model_path} changed while it was read; try again")
    if service.backend == "python":
        files["1/model.py"] = MODEL_PY.encode()
    files["config.pbtxt"] = config(info, service).encode()
    if os.path.exists(repository) and not os.path.isdir(repository):
        raise CharRNNError(f"{repository} is a file; give a folder")
    folder = repository / service.name
    there = os.path.lexists(folder)
    if os.path.islink(folder):
        raise CharRNNError(f"{folder} is a symbolic link, and is not replaced; choose another name", "name")
    if there and not folder.is_dir():
        raise CharRNNError(f"{folder} is not a folder; choose another name", "name")
    if there and not force:
        raise CharRNNError(
            f"{folder} already exists; choose another name, or use force to replace version 1",
            "name",
            "force",
        )
    replaced = there and os.path.lexists(folder / "1" / "model.onnx")
    try:
        if there:
            _write(folder, files)
            if service.backend != "python":
                (folder / "1" / "model.py").unlink(missing_ok=True)
        else:
            _write_new(folder, files)
    except OSError as error:
        raise WriteError(folder, error) from error
    return folder, replaced


def _write_new(folder: Path, files: dict[str, bytes]) -> None:
    """Write files to an existing folder, all or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name[:40]}.{os.getpid()}-{os.urandom(6).hex()}.part")
    try:
        _write(partial, files)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
