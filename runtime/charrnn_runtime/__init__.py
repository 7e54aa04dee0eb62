"""charrnn-runtime: run character-level RNNs exported by charrnn, with onnxruntime and without PyTorch.

from charrnn_runtime import CharRNN

model = CharRNN.load("models/lstm.onnx")
print(model.generate("LORD ", 500, seed=1))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charrnn_runtime.background import AsyncText
    from charrnn_runtime.beam import Continuation
    from charrnn_runtime.errors import (
        CharRNNError,
        DeviceError,
        ModelFormatError,
        OutOfMemoryError,
        QueueFullError,
        SettingError,
        UnknownCharacterError,
    )
    from charrnn_runtime.format.reader import ModelInfo
    from charrnn_runtime.items import Item, Items, SkippedItems, TooFewItemsError, draw_items
    from charrnn_runtime.logprobs import LogProbs
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.scheduling.request import Output, Request
    from charrnn_runtime.scheduling.scheduler import Scheduler
    from charrnn_runtime.scoring import Score
    from charrnn_runtime.state import State
    from charrnn_runtime.streaming import LiveBytes, LiveText
    from charrnn_runtime.texts import Generated, Step
    from charrnn_runtime.view.trace import Trace
    from charrnn_runtime.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "AsyncText",
    "CharRNN",
    "CharRNNError",
    "Continuation",
    "DeviceError",
    "Generated",
    "Item",
    "Items",
    "LiveBytes",
    "LiveText",
    "LogProbs",
    "ModelFormatError",
    "ModelInfo",
    "OutOfMemoryError",
    "Output",
    "QueueFullError",
    "Request",
    "Sampling",
    "Scheduler",
    "Score",
    "SettingError",
    "SkippedItems",
    "State",
    "Step",
    "TooFewItemsError",
    "Trace",
    "UnknownCharacterError",
    "Vocabulary",
    "__version__",
    "draw_items",
]

_MODULES = {
    "background": ("AsyncText",),
    "beam": ("Continuation",),
    "errors": (
        "CharRNNError",
        "DeviceError",
        "ModelFormatError",
        "OutOfMemoryError",
        "QueueFullError",
        "SettingError",
        "UnknownCharacterError",
    ),
    "items": ("Item", "Items", "SkippedItems", "TooFewItemsError", "draw_items"),
    "logprobs": ("LogProbs",),
    "model": ("CharRNN",),
    "scheduling.request": ("Output", "Request"),
    "format.reader": ("ModelInfo",),
    "sampling": ("Sampling",),
    "scheduling.scheduler": ("Scheduler",),
    "scoring": ("Score",),
    "state": ("State",),
    "streaming": ("LiveBytes", "LiveText"),
    "texts": ("Generated", "Step"),
    "view.trace": ("Trace",),
    "vocabulary": ("Vocabulary",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import public names lazily, so that ``--help`` does not load onnxruntime."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from charrnn_runtime.forks import making  # imports threading

    with making():
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
