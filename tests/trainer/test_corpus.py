"""Texts: any script, any piece size, and files that are not texts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data import text_source, token_file
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.scanning import scan_text, scan_texts

HAIKU = "古池や\r\n蛙飛びこむ\r\n水の音\r\n" * 4
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=32).filter(
    lambda text: len(set(text)) > 1 and not text.startswith("\ufeff")
)


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "text.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.fixture(params=[1, 3, 7, 4096])
def piece_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Texts are read in pieces; with small pieces, characters cross their boundaries."""
    size: int = request.param
    monkeypatch.setattr(text_source, "PIECE", size)
    monkeypatch.setattr(token_file, "WINDOW", size)
    return size


def test_a_text_in_any_script_is_encoded_as_its_code_points_with_every_line_end_kept(
    tmp_path: Path, piece_size: int
) -> None:
    scanned = scan_text(written(tmp_path, HAIKU))
    assert scanned.vocabulary.symbols == tuple(sorted(set(HAIKU)))
    assert (scanned.length, scanned.distinct) == (len(HAIKU), len(set(HAIKU)))
    assert scanned.sha256 == hashlib.sha256(HAIKU.encode()).hexdigest()
    assert HAIKU.startswith(scanned.beginning)
    corpus = scanned.encode_to(tmp_path / "tokens", source=scanned.source)
    assert corpus.vocabulary.decode(corpus.ids) == HAIKU
    assert corpus.ids.dtype == np.uint8
    assert isinstance(corpus.ids, np.memmap)


@given(TEXTS, st.sampled_from(["char", "byte"]), st.sampled_from([1, 2, 5, 1000]))
def test_any_text_round_trips_through_encoding(
    tmp_path_factory: pytest.TempPathFactory, text: str, level: str, size: int
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    path = folder / "text.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "PIECE", size)
        scanned = scan_text(str(path), level="byte" if level == "byte" else "char")
        corpus = scanned.encode_to(folder / "tokens", source=None)
    assert scanned.distinct == len(set(text.encode() if level == "byte" else text))
    assert corpus.vocabulary.decode(corpus.ids) == text
    again = Corpus.open(folder / "tokens")
    assert (again.name, again.sha256, again.source) == (corpus.name, corpus.sha256, None)
    np.testing.assert_array_equal(again.ids, corpus.ids)


def test_any_bytes_train_at_the_byte_level(tmp_path: Path, piece_size: int) -> None:
    raw = b"\xef\xbb\xbf" + bytes(range(256))
    corpus = scan_text(written(tmp_path, raw), level="byte").encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode_bytes(corpus.ids) == raw
    assert len(corpus.vocabulary) == 256


def test_many_symbols_take_two_bytes_each(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + index) for index in range(300))
    corpus = Corpus.from_text(text).save(tmp_path / "tokens")
    assert corpus.ids.dtype == np.dtype("<u2")
    assert corpus.vocabulary.decode(corpus.ids) == text


def distinct_characters(count: int) -> str:
    """A number of different characters, starting from U+0020, without surrogates."""
    return "".join(chr(0x20 + index + (0x800 if index >= 0xD800 - 0x20 else 0)) for index in range(count))


def test_the_maximum_number_of_symbols_is_accepted(tmp_path: Path) -> None:
    text = distinct_characters(spec.MAX_VOCABULARY)
    corpus = scan_text(written(tmp_path, text)).encode_to(tmp_path / "tokens", source=None)
    assert corpus.ids.tolist() == list(range(spec.MAX_VOCABULARY))
    assert len(Corpus.open(tmp_path / "tokens").vocabulary) == spec.MAX_VOCABULARY


def test_one_symbol_too_many_is_rejected_and_the_suggested_alternative_works(tmp_path: Path) -> None:
    path = written(tmp_path, distinct_characters(spec.MAX_VOCABULARY + 1))
    with pytest.raises(CharRNNError, match=r"text\.txt has 65,537 distinct .* at most 65,536; .*level=byte"):
        scan_text(path)
    assert len(scan_text(path, level="byte").vocabulary) == 256


def test_progress_reports_the_bytes_read(tmp_path: Path, piece_size: int) -> None:
    path, read = written(tmp_path, HAIKU), list[int]()
    scanned = scan_text(path, on_progress=read.append)
    assert sum(read) == scanned.size == len(HAIKU.encode())
    read.clear()
    scanned.encode_to(tmp_path / "tokens", source=None, on_progress=read.append)
    assert sum(read) == scanned.size
    assert max(read) <= piece_size


def test_a_byte_order_mark_is_removed_only_at_the_start(tmp_path: Path, piece_size: int) -> None:
    text = "\ufeff" + "ab" * 20 + "\ufeff"
    scanned = scan_text(written(tmp_path, text))
    assert scanned.had_bom
    corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode(corpus.ids) == text[1:]


