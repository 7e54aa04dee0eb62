"""The initial output bias of a large vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data import token_file
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.nn.output_bias import init_output_bias
from charrnn_trainer.training.api import train
from tiny_runs import TINY


@pytest.mark.parametrize("tied", [False, True])
def test_initial_probabilities_match_symbol_frequencies(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "WINDOW", 100)
    network = CharNetwork(NetworkConfig("lstm", 1, 4, 4, tie_weights=tied), 300)
    ids = np.concatenate([np.zeros(640, np.uint16), np.full(320, 7, np.uint16)])
    init_output_bias(network, token_file.windows(ids))
    shares = network.output.bias.detach().softmax(0)
    assert float(shares[0]) == pytest.approx(641 / 1_260)
    assert float(shares[7]) == pytest.approx(321 / 1_260)
    assert float(shares[299]) == pytest.approx(1 / 1_260)


def test_a_small_vocabulary_keeps_its_random_output_bias() -> None:
    network = CharNetwork(NetworkConfig("lstm", 1, 4), 256)
    before = network.output.bias.detach().clone()
    init_output_bias(network, [np.zeros(100, np.uint8)])
    assert torch.equal(network.output.bias.detach(), before)


def test_the_initial_bias_does_not_use_the_validation_text() -> None:
    symbols = [chr(0x4E00 + index) for index in range(300)]
    ids = np.concatenate([np.full(900, 5), np.full(100, 6)])
    corpus = Corpus.from_ids(ids, Vocabulary(symbols))
    result = train(TINY.replace(steps=1, learning_rate=1e-9), corpus)
    shares = result.network.output.bias.detach().softmax(0)
    assert float(shares[5]) == pytest.approx(901 / 1_200)
    assert float(shares[6]) == pytest.approx(1 / 1_200)
