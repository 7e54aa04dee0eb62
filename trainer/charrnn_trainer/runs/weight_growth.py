"""Extends the weights of a network to a larger vocabulary.

Ids change, since vocabularies are in code-point order; the weights of each symbol move with it. A new symbol
starts near the mean of the known ones, so that it does not disturb predictions (Hewitt 2021, "Initializing
New Word Embeddings for Pretrained Language Models"): output weights are drawn close to the mean, input
weights with the spread of the others.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import torch
from torch import Tensor

from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.runs.checkpoint import Checkpoint
from charrnn_trainer.runs.header import CheckpointError

_OUTPUT_SPREAD: Final = 0.1
"""The spread of new output weights around the mean, relative to that of the others."""


def grow_weights(checkpoint: Checkpoint, vocabulary: Vocabulary, seed: int) -> Checkpoint:
    """Extend a checkpoint's weights to a larger vocabulary; its other tensors are dropped.

    Args:
        checkpoint: the checkpoint.
        vocabulary: the checkpoint's symbols and more, in any order.
        seed: the seed of the new symbols' weights.

    Raises:
        CheckpointError: the vocabulary lacks symbols of the checkpoint, or has another level.
    """
    before = checkpoint.vocabulary
    if before == vocabulary:
        return checkpoint
    if before.level != vocabulary.level or not set(before.symbols) <= set(vocabulary.symbols):
        raise CheckpointError(
            f"the vocabulary of the text lacks characters of {checkpoint.path}; encode the text with the "
            "checkpoint's vocabulary, which may be extended"
        )
    place = {symbol: index for index, symbol in enumerate(vocabulary.symbols)}
    places = torch.from_numpy(np.array([place[symbol] for symbol in before.symbols]))  # new ids, by old ones
    draw = torch.Generator().manual_seed(seed)
    weights = checkpoint.weights

    def grow(name: str, spread: float) -> None:
        weights[name] = _grown(weights[name], places, len(vocabulary), spread, draw)

    if checkpoint.config.network.embedding_size == 0:  # one-hot: one column per symbol
        name = "rnn.weight_ih_l0"
        weights[name] = _grown(weights[name].t(), places, len(vocabulary), 1.0, draw).t().contiguous()
    elif not checkpoint.config.network.tie_weights:
        grow("embedding.weight", 1.0)
    grow("output.weight", _OUTPUT_SPREAD)
    grow("output.bias", _OUTPUT_SPREAD)
    tensors = {f"model.{name}": weight for name, weight in weights.items()}
    return dataclasses.replace(checkpoint, vocabulary=vocabulary, tensors=tensors)


def _grown(rows: Tensor, places: Tensor, size: int, spread: float, draw: torch.Generator) -> Tensor:
    """``[V, ...] -> [size, ...]``: rows at their new ids, the others drawn around the rows' mean."""
    noise = torch.randn((size, *rows.shape[1:]), generator=draw)
    grown = rows.mean(0) + spread * rows.std(0, correction=0) * noise
    grown[places] = rows
    return grown
