"""Global settings within a ``with`` statement."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from charrnn_trainer.training.torch_settings import freed_memory_kept, threads

resource = pytest.importorskip("resource", reason="Windows has none")


def has_glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "mallopt")
    except TypeError:
        return False


def page_faults() -> int:
    """The page faults of allocating and freeing a tensor of 64 MB thirty times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        torch.ones(16 * 1024 * 1024)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def resident() -> int:
    """The resident memory of the process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * int(resource.getpagesize())


@pytest.mark.skipif(not has_glibc(), reason="needs glibc")
def test_freed_memory_is_reused_without_page_faults_and_returned_at_the_end() -> None:
    size = 64 * 1024 * 1024
    with freed_memory_kept():
        page_faults()
        assert page_faults() < 3 * size // resource.getpagesize()  # of thirty allocations
        held = resident()
    assert resident() < held - size // 2


def test_nothing_is_done_if_the_c_library_lacks_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_name(name: object) -> object:
        raise TypeError(f"bad argument {name}")

    monkeypatch.setattr(ctypes, "CDLL", without_a_name)
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3


def test_the_number_of_threads_is_restored_on_exit() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
