"""Fixtures for the tests of large clients: a server with a small model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from charrnn_runtime import CharRNN
from make_models import FOLDER

pytest.importorskip("starlette", reason="the extra serve is not installed")

from served import Served


@pytest.fixture(scope="session")
def lstm() -> CharRNN:
    return CharRNN.load(FOLDER / "lstm-2x12-fp32.onnx", device="cpu")


@pytest.fixture(scope="session")
def server(lstm: CharRNN) -> Iterator[Served]:
    with Served({"lstm": lstm}) as running:
        yield running
