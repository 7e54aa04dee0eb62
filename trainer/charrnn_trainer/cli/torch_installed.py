"""Checks that PyTorch is installed, and explains how to install it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from charrnn_runtime.errors import CharRNNError

_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""The index of PyTorch's CPU builds (https://pytorch.org/get-started/locally/)."""


def need_torch() -> None:
    """Check that PyTorch is installed.

    Raises:
        CharRNNError: it is not.
    """
    if find_spec("torch") is None:
        raise CharRNNError(
            f"PyTorch is not installed; for a CPU: pip install torch --index-url {_CPU_INDEX}; for an NVIDIA "
            "GPU: pip install torch (on Linux this downloads gigabytes of CUDA libraries)"
        )
