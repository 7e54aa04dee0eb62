"""Malicious checkpoints: false headers, tensor tables and file lengths.

In most of these files, the hash is made to match, so that it does not stop them.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn_trainer.runs.checkpoint import load_checkpoint, read_header
from charrnn_trainer.runs.header import CheckpointError
from checkpoint_files import (
    DTYPES,
    Tensors,
    changed_checkpoint,
    metadata,
    parts,
    sealed,
    table_of,
    whole,
    with_table,
)
from mutation_workers import try_seeds
from mutations import Draw
from subjects import read_checkpoint, small_checkpoints

FOUND = Path(__file__).resolve().parent.parent / "data" / "found" / "checkpoints"

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs what POSIX has")


@pytest.fixture(scope="module")
def content() -> bytes:
    return small_checkpoints()[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lstm-2x6-step2.safetensors"


def refusal(path: Path, content: bytes | None = None) -> str:
    """The reader's error for a file, which must be one line of readable length."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 500 + len(str(path))
    return message


# --- mutations ---------------------------------------------------------------------------------------------


@needs_posix
def test_mutated_checkpoints_are_rejected_or_load() -> None:
    tally = try_seeds("subjects:try_checkpoint", 0, 300)
    assert tally.faults == []
    assert tally.outcomes.total() == 300
    assert tally.outcomes["refused"] > 100
    assert tally.outcomes["works"] > 10


@pytest.mark.parametrize("found", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_checkpoints_that_once_broke_the_reader_are_rejected_or_load(found: Path) -> None:
    assert read_checkpoint(found) in ("refused", "works")


def test_parsing_and_serializing_a_checkpoint_preserves_it(path: Path) -> None:
    for content in small_checkpoints():
        path.write_bytes(content)
        before = load_checkpoint(path)
        path.write_bytes(whole(*parts(content)))
        after = load_checkpoint(path)
        assert {**vars(before), "tensors": None} == {**vars(after), "tensors": None}
        assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())


def test_a_seed_always_gives_the_same_file() -> None:
    one, other, *_ = small_checkpoints()
    for seed in range(30):
        assert changed_checkpoint(one, other, Draw(seed)) == changed_checkpoint(one, other, Draw(seed))


# --- the file ----------------------------------------------------------------------------------------------


