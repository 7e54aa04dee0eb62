"""Malicious model files: data outside the file, control flow, functions, links, broken metadata.

A file that does not work anyway proves nothing. Therefore the files named by external data exist, and the
other models run in plain onnxruntime with the results of the valid model.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from charrnn_runtime import CharRNN, CharRNNError, ModelFormatError
from charrnn_runtime.format import proto, spec
from hostile_files import LSTM, changed, field, metadata, node, tensor

VOCABULARY, GATES = 65, 48
TABLE: bytes = tensor(proto.parse_model(LSTM), "table").raw_data


def without_table(model: Any) -> None:
    kept = [each for each in model.graph.initializer if each.name != "table"]
    copies = [each.SerializeToString() for each in kept]
    del model.graph.initializer[:]
    for copy in copies:
        model.graph.initializer.add().MergeFromString(copy)


# --- ONNX encoded by hand ----------------------------------------------------------------------------------


def tensor_message(name: str, dims: list[int], kind: int, data: bytes) -> bytes:
    """A TensorProto; ``data`` are its last fields, with the numbers or their location."""
    return b"".join(field(1, size) for size in dims) + field(2, kind) + field(8, name) + data


def inside(numbers: bytes) -> bytes:
    return field(9, numbers)


def outside(location: str) -> bytes:
    """External data that span a whole file."""
    entries = (("location", location), ("offset", "0"), ("length", str(len(TABLE))))
    return b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries) + field(14, 1)


def table_message(data: bytes) -> bytes:
    return tensor_message("table", [VOCABULARY, GATES], spec.FLOAT, data)


def node_message(operator: str, inputs: list[str], outputs: list[str], *rest: bytes) -> bytes:
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    return names + field(4, operator) + b"".join(rest)


def value_message(name: str, kind: int, *dims: int | str) -> bytes:
    sizes = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sizes)))


def graph_message(
    nodes: list[bytes], inputs: list[bytes], outputs: list[bytes], initializers: list[bytes]
) -> bytes:
    parts = ((1, nodes), (5, initializers), (11, inputs), (12, outputs))
    return field(2, "inner") + b"".join(field(number, each) for number, all_ in parts for each in all_)


def attribute(name: str, number: int, content: bytes | int, kind: int) -> bytes:
    return field(5, field(1, name) + field(number, content) + field(20, kind))


TENSOR_ATTRIBUTE, GRAPH_ATTRIBUTE = 4, 5


def before(nodes: list[bytes], initializers: list[bytes], data: bytes) -> bytes:
    """A file with nodes inserted before all others: protobuf merges a graph in two parts."""
    return field(7, b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in initializers)) + data


TRUE = tensor_message("yes", [], spec.BOOL, inside(b"\1"))
ONCE = tensor_message("once", [], spec.INT64, inside((1).to_bytes(8, "little")))


# --- hiding places for the embedding table -----------------------------------------------------------------


def in_initializer(data: bytes) -> bytes:
    return before([], [table_message(data)], changed(without_table))


def in_attribute(data: bytes) -> bytes:
    value = attribute("value", 5, tensor_message("", [VOCABULARY, GATES], spec.FLOAT, data), 4)
    return before([node_message("Constant", [], ["table"], value)], [], changed(without_table))


def in_subgraph(data: bytes) -> bytes:
    made = node_message("Identity", ["inner_table"], ["branch"])
    table = tensor_message("inner_table", [VOCABULARY, GATES], spec.FLOAT, data)
    output = value_message("branch", spec.FLOAT, VOCABULARY, GATES)
    branches = [
        attribute(name, 6, graph_message([made], [], [output], [table]), GRAPH_ATTRIBUTE)
        for name in ("then_branch", "else_branch")
    ]
    return before([node_message("If", ["yes"], ["table"], *branches)], [TRUE], changed(without_table))


def in_attribute_of_subgraph(data: bytes) -> bytes:
    value = attribute("value", 5, tensor_message("", [VOCABULARY, GATES], spec.FLOAT, data), 4)
    made = node_message("Constant", [], ["branch"], value)
    output = value_message("branch", spec.FLOAT, VOCABULARY, GATES)
    branches = [
        attribute(name, 6, graph_message([made], [], [output], []), GRAPH_ATTRIBUTE)
        for name in ("then_branch", "else_branch")
    ]
    return before([node_message("If", ["yes"], ["table"], *branches)], [TRUE], changed(without_table))


HIDING: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "initializer": (in_initializer, "external data"),
    "attribute": (in_attribute, "a tensor attribute"),
    "subgraph": (in_subgraph, "a graph attribute"),
    "attribute of a subgraph": (in_attribute_of_subgraph, "a graph attribute"),
}


# --- control flow and functions ----------------------------------------------------------------------------


def rename_logits(model: Any) -> None:
    node(model, "logits").output[0] = "logits_before"


def after(nodes: list[bytes], initializers: list[bytes]) -> bytes:
    """The good file with nodes that compute ``logits`` from ``logits_before``."""

    def change(model: Any) -> None:
        rename_logits(model)
        position = [list(each.output) for each in model.graph.node].index(["logits_before"]) + 1
        encoded = [each.SerializeToString() for each in model.graph.node]
        encoded[position:position] = nodes
        del model.graph.node[:]
        for each in encoded:
            model.graph.node.add().MergeFromString(each)
        for each in initializers:
            model.graph.initializer.add().MergeFromString(each)

    return changed(change)


ROWS = ("batch", VOCABULARY)


def with_if() -> bytes:
    output = value_message("branch", spec.FLOAT, *ROWS)
    body = graph_message([node_message("Identity", ["logits_before"], ["branch"])], [], [output], [])
    branches = [attribute(name, 6, body, GRAPH_ATTRIBUTE) for name in ("then_branch", "else_branch")]
    return after([node_message("If", ["yes"], ["logits"], *branches)], [TRUE])


def with_loop() -> bytes:
    body = graph_message(
        [
            node_message("Identity", ["go_on"], ["goes_on"]),
            node_message("Identity", ["carried"], ["carries"]),
        ],
        [
            value_message("round", spec.INT64),
            value_message("go_on", spec.BOOL),
            value_message("carried", spec.FLOAT, *ROWS),
        ],
        [value_message("goes_on", spec.BOOL), value_message("carries", spec.FLOAT, *ROWS)],
        [],
    )
    loop = node_message(
        "Loop", ["once", "yes", "logits_before"], ["logits"], attribute("body", 6, body, GRAPH_ATTRIBUTE)
    )
    return after([loop], [ONCE, TRUE])


def with_scan() -> bytes:
    body = graph_message(
        [node_message("Identity", ["row"], ["same_row"])],
        [value_message("row", spec.FLOAT, VOCABULARY)],
        [value_message("same_row", spec.FLOAT, VOCABULARY)],
        [],
    )
    scan = node_message(
        "Scan",
        ["logits_before"],
        ["logits"],
        attribute("body", 6, body, GRAPH_ATTRIBUTE),
        attribute("num_scan_inputs", 3, 1, 2),
    )
    return after([scan], [])


def with_function() -> bytes:
    function = (
        field(1, "Same")
        + field(4, "x")
        + field(5, "y")
        + field(7, node_message("Identity", ["x"], ["y"]))
        + field(9, field(1, "") + field(2, spec.OPSET))
        + field(10, "local")
    )
    called = node_message("Same", ["logits_before"], ["logits"], field(7, "local"))
    return after([called], []) + field(8, field(1, "local") + field(2, 1)) + field(25, function)


def with_sparse_tensor() -> bytes:
    """The table as a sparse tensor in which all numbers are stored."""
    numbers = np.arange(GATES, dtype=np.int64)
    bias = tensor(proto.parse_model(LSTM), "layer1_weights_bias").raw_data

    def change(model: Any) -> None:
        node(model, "Add_2").input[1] = "sparse_bias"

    values = tensor_message("sparse_bias", [GATES], spec.FLOAT, inside(bias))
    indices = tensor_message("", [GATES], spec.INT64, inside(numbers.tobytes()))
    sparse = field(1, values) + field(2, indices) + field(3, GATES)
    return changed(change) + field(7, field(15, sparse))


RUNNING: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"table in {name}": (functools.partial(hide, inside(TABLE)), message if "attr" in message else "")
        for name, (hide, message) in HIDING.items()
    },
    "If": (with_if, "a graph attribute"),
    "Loop": (with_loop, "a graph attribute"),
    "Scan": (with_scan, "a graph attribute"),
    "function": (with_function, "functions"),
    "sparse tensor": (with_sparse_tensor, "sparse tensors"),
}


def logits_of(data: bytes) -> NDArray[np.float32]:
    """The result of onnxruntime alone on a file."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = {
        "token": np.array([1, 2]),
        "state": np.zeros((2, GATES), np.float32),
        "uniform": np.full(2, 0.5, np.float32),
        "temperature": np.ones(2, np.float32),
        "top_k": np.full(2, VOCABULARY),
        "top_p": np.ones(2, np.float32),
        "min_p": np.zeros(2, np.float32),
    }
    logits: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return logits


