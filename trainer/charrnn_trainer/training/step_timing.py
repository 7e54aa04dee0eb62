"""Times steps on this machine, and finds the number of CPU threads that makes them fastest."""

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
"""So many steps are timed at least, the first of which prepares, and as many as take so many seconds."""

_SHORT: Final = 32
"""Where the number of threads alone is measured, steps of this many characters show it."""


def threads_are_open(config: TrainConfig, device: torch.device, processes: int) -> bool:
    """Whether the number of threads was left open, and there is more than one to choose from."""
    return (
        config.run.threads is None and not is_gpu(device) and processes == 1 and torch.get_num_threads() > 1
    )


def choose_threads(config: TrainConfig, vocabulary_size: int, device: torch.device) -> int:
    """The number of CPU threads that makes (short) steps fastest now; random generators stay as they were."""
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
    """The number of CPU threads that makes steps fastest, and the seconds that a step then takes.

    Args:
        network: takes the steps, and is of no use afterwards.
        config: how it learns, and the size of the batches.
        compute_mode: what it computes in.
        device: where it computes.
        open_: whether the number of threads is open; if not, the number that is set is timed alone.
        limit: after this many seconds, what was measured by then decides.
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
            times = [step()]  # which also prepares what the others reuse
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
