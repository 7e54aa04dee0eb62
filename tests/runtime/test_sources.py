"""Models from bytes and from open files."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN, CharRNNError, ModelFormatError, SettingError
from charrnn_runtime.format import spec


@pytest.fixture(scope="module")
def data(lstm_path: Path) -> bytes:
    return lstm_path.read_bytes()


def _is_that(model: CharRNN, lstm: CharRNN) -> bool:
    told = {name: value for name, value in model.info.as_dict().items() if name != "path"}
    same = told == {name: value for name, value in lstm.info.as_dict().items() if name != "path"}
    return same and model.generate("LORD ", 30, seed=1) == lstm.generate("LORD ", 30, seed=1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(data)[::1]])
def test_a_model_is_loaded_from_bytes(kind: Any, data: bytes, lstm: CharRNN) -> None:
    model = CharRNN.from_bytes(kind(data), device="cpu", threads=2)
    assert _is_that(model, lstm)
    assert (model.info.path, model.device, model._engine.threads) == ("<bytes>", "cpu", 2)


def test_later_changes_to_the_bytes_do_not_affect_the_model(data: bytes, lstm: CharRNN) -> None:
    held = bytearray(data)
    model = CharRNN.from_bytes(held, device="cpu")
    held[:] = bytes(len(held))
    assert _is_that(model, lstm)


@pytest.mark.parametrize("wrong", [None, 5, "models/lstm.onnx", Path("models/lstm.onnx"), [1], io.BytesIO()])
def test_other_data_than_bytes_is_rejected_with_advice(wrong: Any) -> None:
    with pytest.raises(
        SettingError, match=r"data must be the bytes of a model, not \w+; CharRNN.load takes a path"
    ):
        CharRNN.from_bytes(wrong)


@pytest.mark.parametrize("cut", [0, 1, 1000])
def test_bytes_of_no_model_are_rejected_in_one_line(cut: int, data: bytes) -> None:
    with pytest.raises(ModelFormatError, match=r"^<bytes> is not a valid charrnn model: "):
        CharRNN.from_bytes(data[:cut])


def test_bytes_of_a_huge_file_are_rejected_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "MAX_FILE_BYTES", 99)
    with pytest.raises(ModelFormatError, match="it has 100 bytes; at most 99 are allowed"):
        CharRNN.from_bytes(bytes(100))
    file = io.BytesIO(bytes(1000))
    with pytest.raises(ModelFormatError, match="it has 100 bytes; at most 99 are allowed"):
        CharRNN.load(file)
    assert file.tell() == 100


def test_a_model_is_loaded_from_an_open_file_that_is_not_closed(lstm_path: Path, lstm: CharRNN) -> None:
    for buffering in (-1, 0):
        with lstm_path.open("rb", buffering=buffering) as file:
            model = CharRNN.load(file, device="cpu")
            assert not file.closed
        assert _is_that(model, lstm)
        assert model.info.path == str(lstm_path)


def test_a_file_is_read_from_its_current_position(data: bytes, lstm: CharRNN) -> None:
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    model = CharRNN.load(file, device="cpu")
    assert _is_that(model, lstm)
    assert model.info.path == "<file>"


class Drop(io.RawIOBase):
    """Returns a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def read(self, size: int = -1, /) -> bytes:
        given, self._rest = self._rest[:777], self._rest[777:]
        return given


def test_files_in_archives_and_in_memory_are_accepted(tmp_path: Path, data: bytes, lstm: CharRNN) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", data)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive, archive.open("model.onnx") as file:
        assert _is_that(CharRNN.load(file, device="cpu"), lstm)
    with gzip.open(io.BytesIO(gzip.compress(data))) as file:
        assert _is_that(CharRNN.load(file, device="cpu"), lstm)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        assert _is_that(CharRNN.load(file, device="cpu"), lstm)
    assert _is_that(CharRNN.load(Drop(data), device="cpu"), lstm)


def test_a_path_can_be_of_any_type(lstm_path: Path, lstm: CharRNN) -> None:
    with os.scandir(lstm_path.parent) as entries:
        entry = next(each for each in entries if each.name == lstm_path.name)
    folder = f"{lstm_path.parent}/./{lstm_path.name}"
    for path, noted in ((folder, folder), (lstm_path, str(lstm_path)), (entry, entry.path)):
        model = CharRNN.load(path, device="cpu")
        assert _is_that(model, lstm)
        assert model.info.path == noted


def test_a_file_opened_as_text_is_rejected_with_the_required_mode(lstm_path: Path) -> None:
    with lstm_path.open(encoding="latin-1") as file, pytest.raises(SettingError, match='mode "rb"'):
        CharRNN.load(file)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 5, b"models/lstm.onnx", [], object(), CharRNN])
def test_other_sources_than_paths_and_files_are_rejected(wrong: Any) -> None:
    with pytest.raises(
        SettingError, match=r"path must be a path, or an open binary file, not .* CharRNN.from_bytes"
    ):
        CharRNN.load(wrong)


def test_a_file_that_cannot_be_read_is_an_error_in_one_line(lstm_path: Path, data: bytes) -> None:
    file = lstm_path.open("rb")
    file.close()
    with pytest.raises(CharRNNError, match=r"the model's file cannot be read: .*closed"):
        CharRNN.load(file)
    with (
        gzip.open(io.BytesIO(gzip.compress(data)[:-100])) as cut,
        pytest.raises(CharRNNError, match="the model's file cannot be read: Compressed file ended"),
    ):
        CharRNN.load(cut)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with (
        open(reading, "rb", buffering=0) as nothing_yet,
        pytest.raises(CharRNNError, match="it is non-blocking and has no data yet"),
    ):
        CharRNN.load(nothing_yet)
    os.close(writing)
    with pytest.raises(ModelFormatError, match=r"^<file> is not a valid charrnn model"):
        CharRNN.load(io.BytesIO())
