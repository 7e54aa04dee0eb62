"""Which number format a machine trains fastest in: measured, not guessed.

On a CPU, bf16 pays through oneDNN on processors with AVX-512 or AMX, and is many times slower elsewhere; for
fp32 it depends on the cell and the processor whether oneDNN's recurrent layers are faster than PyTorch's own.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from charrnn_trainer.config import TrainConfig
from charrnn_trainer.network import CharNetwork, next_token_loss

_LENGTH: Final = 32
_TURNS: Final = 4
_HOPELESS: Final = 8.0
"""A way that took so many times the fastest's time is not tried again; less may be a moment's bad luck."""


@dataclass(frozen=True)
class Arithmetic:
    """How a step is computed.

    Attributes:
        precision: "fp32" or "bf16" (products in bf16, weights and sums in fp32).
        onednn: whether oneDNN computes on the CPU.
    """

    precision: str
    onednn: bool

    def __str__(self) -> str:
        return self.precision if self.onednn else f"{self.precision} without oneDNN"

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute so within a ``with`` statement."""
        with contextlib.ExitStack() as stack:
            if device.type == "cpu":
                stack.enter_context(_onednn(self.onednn))
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"))
            yield


@dataclass(frozen=True)
class Choice:
    """What was taken, and after which measurement.

    Attributes:
        arithmetic: what was taken.
        milliseconds: the time of a short step in each way that was tried; empty where there was no choice.
    """

    arithmetic: Arithmetic
    milliseconds: dict[Arithmetic, float]


def choose_arithmetic(config: TrainConfig, vocabulary_size: int, device: torch.device) -> Choice:
    """Measure the ways of computing that the settings leave open, and take the fastest.

    The time that one step of (at most) 32 characters takes decides. Random generators are left as they were.
    """
    candidates = _candidates(config, device)
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    times = dict.fromkeys(candidates, math.inf)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = CharNetwork(config.network, vocabulary_size).to(device)
        # Turn by turn, so that a moment in which the machine is busy does not fall on one way alone. The
        # first turn also prepares what the others reuse, and shows which ways are hopeless.
        for _ in range(_TURNS):
            best = min(times.values())
            for way in candidates:
                if times[way] == math.inf or times[way] < _HOPELESS * best:
                    times[way] = min(times[way], _time_step(network, config, way, device))
    fastest = min(times, key=times.__getitem__)
    return Choice(fastest, {way: seconds * 1e3 for way, seconds in times.items()})


def _candidates(config: TrainConfig, device: torch.device) -> list[Arithmetic]:
    wanted, onednn = config.run.precision, config.run.onednn
    if device.type != "cpu":
        return [Arithmetic(way, True) for way in ("fp32", "bf16") if wanted in ("auto", way)]
    have_onednn = torch.backends.mkldnn.is_available()
    ways = []
    if wanted in ("auto", "fp32"):
        choices = (True, False) if have_onednn else (False,)
        ways += [Arithmetic("fp32", choice) for choice in choices if onednn in (None, choice)]
    if wanted == "bf16" or (wanted == "auto" and have_onednn and onednn is not False and has_fast_bf16()):
        ways.append(Arithmetic("bf16", have_onednn if onednn is None else onednn))
    return ways or [Arithmetic("fp32", False)]


def has_fast_bf16() -> bool:
    """Whether oneDNN says that this processor has what its bf16 products need."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return probe is not None and bool(probe())


def _time_step(network: CharNetwork, config: TrainConfig, way: Arithmetic, device: torch.device) -> float:
    """The time in seconds of a short step, forward and backward."""
    length = min(config.data.seq_length, _LENGTH)
    tokens = torch.zeros((config.data.batch_size, length), dtype=torch.int64, device=device)
    state = network.initial_state(config.data.batch_size)
    start = time.perf_counter()
    with way.on(device):
        logits, _after = network(tokens, state)
        next_token_loss(logits, tokens).backward()
    network.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextlib.contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        # Reading the flags back asks about TF32 on Intel GPUs, and warns that there are none.
        warnings.simplefilter("ignore", UserWarning)
        flags = torch.backends.mkldnn.flags(enabled=enabled)
        flags.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            flags.__exit__(None, None, None)
