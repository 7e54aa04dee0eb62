"""charrnn-trainer: trains character-level RNNs with PyTorch and exports each as one ONNX file.

    import tempfile
    from pathlib import Path

    from charrnn_trainer import Corpus, TrainConfig, train

    corpus = Corpus.from_text(Path("my.txt").read_text(encoding="utf-8"))
    folder = tempfile.mkdtemp()  # the run's folder must be new or empty
    result = train(TrainConfig(), corpus, on_event=print, out=folder)

Public names are imported on first use, so that code that does not need PyTorch does not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from charrnn_trainer.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.errors import CharRNNError, SettingError
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.config import DataConfig, NetworkConfig, OptimizationConfig, RunConfig
    from charrnn_trainer.data.batches import get_batches
    from charrnn_trainer.data.corpus import Corpus
    from charrnn_trainer.export.api import ExportReport, export_checkpoint
    from charrnn_trainer.nn.network import CharNetwork
    from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
    from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
    from charrnn_trainer.runs.header import CheckpointError
    from charrnn_trainer.train_config import TrainConfig
    from charrnn_trainer.training.api import resume, run_worker, train
    from charrnn_trainer.training.distributed import ProcessGroup, join
    from charrnn_trainer.training.divergence import DivergedError
    from charrnn_trainer.training.events import (
        Event,
        Logged,
        Notice,
        Saved,
        Started,
        Stepped,
        TrainResult,
        Validated,
        ValidatedWhole,
    )

__all__ = [
    "CharNetwork",
    "CharRNNError",
    "Checkpoint",
    "CheckpointError",
    "Corpus",
    "DataConfig",
    "DivergedError",
    "Event",
    "ExportReport",
    "Logged",
    "NetworkConfig",
    "Notice",
    "OptimizationConfig",
    "ProcessGroup",
    "RunConfig",
    "Saved",
    "SettingError",
    "Started",
    "Stepped",
    "TrainConfig",
    "TrainResult",
    "Validated",
    "ValidatedWhole",
    "Vocabulary",
    "__version__",
    "export_checkpoint",
    "find_checkpoint",
    "get_batches",
    "join",
    "list_checkpoints",
    "load_checkpoint",
    "resume",
    "run_worker",
    "train",
]

_HOMES = {
    "charrnn_runtime.errors": ("CharRNNError", "SettingError"),
    "charrnn_runtime.vocabulary": ("Vocabulary",),
    "charrnn_trainer.data.batches": ("get_batches",),
    "charrnn_trainer.runs.checkpoint": ("Checkpoint", "load_checkpoint"),
    "charrnn_trainer.runs.finding": ("find_checkpoint", "list_checkpoints"),
    "charrnn_trainer.runs.header": ("CheckpointError",),
    "charrnn_trainer.config": (
        "DataConfig",
        "NetworkConfig",
        "OptimizationConfig",
        "RunConfig",
    ),
    "charrnn_trainer.train_config": ("TrainConfig",),
    "charrnn_trainer.data.corpus": ("Corpus",),
    "charrnn_trainer.export.api": ("ExportReport", "export_checkpoint"),
    "charrnn_trainer.training.events": (
        "Validated",
        "ValidatedWhole",
        "Event",
        "Logged",
        "Notice",
        "Saved",
        "Started",
        "Stepped",
        "TrainResult",
    ),
    "charrnn_trainer.training.api": ("resume", "run_worker", "train"),
    "charrnn_trainer.training.distributed": ("ProcessGroup", "join"),
    "charrnn_trainer.training.divergence": ("DivergedError",),
    "charrnn_trainer.nn.network": ("CharNetwork",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first used (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