@pytest.mark.parametrize(
    ("before", "wrong", "byte"),
    [
        ("é" * 20, b"\xff", "0xff"),
        ("e" * 41, b"\xc3", "0xc3"),  # a sequence truncated by the end
        ("é€😀" * 5, b"\xe2\x82a", "0xe2"),
        ("x" * 40, b"\xed\xa0\x80", "0xed"),  # a lone surrogate
    ],
)
def test_invalid_utf8_is_reported_with_its_byte(
    tmp_path: Path, piece_size: int, before: str, wrong: bytes, byte: str
) -> None:
    offset = len(before.encode())
    expected = f'text.txt is not UTF-8: byte {offset} is {byte}; .*level="byte"'
    with pytest.raises(CharRNNError, match=expected):
        scan_text(written(tmp_path, before.encode() + wrong))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_an_encoding_with_a_byte_order_mark_is_recognised(
    tmp_path: Path, piece_size: int, encoding: str
) -> None:
    notices: list[str] = []
    path = written(tmp_path, HAIKU.encode(encoding))
    scanned = scan_texts([path], on_notice=notices.append)
    assert (scanned.had_bom, scanned.encoding) == (True, encoding.removesuffix("-sig"))
    corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode(corpus.ids) == HAIKU
    assert [encoding.upper() in notice for notice in notices] == [True] * (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", "déjà vu, naïve café\r\n" * 4),
        ("cp1252", "“smart” – quotes… " * 4),
        ("gb18030", HAIKU),
        ("shift_jis", HAIKU),
        ("utf-16-le", HAIKU),
        ("utf-7", HAIKU),
    ],
)
def test_a_text_in_any_encoding_is_read_as_its_characters(
    tmp_path: Path, piece_size: int, encoding: str, text: str
) -> None:
    scanned = scan_texts([written(tmp_path, text.encode(encoding))], encoding=encoding)
    corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert scanned.encoding == encoding
    assert corpus.vocabulary.decode(corpus.ids) == text


def test_a_wide_encoding_without_a_byte_order_mark_is_detected(tmp_path: Path) -> None:
    notices: list[str] = []
    scan_texts([written(tmp_path, ("hello " * 10).encode("utf-16-le"))], on_notice=notices.append)
    assert len(notices) == 1
    assert 'but is read as UTF-8; if it is UTF-16-LE, give encoding="utf-16-le"' in notices[0]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04", "zip archive.*unzip -p"),
        (b"%PDF-1.7", "PDF document"),
        (b"\x08\x09\x12\x07charrnn", "ONNX model"),
    ],
)
def test_files_that_are_not_texts_are_recognised(tmp_path: Path, head: bytes, kind: str) -> None:
    path = written(tmp_path, head + bytes(range(256)))
    with pytest.raises(CharRNNError, match=f'text.txt is not a text file but .*{kind}.*level="byte"'):
        scan_text(path)
    assert scan_text(path, level="byte").length == len(head) + 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; at least 32 characters are needed"),
        ("\ufeff", "empty"),
        ("ab" * 15, "only 30 characters; at least 32"),
        ("a" * 100, "repeats a single character"),
    ],
)
def test_a_text_that_is_too_short_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CharRNNError, match=message):
        scan_text(written(tmp_path, text))
    if not text.startswith("\ufeff"):
        with pytest.raises(CharRNNError, match=message):
            Corpus.from_text(text)


def test_thirty_two_characters_are_enough(tmp_path: Path) -> None:
    assert scan_text(written(tmp_path, "ab" * 16)).length == 32


def test_a_path_that_is_not_a_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match="is a folder"):
        scan_text(str(tmp_path))
    with pytest.raises(CharRNNError, match=r"missing\S* does not exist"):
        scan_text(str(tmp_path / "missing"))
    with pytest.raises(CharRNNError, match="cannot read"):
        scan_text("nul\0byte")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once_and_encoded_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(HAIKU.encode()))
    writer.start()
    with scan_text(str(pipe)) as scanned:
        writer.join()
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode(corpus.ids) == HAIKU


def test_standard_input_is_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(HAIKU.encode())))
    with scan_text("-") as scanned:
        assert (scanned.name, scanned.source) == ("standard input", "-")
        corpus = scanned.encode_to(tmp_path / "tokens", source="-")
    assert corpus.vocabulary.decode(corpus.ids) == HAIKU
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CharRNNError, match="closed"):
        scan_text("-")


