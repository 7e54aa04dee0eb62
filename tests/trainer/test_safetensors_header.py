"""The header of safetensors files: compatible with the library, and rejected if invalid."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_trainer.data.safetensors_header import (
    AlteredFileError,
    ForeignFileError,
    canonical,
    encode_header,
    header_size,
    metadata,
    read_header,
)

ABOUT: dict[str, Any] = {"symbols": ["\n", "a", "é", "\U0001f600", '"'], "step": 3, "loss": None}
TABLE = {"tokens": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def with_length(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@settings(max_examples=40)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_written_file_is_read(about: dict[str, Any]) -> None:
    content = encode_header(TABLE, about)
    file = io.BytesIO(content + b"abcde")
    header = read_header(file)
    assert (header.table, header.about) == (TABLE, about)
    assert header.size == header_size(content) == len(content)
    assert len(content) % 8 == 0
    assert file.read() == b"abcde"


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    path.write_bytes(encode_header(TABLE, ABOUT) + bytes([4, 3, 2, 1, 0]))
    assert safetensors.numpy.load_file(path)["tokens"].tolist() == [4, 3, 2, 1, 0]
    with safetensors.safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["charrnn"]) == ABOUT


def test_files_of_the_safetensors_library_are_read() -> None:
    content = safetensors.numpy.save({"tokens": np.arange(5, dtype=np.uint8)}, metadata(ABOUT))
    header = read_header(io.BytesIO(content))
    assert (header.table, header.about) == (TABLE, ABOUT)
    assert content[header.size :] == bytes(range(5))


@pytest.mark.parametrize("size", [640, 896, 1152, 1408, 65_536 + 640])
def test_a_header_whose_length_starts_like_a_pickle_is_read(size: int) -> None:
    plain = len(encode_header(TABLE, {"name": ""}))
    content = encode_header(TABLE, {"name": "x" * (size + 8 - plain)})
    assert len(content) == size + 8
    assert content.startswith(b"\x80")
    assert read_header(io.BytesIO(content)).size == size + 8


def test_json_is_canonical_and_rejects_numbers_that_are_not_finite() -> None:
    assert canonical({"b": 1, "a": [2, 3]}) == canonical({"a": [2, 3], "b": 1}) == '{"a":[2,3],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"loss": float("nan")})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not a safetensors file"),
        (b"To be, or not to be", "it is not a safetensors file"),
        (b"PK\x03\x04 and more", "pickle"),
        (b"\x80\x04 and more than eight bytes", "pickle"),
        ((1 << 40).to_bytes(8, "little"), "it is not a safetensors file"),
        (with_length(b"{"), "it is not a safetensors file"),
        (with_length(b"[]"), "is not a table"),
        (with_length(b"[" * 100_000), "."),
        (with_length(b'{"a": 1, "a": 2}'), "twice"),
        (with_length(b"{}"), "written by another program"),
        (with_length(b'{"__metadata__": {"format": "pt"}}'), "written by another program"),
        (with_length(b'{"__metadata__": {"charrnn": 5}}'), "written by another program"),
        (with_length(b'{"__metadata__": ["charrnn"]}'), "written by another program"),
    ],
)
def test_other_files_are_distinguished_from_ours(content: bytes, why: str) -> None:
    with pytest.raises(ForeignFileError, match=why):
        read_header(io.BytesIO(content))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (encode_header(TABLE, ABOUT)[:-1], "ends within its header"),
        (with_length(json.dumps({"__metadata__": {"charrnn": "hello"}}).encode()), "Expecting value"),
        (with_length(json.dumps({"__metadata__": {"charrnn": "[1]"}}).encode()), "is not a table"),
        (with_length(json.dumps({"__metadata__": {"charrnn": '{"a":1,"a":2}'}}).encode()), "twice"),
    ],
)
def test_altered_files_of_ours_are_reported_as_damaged(content: bytes, why: str) -> None:
    with pytest.raises(AlteredFileError, match=why):
        read_header(io.BytesIO(content))
