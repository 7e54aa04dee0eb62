"""Any text, and any file at the byte level, works in training, export and generation in one process."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN
from charrnn_trainer import train
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.scanning import scan_text
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint
from tiny_runs import TINY

ONE_STEP = TINY.replace(
    layers=1, steps=1, eval_every=1, save_every=1, log_every=1, dropout=0.0, warmup_steps=0
)

TEXTS = {
    "one line": "no end of a line in all of this text ",
    "Windows line ends": "one line\r\nand another\r\n\r\n",
    "lone carriage returns": "one line\rand another\r",
    "NUL bytes": "\0\0a\0b\0",
    "right to left": "שלום עולם \u202eabc\u202c مرحبا ",
    "combining sequences": "a\u0301e\u0300\u0323 क्षि ",
    "emoji with joiners": "👨‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪",
    "no characters": "\ufffe\uffff\U0010ffff\ue000\ufdd0",
    "what moves the cursor": "\x1b[31mred\x1b[0m\b\x7f\x9b1A",
    "all that some take for line ends": "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
    "a byte-order mark inside": "a\ufeffb\ufeff",
}

DATA = {
    "one value": b"\0" * 500,
    "empty lines": b"\n" * 500,
    "all values": bytes(range(256)) * 2,
    "random": random.Random(0).randbytes(700),
    "UTF-16": ("hello world\n" * 30).encode("utf-16"),
    "UTF-8 that is cut": "中".encode()[:2] * 200,
    "a byte-order mark": b"\xef\xbb\xbf" + b"with a mark\n" * 30,
}


def _trained(corpus: Corpus, folder: Path) -> CharRNN:
    """A model trained on a corpus for one step."""
    train(ONE_STEP, corpus, out=folder / "run")
    path = folder / "model.onnx"
    export_checkpoint(load_checkpoint(find_checkpoint(folder / "run")), path)
    return CharRNN.load(path, device="cpu")


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_trains_and_generates_its_own_characters(name: str, tmp_path: Path) -> None:
    text = TEXTS[name] * (400 // len(TEXTS[name]) + 1)
    (tmp_path / "text").write_bytes(text.encode())
    with scan_text(str(tmp_path / "text")) as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode(corpus.ids) == text
    model = _trained(corpus, tmp_path)
    assert model.vocabulary.symbols == tuple(sorted(set(text)))
    generated = model.generate(text[:50], 200, seed=1, temperature=5)
    assert generated.startswith(text[:50])
    assert len(generated) == 250
    assert set(generated) <= set(text)
    assert b"".join(model.stream_bytes(text[:50], 200, seed=1, temperature=5)).decode() == generated[50:]
    assert model.score(text).characters == len(text)


@pytest.mark.parametrize("name", DATA)
def test_any_file_trains_at_the_byte_level_and_any_prompt_is_accepted(name: str, tmp_path: Path) -> None:
    data = DATA[name]
    (tmp_path / "data").write_bytes(data)
    with scan_text(str(tmp_path / "data"), level="byte") as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.vocabulary.decode_bytes(corpus.ids) == data
    model = _trained(corpus, tmp_path)
    assert len(model.vocabulary) == 256
    for prompt in (bytes(range(256)), data[:50], b""):
        generated = b"".join(model.stream_bytes(prompt, 200, seed=1, temperature=5))
        assert len(generated) == 200
        text = model.generate(prompt, 200, seed=1, temperature=5)
        assert text == (prompt + generated).decode(errors="replace")
        assert text.encode().decode() == text
    assert model.score(data).characters == len(data)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
def test_the_name_of_a_text_need_not_be_valid_unicode(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xe4\xb8\xad")
    Path(path).write_text("to be, or not to be\n" * 20)
    with scan_text(path) as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=scanned.source)
    assert corpus.name == "caf\ufffd 中"
    assert corpus.source == path
    assert Corpus.open(tmp_path / "tokens").source == path
    assert _trained(corpus, tmp_path).info.training["corpus"]["name"] == corpus.name


@pytest.mark.parametrize("level", ["char", "byte"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=32, max_size=200))
@example(data=b"\0" * 32)
@example(data=b"\r\n" * 16)
def test_the_ids_of_any_file_decode_to_its_bytes(tmp_path: Path, level: str, data: bytes) -> None:
    path = tmp_path / "data"
    if level == "char":
        text = data.decode("latin-1") + "é中"
        data = text.encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
    path.write_bytes(data)
    with scan_text(str(path), level="byte" if level == "byte" else "char") as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
        assert scanned.distinct == len(set(data if level == "byte" else data.decode()))
    assert corpus.vocabulary.decode_bytes(corpus.ids) == data
    assert Corpus.open(tmp_path / "tokens").ids.tolist() == corpus.ids.tolist()
