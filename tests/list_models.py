"""Small models that generate short items with many repetitions, like models of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from charrnn_runtime.format.reader import check_model_bytes
from hostile_files import changed, metadata, tensor

LETTERS = "abcd"


def list_model(path: Path, *, lines: bool = False) -> bytes:
    """The small model of a file, changed to generate mostly newlines and a few letters.

    Args:
        path: the file.
        lines: whether its metadata states that it was trained on lines.
    """
    data = path.read_bytes()
    likely = check_model_bytes(data, str(path)).info.vocabulary.encode("\n" + LETTERS)

    def raise_biases(model: Any) -> None:
        bias = tensor(model, "output_bias")
        numbers = np.frombuffer(bias.raw_data, np.float32).copy()
        numbers[likely] += 5
        bias.raw_data = numbers.tobytes()
        metadata("lines", "true" if lines else "false")(model)

    return changed(raise_biases, data)
