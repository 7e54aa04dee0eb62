"""Read and validate a step model file.

Anything that export does not write is rejected before onnxruntime sees a byte.

A model file may come from anywhere. onnxruntime loads external data from outside the model's folder, runs any
operator and allocates whatever a graph requests. So the file is parsed here with only the messages that
step models use, its graph and metadata are compared with the specification, and onnxruntime receives the
parsed message serialized again: only what was validated.
"""

from __future__ import annotations

import hashlib
import json
import stat
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from charrnn_runtime.errors import CharRNNError, ModelFormatError, one_line
from charrnn_runtime.files import shell_word
from charrnn_runtime.format import proto, spec
from charrnn_runtime.format.graph_check import Sizes, check_graph
from charrnn_runtime.format.metadata import choice, integer, json_value, number, parameter_count
from charrnn_runtime.format.values import BATCH, Value
from charrnn_runtime.record import Record
from charrnn_runtime.text_files import why_not_a_model
from charrnn_runtime.vocabulary import Vocabulary

_LONGEST_VALUE: Final = 4 * 1024 * 1024
"""The longest metadata value, in characters; four times what the largest vocabulary needs."""

_CPU_OPERATORS: Final = ("QGemm", "QuantizeLinear")
"""The operators without a GPU kernel in this operator set."""


class ModelInfo(Record):
    """The metadata of a step model.

    Attributes:
        path: the path of the file, as given.
        sha256: the SHA-256 of the file, in hexadecimal.
        file_bytes: the size of the file.
        version: the version of the format.
        cell: "lstm", "gru" or "rnn".
        layers: L.
        hidden_size: H.
        precision: "fp32", "fp16" or "int8".
        vocabulary: the symbols, in id order.
        start_token: the id that a stream without a prompt reads first.
        lines: whether the model was trained on independent lines, each from a zero state.
        top_k_max: K, the largest top_k, which is equivalent to none.
        training: the training record, as written by export.
    """

    path: str
    sha256: str
    file_bytes: int
    version: int
    cell: str
    layers: int
    hidden_size: int
    precision: str
    vocabulary: Vocabulary
    start_token: int
    lines: bool
    top_k_max: int
    training: dict[str, Any]

    @cached_property
    def state_layout(self) -> tuple[spec.StateBlock, ...]:
        """The layout of a stream's state row."""
        return spec.state_layout(self.cell, self.layers, self.hidden_size)

    @property
    def state_size(self) -> int:
        """S, the length of a stream's state row."""
        return spec.state_size(self.cell, self.layers, self.hidden_size)

    @property
    def parameters(self) -> int:
        """The number of weights and biases of the trained network, as PyTorch counts them."""
        return parameter_count(self.cell, self.layers, self.hidden_size, len(self.vocabulary), self.training)

    @property
    def validation_loss(self) -> float | None:
        """The validation loss in the training record, in nats per character; None if there is none."""
        return number(self.training, "validation_loss")

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "parameters": self.parameters,
            "validation_loss": self.validation_loss,
            "path": self.path,
            "sha256": self.sha256,
            "file_bytes": self.file_bytes,
            "format": spec.FORMAT,
            "version": self.version,
            "cell": self.cell,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "precision": self.precision,
            "level": self.vocabulary.level,
            "vocabulary_size": len(self.vocabulary),
            "vocabulary": list(self.vocabulary.symbols),
            "start_token": self.start_token,
            "lines": self.lines,
            "top_k_max": self.top_k_max,
            "state_size": self.state_size,
            "state_layout": [[block.name, block.start, block.size] for block in self.state_layout],
            "training": self.training,
        }


class ModelFile(Record):
    """A validated model: its metadata, and the bytes for onnxruntime."""

    info: ModelInfo
    onnx_bytes: bytes


def read_model_file(path: str | Path) -> ModelFile:
    """Read and validate a step model file.

    Raises:
        ModelFormatError: the file is invalid; the message says why.
        CharRNNError: the file does not exist, or cannot be read.
    """
    data = _read_bytes(Path(path))
    try:
        return check_model_bytes(data, str(path))
    except ModelFormatError as error:
        raise ModelFormatError(f"{path} is not a valid charrnn model: {error}") from None


def check_model_bytes(data: bytes, path: str) -> ModelFile:
    """Validate the bytes of a step model; ``path`` is only recorded.

    Raises:
        ModelFormatError: the bytes are invalid; the message says why.
    """
    try:
        return _checked(data, path)
    except ModelFormatError as error:
        raise ModelFormatError(one_line(str(error))) from None


