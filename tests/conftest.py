"""Fixtures shared by all tests; works without torch."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# Background jobs of a shell ignore SIGINT, and those of nohup SIGHUP; child processes would inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in {"SIGHUP", "SIGQUIT"} & {each.name for each in signal.Signals}:
    if signal.getsignal(signal.Signals[ignored]) is signal.SIG_IGN:
        signal.signal(signal.Signals[ignored], signal.SIG_DFL)

# Some tests import onnxruntime themselves, before charrnn_runtime can disable its telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).resolve().parent.parent
TINYSHAKESPEARE = ROOT / "data" / "tinyshakespeare.txt"

# No deadline: a busy machine is not a bug. In CI the examples are fixed, so that results are repeatable.
settings.register_profile("charrnn", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("charrnn")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tinyshakespeare() -> Path:
    """The real text, for tests of its exact figures, which are skipped if it is missing."""
    if not TINYSHAKESPEARE.is_file():
        pytest.skip(f"needs {TINYSHAKESPEARE.relative_to(ROOT)} (see data/README.md)")
    return TINYSHAKESPEARE


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread(request: pytest.FixtureRequest) -> None:
    """Use one thread: tiny networks run fastest on it, with identical sums on every machine."""
    without = ROOT / "tests" / "runtime"  # these tests pass where torch is not installed
    if find_spec("torch") and not all(item.path.is_relative_to(without) for item in request.session.items):
        import torch

        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Exclude the collected tests from later garbage collections, which would scan them repeatedly."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not cuda_device_is_there():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def cuda_device_is_there() -> bool:
    """Ask the driver directly, without torch or a usable onnxruntime."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
            return True
    return False
