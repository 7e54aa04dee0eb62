"""The optimizer, AdamW (Loshchilov and Hutter 2019), and its state in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from charrnn_trainer.config import OptimizationConfig


@dataclass(frozen=True)
class Moment:
    """A part of the optimizer's state for each weight, ``float32``.

    Attributes:
        name: torch's name for it.
        scalar: whether it is a single number; else it has the weight's shape.
        positive: whether it is never negative.
    """

    name: str
    scalar: bool = False
    positive: bool = False


MOMENTS: Final = (
    Moment("step", scalar=True, positive=True),
    Moment("exp_avg"),
    Moment("exp_avg_sq", positive=True),
)
"""The parts of the optimizer's state for each weight."""


class Optimizer:
    """AdamW for a network, with named state."""

    def __init__(self, network: nn.Module, config: OptimizationConfig, *, capturable: bool) -> None:
        """Create the optimizer of a network.

        Args:
            network: the network.
            config: learning rate and weight decay.
            capturable: whether steps may be captured as a CUDA graph.
        """
        # Weight decay applies to matrices, not to biases.
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
            # On the device, so that a captured step reads the current learning rate.
            rate = torch.tensor(config.learning_rate, device=named[0][1].device)
        self._torch = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=capturable)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self._torch.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def clear_gradients(self) -> None:
        """Clear the gradients of the last step."""
        self._torch.zero_grad()

    def step(self) -> None:
        """Update the weights from their gradients."""
        self._torch.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state by weight and moment, such as ``output.bias.exp_avg``."""
        state = self._torch.state_dict()["state"]
        return {
            f"{name}.{moment.name}": state[index][moment.name]
            for index, name in enumerate(self._names)
            if index in state
            for moment in MOMENTS
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the state from `tensors`."""
        state = {
            index: {moment.name: saved[f"{name}.{moment.name}"] for moment in MOMENTS}
            for index, name in enumerate(self._names)
        }
        groups = self._torch.state_dict()["param_groups"]
        self._torch.load_state_dict({"state": state, "param_groups": groups})
