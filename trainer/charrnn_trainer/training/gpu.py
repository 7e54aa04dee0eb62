"""What a training does otherwise on a GPU, which works on while the host prepares the next steps."""

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
"""A GPU has at most this many steps queued that it has not done: enough never to wait for the host, and few
enough for the clock of a time budget to be right."""


def choose_gpu_step(
    context: RunContext, train_step: TrainStep, batches: Batches, state: State
) -> StepFunction:
    """Say where batches are cut, and find out whether a step runs better as a graph."""
    if isinstance(batches, HostBatches):
        context.emit(Notice("the text is large for this GPU, so that its batches come from the host"))
    if context.group.size > 1:
        return train_step.learn  # the exchange of gradients has its own way of waiting
    train_step.optimizer.set_rate(learning_rate(context.config.optimization, context.step, context.done))
    choice = choose_step(train_step, context.network, batches, context.step, state)
    context.emit(Notice(choice.words))
    return choice.learn


class StepsUnderway:
    """The steps that a GPU has before it."""

    def __init__(self) -> None:
        self._events: collections.deque[torch.cuda.Event] = collections.deque()

    def step_begun(self) -> None:
        """Take note of a step, and wait until the one that was begun `_AHEAD` steps ago is done."""
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > _AHEAD:
            self._events.popleft().synchronize()
