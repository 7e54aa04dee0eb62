"""Times training steps, and finds the fastest number of CPU threads."""

from __future__ import annotations

import math
import statistics
import time
from typing import Final

import torch

from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.pace import HOPELESS, fastest_count, thread_counts
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.step import TrainStep
from charrnn_trainer.training.torch_settings import (
    freed_memory_kept,
    is_gpu,
    own_random,
    quiet_about_weights,
    threads,
)

TIMED_STEPS: Final = 4
_ENOUGH: Final = 0.3
"""At least this many steps are timed (the first is a warm-up), and at least this many seconds."""

_SHORT: Final = 32
"""The sequence length of steps that only serve to choose the number of threads."""


def threads_are_open(config: TrainConfig, device: torch.device, processes: int) -> bool:
    """Whether the number of threads is open, and more than one is available."""
    return (
        config.run.threads is None and not is_gpu(device) and processes == 1 and torch.get_num_threads() > 1
    )


def choose_threads(config: TrainConfig, vocabulary_size: int, device: torch.device) -> int:
    """The fastest number of CPU threads for short steps. Random generators are left unchanged."""
    short = config.replace(seq_length=min(config.data.seq_length, _SHORT))
    compute_mode = ComputeMode(config.run.precision, bool(config.run.onednn))
    with own_random(device), freed_memory_kept():
        network = CharNetwork(config.network, vocabulary_size).to(device)
        return time_steps(network, short, compute_mode, device, open_=True)[0]


def time_steps(
    network: CharNetwork,
    config: TrainConfig,
    compute_mode: ComputeMode,
    device: torch.device,
    *,
    open_: bool,
    limit: float = math.inf,
) -> tuple[int, float]:
    """The fastest number of CPU threads, and the step time in seconds with it.

    Args:
        network: the network to train; its weights are not usable afterwards.
        config: the optimizer's settings and the size of the batches.
        compute_mode: the arithmetic of a step.
        device: the device.
        open_: whether to try several numbers of threads; else only the current number is timed.
        limit: stop measuring after this many seconds, and use the results so far.
    """
    train_step = TrainStep(network, config.optimization, compute_mode, device)
    shape = (config.data.batch_size, config.data.seq_length)
    tokens = torch.randint(network.vocabulary_size, shape, device=device)
    state = network.initial_state(config.data.batch_size)
    least = math.inf
    end = time.perf_counter() + limit

    def step() -> float:
        begin = time.perf_counter()
        train_step.learn(tokens, tokens, state)
        if is_gpu(device):
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    def time_step(count: int) -> float:
        nonlocal least
        if least < math.inf and time.perf_counter() > end:
            return math.inf
        with threads(count):
            times = [step()]  # warm-up
            while len(times) < TIMED_STEPS or sum(times[1:]) < _ENOUGH:
                if times[-1] > HOPELESS * least or time.perf_counter() > end:
                    break
                times.append(step())
        seconds = statistics.median(times[1:] or times)
        least = min(least, seconds)
        return seconds

    now = torch.get_num_threads()
    with quiet_about_weights(device):
        return fastest_count(thread_counts(now) if open_ else (now,), time_step)
