"""What a step learns: forward, loss, backward, clipping, AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.nn.network import CharNetwork, State, masked_loss
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.torch_settings import is_gpu

StepFunction = Callable[[Tensor, Tensor, State], tuple[Tensor, Tensor, State]]
"""Learns from inputs and targets, ``int64 [B, T]`` each, and the state before them; gives the loss and the
norm of the gradient, both ``float32 []`` and on the device, and the state after them."""

_PARTS = ("step", "exp_avg", "exp_avg_sq")


class TrainStep:
    """A network and its optimizer.

    Attributes:
        model: what computes the network's loss: the network, or what a `ProcessGroup` has wrapped around it.
    """

    def __init__(
        self,
        network: CharNetwork,
        optimization: OptimizationConfig,
        compute_mode: ComputeMode,
        device: torch.device,
        characters: float | None = None,
    ) -> None:
        """Prepare to learn.

        Args:
            network: the network.
            optimization: the settings.
            compute_mode: how a step is computed.
            device: where.
            characters: how many characters a batch predicts in the mean, where they differ in that: every
                character then counts as much as any other, and a batch by how many it has.
        """
        self._characters = characters
        self.model: nn.Module = network
        self._clip = optimization.clip or math.inf
        self._compute_mode, self._device = compute_mode, device
        self._weights = list(network.parameters())
        # Matrices decay, and biases do not.
        named = sorted(network.named_parameters(), key=lambda item: item[1].ndim == 1)
        self._names = [name for name, _ in named]
        groups = [
            {
                "params": [weight for _, weight in named if (weight.ndim == 1) == biases],
                "weight_decay": 0.0 if biases else optimization.weight_decay,
            }
            for biases in (False, True)
        ]
        rate = optimization.learning_rate
        if is_gpu(device):
            # On the device, so that a step that was captured as a graph reads the rate of the moment.
            on_device = torch.tensor(rate, device=device)
            self._optimizer = torch.optim.AdamW(groups, lr=on_device, fused=True, capturable=True)
        else:
            self._optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)

    def set_rate(self, rate: float) -> None:
        """StepFunction at this rate from now on."""
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

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
            self._optimizer.zero_grad()
            learned.backward()
        norm = nn.utils.clip_grad_norm_(self._weights, self._clip)
        self._optimizer.step()
        return loss.detach(), norm, tuple(part.detach() for part in after)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by weight and part: ``output.bias.exp_avg``."""
        state = self._optimizer.state_dict()["state"]
        return {
            f"{name}.{part}": state[index][part]
            for index, name in enumerate(self._names)
            if index in state
            for part in _PARTS
        }

    def restore_optimizer(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` gave."""
        state = {
            index: {part: saved[f"{name}.{part}"] for part in _PARTS}
            for index, name in enumerate(self._names)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