def test_checkpoints_truncated_at_200_places_are_rejected(content: bytes, path: Path) -> None:
    for place in range(0, len(content), len(content) // 200 + 1):
        refusal(path, content[:place])


def test_a_checkpoint_with_trailing_bytes_is_rejected(content: bytes, path: Path) -> None:
    assert "its tensors need" in refusal(path, content + b"more")


def test_a_huge_sparse_file_is_rejected_without_being_read(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(3 * 2**30)
    if path.stat().st_blocks > 10_000:
        pytest.skip("this file system has no sparse files")
    assert " follow its header" in refusal(path)
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    assert "it is not a safetensors file" in refusal(path)


@needs_posix
def test_special_files_are_rejected_without_blocking(path: Path) -> None:
    os.mkfifo(path)
    for odd in (path, Path("/dev/zero")):
        for read in (load_checkpoint, read_header):
            with pytest.raises(CheckpointError, match="it is not a regular file"):
                read(odd)


def test_an_invalid_file_name_is_rejected() -> None:
    for name in ("a\0b", "n" * 5000):
        with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
            load_checkpoint(name)


@pytest.mark.parametrize("size", [0, 1, 7, 16 * 2**20 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_header_with_a_false_length_is_rejected(size: int, content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    table, data = table_of(tensors)
    table["__metadata__"] = metadata(sealed(about, data))
    assert "not a charrnn checkpoint" in refusal(path, with_table(table, data, size))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_ever_loaded(protocol: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert "not a charrnn checkpoint" in refusal(path, pickle.dumps(_Harmful(), protocol))
    assert not Path("harm").exists()


def test_files_saved_by_torch_and_numpy_are_not_checkpoints(path: Path) -> None:
    weights = torch.zeros(3)
    for zipped in (True, False):
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=zipped)
        assert "it is a pickle" in refusal(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "not a charrnn checkpoint" in refusal(path)


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("harm",)


# --- the table of tensors ----------------------------------------------------------------------------------


def offsets(start: Any, end: Any) -> Callable[[dict[str, Any]], object]:
    return lambda table: table["model.output.bias"].update(data_offsets=[start, end])


TABLES: dict[str, Callable[[dict[str, Any]], object]] = {
    "offsets that overlap": lambda table: table["model.output.bias"].update(
        data_offsets=table["optimizer.output.bias.exp_avg"]["data_offsets"]
    ),
    "offsets below zero": offsets(-88, 0),
    "offsets the wrong way round": offsets(88, 0),
    "offsets beyond the end": offsets(2**40, 2**40 + 88),
    "offsets that wrap": offsets(2**64 - 44, 44),
    "offsets in words": offsets("0", "88"),
    "offsets in fractions": offsets(0.0, 88.0),
    "offsets of nothing": offsets(None, None),
    "no offsets": lambda table: table["model.output.bias"].pop("data_offsets"),
    "no type": lambda table: table["model.output.bias"].pop("dtype"),
    "no shape": lambda table: table["model.output.bias"].pop("shape"),
    "a shape in words": lambda table: table["model.output.bias"].update(shape="22"),
    "a shape of terabytes": lambda table: table["model.output.bias"].update(shape=[2**42]),
    "a shape that wraps": lambda table: table["model.output.bias"].update(shape=[2**63, 2]),
    "a shape below zero": lambda table: table["model.output.bias"].update(shape=[-22]),
    "a tensor that is a list": lambda table: table.update({"model.output.bias": [1, 2]}),
    "a tensor that is nothing": lambda table: table.update({"model.output.bias": None}),
    "a name with a line end": lambda table: table.update({"a\n\x1b[31m": table["model.output.bias"]}),
    "half a surrogate pair": lambda table: table.update({"\ud800": table["model.output.bias"]}),
}


@pytest.mark.parametrize("lie", TABLES)
def test_a_false_tensor_table_is_rejected(lie: str, content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    table, data = table_of(tensors)
    TABLES[lie](table)
    table["__metadata__"] = metadata(sealed(about, data))
    assert "is truncated or damaged" in refusal(path, with_table(table, data))


def test_swapped_tensors_are_rejected_or_read_as_the_table_says(content: bytes, path: Path) -> None:
    # Their bytes are no longer in table order, which safetensors allows, since they do not overlap.
    about, tensors = parts(content)
    table, data = table_of(tensors)
    one, other = table["model.output.bias"], table["optimizer.output.bias.exp_avg"]
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    table["__metadata__"] = metadata(sealed(about, data))
    path.write_bytes(with_table(table, data))
    loaded = load_checkpoint(path)
    expected = np.frombuffer(tensors["optimizer.output.bias.exp_avg"][2], np.float32)
    assert loaded.tensors["model.output.bias"].numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "[]", "null", '"x"', "{", "[" * 50_000, '{"a": NaN'])
def test_a_header_that_is_not_a_tensor_table_is_rejected(text: str, path: Path) -> None:
    assert "not a charrnn checkpoint" in refusal(path, with_table(text, b""))


def test_duplicate_keys_are_rejected(content: bytes, path: Path) -> None:
    # Python uses the last and other readers the first, so checked and used values could differ.
    about, tensors = parts(content)
    table, data = table_of(tensors)
    table["__metadata__"] = metadata(sealed(about, data))
    text = json.dumps(table)
    doubled = text[:-1] + ', "model.output.bias": ' + json.dumps(table["model.output.bias"]) + "}"
    assert "occurs twice" in refusal(path, with_table(doubled, data))
    inner = json.dumps(sealed(about, data))
    table["__metadata__"] = {"charrnn": inner[:-1] + ', "step": 1}'}
    assert "occurs twice" in refusal(path, with_table(table, data))


def test_a_header_that_is_not_utf_8_is_rejected(content: bytes, path: Path) -> None:
    altered = content.replace(b"model.output.bias", b"model.output.\xff\xfeas", 1)
    assert "not a charrnn checkpoint" in refusal(path, altered)


# --- the tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "F32"])
@pytest.mark.parametrize("name", ["model.output.bias", "optimizer.output.bias.step", "random.cpu"])
def test_a_tensor_of_another_dtype_is_rejected(dtype: str, name: str, content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    if tensors[name][0] == dtype:
        dtype = "F32"
    tensors[name] = (dtype, *tensors[name][1:])
    assert f"{name} should be" in refusal(path, whole(about, tensors))


def test_missing_and_extra_tensors_are_rejected(content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    for name in tensors:
        less = {other: tensor for other, tensor in tensors.items() if other != name}
        assert f"{name} should be" in refusal(path, whole(about, less))
    for name in ("more", "random.more", "random.", "model.", "state.x", "optimizer.output.bias", "__meta__"):
        more = {**tensors, name: ("U8", [1], b"\0")}
        assert f"{name} should be absent" in refusal(path, whole(about, more))


def replaced(name: str, raw: bytes) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        dtype, shape, before = tensors[name]
        tensors[name] = (dtype, shape, (raw * len(before))[: len(before)])

    return change


def float32(number: float) -> bytes:
    return np.float32(number).tobytes()


NUMBERS: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "NaN": (replaced("model.output.bias", float32(np.nan)), "model.output.bias is not finite"),
    "infinity": (replaced("state.h", float32(-np.inf)), "state.h is not finite"),
    "a square below zero": (
        replaced("optimizer.output.bias.exp_avg_sq", float32(-1)),
        "optimizer.output.bias.exp_avg_sq is not zero or more",
    ),
    # AdamW would divide by 1 - beta ** 0.
    "a step below zero": (
        replaced("optimizer.output.bias.step", float32(-1)),
        "optimizer.output.bias.step is not zero or more",
    ),
    "no random state": (replaced("random.cpu", b"\xff"), "random.cpu is not a valid generator state"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_training_cannot_continue_with_are_rejected(
    name: str, content: bytes, path: Path
) -> None:
    change, message = NUMBERS[name]
    about, tensors = parts(content)
    change(tensors)
    assert message in refusal(path, whole(about, tensors))


# --- the metadata ------------------------------------------------------------------------------------------

LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a loss of 400 digits": lambda about: about.update(train_loss=10**400),
    "a window of 400 digits": lambda about: about.update(window=[10**400, 1]),
    "an evaluation of 400 digits": lambda about: about.update(evaluations=[[1, None, 10**400]]),
    "a version that is a book": lambda about: about.update(version="x" * 10**6),
    "a version with escapes": lambda about: about.update(version="\x1b[31m\n"),
    "no version": lambda about: about.pop("version"),
    "a newer version": lambda about: about.update(version=2),
    "terabytes of states": lambda about: about["config"]["data"].update(batch_size=1_048_576),
    "a network of terabytes": lambda about: about["config"]["network"].update(hidden_size=16_384, layers=32),
    "a vocabulary of half a pair": lambda about: about["vocabulary"].update(symbols=["\ud800"]),
    "a vocabulary of words": lambda about: about["vocabulary"].update(symbols=["to", "be"]),
    "no vocabulary": lambda about: about["vocabulary"].update(symbols=[]),
    "an endless vocabulary": lambda about: about["vocabulary"].update(
        symbols=[chr(0x10000 + i) for i in range(65_537)]
    ),
    "a list for a table": lambda about: about.update(corpus=[]),
    "a name for a list": lambda about: about["vocabulary"].update(symbols="abc"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_header_with_a_matching_hash_is_rejected(lie: str, content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    LIES[lie](about)
    refusal(path, whole(about, tensors))


@pytest.mark.parametrize("stated", [None, "", "0" * 64, 5, ["x"]])
def test_a_missing_or_wrong_hash_is_rejected(stated: Any, content: bytes, path: Path) -> None:
    about, tensors = parts(content)
    assert "its hash does not match" in refusal(path, whole({**about, "sha256": stated}, tensors, seal=False))
    about["endless"] = float("inf")  # which has no canonical form, and so no hash
    assert "its hash does not match" in refusal(path, whole({**about, "sha256": stated}, tensors, seal=False))


@pytest.mark.parametrize("text", ["[]", "null", "5", '"x"', "", "{", "[" * 50_000, '{"version": 1}'])
def test_invalid_metadata_is_rejected(text: str, content: bytes, path: Path) -> None:
    table, data = table_of(parts(content)[1])
    table["__metadata__"] = {"charrnn": text}
    assert "is truncated or damaged" in refusal(path, with_table(table, data))
