"""The best network that a given time can give: measures how fast this machine learns, and plans by that.

The rule came from measurements of minutes to hours on tinyshakespeare: one wide layer learns more than two
narrow ones, and small batches more than large ones; the wider the layer, the more steps it needs, and the
more often a text is read, the more a network must be kept from learning it by heart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import torch

from charrnn_trainer.batches import fit_batch
from charrnn_trainer.config import MOST_STEPS, ONE_HOT_LIMIT, TrainConfig
from charrnn_trainer.learner import Learner
from charrnn_trainer.network import CharNetwork
from charrnn_trainer.precision import Arithmetic, choose_arithmetic
from charrnn_trainer.torch_settings import choose_device, freed_memory_kept, is_gpu, own_random, threads

HIDDEN_SIZES: Final = tuple(range(64, 1025, 64))
STEPS_A_UNIT: Final = 6.0
"""A network gets the largest hidden size that leaves it so many steps for each unit: at 512 units, 3,072."""

FINE_TUNING: Final = 1 / 3
"""How high the learning rate is for a network that has learned another text, as a share of the usual one."""


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
    fine_tunes: bool = False,
) -> Plan:
    """The settings that give the best network that ``config.optimization.minutes`` can give on this machine.

    The rule, where a setting is not fixed: one layer; batches of 32 rows by 64 characters (by 96 from 768
    units on); the largest of `HIDDEN_SIZES` that leaves `STEPS_A_UNIT` steps for each of its units, and whose
    square is not above the number of characters (a short text teaches no large network). From the steps that
    fit follow the passes over the text: dropout before the output rises from none at one pass to a half at
    16, the drop of recurrent weights from none at 8 passes to a half at 28. The learning rate is 2.1 / H, at
    most 0.008 (for tanh cells a quarter), after 3 % warm-up, along a cosine that ends with the time; AdamW's
    weight decay is 0.05, the clip 1; passes start anywhere, and a stream forgets with a chance of 0.2 %.

    Args:
        config: settings, of which those named in ``fixed`` stay, and the time above 0.
        fixed: the names of settings that were given.
        train_tokens: how many characters the text has for training.
        vocabulary_size: V.
        processes: how many train together. Batches then have the next number of rows that they can share
            equally; what their exchange of gradients takes is not measured.
        fine_tunes: whether the network has learned another text before; the rate is then `FINE_TUNING` times
            as high.
    """
    reads_as_one_hot = vocabulary_size <= ONE_HOT_LIMIT and not config.network.tie_weights
    embedding = vocabulary_size if reads_as_one_hot else None
    base = {
        "layers": 1,
        "embedding_size": embedding,
        "batch_size": processes * math.ceil(32 / processes),
        "random_start": True,
        "reset_chance": 0.002,
        "steps": MOST_STEPS,
        "schedule": "cosine",
        "weight_decay": 0.05,
        "clip": 1.0,
    }
    plan = config.replace(**{name: value for name, value in base.items() if name not in fixed})
    sizes = [size for size in HIDDEN_SIZES if size * size <= train_tokens] or [HIDDEN_SIZES[0]]
    if "hidden_size" in fixed:
        sizes = [plan.network.hidden_size]
    clock = _Clock(vocabulary_size, processes)
    plan, steps = _largest_that_fits(sizes, plan, fixed, train_tokens, clock)
    hidden = plan.network.hidden_size
    passes = steps * plan.data.batch_size * plan.data.seq_length / train_tokens
    rate = min(0.008, 2.1 / hidden) * (0.25 if plan.network.cell == "rnn" else 1.0)
    rate *= FINE_TUNING if fine_tunes else 1.0
    derived = {
        "dropout": _rise(passes, 1.0, 16.0),
        "weight_drop": _rise(passes, 8.0, 28.0),
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": max(1, round(0.03 * steps)),
        "eval_every": _round_number(steps / 4),
        "save_every": _round_number(steps / 3),
        "log_every": _round_number(steps / 30),
    }
    plan = plan.replace(**{name: value for name, value in derived.items() if name not in fixed})
    network = plan.network
    words = (
        f"{config.optimization.minutes:g} minutes are about {steps:,.0f} steps of {network.cell.upper()}, "
        f"{network.layers} x {hidden}, {passes:.1f} passes over the text: dropout {network.dropout:g}, "
        f"weight drop {network.weight_drop:g}, learning rate {plan.optimization.learning_rate:g}"
    )
    return Plan(plan, words)


def _largest_that_fits(
    sizes: list[int], plan: TrainConfig, fixed: Collection[str], train_tokens: int, clock: _Clock
) -> tuple[TrainConfig, float]:
    """The plan with the largest hidden size that leaves enough steps, and how many steps it leaves."""

    def with_size(hidden: int) -> TrainConfig:
        length = plan.data.seq_length if "seq_length" in fixed else 96 if hidden >= 768 else 64
        batch, length = fit_batch(train_tokens, plan.data.batch_size, length)
        return plan.replace(hidden_size=hidden, batch_size=batch, seq_length=length)

    def steps(hidden: int) -> float:
        seconds = 60.0 * plan.optimization.minutes
        return min(plan.optimization.steps, seconds / clock.seconds_a_step(with_size(hidden)))

    low, high = 0, len(sizes)  # the first size is taken in any case; from index high on, none fits
    while high - low > 1:
        middle = (low + high) // 2
        if steps(sizes[middle]) >= STEPS_A_UNIT * sizes[middle]:
            low = middle
        else:
            high = middle
    return with_size(sizes[low]), steps(sizes[low])


class _Clock:
    """Measures how long a step takes, as PyTorch runs it by itself and with nothing dropped.

    So a plan counts on a few more steps than dropping leaves on a CPU, and on fewer than a CUDA graph gives
    on a GPU; the schedule follows the clock, and ends with the time in any case.
    """

    def __init__(self, vocabulary_size: int, processes: int) -> None:
        self._vocabulary_size, self._processes = vocabulary_size, processes
        self._arithmetic: Arithmetic | None = None
        self._known: dict[int, float] = {}

    def seconds_a_step(self, config: TrainConfig) -> float:
        """The least time of three steps, after one that prepares what the others reuse."""
        hidden = config.network.hidden_size
        if hidden not in self._known:
            device = choose_device(config.run.device)
            with own_random(device), threads(config.run.threads), freed_memory_kept():
                self._known[hidden] = self._measure(config)
        return self._known[hidden]

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


def _rise(value: float, low: float, high: float) -> float:
    """From 0 at ``low`` in a straight line to a half at ``high``, to two digits."""
    return round(min(0.5, max(0.0, 0.5 * (value - low) / (high - low))), 2)


def _round_number(value: float) -> int:
    """The nearest of 1, 2, 5, 10, 20, 50, ... below a number, at least 1."""
    if value < 1:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return int(max(step * power for step in (1, 2, 5) if step * power <= value))
