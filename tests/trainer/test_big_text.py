"""Texts larger than memory: preparing and training on them takes no more memory than for a small one.

tracemalloc counts NumPy arrays but not pages of a memory map, which the system can reclaim.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data import text_source, token_file
from charrnn_trainer.data.batches import Streams, get_batches
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.scanning import scan_text
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.validation import validation_loss
from tiny_runs import TINY

LENGTH = 4_000_000
SYMBOLS = "abcdefgh"
FRACTION = 0.0002
"""The validation text: 800 characters, to be quick."""


def peak(run: Callable[[], object]) -> int:
    """The peak memory of a call, in bytes, beyond what was allocated before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus on disk."""
    ids = np.random.default_rng(0).integers(0, len(SYMBOLS), LENGTH, dtype=np.uint8)
    return Corpus.from_ids(ids, Vocabulary(SYMBOLS)).save(tmp_path_factory.mktemp("big") / "tokens")


@pytest.mark.parametrize("level", ["char", "byte"])
def test_preparing_a_long_text_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(text_source, "PIECE", 20_000)
    monkeypatch.setattr(token_file, "WINDOW", 20_000)
    line = "Ars longa, 生命は短く, жизнь коротка. 😀\r\n".encode()

    def prepare(lines: int) -> None:
        (tmp_path / "text").write_bytes(b"")
        with (tmp_path / "text").open("ab") as file:
            for _ in range(lines // 1_000):
                file.write(line * 1_000)
        with scan_text(str(tmp_path / "text"), level="byte" if level == "byte" else "char") as scanned:
            made = scanned.encode_to(tmp_path / "tokens", source=None)
        assert len(Corpus.open(tmp_path / "tokens")) == len(made) == scanned.length

    prepare(1_000)  # one-time allocations
    short = peak(lambda: prepare(2_000))
    assert peak(lambda: prepare(20_000)) < short + 20_000  # of a text of 1.3 MB


@pytest.mark.parametrize("seed", [None, 3])
def test_a_batch_reads_only_its_own_characters(corpus: Corpus, seed: int | None) -> None:
    streams = Streams(corpus.ids, 10, 10, seed)
    assert peak(lambda: streams.batch(streams.batches_per_pass + 7)) < 100_000
    assert peak(lambda: next(get_batches(corpus, 10, 10))) < 100_000


def test_validation_reads_in_windows(corpus: Corpus) -> None:
    torch.set_num_threads(1)
    network = CharNetwork(NetworkConfig(layers=1, hidden_size=4), len(SYMBOLS))
    assert peak(lambda: validation_loss(network, corpus.ids, int(LENGTH * 0.99))) < 1_000_000


@pytest.mark.parametrize(("random_start", "split"), [(False, "end"), (True, "end"), (True, "spread")])
def test_training_and_resuming_never_load_the_whole_text(
    corpus: Corpus, tmp_path: Path, random_start: bool, split: str
) -> None:
    config = TINY.replace(
        val_fraction=FRACTION, random_start=random_start, split=split, steps=4, save_every=2
    )
    small = Corpus.from_ids(np.array(corpus.ids[:50_000]), corpus.vocabulary)
    train(config, small, out=tmp_path / "small")  # one-time allocations
    resume(tmp_path / "small", changes={"steps": 6})
    assert peak(lambda: train(config, corpus, out=tmp_path / "big")) < LENGTH // 2
    assert peak(lambda: resume(tmp_path / "big", changes={"steps": 6})) < LENGTH // 2
