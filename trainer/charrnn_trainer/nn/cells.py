"""The table of recurrent cells, with all properties that the trainer needs.

`charrnn_runtime.format.spec` defines their names, their gates and the layout of their states in the format;
`export.graph.cells` writes their steps as graphs.
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
"""A function like `gru`: takes inputs, state, weights and dropout between layers; returns the hidden states
and the final state."""


@dataclass(frozen=True)
class Cell:
    """A type of recurrent cell.

    Attributes:
        name: its name in the format, in settings and in file names.
        layers: torch's module for stacked layers of it.
        function: torch's functional form, which takes a tuple of states, or the state if there is only one.
        candidate_apart: whether the last gate's recurrent product has a separate bias, which cannot be folded
            into the input's bias, since the reset gate applies in between.
        rate: its learning rate, relative to that of other cells.
        taken_below: if the cell is not fixed, a plan uses this one instead of the first in the table if its
            step takes at most this share of the first one's time; 0 for never.
        cpu_training: an implementation that trains faster on a CPU than torch's, if there is one.
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
        """The number of gates: blocks of H rows in a layer's weights."""
        return spec.GATES[self.name]

    @property
    def states(self) -> tuple[str, ...]:
        """The names of what it carries from character to character, each ``[L, B, H]``."""
        return spec.STATES[self.name]

    def recur(
        self, inputs: Tensor, state: tuple[Tensor, ...], *options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Apply torch's functional form; ``options`` are its weights and other arguments.

        Returns:
            The hidden states of the last layer, ``[B, T, H]``, and the state after the last character.
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
"""The cells by name."""
