"""torch's devices and global settings: what is changed is changed for a ``with`` statement only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from charrnn_runtime.errors import CharRNNError, DeviceError

_ADVICE: Final = "lower --batch-size, --seq-length or --hidden-size"


def choose_device(wanted: str) -> torch.device:
    """The device for ``--device auto``, ``cpu`` or ``cuda``.

    Raises:
        DeviceError: a GPU was asked for, and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceError(
            "--device cuda: PyTorch finds no GPU here; install a PyTorch with CUDA, or use the CPU"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads within a ``with`` statement."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def own_random(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leave torch's global random generators as they were after a ``with`` statement."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global random generators, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


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
        raise DeviceError(f"the GPU has too little memory: {_ADVICE}") from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise CharRNNError(f"out of memory: {_ADVICE}") from error
