"""Training on a GPU, which runs asynchronously while the host prepares the next steps."""

from __future__ import annotations

import collections
from typing import Final

import torch

from charrnn_trainer.nn.network import State
from charrnn_trainer.training.context import RunContext
from charrnn_trainer.training.cuda_graph import choose_step
from charrnn_trainer.training.device_batches import Batches, HostBatches
from charrnn_trainer.training.events import Notice
from charrnn_trainer.training.schedule import learning_rate
from charrnn_trainer.training.step import StepFunction, TrainStep

_AHEAD: Final = 8
"""The maximum number of steps queued on the GPU: enough never to wait for the host, and few enough to keep
the clock of a time budget accurate."""


def choose_gpu_step(
    context: RunContext, train_step: TrainStep, batches: Batches, state: State
) -> StepFunction:
    """Report where batches are cut, and choose whether steps run as a CUDA graph."""
    if isinstance(batches, HostBatches):
        context.emit(Notice("the text is too large to keep in GPU memory; batches are copied from the host"))
    if context.group.size > 1:
        return train_step.learn  # the all-reduce of gradients is not captured
    train_step.optimizer.set_rate(learning_rate(context.config.optimization, context.step, context.done))
    choice = choose_step(train_step, context.network, batches, context.step, state)
    context.emit(Notice(choice.words))
    return choice.learn


class StepQueue:
    """The steps queued on the GPU."""

    def __init__(self) -> None:
        self._events: collections.deque[torch.cuda.Event] = collections.deque()

    def step_queued(self) -> None:
        """Record a queued step, and wait until the one queued `_AHEAD` steps ago is done."""
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > _AHEAD:
            self._events.popleft().synchronize()
