"""Fixtures of the runtime tests: the small models in tests/models, and the commands.

These tests pass where neither torch nor onnx is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN
from make_models import MODELS, SmallModel
from run_commands import Command, run_module

SMALL = {model.path.stem: model for model in MODELS}


@cache
def _loaded(name: str) -> CharRNN:
    return CharRNN.load(SMALL[name].path, device="cpu")


@pytest.fixture(scope="session")
def load() -> Callable[[str], CharRNN]:
    """Loads a small model by name, such as "lstm-2x12-fp32", once for all tests."""
    return _loaded


@pytest.fixture(params=sorted(SMALL), scope="session")
def small(request: pytest.FixtureRequest) -> SmallModel:
    """Each of the small models."""
    return SMALL[request.param]


@pytest.fixture(params=[name for name in sorted(SMALL) if "fp32" in name], scope="session")
def exact(request: pytest.FixtureRequest) -> SmallModel:
    """Each of the small fp32 models, which must match plain NumPy."""
    return SMALL[request.param]


@pytest.fixture(scope="session")
def lstm() -> CharRNN:
    """The small LSTM."""
    return _loaded("lstm-2x12-fp32")


@pytest.fixture(scope="session")
def byte_model() -> CharRNN:
    """The small byte-level model."""
    return _loaded("lstm-1x12-fp32-byte")


@pytest.fixture(scope="session")
def lstm_path() -> Path:
    """The file of the small LSTM."""
    return SMALL["lstm-2x12-fp32"].path


@pytest.fixture(scope="session")
def gen() -> Command:
    """Runs charrnn-gen with arguments; ``env`` changes the environment; other options go to subprocess."""
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.gen", *arguments, **options)


@pytest.fixture(scope="session")
def info() -> Command:
    """Runs charrnn-info; see ``gen``."""
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.info", *arguments, **options)


@pytest.fixture(scope="session")
def score() -> Command:
    """Runs charrnn-score; see ``gen``."""
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.score", *arguments, **options)


@pytest.fixture(scope="session")
def triton() -> Command:
    """Runs charrnn-triton; see ``gen``."""
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.triton", *arguments, **options)


@pytest.fixture(scope="session")
def view() -> Command:
    """Runs charrnn-view; see ``gen``."""
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.view", *arguments, **options)


@pytest.fixture
def in_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty current folder."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
