"""Compressed texts: every command reads them; damaged ones are errors; bombs take little memory."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN, CharRNNError
from charrnn_runtime.cli import texts
from charrnn_runtime.compressed import Unpacked
from charrnn_runtime.scheduling import in_order
from compressions import COMPRESS
from make_models import FOLDER
from run_commands import Command, run_module

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
TEXT = "To be, or not to be\nthat is the question\n" * 20

every_kind = pytest.mark.parametrize("kind", list(COMPRESS))


class Slow(io.RawIOBase):
    """A pipe that returns one byte at a time, and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0
        return bytes([each for each in [next(self._left, None)] if each is not None])


def unpacked(data: bytes, size: int = 1000) -> bytes:
    """The contents of a file, read this many bytes at a time."""
    file = Unpacked(io.BytesIO(data), "my text")
    return b"".join(iter(lambda: file.read(size), b""))


def problem(data: bytes) -> str | None:
    """The error for a file with these bytes, if any."""
    try:
        unpacked(data)
    except CharRNNError as error:
        return str(error)
    return None


def test_every_command_reads_compressed_files(gen: Command, score: Command, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(TEXT, encoding="utf-8")
    short = ["-n", 9, "-s", 1]
    commands: list[tuple[str, Command, list[object]]] = [
        ("gzip", score, [MODEL]),
        ("xz", score, [MODEL, "--by-line", "--json"]),
        ("xz", gen, [MODEL, *short, "--prime-file"]),
        ("gzip", gen, [MODEL, *short, "--primes-file"]),
        ("gzip", gen, [MODEL, *short, "--lines", 2, "--new"]),
        ("xz", lambda *words: run_module("charrnn_runtime.cli.quality", *words), [MODEL, *short, "--text"]),
    ]
    for kind, command, words in commands:
        (tmp_path / "packed").write_bytes(COMPRESS[kind](TEXT.encode()))  # no file extension
        plain, packed = (command(*words, tmp_path / name) for name in ("plain", "packed"))
        assert plain.returncode == packed.returncode == 0, packed.stderr.decode()
        assert packed.stdout.replace(b"packed", b"plain").split() == plain.stdout.split()


@every_kind
def test_a_compressed_text_is_read_from_a_pipe(score: Command, kind: str) -> None:
    plain = score(MODEL, "-", "--by-line", input=TEXT.encode())
    packed = score(MODEL, "-", "--by-line", input=COMPRESS[kind](TEXT.encode()))
    assert (packed.returncode, packed.stdout) == (0, plain.stdout), packed.stderr.decode()


@every_kind
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_all_concatenated_members_of_a_file_are_read(kind: str, size: int) -> None:
    parts = [TEXT.encode(), b"", bytes(random.Random(1).choices(range(256), k=5_000)), b"\0\0x"]
    assert unpacked(b"".join(map(COMPRESS[kind], parts)), size) == b"".join(parts)
    slow = Unpacked(Slow(COMPRESS[kind](TEXT.encode())), "my text")
    assert (slow.kind, slow.size, slow.read_all(10**6)) == (kind, None, TEXT.encode())


@pytest.mark.parametrize("data", [b"", b"a", b"LORD\n", b"\x1f", bytes(10), b"\xfd7zXZ", TEXT.encode()])
def test_uncompressed_files_are_read_unchanged(data: bytes) -> None:
    assert unpacked(data, 3) == unpacked(data) == data
    assert Unpacked(Slow(data), "my text").read_all(0) == data


def test_padding_between_xz_streams_is_skipped() -> None:
    assert unpacked(lzma.compress(b"one") + bytes(8) + lzma.compress(b" two") + bytes(4)) == b"one two"


@every_kind
def test_progress_counts_compressed_bytes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(COMPRESS[kind](random.Random(0).randbytes(300_000)))
    with texts.opened(path) as file:
        read = 0
        while file.read(50_000):
            read += file.advanced()
        assert read + file.advanced() == file.size == path.stat().st_size


@every_kind
def test_a_truncated_file_is_one_error_that_names_it(kind: str) -> None:
    whole = COMPRESS[kind](TEXT.encode())
    for cut in range(6, len(whole)):
        with pytest.raises(
            CharRNNError, match=f"^my text is a {kind} file that is truncated or damaged: "
        ) as error:
            unpacked(whole[:cut])
        assert "\n" not in str(error.value)


@every_kind
def test_an_altered_file_is_an_error_or_decompresses_to_the_same(kind: str) -> None:
    whole = COMPRESS[kind](random.Random(2).randbytes(40))
    held = unpacked(whole)
    for place in range(len(whole) - 4 * (kind == "gzip")):
        for bit in range(8):
            altered = bytearray(whole)
            altered[place] ^= 1 << bit
            if kind == "zstd" or Unpacked(io.BytesIO(bytes(altered)), "").kind == "":
                continue  # a frame that zstd wrote has no checksum unless requested
            error = problem(bytes(altered))
            assert error is None or f"{kind} file that is truncated or damaged" in error, (
                place,
                bit,
            )
            assert error or unpacked(bytes(altered)) == held


@every_kind
def test_trailing_data_after_a_compressed_text_is_an_error(kind: str) -> None:
    with pytest.raises(CharRNNError, match=f"my text is a {kind} file that is truncated or damaged"):
        unpacked(COMPRESS[kind](TEXT.encode()) + b"something else")


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_a_damaged_file_is_a_one_line_error(score: Command, kind: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(COMPRESS[kind](TEXT.encode())[:-9])
    for options in ([], ["--by-line"]):
        done = score(MODEL, tmp_path / "text", *options, "-q")
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert f"{tmp_path / 'text'} is a {kind} file that is truncated or damaged" in line


def test_without_zstd_support_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(CharRNNError) as error:
        Unpacked(io.BytesIO(b"\x28\xb5\x2f\xfd and more"), "my text")
    assert str(error.value).startswith("my text is a zstd file; ")
    if sys.version_info < (3, 14):
        assert "pip install backports.zstd" in str(error.value)


# --- bombs -------------------------------------------------------------------------------------------------


def peak_of_lines(data: bytes) -> int:
    """Peak memory while reading the lines of a compressed text."""
    tracemalloc.start()
    try:
        for _ in texts.lines(Unpacked(io.BytesIO(data), "bomb"), Path("bomb")):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_lines_that_decompress_to_a_thousand_times_the_file_take_no_more_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "_CHUNK", 4_096)
    short, long = (gzip.compress(b"to be or not\n" * lines) for lines in (10_000, 80_000))
    peak_of_lines(short)  # one-time allocations
    assert peak_of_lines(long) < peak_of_lines(short) + 4_096


def test_an_endless_line_is_an_error_before_memory_is_exhausted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_CHUNK", 4_096)
    monkeypatch.setattr(texts, "_LONGEST_LINE", 50_000)
    bomb = gzip.compress(b"LORD\n" + b"a" * 3_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(
            CharRNNError, match=r"line 2 of bomb has more than 50,000 characters.* \(--whole\)"
        ):
            list(texts.lines(Unpacked(io.BytesIO(bomb), "bomb"), Path("bomb")))
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@every_kind
def test_the_decompressed_size_of_a_file_read_whole_is_limited(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(texts, "_MOST_AT_ONCE", 1 << 21)
    (tmp_path / "text").write_bytes(COMPRESS[kind](bytes(1 << 21)))
    assert len(texts.read_bytes(tmp_path / "text")) == 1 << 21
    (tmp_path / "text").write_bytes(COMPRESS[kind](bytes((1 << 21) + 1)))
    with pytest.raises(CharRNNError, match=f"a {kind} file that decompresses to more than 2,097,152 bytes"):
        texts.read_bytes(tmp_path / "text")
    (tmp_path / "text").write_bytes(bytes((1 << 21) + 1))  # its size is known
    assert len(texts.read_bytes(tmp_path / "text")) == (1 << 21) + 1


def test_an_xz_file_that_needs_gigabytes_is_rejected() -> None:
    data = bytearray(lzma.compress(b"LORD"))
    size = (data[12] + 1) * 4  # of the block's header (The .xz File Format 3.1)
    assert data[14:16] == b"\x21\x01"  # LZMA2, whose one property is the size of its dictionary
    data[16] = 38  # 2 GiB
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    with pytest.raises(CharRNNError, match="xz file that is truncated or damaged: Memory usage limit"):
        unpacked(bytes(data))


def test_long_texts_scored_together_are_not_all_in_memory(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_order, "READ_AT_ONCE", 100)
    drawn = given = 0

    def source() -> Iterator[str]:
        nonlocal drawn
        for index in range(20):
            drawn += 1
            assert drawn - given <= 8  # not all 20
            yield "LORD AND KING TO BE OR NOT TO "[: 30 - index % 3]

    expected = [lstm.score("LORD AND KING TO BE OR NOT TO "[: 30 - index % 3]).nats for index in range(20)]
    scores: list[Any] = []
    for score in lstm.score_each(source()):
        given += 1
        scores.append(score.nats)
    assert scores == expected