@pytest.mark.parametrize("after", ["xy" * 40, "ab" * 41, "ab" * 39])
def test_a_text_that_changes_while_it_is_read_is_detected(tmp_path: Path, after: str) -> None:
    path = written(tmp_path, "xyab" * 20)
    scanned = scan_text(path)
    written(tmp_path, after)
    with pytest.raises(CharRNNError, match="changed while it was being read"):
        scanned.encode_to(tmp_path / "tokens", source=None)
    assert not (tmp_path / "tokens").exists()


def test_given_symbols_are_kept_and_missing_ones_added(tmp_path: Path) -> None:
    path = written(tmp_path, "abc" * 20)
    known = Vocabulary("abcdef")
    corpus = scan_text(path, vocabulary=known).encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary == known
    assert corpus.ids[:3].tolist() == [0, 1, 2]
    grown = scan_text(path, vocabulary=Vocabulary("bx")).encode_to(tmp_path / "grown", source=None)
    assert grown.vocabulary.symbols == ("a", "b", "c", "x")
    assert grown.vocabulary.decode(grown.ids) == "abc" * 20
    with pytest.raises(CharRNNError, match="level=byte"):
        scan_text(path, vocabulary=Vocabulary.of_bytes())


def test_ids_within_the_vocabulary_make_a_corpus() -> None:
    vocabulary = Vocabulary("ab")
    corpus = Corpus.from_ids(np.array([0, 1] * 20), vocabulary)
    assert corpus.sha256 == Corpus.from_text("ab" * 20).sha256
    for ids in (np.array([0, 2] * 20), np.array([0, -1] * 20), np.zeros((4, 20), int), np.array([0.0, 1.0])):
        with pytest.raises(CharRNNError):
            Corpus.from_ids(ids, vocabulary)


def test_read_only_ids_are_not_copied() -> None:
    ids, vocabulary = np.array([0, 1] * 20, dtype=np.uint8), Vocabulary("ab")
    assert not np.shares_memory(Corpus.from_ids(ids, vocabulary).ids, ids)
    ids.flags.writeable = False
    assert np.shares_memory(Corpus.from_ids(ids, vocabulary).ids, ids)


def test_a_corpus_is_an_array_to_numpy() -> None:
    corpus = Corpus.from_text("ab" * 20)
    assert np.asarray(corpus) is corpus.ids
    assert np.array(corpus, dtype=np.int64).dtype == np.int64


def test_validation_begins_after_nine_tenths_of_the_text() -> None:
    corpus = Corpus.from_text("ab" * 50)
    assert corpus.train_tokens(0.1) == 90
    assert corpus.train_tokens(0.0) == 100


def test_the_real_text_has_the_known_figures(tinyshakespeare: Path) -> None:
    scanned = scan_text(str(tinyshakespeare))
    assert (scanned.length, scanned.distinct) == (1_115_394, 65)
    assert scanned.vocabulary.symbols[:6] == ("\n", " ", "!", "$", "&", "'")
    assert scanned.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_the_file_of_tokens_is_a_safetensors_file(tmp_path: Path) -> None:
    corpus = Corpus.from_text(HAIKU).save(tmp_path / "tokens")
    tensors = safetensors.numpy.load_file(tmp_path / "tokens")
    np.testing.assert_array_equal(tensors["tokens"], corpus.ids)


def test_a_truncated_or_altered_token_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    corpus = Corpus.from_text("to be or not to be " * 3).save(path)
    whole = path.read_bytes()
    del corpus  # Windows does not write to files that are mapped
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CharRNNError):
            Corpus.open(path)
    for place in range(len(whole) - 57, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CharRNNError, match="truncated or damaged"):
            Corpus.open(path)


@pytest.mark.parametrize("symbols", [3, 300])
def test_ids_outside_the_vocabulary_are_rejected_even_with_the_right_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: int
) -> None:
    path = tmp_path / "tokens"
    vocabulary = Vocabulary(distinct_characters(symbols))
    ids = np.array([0, 1] * 20 + [len(vocabulary)], dtype=token_file.id_type(vocabulary))
    token_file.write_tokens(path, token_file.TokensInfo(vocabulary, "x", "0", None), len(ids), [ids])
    monkeypatch.setattr(token_file, "WINDOW", 7)
    with pytest.raises(CharRNNError, match=f"the id {len(vocabulary)} is not in its vocabulary"):
        Corpus.open(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
    ],
)
def test_other_files_are_rejected_as_tokens(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(CharRNNError, match="not a file of tokens"):
        Corpus.open(tmp_path / "tokens")


def test_a_header_with_a_false_size_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    Corpus.from_text("ab" * 20).save(path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for shape in ([10**15], [-1], [0], ["40"], [], 40, [40, 1]):
        header = json.loads(whole[8 : 8 + size])
        header["tokens"]["shape"] = shape
        encoded = json.dumps(header).encode()
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + whole[8 + size :])
        with pytest.raises(CharRNNError):
            Corpus.open(path)
