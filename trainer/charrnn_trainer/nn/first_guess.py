"""The first guess of a network with a large vocabulary: its symbols as often as the text has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn_trainer.nn.network import LARGE_VOCABULARY, CharNetwork


@torch.no_grad()
def guess_by_frequency(network: CharNetwork, text: Iterable[NDArray[Any]]) -> None:
    """Let the output's bias begin as the logarithm of the symbols' shares of a text.

    Of thousands of symbols most are rare, which a network otherwise has to learn first. On a Chinese text of
    6,128 symbols, 300 steps of 128 units reached a training loss of 3.15 nats with it and 3.48 without, and
    to a validation loss of 5.30 and 5.37; with tied weights to 3.16 and 3.40, and to 5.28 and 5.27.
    Vocabularies of up to 256 symbols begin as they are drawn.

    Args:
        network: the network, before it learns.
        text: the ids of the text for training, some at a time, ``[n]`` each.
    """
    size = network.vocabulary_size
    if size <= LARGE_VOCABULARY:
        return
    counts = np.ones(size)  # as if each had been seen once more: a share is never zero
    for window in text:
        counts += np.bincount(window, minlength=size)
    network.output.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
