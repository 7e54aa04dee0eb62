"""Losses of steps: kept on the device until they are needed, recorded, and reported as means."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from charrnn_trainer.runs.checkpoint import Checkpoint
from charrnn_trainer.training.context import RunContext
from charrnn_trainer.training.divergence import check_training_loss
from charrnn_trainer.training.events import Logged


class _Step(NamedTuple):
    """A step whose loss is still on the device."""

    step: int
    loss: Tensor
    norm: Tensor
    rate: float
    seconds: float


class Reporter:
    """Collects the losses of steps, and reports them at intervals.

    Attributes:
        window: the sum and the number of the losses since the last report.
        last_loss: the last loss read from the device.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self.window = (0.0, 0)
        self.last_loss: float | None = None
        self._reported_loss: float | None = None
        self._rate = 0.0
        self._pending: list[_Step] = []
        self._seconds: list[float] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the losses of a checkpoint."""
        self.window = checkpoint.window
        self._reported_loss = checkpoint.train_loss

    def step_done(self, loss: Tensor, norm: Tensor, rate: float, seconds: float) -> None:
        """Record a step's loss and gradient norm, ``float32 []`` on the device, learning rate and time."""
        self._rate = rate
        self._seconds.append(seconds)
        self._pending.append(_Step(self._context.step, loss, norm, rate, seconds))

    def flush_losses(self) -> None:
        """Read the pending losses from the device, and record them in the history.

        Raises:
            DivergedError: a loss is not finite, or has exploded.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        losses = self._context.group.mean(torch.stack([item.loss for item in pending])).tolist()
        norms = torch.stack([item.norm for item in pending]).tolist()
        for item, loss, norm in zip(pending, losses, norms, strict=True):
            check_training_loss(self._context, item.step, loss, norm)
            self.window = (self.window[0] + loss, self.window[1] + 1)
            self.last_loss = loss
            self._context.note(
                step=item.step,
                loss=loss,
                learning_rate=item.rate,
                gradient_norm=norm,
                seconds=round(item.seconds, 6),
            )

    def report(self, *, close: bool) -> None:
        """Emit the mean loss and the speed since the last report; ``close`` starts a new mean."""
        self.flush_losses()
        loss = self.train_loss
        assert loss is not None  # at least one step is done
        if close:
            self._reported_loss, self.window = loss, (0.0, 0)
        mean = sum(self._seconds) / len(self._seconds)
        data = self._context.config.data
        speed = data.batch_size * data.seq_length / mean
        self._context.emit(Logged(self._context.step, loss, self._rate, mean, speed, data.level))
        self._seconds.clear()
        self._context.flush_history()

    @property
    def train_loss(self) -> float | None:
        """The mean loss since the last report, in nats per character; right after a report, its mean."""
        total, count = self.window
        return total / count if count else self._reported_loss
