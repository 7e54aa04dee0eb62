"""Measures which number format trains fastest on this machine.

On a CPU, bf16 is faster through oneDNN on processors with AVX-512 BF16 or AMX, and many times slower
elsewhere. For fp32, the cell and the processor decide whether oneDNN's recurrent layers are faster than
PyTorch's own.

On a GPU, fp32 means fp32: PyTorch's default of letting cuDNN round to tf32 is switched off, and tf32 is a
separate mode.
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
from charrnn_trainer.training.capture import Play, capture_graph, side_stream
from charrnn_trainer.training.torch_settings import is_gpu, own_random, quiet_about_weights

_LENGTH: Final = 32
_ROUNDS: Final = 4
_SURE_ROUNDS: Final = 2
"""After this many rounds (the first of which is also a warm-up), only close candidates are timed further."""
_HOPELESS: Final = 8.0
_NEAR: Final = 1.25
"""A candidate this many times slower than the fastest is dropped: within those rounds, and after them."""


@dataclass(frozen=True)
class ComputeMode:
    """The arithmetic of a training step.

    Attributes:
        precision: "fp32", "bf16" (products in bf16, weights and sums in fp32), or on a GPU "tf32" (operands
            of products rounded to 10-bit mantissas).
        onednn: whether the CPU uses oneDNN.
    """

    precision: str
    onednn: bool

    def __str__(self) -> str:
        return self.precision if self.onednn else f"{self.precision} without oneDNN"

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Use this mode within a ``with`` statement."""
        with contextlib.ExitStack() as stack:
            if device.type == "cpu":
                stack.enter_context(_onednn(self.onednn))
            else:
                stack.enter_context(_fp32_products("tf32" if self.precision == "tf32" else "ieee"))
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"))
            yield


@dataclass(frozen=True)
class Choice:
    """The chosen compute mode, and the measurement behind it.

    Attributes:
        compute_mode: the chosen mode.
        milliseconds: the time of a short step in each mode; empty if there was only one candidate.
    """

    compute_mode: ComputeMode
    milliseconds: dict[ComputeMode, float]


def choose_compute_mode(
    config: TrainConfig, vocabulary_size: int, device: torch.device, *, processes: int = 1
) -> Choice:
    """Time the compute modes that the settings leave open, and choose the fastest.

    A step of at most 32 characters is timed: on a CPU in this thread's CPU time, which other load on the
    machine does not affect; on a GPU as a CUDA graph, if training with this many processes will use one.
    Random generators are left unchanged.
    """
    candidates = _candidates(config, device)
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    captured = is_gpu(device) and processes == 1 and not config.data.lines
    times = dict.fromkeys(candidates, math.inf)
    with own_random(device), quiet_about_weights(device):
        network = CharNetwork(config.network, vocabulary_size).to(device)
        steps: dict[ComputeMode, Play] = {}
        # Interleaved, so that a moment of load does not affect one candidate only.
        for round_ in range(_ROUNDS):
            limit = (_HOPELESS if round_ < _SURE_ROUNDS else _NEAR) * min(times.values())
            near = [mode for mode in candidates if times[mode] <= limit]
            if round_ >= _SURE_ROUNDS and len(near) == 1:
                break
            for mode in near:
                if mode not in steps:
                    steps[mode] = _short_step(network, config, mode, device, captured=captured)
                times[mode] = min(times[mode], _time_step(steps[mode], device))
    fastest = min(times, key=times.__getitem__)
    return Choice(fastest, {mode: seconds * 1e3 for mode, seconds in times.items()})


def is_open(config: TrainConfig, device: torch.device) -> bool:
    """Whether the settings leave more than one compute mode."""
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
        return [ComputeMode(name, True) for name in ("fp32", "tf32", "bf16") if wanted in ("auto", name)]
    have_onednn = torch.backends.mkldnn.is_available()
    modes = []
    if wanted in ("auto", "fp32", "tf32"):  # a run with tf32 is resumed in fp32 on a CPU
        choices = (True, False) if have_onednn else (False,)
        modes += [ComputeMode("fp32", choice) for choice in choices if onednn in (None, choice)]
    if wanted == "bf16" or (wanted == "auto" and have_onednn and onednn is not False and has_fast_bf16()):
        modes.append(ComputeMode("bf16", have_onednn if onednn is None else onednn))
    return modes or [ComputeMode("fp32", False)]


def has_fast_bf16() -> bool:
    """Whether oneDNN reports that this processor supports its bf16 products."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return probe is not None and bool(probe())


def _short_step(
    network: CharNetwork, config: TrainConfig, mode: ComputeMode, device: torch.device, *, captured: bool
) -> Play:
    """A short step, forward and backward; as a CUDA graph if requested and possible."""
    length = min(config.data.seq_length, _LENGTH)
    tokens = torch.zeros((config.data.batch_size, length), dtype=torch.int64, device=device)
    state = network.initial_state(config.data.batch_size)

    def step() -> None:
        with mode.on(device):
            loss, _after = network(tokens, state, tokens)
            loss.backward()
        network.zero_grad()

    if not captured:
        return step
    with side_stream(device):
        step()
    try:
        return capture_graph(step)
    except RuntimeError:
        return step


def _time_step(step: Play, device: torch.device) -> float:
    """The time of a step in seconds."""
    # Threads share a product's work equally, so this one's CPU time represents all of them. (On Windows its
    # resolution is only 1/64 s.)
    clock = time.thread_time if not is_gpu(device) and os.name == "posix" else time.perf_counter
    start = clock()
    step()
    if is_gpu(device):
        torch.cuda.synchronize(device)
    return clock() - start


@contextlib.contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        # Reading the flags back queries TF32 on Intel GPUs, and warns if there are none.
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
    """Set the GPU's fp32 products to "ieee" or "tf32", in cuBLAS and in cuDNN's recurrent layers."""
    users: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [user.fp32_precision for user in users]
    for user in users:
        user.fp32_precision = precision
    try:
        yield
    finally:
        for user, old in zip(users, before, strict=True):
            user.fp32_precision = old
