"""Creates the small models in tests/models, with which the runtime's tests run without onnx.

    python tests/make_models.py

Their weights come from reference.random_weights, so that tests can compute the expected output. A test checks
that recreating them gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reference import random_weights

FOLDER = Path(__file__).parent / "models"
SYMBOLS = "\n !',-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzéλ中"


@dataclass(frozen=True)
class SmallModel:
    """The settings of one model."""

    cell: str
    layers: int
    precision: str
    hidden_size: int = 12
    level: str = "char"

    @property
    def path(self) -> Path:
        level = "" if self.level == "char" else f"-{self.level}"
        return FOLDER / f"{self.cell}-{self.layers}x{self.hidden_size}-{self.precision}{level}.onnx"

    @property
    def vocabulary_size(self) -> int:
        return len(SYMBOLS) if self.level == "char" else 256

    def weights(self) -> dict[str, NDArray[np.float32]]:
        return random_weights(self.cell, self.layers, self.hidden_size, self.vocabulary_size, seed=7)


MODELS = (
    SmallModel("lstm", 2, "fp32"),
    SmallModel("lstm", 2, "int8"),
    SmallModel("lstm", 2, "fp16"),
    SmallModel("gru", 2, "fp32"),
    SmallModel("gru", 2, "int8"),
    SmallModel("gru", 2, "fp16"),
    SmallModel("rnn", 1, "fp32"),
    SmallModel("lstm", 1, "fp32", level="byte"),
)


def make(model: SmallModel) -> bytes:
    """The bytes of a model."""
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.export.graph.step_model import build_step_model
    from charrnn_trainer.export.graph.weights import fold_weights

    vocabulary = Vocabulary(sorted(SYMBOLS)) if model.level == "char" else Vocabulary.of_bytes()
    training = {"corpus": {"name": "none: random weights for tests"}, "step": 0}
    folded = fold_weights(model.cell, model.layers, model.weights())
    return build_step_model(folded, vocabulary, training, model.precision).SerializeToString(
        deterministic=True
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for small in MODELS:
        small.path.write_bytes(make(small))
        print(small.path.name, small.path.stat().st_size)
