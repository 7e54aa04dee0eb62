"""Texts of tens of thousands of symbols, such as Chinese, work end to end; too many are rejected early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn_runtime import CharRNN
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data.scanning import scan_text
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.export.graph.weights import check_step_model_fits, step_model_bytes
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint
from charrnn_trainer.training.api import train
from tiny_runs import TINY

SYMBOLS = 20_000
FIRST = 0x4E00


def test_twenty_thousand_symbols_are_trained_exported_generated_and_scored(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    ids = np.concatenate([np.arange(SYMBOLS), np.random.default_rng(0).integers(0, 300, 4_000)])
    text = "".join(chr(FIRST + index) for index in ids.tolist())
    (tmp_path / "text").write_text(text, encoding="utf-8")
    with scan_text(str(tmp_path / "text")) as scanned:
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert corpus.ids.dtype == np.uint16
    config = TINY.replace(
        cell="gru", layers=1, embedding_size=4, batch_size=2, steps=2, eval_every=2, val_fraction=0.02
    )
    result = train(config, corpus, out=tmp_path / "run")
    assert result.train_loss == pytest.approx(np.log(SYMBOLS), rel=0.1)
    path = tmp_path / "m.onnx"
    report = export_checkpoint(load_checkpoint(find_checkpoint(tmp_path / "run")), path)
    assert report.info.top_k_max == spec.TOP_K_LIMIT
    model = CharRNN.load(path, device="cpu")
    assert model.vocabulary == corpus.vocabulary
    written = model.generate(text[:3], 20, seed=1)
    assert written.startswith(text[:3])
    assert len(written) == 23
    assert set(written) <= set(text)
    assert model.score(text[-40:]).per_character.mean() == pytest.approx(np.log(SYMBOLS), rel=0.2)
    estimate = step_model_bytes(config.network, SYMBOLS)
    assert (
        estimate < path.stat().st_size < estimate + 16 * SYMBOLS
    )  # the vocabulary, as JSON, and ones to count with


@pytest.mark.parametrize("cell", spec.CELLS)
def test_the_largest_vocabulary_fits_a_network_of_256(cell: str) -> None:
    check_step_model_fits(NetworkConfig(cell=cell), spec.MAX_VOCABULARY)


def test_a_network_whose_model_would_be_too_large_is_rejected_with_alternatives() -> None:
    check_step_model_fits(NetworkConfig(hidden_size=1024), 20_000)
    with pytest.raises(
        CharRNNError, match=r"30,000 symbols .* at most 536,870,912 .*hidden_size.*level=byte"
    ):
        check_step_model_fits(NetworkConfig(hidden_size=1024), 30_000)
