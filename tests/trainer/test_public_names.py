"""The public names of charrnn_trainer, importable without torch."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import charrnn_trainer
from tiny_runs import run_program

NAMES = {
    "CharNetwork", "CharRNNError", "Checkpoint", "CheckpointError", "Corpus", "DataConfig", "DivergedError",
    "Event", "Logged", "NetworkConfig", "Notice", "OptimizationConfig", "RunConfig", "Saved", "SettingError",
    "Started", "Stepped", "TrainConfig", "TrainResult", "Validated", "ValidatedWhole", "Vocabulary",
    "__version__", "export_checkpoint", "find_checkpoint", "get_batches", "list_checkpoints",
    "load_checkpoint", "resume", "train",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(charrnn_trainer.__all__) == NAMES
    assert charrnn_trainer.__all__ == sorted(charrnn_trainer.__all__)
    assert set(dir(charrnn_trainer)) >= NAMES
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = charrnn_trainer.tarin


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__", "Event"}))
def test_a_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(charrnn_trainer, name))


def test_importing_the_package_does_not_import_torch() -> None:
    done = run_program("-c", "import sys, charrnn_trainer; print('torch' in sys.modules)")
    assert done.stdout == b"False\n", done.stderr.decode()


@pytest.mark.parametrize(
    "module",
    [
        *("data.batches", "data.corpus", "data.vocabulary_growth", "nn.network"),
        *("training.api", "training.held_out", "training.pace", "training.validation"),
    ],
)
def test_the_examples_of_docstrings_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"charrnn_trainer.{module}"), extraglobs={})
    assert results.attempted > 0
    assert results.failed == 0
