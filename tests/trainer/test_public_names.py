"""The public names of charrnn_trainer, importable without torch."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import charrnn_trainer
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import TrainConfig
from tiny_runs import TEXT, run_program

NAMES = {
    "CharNetwork", "CharRNNError", "Checkpoint", "CheckpointError", "Corpus", "DataConfig", "DivergedError",
    "Event", "ExportReport", "Logged", "NetworkConfig", "Notice", "OptimizationConfig", "ProcessGroup",
    "RunConfig", "Saved", "SettingError", "Started", "Stepped", "TrainConfig", "TrainResult", "Validated",
    "ValidatedWhole", "Vocabulary", "__version__", "export_checkpoint", "find_checkpoint", "get_batches",
    "join", "list_checkpoints", "load_checkpoint", "resume", "run_worker", "train",
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


@pytest.mark.parametrize("name", ["export_checkpoint", "join", "resume", "run_worker", "train"])
def test_signatures_use_only_public_types(name: str) -> None:
    words = re.findall(r"\b[A-Z]\w+", str(inspect.signature(getattr(charrnn_trainer, name))))
    known = {"Any", "Callable", "False", "Iterator", "Mapping", "None", "Path"}
    assert set(words) <= NAMES | known


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


def test_the_example_of_the_package_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(config: TrainConfig, corpus: Corpus, *, on_event: object, out: str) -> None:
        with Run.create(out) as run:
            run.write_config(RunFile(config))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(charrnn_trainer, "train", begin, raising=False)
    Path("my.txt").write_text(TEXT)
    assert charrnn_trainer.__doc__
    (example,) = re.findall(r"(?:^    .*\n|^\n)+", charrnn_trainer.__doc__, re.MULTILINE)
    for _ in range(2):
        exec(textwrap.dedent(example), {})
