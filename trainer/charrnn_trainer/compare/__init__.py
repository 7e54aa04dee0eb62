"""Compare runs: curves, figures, samples and findings.

It needs matplotlib and Jinja2, which the extra ``compare`` of charrnn-trainer installs.

    from charrnn_trainer.compare import compare_runs

    comparison = compare_runs(["ckpt/lstm", "ckpt/gru"], prompt="LORD ")
    print(comparison.text())
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from charrnn_runtime.errors import CharRNNError

if TYPE_CHECKING:
    from charrnn_trainer.compare.report import Comparison, compare_runs

__all__ = ["Comparison", "compare_runs"]

NEEDED: Final = {"matplotlib": "matplotlib", "jinja2": "Jinja2"}
"""The additional modules that a report needs, and the distributions that provide them."""


def check_installed() -> None:
    """Check that the packages for reports are installed, without importing them.

    Raises:
        CharRNNError: one is missing.
    """
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise CharRNNError(
            f"a comparison needs {' and '.join(missing)}; install with: pip install {' '.join(missing)}"
        )


def __getattr__(name: str) -> object:
    """Import the public names when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed()
    from charrnn_trainer.compare import report

    return getattr(report, name)
