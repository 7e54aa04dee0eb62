"""The baseline of the training benchmarks: the network as written in tutorials."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class TutorialNetwork(nn.Module):
    """One-hot characters, PyTorch's recurrent layers, a linear layer; all batch first."""

    def __init__(self, cell: str, hidden: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.rnn = layer(vocabulary, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """``[B, T]`` -> logits ``[B, T, V]``, and the state."""
        one_hot = nn.functional.one_hot(tokens, self.vocabulary).float()
        hidden, state = self.rnn(one_hot, state)
        return self.output(hidden), state
