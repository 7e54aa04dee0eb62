"""torch's devices and global settings, which are changed only within ``with`` statements."""

from __future__ import annotations

import contextlib
import ctypes
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from charrnn_runtime.errors import CharRNNError, DeviceError

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_ALL: Final = 2**30
_GLIBC_DEFAULT: Final = 128 * 1024
"""glibc's options (mallopt(3)): the free memory at the heap's end that is returned to the system, the size
from which an allocation is a separate mapping, a value that means almost never, and the default of both."""

_SIZES: Final = ("batch_size", "seq_length", "hidden_size")
_ADVICE: Final = "lower batch_size, seq_length or hidden_size"


def choose_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        DeviceError: a GPU was requested, and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceError(
            "device=cuda: PyTorch finds no GPU; install a PyTorch build with CUDA, or use the CPU", "device"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def is_gpu(device: torch.device) -> bool:
    """Whether a device runs asynchronously, as GPUs do."""
    return device.type == "cuda"


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use this many CPU threads within a ``with`` statement."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep freed memory for the next step, within a ``with`` statement.

    glibc maps each large tensor and unmaps it when it is freed, so every step page-faults it in again: 41,326
    faults per step of the default LSTM, about 80 ms of 370. Other C libraries are left unchanged.
    """
    try:
        library = ctypes.CDLL(None)
        set_option, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        yield
        return
    set_option(_M_MMAP_THRESHOLD, _KEEP_ALL)
    set_option(_M_TRIM_THRESHOLD, _KEEP_ALL)
    try:
        yield
    finally:
        set_option(_M_MMAP_THRESHOLD, _GLIBC_DEFAULT)
        set_option(_M_TRIM_THRESHOLD, _GLIBC_DEFAULT)
        trim(0)


def own_random(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Restore torch's global random generators after a ``with`` statement."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global random generators, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def seeded_states(seed: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global random generators after seeding them with some numbers."""
    with own_random(device):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        return random_states(device)


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore torch's global random generators to states from `random_states`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Translate torch's out-of-memory errors."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"out of GPU memory: {_ADVICE}", *_SIZES) from error
    except RuntimeError as error:
        said = str(error)
        if (
            re.search(r"allocate|allocation[ _]failed|alloc_failed|out of memory", said, re.IGNORECASE)
            is None
        ):
            raise
        if re.search("cuda|cublas|cudnn", said, re.IGNORECASE):
            raise DeviceError(f"out of GPU memory: {_ADVICE}", *_SIZES) from error
        raise CharRNNError(f"out of memory: {_ADVICE}", *_SIZES) from error


@contextlib.contextmanager
def quiet_about_weights(device: torch.device) -> Iterator[None]:
    """Silence cuDNN's warning that dropped or cast weights are compacted at every step."""
    if not is_gpu(device):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield
