"""Which number format a machine trains fastest in: measured, not guessed.

On a CPU, bf16 pays through oneDNN on processors with AVX-512 or AMX, and is many times slower elsewhere; for
fp32 it depends on the cell and the processor whether oneDNN's recurrent layers are faster than PyTorch's own.

On a GPU fp32 means fp32: PyTorch's default of letting cuDNN round to tf32 is switched off, and tf32 is a way
of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from charrnn_runtime.errors import DeviceError
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.capture import Play, aside, capture_graph
from charrnn_trainer.training.torch_settings import is_gpu, own_random, quiet_about_weights

_LENGTH: Final = 32
_TURNS: Final = 4
_SURE: Final = 2
"""After this many turns (the first also prepares what the others reuse), only near ways are tried further."""
_HOPELESS: Final = 8.0
_NEAR: Final = 1.25
"""A way that took this many times the fastest's time is not tried again: before and after the sure turns."""


@dataclass(frozen=True)
class ComputeMode:
    """How a step is computed.

    Attributes:
        precision: "fp32", "bf16" (products in bf16, weights and sums in fp32), or on a GPU "tf32" (the
            factors of products rounded to 10 bits).
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
            else:
                stack.enter_context(_fp32_products("tf32" if self.precision == "tf32" else "ieee"))
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"))
            yield


@dataclass(frozen=True)
class Choice:
    """What was taken, and after which measurement.

    Attributes:
        compute_mode: what was taken.
        milliseconds: the time of a short step in each way that was tried; empty where there was no choice.
    """

    compute_mode: ComputeMode
    milliseconds: dict[ComputeMode, float]


def choose_compute_mode(
    config: TrainConfig, vocabulary_size: int, device: torch.device, *, processes: int = 1
) -> Choice:
    """Measure the ways of computing that the settings leave open, and take the fastest.

    The time that one step of (at most) 32 characters takes decides; on a CPU, the time for which this thread
    computes, so that it does not matter what else the machine is busy with; on a GPU, that of a captured
    step where the training of so many processes will replay such. Random generators are left as they were.
    """
    candidates = _candidates(config, device)
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    captured = is_gpu(device) and processes == 1 and not config.data.lines
    times = dict.fromkeys(candidates, math.inf)
    with own_random(device), quiet_about_weights(device):
        network = CharNetwork(config.network, vocabulary_size).to(device)
        steps: dict[ComputeMode, Play] = {}
        # Turn by turn, so that a moment in which the machine is busy does not fall on one way alone.
        for turn in range(_TURNS):
            limit = (_HOPELESS if turn < _SURE else _NEAR) * min(times.values())
            near = [way for way in candidates if times[way] <= limit]
            if turn >= _SURE and len(near) == 1:
                break
            for way in near:
                if way not in steps:
                    steps[way] = _short_step(network, config, way, device, captured=captured)
                times[way] = min(times[way], _time_step(steps[way], device))
    fastest = min(times, key=times.__getitem__)
    return Choice(fastest, {way: seconds * 1e3 for way, seconds in times.items()})


def is_open(config: TrainConfig, device: torch.device) -> bool:
    """Whether the settings leave more than one way of computing."""
    return len(_candidates(config, device)) > 1


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a new run can compute in a precision; a resumed one continues in what its device has.

    Raises:
        DeviceError: it is tf32, and the device is a CPU.
    """
    if precision == "tf32" and not is_gpu(device):
        raise DeviceError(
            "precision=tf32 is for GPUs, and this run computes on a CPU; give precision=fp32", "precision"
        )


def _candidates(config: TrainConfig, device: torch.device) -> list[ComputeMode]:
    wanted, onednn = config.run.precision, config.run.onednn
    if device.type != "cpu":
        return [ComputeMode(way, True) for way in ("fp32", "tf32", "bf16") if wanted in ("auto", way)]
    have_onednn = torch.backends.mkldnn.is_available()
    ways = []
    if wanted in ("auto", "fp32", "tf32"):  # a run with tf32 is resumed in fp32 on a CPU
        choices = (True, False) if have_onednn else (False,)
        ways += [ComputeMode("fp32", choice) for choice in choices if onednn in (None, choice)]
    if wanted == "bf16" or (wanted == "auto" and have_onednn and onednn is not False and has_fast_bf16()):
        ways.append(ComputeMode("bf16", have_onednn if onednn is None else onednn))
    return ways or [ComputeMode("fp32", False)]


def has_fast_bf16() -> bool:
    """Whether oneDNN says that this processor has what its bf16 products need."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return probe is not None and bool(probe())


def _short_step(
    network: CharNetwork, config: TrainConfig, way: ComputeMode, device: torch.device, *, captured: bool
) -> Play:
    """A short step, forward and backward; as a CUDA graph if it is to be, and can be, captured."""
    length = min(config.data.seq_length, _LENGTH)
    tokens = torch.zeros((config.data.batch_size, length), dtype=torch.int64, device=device)
    state = network.initial_state(config.data.batch_size)

    def step() -> None:
        with way.on(device):
            loss, _after = network(tokens, state, tokens)
            loss.backward()
        network.zero_grad()

    if not captured:
        return step
    with aside(device):
        step()
    try:
        return capture_graph(step)
    except RuntimeError:
        return step


def _time_step(step: Play, device: torch.device) -> float:
    """The time in seconds that a step takes."""
    # Threads share a product's work equally, so this one's time stands for all of them. (Windows counts it in
    # sixty-fourths of a second.)
    clock = time.thread_time if not is_gpu(device) and os.name == "posix" else time.perf_counter
    start = clock()
    step()
    if is_gpu(device):
        torch.cuda.synchronize(device)
    return clock() - start


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


@contextlib.contextmanager
def _fp32_products(precision: str) -> Iterator[None]:
    """Let a GPU multiply fp32 numbers as "ieee" or as "tf32", in cuBLAS and in cuDNN's recurrent layers."""
    users: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [user.fp32_precision for user in users]
    for user in users:
        user.fp32_precision = precision
    try:
        yield
    finally:
        for user, old in zip(users, before, strict=True):
            user.fp32_precision = old
