"""A plan for a time budget: measures how fast this machine learns, and lets the `rule` choose by that."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from charrnn_trainer.config import TrainConfig
from charrnn_trainer.learner import Learner
from charrnn_trainer.network import CharNetwork
from charrnn_trainer.precision import Arithmetic, choose_arithmetic
from charrnn_trainer.rule import Task, choose, passes_over_text
from charrnn_trainer.torch_settings import choose_device, freed_memory_kept, is_gpu, own_random, threads


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        config: all settings.
        words: what was chosen and why, in one line.
    """

    config: TrainConfig
    words: str


def plan_for_minutes(
    config: TrainConfig,
    fixed: Collection[str],
    train_tokens: int,
    vocabulary_size: int,
    *,
    processes: int = 1,
) -> Plan:
    """The settings that give the best network that ``config.optimization.minutes`` can give on this machine.

    Args:
        config: settings, of which those named in ``fixed`` stay, and the time above 0.
        fixed: the names of settings that were given.
        train_tokens: how many characters the text has for training.
        vocabulary_size: V.
        processes: how many train together; what their exchange of gradients takes is not measured.
    """
    task = Task(train_tokens, vocabulary_size, processes)
    choice = choose(config, fixed, task, _Clock(task))
    network, optimization = choice.config.network, choice.config.optimization
    words = (
        f"{optimization.minutes:g} minutes are about {choice.steps:,.0f} steps of {network.cell.upper()}, "
        f"{network.layers} x {network.hidden_size}, "
        f"{passes_over_text(choice.config, choice.steps, task):.1f} passes over the text: "
        f"dropout {network.dropout:g}, weight drop {network.weight_drop:g}, "
        f"learning rate {optimization.learning_rate:g}"
    )
    return Plan(choice.config, words)


class _Clock:
    """Measures how long a step takes, as PyTorch runs it by itself and with nothing dropped.

    So a plan counts on a few more steps than dropping leaves on a CPU, and on fewer than a CUDA graph gives
    on a GPU; the schedule follows the clock, and ends with the time in any case.
    """

    def __init__(self, task: Task) -> None:
        self._vocabulary_size, self._processes = task.vocabulary_size, task.processes
        self._arithmetic: Arithmetic | None = None
        self._known: dict[tuple[Any, ...], float] = {}

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """All of the time."""
        return 60.0 * config.optimization.minutes

    def seconds_a_step(self, config: TrainConfig) -> float:
        """The least time of three steps, after one that prepares what the others reuse."""
        key = (config.network, config.data.batch_size, config.data.seq_length)
        if key not in self._known:
            device = choose_device(config.run.device)
            with own_random(device), threads(config.run.threads), freed_memory_kept():
                self._known[key] = self._measure(config)
        return self._known[key]

    def _measure(self, config: TrainConfig) -> float:
        device = choose_device(config.run.device)
        config = config.replace(batch_size=max(1, config.data.batch_size // self._processes))
        if self._arithmetic is None:
            self._arithmetic = choose_arithmetic(config, self._vocabulary_size, device).arithmetic
        network = CharNetwork(config.network, self._vocabulary_size).to(device)
        learner = Learner(network, config.optimization, self._arithmetic, device)
        shape = (config.data.batch_size, config.data.seq_length)
        tokens = torch.randint(self._vocabulary_size, shape, device=device)
        state = network.initial_state(config.data.batch_size)
        times = []
        for _ in range(4):
            begin = time.perf_counter()
            learner.learn(tokens, tokens, state)
            if is_gpu(device):
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
        return min(times[1:])
