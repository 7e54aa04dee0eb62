"""The number of parameters that charrnn-info shows, against PyTorch's count."""

from __future__ import annotations

import itertools

import pytest

from charrnn_runtime.format.reader import ModelInfo
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.nn.network import CharNetwork

CASES = [
    *itertools.product(["lstm", "gru", "rnn"], [1, 3], [0, 5], [False]),
    *itertools.product(["lstm", "gru"], [2], [5, 12], [True]),
]


@pytest.mark.parametrize(("cell", "layers", "embedding_size", "tie_weights"), CASES)
def test_the_number_of_parameters_matches_torch(
    cell: str, layers: int, embedding_size: int, tie_weights: bool
) -> None:
    config = NetworkConfig(
        cell=cell, layers=layers, hidden_size=12, embedding_size=embedding_size, tie_weights=tie_weights
    )
    vocabulary = Vocabulary("abcdefg")
    network = CharNetwork(config, len(vocabulary))
    info = ModelInfo(
        path="",
        sha256="",
        file_bytes=0,
        version=1,
        cell=cell,
        layers=layers,
        hidden_size=12,
        precision="fp32",
        vocabulary=vocabulary,
        start_token=0,
        lines=False,
        top_k_max=7,
        training={"config": {"network": {"embedding_size": embedding_size, "tie_weights": tie_weights}}},
    )
    assert info.parameters == sum(each.numel() for each in network.parameters())