def _checked(data: bytes, path: str) -> ModelFile:
    try:
        model = proto.parse_model(data)
    except ValueError as error:
        raise ModelFormatError(why_not_a_model(data[:512], path, str(error))) from None
    found = proto.unknown_field(model)
    if found is not None:
        raise ModelFormatError(f"it has {found}, which step models do not have")
    metadata = _metadata(model)
    _check_versions(model, metadata)
    info = _info(metadata, hashlib.sha256(data).hexdigest(), len(data), path)
    _check_graph(model.graph, info)
    return ModelFile(info, model.SerializeToString(deterministic=True))


def _folder_instead_of_a_model(folder: Path) -> str:
    """What kind of folder was given instead of a model, and what to give."""
    model = min(folder.glob("*.onnx"), default=None)
    if model is not None:
        return f"a folder; give a model file, such as {model}"
    if any(folder.glob("*-step*.safetensors")) or any(folder.glob("*/*-step*.safetensors")):
        return (
            f"a folder of checkpoints; make a model of the best: charrnn-export {shell_word(folder)} my.onnx"
        )
    return "a folder; give a model file, as charrnn-export writes it"


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise CharRNNError(f"{path} is {_folder_instead_of_a_model(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise CharRNNError(f"{path} is not a regular file; give a model file")
        with path.open("rb") as file:
            # Reading one byte more than allowed detects a file that is too large, or grows meanwhile.
            data = file.read(spec.MAX_FILE_BYTES + 1) if status.st_size <= spec.MAX_FILE_BYTES else b""
    except FileNotFoundError:
        raise CharRNNError(f"{path}: no such file; charrnn-export creates model files") from None
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if max(status.st_size, len(data)) > spec.MAX_FILE_BYTES:
        raise ModelFormatError(
            f"{path} is not a valid charrnn model: it has {status.st_size:,} bytes; at most "
            f"{spec.MAX_FILE_BYTES:,} are allowed"
        )
    return data


def _metadata(model: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in model.metadata_props:
        if len(entry.value) > _LONGEST_VALUE:
            raise ModelFormatError(
                f"the metadata key {entry.key!r} has {len(entry.value):,} characters; at most "
                f"{_LONGEST_VALUE:,} are allowed"
            )
        if entry.key in found:
            raise ModelFormatError(f"the metadata key {entry.key!r} appears twice")
        found[entry.key] = entry.value
    prefix = spec.METADATA_PREFIX
    if prefix + "format" not in found:
        raise ModelFormatError(
            f"its metadata has no {prefix}format, so it is another kind of ONNX file; charrnn-export creates "
            "charrnn models"
        )
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def _check_versions(model: Any, metadata: dict[str, str]) -> None:
    if metadata["format"] != spec.FORMAT:
        raise ModelFormatError(f"its format is {metadata['format'][:40]!r}; expected {spec.FORMAT!r}")
    version = integer(metadata, "version", 1, 1_000_000)
    if version > spec.VERSION:
        raise ModelFormatError(
            f"its format version is {version}, but this charrnn-runtime reads versions up to {spec.VERSION}; "
            "upgrade charrnn-runtime"
        )
    missing = [key for key in spec.METADATA_KEYS if key not in metadata]
    if missing:
        raise ModelFormatError(f"its metadata lacks {spec.METADATA_PREFIX}{missing[0]}")
    if model.ir_version != spec.IR_VERSION:
        raise ModelFormatError(f"its IR version is {model.ir_version}; expected {spec.IR_VERSION}")
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    expected = [("", spec.OPSET)]
    if metadata["precision"] == "int8":
        expected.append((spec.CONTRIB_DOMAIN, spec.CONTRIB_VERSION))
    if opsets != expected:
        raise ModelFormatError(f"its operator sets are {opsets[:4]}; expected {expected}")


def _info(metadata: dict[str, str], sha256: str, file_bytes: int, path: str) -> ModelInfo:
    cell = choice(metadata, "cell", spec.CELLS)
    layers = integer(metadata, "layers", 1, spec.MAX_LAYERS)
    hidden_size = integer(metadata, "hidden_size", 1, spec.MAX_HIDDEN_SIZE)
    vocabulary = _vocabulary(metadata)
    layout = [[block.name, block.start, block.size] for block in spec.state_layout(cell, layers, hidden_size)]
    if json_value(metadata, "state_layout", list) != layout:
        raise ModelFormatError(
            f"its state layout does not match {layers} {cell} layers of {hidden_size}: "
            f"expected {layout[:2]}..."
        )
    return ModelInfo(
        path=path,
        sha256=sha256,
        file_bytes=file_bytes,
        version=int(metadata["version"]),
        cell=cell,
        layers=layers,
        hidden_size=hidden_size,
        precision=choice(metadata, "precision", spec.PRECISIONS),
        vocabulary=vocabulary,
        start_token=integer(metadata, "start_token", 0, len(vocabulary) - 1),
        lines=choice(metadata, "lines", spec.BOOLEANS) == "true",
        top_k_max=integer(
            metadata, "top_k_max", spec.top_k_max(len(vocabulary)), spec.top_k_max(len(vocabulary))
        ),
        training=_training(metadata),
    )


def _vocabulary(metadata: dict[str, str]) -> Vocabulary:
    level = choice(metadata, "level", spec.LEVELS)
    symbols = json_value(metadata, "vocabulary", list)
    try:
        return Vocabulary(symbols, "byte" if level == "byte" else "char")
    except CharRNNError as error:
        raise ModelFormatError(str(error)) from None


def _training(metadata: dict[str, str]) -> dict[str, Any]:
    training: dict[str, Any] = json_value(metadata, "training", dict)
    try:
        # Python reads some JSON that it cannot write: NaN, infinity, lone surrogates.
        json.dumps(training, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ModelFormatError(
            f"{spec.METADATA_PREFIX}training contains NaN, infinity or a lone surrogate, or is nested "
            "too deeply"
        ) from None
    return training


def _check_graph(graph: Any, info: ModelInfo) -> None:
    sizes = {
        spec.BATCH_AXIS: BATCH,
        "state_size": info.state_size,
        "vocab": len(info.vocabulary),
    }
    inputs = _check_values("input", graph.input, spec.INPUTS, sizes)
    outputs = _check_values("output", graph.output, spec.OUTPUTS, sizes)
    if len(graph.node) > spec.MAX_NODES:
        raise ModelFormatError(f"it has {len(graph.node):,} nodes; at most {spec.MAX_NODES:,} are allowed")
    if info.precision != "int8":
        for node in graph.node:
            if node.op_type in _CPU_OPERATORS:
                raise ModelFormatError(
                    f"node {node.name!r} is a {node.op_type}, which runs only on the CPU; it is allowed in "
                    f"int8 files, but not in {info.precision} files"
                )
    needed = {"logits", "next_state"}
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    for each in spec.INPUTS[2:]:
        if each.name in needed:
            raise ModelFormatError(
                f"its logits or next_state depend on {each.name}; they may depend only on token and state"
            )
    limits = Sizes.of_network(info.cell, info.layers, info.hidden_size, info.state_size, len(info.vocabulary))
    check_graph(graph, inputs, outputs, limits)


def _check_values(
    what: str, found: Any, specs: tuple[spec.TensorSpec, ...], sizes: dict[str, int]
) -> dict[str, Value]:
    """Compare the graph's inputs or outputs with the specification, in order."""
    names = [value.name for value in found]
    wanted = [each.name for each in specs]
    if names != wanted:
        raise ModelFormatError(f"its {what}s are {names[:8]}; expected {wanted}")
    values = {}
    for value, each in zip(found, specs, strict=True):
        tensor = value.type.tensor_type
        shape = tuple(BATCH if dim.dim_param else dim.dim_value for dim in tensor.shape.dim)
        named = [dim.dim_param for dim in tensor.shape.dim if dim.dim_param]
        expected = tuple(sizes[axis] for axis in each.axes)
        if tensor.elem_type != each.element_type:
            raise ModelFormatError(
                f"{what} {each.name!r} has element type {tensor.elem_type}; expected {each.element_type}"
            )
        if shape != expected or named != [spec.BATCH_AXIS]:
            shown = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
            raise ModelFormatError(
                f"{what} {each.name!r} has the shape {shown}; expected "
                f"{[spec.BATCH_AXIS if size == BATCH else size for size in expected]}"
            )
        below = {"token": sizes["vocab"], "next_token": sizes["vocab"], "uniform": 1}.get(each.name)
        values[each.name] = Value(each.element_type, expected, below=below)
    return values
