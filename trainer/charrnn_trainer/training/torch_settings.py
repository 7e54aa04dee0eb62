"""torch's devices and global settings: what is changed is changed for a ``with`` statement only."""

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
"""glibc's options (mallopt(3)): from how many bytes on an allocation is a mapping of its own, how much free
memory at the heap's end is given back; what is as good as never; and what they are at first."""

_SIZES: Final = ("batch_size", "seq_length", "hidden_size")
_ADVICE: Final = "lower batch_size, seq_length or hidden_size"


def choose_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        DeviceError: a GPU was asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceError(
            "device=cuda: PyTorch finds no GPU here; install a PyTorch with CUDA, or use the CPU", "device"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def is_gpu(device: torch.device) -> bool:
    """Whether a device works on its own while the host continues, as GPUs do."""
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
    """Let the C library keep freed memory for the next step, within a ``with`` statement.

    glibc maps every large tensor again and gives it back when it is freed, so each step faults it in page by
    page: 41,326 faults a step of the default LSTM, about 80 ms of 370. Other C libraries are left alone.
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
    """Leave torch's global random generators as they were after a ``with`` statement."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global random generators, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def seeded_states(seed: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """The states that torch's global random generators have after they are seeded with some numbers."""
    with own_random(device):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        return random_states(device)


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's global random generators back into states that `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Tell a lack of memory from other failures of torch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"the GPU has too little memory: {_ADVICE}", *_SIZES) from error
    except RuntimeError as error:
        said = str(error)
        if (
            re.search(r"allocate|allocation[ _]failed|alloc_failed|out of memory", said, re.IGNORECASE)
            is None
        ):
            raise
        if re.search("cuda|cublas|cudnn", said, re.IGNORECASE):
            raise DeviceError(f"the GPU has too little memory: {_ADVICE}", *_SIZES) from error
        raise CharRNNError(f"out of memory: {_ADVICE}", *_SIZES) from error


@contextlib.contextmanager
def quiet_about_weights(device: torch.device) -> Iterator[None]:
    """Let cuDNN gather weights that are dropped, or cast, again in every step without a warning."""
    if not is_gpu(device):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield
