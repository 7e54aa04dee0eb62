"""Runs side by side: curves, figures, samples, and what they say of the cells.

It needs matplotlib, which the extra ``compare`` of charrnn-trainer brings.

    from charrnn_trainer.compare.report import compare_runs

    comparison = compare_runs(["ckpt/lstm", "ckpt/gru"], prime="LORD ")
    print(comparison.text())
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from charrnn_runtime.errors import CharRNNError

if TYPE_CHECKING:
    from charrnn_trainer.compare.report import Comparison, compare_runs

__all__ = ["Comparison", "compare_runs"]

INSTALL: Final = "pip install matplotlib"


def check_installed() -> None:
    """Check that what draws the pictures is installed, without importing it.

    Raises:
        CharRNNError: it is not.
    """
    if find_spec("matplotlib") is None:
        raise CharRNNError(f"matplotlib is missing, which draws the pictures; install it with: {INSTALL}")


def __getattr__(name: str) -> object:
    """Import the public names when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed()
    from charrnn_trainer.compare import report

    return getattr(report, name)
