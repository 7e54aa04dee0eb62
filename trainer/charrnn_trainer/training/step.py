"""A training step: forward, loss, backward, gradient clipping and weight update."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.nn.network import CharNetwork, State, masked_loss
from charrnn_trainer.nn.optimizer import Optimizer
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.torch_settings import is_gpu

StepFunction = Callable[[Tensor, Tensor, State], tuple[Tensor, Tensor, State]]
"""Takes inputs and targets, ``int64 [B, T]`` each, and the state before them. Returns the loss and the
gradient norm, both ``float32 []`` on the device, and the state after them."""


class TrainStep:
    """A network and its optimizer.

    Attributes:
        model: the network, possibly wrapped by a `ProcessGroup`.
        optimizer: the optimizer.
    """

    def __init__(
        self,
        network: CharNetwork,
        optimization: OptimizationConfig,
        compute_mode: ComputeMode,
        device: torch.device,
        characters: float | None = None,
    ) -> None:
        """Set up the optimizer.

        Args:
            network: the network.
            optimization: the settings.
            compute_mode: the arithmetic of a step.
            device: the device.
            characters: the mean number of characters that a batch predicts, if batches differ in it. Every
                character then has the same weight, and a batch counts by its number of characters.
        """
        self._characters = characters
        self.model: nn.Module = network
        self._clip = optimization.clip or math.inf
        self._compute_mode, self._device = compute_mode, device
        self._weights = list(network.parameters())
        self.optimizer = Optimizer(network, optimization, capturable=is_gpu(device))

    def learn(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Take a step (see `StepFunction`)."""
        with self._compute_mode.on(self._device):
            if self._characters is None:
                loss, after = self.model(inputs, state, targets)
                learned = loss
            else:
                logits, after = self.model(inputs, state)
                total, loss = masked_loss(logits, targets)
                learned = total / self._characters
            self.optimizer.clear_gradients()
            learned.backward()
        norm = nn.utils.clip_grad_norm_(self._weights, self._clip)
        self.optimizer.step()
        return loss.detach(), norm, tuple(part.detach() for part in after)
