"""The cells: all that the trainer knows of each, in one table.

What their names are in the format, how many gates they have and how their states lie in a row, the format
says (`charrnn_runtime.format.spec`); how a step of each is written as a graph, `export.graph.cells`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from charrnn_runtime.format import spec
from charrnn_trainer.nn.gru import gru

TrainingLayers = Callable[[Tensor, Tensor, Sequence[Tensor], float], tuple[Tensor, Tensor]]
"""Layers as `gru` is: from inputs, state, weights and the share that is dropped between layers to the hidden
states and the state after."""


@dataclass(frozen=True)
class Cell:
    """A kind of recurrent layer.

    Attributes:
        name: what the format, settings and files call it.
        layers: torch's module of such layers.
        function: the same as a function of its weights, which torch calls with all states or its only one.
        candidate_apart: whether the last gate's recurrent product has a bias of its own, which may not be
            added to its input's: the reset gate applies in between.
        rate: what share of the learning rate of other cells suits it.
        taken_below: where the cell is open, a plan takes this one and not the first of the table if its step
            takes at most this share of that one's time; 0 for never.
        cpu_training: layers that train faster on a CPU than torch's own, if there are any.
    """

    name: str
    layers: type[nn.LSTM | nn.GRU | nn.RNN]
    function: Callable[..., tuple[Tensor, ...]]
    candidate_apart: bool = False
    rate: float = 1.0
    taken_below: float = 0.0
    cpu_training: TrainingLayers | None = None

    @property
    def gates(self) -> int:
        """How many blocks of H rows a layer's weights have."""
        return spec.GATES[self.name]

    @property
    def states(self) -> tuple[str, ...]:
        """The names of what it carries from character to character, each ``[L, B, H]``."""
        return spec.STATES[self.name]

    def recur(
        self, inputs: Tensor, state: tuple[Tensor, ...], *options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """torch's layers with weights that are given; ``options`` are those of torch's functions.

        Returns:
            the hidden states of the last layer, ``[B, T, H]``, and the state after the last character.
        """
        hidden, *after = self.function(inputs, state if len(state) > 1 else state[0], *options)
        return hidden, tuple(after)


CELLS: Final[Mapping[str, Cell]] = {
    cell.name: cell
    for cell in (
        Cell("lstm", nn.LSTM, torch.lstm),
        Cell("gru", nn.GRU, torch.gru, candidate_apart=True, taken_below=0.85, cpu_training=gru),
        Cell("rnn", nn.RNN, torch.rnn_tanh, rate=0.25),
    )
}
"""Every cell by its name."""
