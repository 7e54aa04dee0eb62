"""The optimizer: AdamW (Loshchilov and Hutter 2019), and what checkpoints keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from charrnn_trainer.config import OptimizationConfig


@dataclass(frozen=True)
class Moment:
    """Something that the optimizer remembers of each weight, ``float32``.

    Attributes:
        name: what torch calls it.
        scalar: whether it is a single number; else it has the weight's shape.
        positive: whether it is never below zero.
    """

    name: str
    scalar: bool = False
    positive: bool = False


MOMENTS: Final = (
    Moment("step", scalar=True, positive=True),
    Moment("exp_avg"),
    Moment("exp_avg_sq", positive=True),
)
"""The optimizer's state, in addition to its settings."""


class Optimizer:
    """Changes a network's weights by their gradients."""

    def __init__(self, network: nn.Module, config: OptimizationConfig, *, capturable: bool) -> None:
        """An optimizer for a network.

        Args:
            network: the network.
            config: learning rate and weight decay.
            capturable: whether steps may be captured as a graph of a GPU.
        """
        # Matrices decay, and biases do not.
        named = sorted(network.named_parameters(), key=lambda item: item[1].ndim == 1)
        self._names = [name for name, _ in named]
        groups = [
            {
                "params": [weight for _, weight in named if (weight.ndim == 1) == biases],
                "weight_decay": 0.0 if biases else config.weight_decay,
            }
            for biases in (False, True)
        ]
        rate: float | Tensor = config.learning_rate
        if capturable:
            # On the device, so that a step that was captured as a graph reads the rate of the moment.
            rate = torch.tensor(config.learning_rate, device=named[0][1].device)
        self._torch = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=capturable)

    def set_rate(self, rate: float) -> None:
        """Learn at this rate from now on."""
        for group in self._torch.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        self._torch.zero_grad()

    def step(self) -> None:
        """Change the weights by their gradients."""
        self._torch.step()

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered, by weight and moment: ``output.bias.exp_avg``."""
        state = self._torch.state_dict()["state"]
        return {
            f"{name}.{moment.name}": state[index][moment.name]
            for index, name in enumerate(self._names)
            if index in state
            for moment in MOMENTS
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        state = {
            index: {moment.name: saved[f"{name}.{moment.name}"] for moment in MOMENTS}
            for index, name in enumerate(self._names)
        }
        groups = self._torch.state_dict()["param_groups"]
        self._torch.load_state_dict({"state": state, "param_groups": groups})
