"""Whether PyTorch is there, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from charrnn_runtime.errors import CharRNNError

_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch's builds for CPUs are (https://pytorch.org/get-started/locally/)."""


def need_torch() -> None:
    """Refuse to continue where PyTorch is missing.

    Raises:
        CharRNNError: it is.
    """
    if find_spec("torch") is None:
        raise CharRNNError(
            f"PyTorch is not installed; for a CPU: pip install torch --index-url {_CPU_INDEX}; for an NVIDIA "
            "GPU: pip install torch (on Linux it brings gigabytes of CUDA libraries)"
        )
