"""Texts in any encoding, in blocks of any size; and the identification of files that are not text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime import CharRNNError, SettingError
from charrnn_runtime.text_files import TextDecoder, check_encoding, decoded, file_kind, wide_encoding
from hostile_files import LSTM

WESTERN = "Grüße aus Köln,\r\n“naïve” café – 5 €\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга,\nкаждая несчастливая семья\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。\nどこで生れたか\n"


def _blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 16])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *[(text, name) for text in (WESTERN, RUSSIAN, JAPANESE) for name in ("utf-8", "utf-16", "utf-32")],
        *[(text, name) for text in (WESTERN, JAPANESE) for name in ("utf-16-le", "utf-32-be", "gb18030")],
        (WESTERN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "KOI8-R"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (JAPANESE, "utf-7"),
        (JAPANESE, "utf-8-sig"),
    ],
)
def test_a_text_is_decoded_across_any_block_boundary(text: str, encoding: str, size: int) -> None:
    data = text.encode(encoding)
    assert "".join(decoded(_blocks(data, size), "text", encoding)) == text


@pytest.mark.parametrize("size", [4, 5, 1 << 16])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("little", [True, False])
def test_a_byte_order_mark_determines_the_encoding_and_is_not_part_of_the_text(
    encoding: str, little: bool, size: int
) -> None:
    order = "le" if little else "be"
    data = WESTERN.encode(encoding)
    if encoding != "utf-8-sig":
        data = "\ufeff".encode(f"{encoding}-{order}") + WESTERN.encode(f"{encoding}-{order}")
    said: list[str] = []
    decoder = TextDecoder("my.txt", None, said.append)
    text = "".join(decoder.decode(block) for block in _blocks(data, size)) + decoder.decode(b"", final=True)
    assert text == WESTERN
    assert decoder.had_mark
    if encoding == "utf-8-sig":
        assert said == []
    else:
        assert said == [f"my.txt is read as {encoding.upper()}, according to its byte-order mark"]
    assert "".join(decoded([data], "my.txt", "utf-8-sig" if encoding == "utf-8-sig" else encoding)) == WESTERN


@given(st.binary(max_size=300), st.integers(1, 40))
def test_blocks_of_any_size_give_the_same_text_or_the_same_error(data: bytes, size: int) -> None:
    results = []
    for cut in (size, 1 << 20):
        try:
            results.append("".join(decoded(_blocks(data, cut), "text", "utf-8")))
        except CharRNNError as error:
            results.append(str(error).partition(";")[0])
    assert results[0] == results[1]
    try:
        expected = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        expected = f"text is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
    assert results[0] == expected


@given(st.text(st.characters(exclude_categories=["C"], include_characters="\n\t"), max_size=200))
def test_no_text_is_mistaken_for_another_kind_of_file(text: str) -> None:
    assert file_kind(text.encode()) == ""
    assert wide_encoding(text.encode()) == ""
    said: list[str] = []
    assert "".join(decoded([text.encode()], "text", None, said.append)) == text.removeprefix("\ufeff")
    assert said == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [WESTERN, RUSSIAN, WESTERN * 5000], ids=["western", "russian", "long"])
def test_utf_16_and_32_without_a_mark_are_read_as_requested_or_the_likely_encoding_is_named(
    text: str, encoding: str
) -> None:
    said: list[str] = []
    data = text.encode(encoding)
    with_many_nuls = data.isascii()
    if with_many_nuls:
        "".join(decoded([data], "my.txt", None, said.append))
        assert len(said) == 1
        assert f"looks like {encoding.upper()}" in said[0]
        assert f'give encoding="{encoding}"' in said[0]
    else:
        with pytest.raises(CharRNNError, match=f'perhaps encoding="{encoding}"'):
            "".join(decoded([data], "my.txt", None, said.append))


def test_a_text_with_many_nuls_and_no_known_encoding_is_reported() -> None:
    said: list[str] = []
    assert "".join(decoded([b"abc\0\0" * 100], "my.txt", None, said.append)) == "abc\0\0" * 100
    unusual = "which is unusual for text; charrnn-train --level byte reads any bytes unchanged"
    assert said == [f"my.txt has NUL bytes, the first at offset 3, {unusual}"]
    said.clear()
    assert "".join(decoded([b"hello\0world\0" * 100], "my.txt", None, said.append)) == "hello\0world\0" * 100
    assert said == [f"my.txt has NUL bytes, the first at offset 5, {unusual}"]  # not UTF-16, at even places
    said.clear()
    assert "".join(decoded([b"abc " * 100 + b"\0"], "my.txt", None, said.append)) == "abc " * 100 + "\0"
    assert said == []  # a single one is an ordinary character


@pytest.mark.parametrize("text", ["1, 2, 3\n", "LORD of the text\n", "Все\n", "ab"])
def test_a_single_nul_anywhere_in_a_small_text_is_not_called_another_encoding(text: str) -> None:
    for place in range(len(text) + 1):
        said: list[str] = []
        data = (text[:place] + "\0" + text[place:]).encode()
        "".join(decoded([data], "my.txt", None, said.append))
        assert len(said) == 1
        assert f"my.txt has a NUL byte at offset {data.index(0)}, which is unusual" in said[0]
        assert "--level byte" in said[0]
        with pytest.raises(CharRNNError, match=r"latin-1|binary"):
            "".join(decoded([data + b"\xff\xe9"], "my.txt"))


@pytest.mark.parametrize(
    ("data", "advised"),
    [
        ("naïve café".encode("latin-1"), "latin-1"),
        ("naïve café – 5 €".encode(), "utf-8"),
        ("naïve caf€".encode()[:-1], "utf-8"),  # the block ends within a character
        ("“quoted” – 5 €".encode("cp1252"), "cp1252"),
        (RUSSIAN.encode("cp1251"), "latin-1"),
        (codecs.BOM_UTF16_LE + b"a\0", "utf-16"),
    ],
)
def test_the_error_about_a_wrong_encoding_names_one_that_reads_it(data: bytes, advised: str) -> None:
    with pytest.raises(CharRNNError) as caught:
        "".join(decoded([data], "my.txt", "ascii" if data[:1] != b"\xff" else "utf-8"))
    assert f'encoding="{advised}"' in str(caught.value)
    assert caught.value.parameters == ("encoding",)
    decoder = TextDecoder("my.txt", advised)
    decoder.decode(data)


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("text.txt", WESTERN)
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("text"))
    return file.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(b"LORD"), "gzip-compressed"),
        (lzma.compress(b"LORD"), "xz-compressed"),
        (bz2.compress(b"LORD"), "bzip2-compressed"),
        (_zip(), "a zip archive"),
        (_npy(), "a NumPy array"),
        (_safetensors(), "a safetensors file"),
        (LSTM, "an ONNX model"),
        (pickle.dumps([1] * 100, protocol=4), "a Python pickle"),
        (_tar(), "a tar archive: .* tar -xOf my.bin > text.txt"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    ],
)
def test_files_that_are_not_text_are_identified(data: bytes, kind: str) -> None:
    with pytest.raises(CharRNNError, match=f"my.bin is not a text file but .*{kind}"):
        "".join(decoded([data], "my.bin"))


def test_other_binary_data_is_not_called_a_text_in_another_encoding() -> None:
    data = np.random.default_rng(0).bytes(5000)
    with pytest.raises(CharRNNError, match="it looks like binary data"):
        "".join(decoded([data], "my.bin"))


@pytest.mark.parametrize(
    "encoding",
    ["", "latin-8", "hex", "rot13", "zlib", "undefined", "a\0b", "é", 5, None, b"utf-8", ["x"], True],
)
def test_invalid_encodings_are_rejected(encoding: object) -> None:
    with pytest.raises(SettingError, match="encoding must be one that Python supports") as caught:
        check_encoding(encoding)  # type: ignore[arg-type]
    assert caught.value.parameters == ("encoding",)