def refused(path: Path | str, cause: str) -> None:
    with pytest.raises(ModelFormatError, match=cause) as caught:
        CharRNN.load(path, device="cpu")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", RUNNING)
def test_files_with_unsupported_content_are_rejected_even_if_onnxruntime_runs_them(
    name: str, tmp_path: Path
) -> None:
    make, message = RUNNING[name]
    data = make()
    np.testing.assert_array_equal(logits_of(data), logits_of(LSTM))
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    if message:
        refused(path, f"it has {message}, which step models do not")
    else:  # the table in its usual place; the other files differ only in this
        assert CharRNN.load(path, device="cpu").generate("", 5, seed=1)


# --- external data -----------------------------------------------------------------------------------------


def _relative(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(TABLE)
    return "weights.bin"


def _below(folder: Path) -> str:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "weights.bin").write_bytes(TABLE)
    return "./deep/er/weights.bin"


def _above(folder: Path) -> str:
    (folder.parent / "weights.bin").write_bytes(TABLE)
    return "../weights.bin"


def _above_and_below(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(TABLE)
    return f"nowhere/../../{folder.name}/weights.bin"


def _absolute(folder: Path) -> str:
    (folder.parent / "weights.bin").write_bytes(TABLE)
    return str(folder.parent / "weights.bin")


def _symbolic_link(folder: Path) -> str:
    (folder.parent / "secret.bin").write_bytes(TABLE)
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    return "link.bin"


def _link_to_folder(folder: Path) -> str:
    (folder.parent / "secrets").mkdir()
    (folder.parent / "secrets" / "weights.bin").write_bytes(TABLE)
    (folder / "here").symlink_to(folder.parent / "secrets", target_is_directory=True)
    return "here/weights.bin"


def _hard_link(folder: Path) -> str:
    (folder.parent / "secret.bin").write_bytes(TABLE)
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    return "hard.bin"


def _another_model(folder: Path) -> str:
    (folder / "other.onnx").write_bytes(TABLE)
    return "other.onnx"


LOCATIONS = (
    *(_relative, _below, _above, _above_and_below, _absolute),
    *(_symbolic_link, _link_to_folder, _hard_link, _another_model),
)


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("place", LOCATIONS, ids=lambda place: place.__name__.strip("_"))
def test_external_data_is_rejected_even_if_the_file_exists(
    place: Callable[[Path], str], hiding: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_folder / "models"
    (folder / "nowhere").mkdir(parents=True)
    location = place(folder)
    assert (folder / location).read_bytes() == TABLE
    hide, message = HIDING[hiding]
    (folder / "model.onnx").write_bytes(hide(outside(location)))
    refused(folder / "model.onnx", f"it has {message}, which step models do not")
    monkeypatch.chdir(folder)  # onnxruntime reads them from the current folder when loading bytes
    refused("model.onnx", f"it has {message}, which step models do not")


@pytest.mark.parametrize(
    "location",
    ["", "/dev/zero", "/proc/self/mem", "*/_ORT_MEM_ADDR_/*", "\0", "http://example.org/w", "a" * 5000],
)
def test_external_data_that_is_not_a_file_is_rejected_unopened(location: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(in_initializer(outside(location)))
    refused(path, "it has external data")


def test_external_data_in_addition_to_raw_data_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(TABLE)
    path = tmp_path / "model.onnx"
    path.write_bytes(in_initializer(inside(TABLE) + outside("weights.bin")))
    refused(path, "it has external data")


# --- symlinks to models ------------------------------------------------------------------------------------


def test_a_symlink_to_a_model_works(lstm_path: Path, lstm: CharRNN, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(lstm_path)
    (tmp_path / "copy.onnx").write_bytes(LSTM)
    os.link(tmp_path / "copy.onnx", tmp_path / "hard.onnx")
    for name in ("link.onnx", "hard.onnx"):
        model = CharRNN.load(tmp_path / name, device="cpu")
        assert model.generate("", 20, seed=1) == lstm.generate("", 20, seed=1)


def test_broken_symlinks_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "round.onnx").symlink_to(tmp_path / "round.onnx")
    (tmp_path / "gone.onnx").symlink_to(tmp_path / "missing.onnx")
    for name, message in (("round.onnx", "cannot be read"), ("gone.onnx", "no such file")):
        with pytest.raises(CharRNNError, match=message):
            CharRNN.load(tmp_path / name, device="cpu")


# --- metadata and weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"a\x80"])
@pytest.mark.parametrize("key", spec.METADATA_KEYS)
def test_metadata_that_is_not_utf_8_is_rejected(key: str, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    entry = field(14, field(1, f"charrnn.{key}") + field(2, text))
    path.write_bytes(changed(metadata(key, None)) + entry)
    refused(path, "not an ONNX file, or is truncated or damaged")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80"])
def test_a_metadata_key_or_a_name_that_is_not_utf_8_is_rejected(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for more in (
        field(14, field(1, text) + field(2, "value")),
        field(7, field(1, node_message("Tanh", ["state"], ["x"], field(3, text)))),
        field(8, field(1, text)),
    ):
        path.write_bytes(LSTM + more)
        refused(path, "not an ONNX file, or is truncated or damaged")


FLOATS = [t.name for t in proto.parse_model(LSTM).graph.initializer if t.data_type == spec.FLOAT]


@pytest.mark.parametrize("name", FLOATS)
def test_a_nan_weight_is_rejected(name: str, tmp_path: Path) -> None:
    for number in (np.nan, -np.inf):

        def change(model: Any, number: float = number) -> None:
            found = tensor(model, name)
            numbers = np.frombuffer(found.raw_data, np.float32).copy()
            numbers[-1] = number
            found.raw_data = numbers.tobytes()

        path = tmp_path / "model.onnx"
        path.write_bytes(changed(change))
        refused(path, f"tensor '{name}' has numbers that are not finite")


@pytest.mark.parametrize("dims", [[2**40, 2**20], [2**62, 2**62], [1_000_000_000_000], [2**31, 2**31, 4]])
def test_dimensions_that_claim_terabytes_are_rejected(dims: list[int], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    table = tensor_message("table", dims, spec.FLOAT, inside(TABLE))
    path.write_bytes(before([], [table], changed(without_table)))
    refused(path, "bytes, but has 12,480|axes; at most 2 are allowed")
