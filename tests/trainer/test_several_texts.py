"""Several texts joined: separators, held-out ends, and compressed files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import DataConfig
from charrnn_trainer.data import text_source
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.scanning import ScannedText, scan_text, scan_texts
from charrnn_trainer.data.split import split_text
from compressions import COMPRESS, zstd_compress

TEXTS = ["to be, or not to be, " * 5, "that is the question " * 3, "äöü 水の音\n" * 9]


def written(folder: Path, texts: list[str]) -> list[str]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return [str(path) for path in paths]


def parts(scanned: ScannedText, folder: Path, data: DataConfig) -> tuple[str, str]:
    """The training and the validation text."""
    with scanned:
        corpus = scanned.encode_to(folder / "tokens", source=scanned.source)
    assert len(corpus) == scanned.length
    again = Corpus.open(folder / "tokens")
    assert (again.source, again.train_length) == (scanned.source, scanned.train_length)
    np.testing.assert_array_equal(again.ids, corpus.ids)
    start = split_text(len(corpus), data, corpus.train_length).train_tokens
    return corpus.vocabulary.decode(corpus.ids[:start]), corpus.vocabulary.decode(corpus.ids[start:])


@given(
    st.lists(st.text("ab \n", max_size=40), min_size=1, max_size=4).map(lambda texts: ["a b\n" * 9, *texts]),
    st.sampled_from(["\n", "", "<|end|>", "水"]),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.sampled_from([1, 7, 4096]),
)
def test_the_end_of_each_text_is_held_out_with_separators_between(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], separator: str, fraction: float, piece: int
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "PIECE", piece)
        scanned = scan_texts(written(folder, texts), separator=separator, val_fraction=fraction)
        training, validation = parts(scanned, folder, DataConfig(val_fraction=fraction))
    texts = [text for text in texts if text]  # with an empty one, nothing is added
    separator = separator if len(texts) > 1 else ""
    ends = [int((1.0 - fraction) * len(text)) for text in texts]
    assert training == "".join(text[:end] + separator for text, end in zip(texts, ends, strict=True))
    assert validation == separator.join(text[end:] for text, end in zip(texts, ends, strict=True))


@pytest.mark.parametrize("split", ["end", "spread"])
def test_without_a_split_per_text_the_texts_are_one_text(tmp_path: Path, split: str) -> None:
    paths = written(tmp_path, TEXTS)
    data = DataConfig(split=split, val_fraction=0.2)
    training, validation = parts(scan_texts(paths, separator="|"), tmp_path, data)
    assert training + validation == "|".join(TEXTS)


def test_a_list_of_lines_gets_a_newline_only_if_it_lacks_one(tmp_path: Path) -> None:
    paths = written(tmp_path, ["anna\r\nbert\r\n" * 4, "carla\ndora\n" * 4 + "emil", "franz\n"])
    with scan_texts(paths, unix_lines=True) as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    expected = "anna\nbert\n" * 4 + "carla\ndora\n" * 4 + "emil\nfranz\n"
    assert corpus.vocabulary.decode(corpus.ids) == expected


def test_bytes_of_several_files_train_at_the_byte_level(tmp_path: Path) -> None:
    first, second = bytes(range(256)), b"\xff\xfe" * 20
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    with scan_texts([str(tmp_path / "a"), str(tmp_path / "b")], level="byte", separator="→") as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode_bytes(corpus.ids) == first + "→".encode() + second


def test_a_known_vocabulary_grows_by_the_separator_too(tmp_path: Path) -> None:
    with scan_texts(written(tmp_path, TEXTS[:2]), separator="|", vocabulary=Vocabulary("xyz")) as scanned:
        assert {"|", "x", "q"} <= set(scanned.vocabulary.symbols)


def test_names_hashes_and_sizes_cover_all_texts(tmp_path: Path) -> None:
    paths = written(tmp_path, [*TEXTS, "one more"])
    with scan_texts(paths[:2]) as two, scan_texts(paths) as four, scan_texts(paths[1::-1]) as turned:
        assert (two.name, four.name) == ("0.txt, 1.txt", "0.txt and 3 more")
        assert len({two.sha256, four.sha256, turned.sha256}) == 3
        assert four.size == sum(os.path.getsize(path) for path in paths)
        assert four.source == tuple(paths)
    with scan_texts(paths[:1], val_fraction=0.1) as one:  # as if it were the only text
        assert (one.sha256, one.source, one.train_length) == (scan_text(paths[0]).sha256, paths[0], None)


def test_a_text_given_twice_is_rejected_under_any_name(tmp_path: Path) -> None:
    paths = written(tmp_path, TEXTS)
    (tmp_path / "link").symlink_to(paths[0])
    with pytest.raises(SettingError, match=r"link is given twice"):
        scan_texts([*paths, str(tmp_path / "link")])
    with pytest.raises(SettingError, match="no text given"):
        scan_texts([])


def test_an_error_in_one_of_several_texts_names_it(tmp_path: Path) -> None:
    paths = written(tmp_path, TEXTS)
    Path(paths[1]).write_bytes(b"caf\xe9" * 20)
    with pytest.raises(CharRNNError, match=r"1\.txt is not UTF-8"):
        scan_texts(paths)
    Path(paths[2]).unlink()
    with pytest.raises(CharRNNError, match=r"2\.txt does not exist"):
        scan_texts([paths[0], paths[2]])


def test_an_unreadable_text_is_reported_before_any_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, TEXTS)
    monkeypatch.setattr("os.access", lambda path, mode: path != paths[1])
    read: list[int] = []
    with pytest.raises(CharRNNError, match=r"cannot read .*1\.txt: Permission denied"):
        scan_texts(paths, on_progress=read.append)
    assert not read


@pytest.mark.parametrize("piece", [1, 4096])
@pytest.mark.parametrize("compress", COMPRESS.values(), ids=list(COMPRESS))
def test_compressed_texts_are_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: object, piece: int
) -> None:
    monkeypatch.setattr(text_source, "PIECE", piece)
    path = tmp_path / "text"
    path.write_bytes(compress(TEXTS[2].encode()))  # type: ignore[operator]
    read: list[int] = []
    with scan_text(str(path), on_progress=read.append) as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode(corpus.ids) == TEXTS[2]
    (tmp_path / "plain").write_bytes(TEXTS[2].encode())
    assert scanned.sha256 == scan_text(str(tmp_path / "plain")).sha256
    assert sum(read) == scanned.size == path.stat().st_size


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=list(COMPRESS))
def test_truncated_and_damaged_compressed_files_are_reported(tmp_path: Path, compress: object) -> None:
    whole: bytes = compress(os.urandom(5_000).hex().encode())  # type: ignore[operator]
    altered = whole[:600] + bytes([whole[600] ^ 255]) + whole[601:]
    for raw in [whole[:-100], altered][: 1 if compress is zstd_compress else 2]:  # without a checksum
        (tmp_path / "text").write_bytes(raw)
        with pytest.raises(CharRNNError, match=r"text is a (gzip|xz|zstd) file that is truncated or damaged"):
            scan_text(str(tmp_path / "text"))
