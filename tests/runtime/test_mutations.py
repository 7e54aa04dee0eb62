"""Model files with bytes changed at random: refused in one line, or they run.

CHARRNN_MUTATIONS says how many are tried; 300 unless it is set.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from charrnn_runtime import CharRNN, ModelFormatError
from hostile_files import FOLDER

NAMES = sorted(path.name for path in FOLDER.glob("*.onnx"))
COUNT = int(os.environ.get("CHARRNN_MUTATIONS", "300"))


def _mutated(data: bytes, draw: np.random.RandomState) -> bytes:
    """Some bytes set, flipped, cut out or put in; weights are many, so half of the changes fall elsewhere."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        if draw.randint(2):
            at = int(draw.randint(len(changed)))
        else:  # the nodes, and what follows the weights: inputs, outputs, metadata
            at = int(draw.choice([draw.randint(3000), len(changed) - 1 - draw.randint(3000)]))
        kind = draw.randint(5)
        if kind == 0:
            changed[at] = draw.randint(256)
        elif kind == 1:
            changed[at] ^= 1 << draw.randint(8)
        elif kind == 2:
            del changed[at : at + draw.randint(1, 9)]
        elif kind == 3:
            changed[at:at] = draw.bytes(draw.randint(1, 9))
        else:
            changed[at] = (changed[at] + draw.choice([1, 255])) % 256
    return bytes(changed)


def _refused_or_run(path: Path, seed: int) -> tuple[str, str]:
    """What the loader says of a file, or else what the model generates; any other error comes out."""
    try:
        return "", CharRNN.load(path, device="cpu").generate("", 20, seed=seed)
    except ModelFormatError as error:
        return str(error), ""


@pytest.mark.parametrize("chunk", range(10))
def test_random_changes_are_refused_or_run(
    chunk: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = 0
    for number in range(chunk * COUNT // 10, (chunk + 1) * COUNT // 10):
        draw = np.random.RandomState(number)
        path = tmp_path / "mutated.onnx"
        path.write_bytes(_mutated((FOLDER / NAMES[number % len(NAMES)]).read_bytes(), draw))
        refused, text = _refused_or_run(path, seed=number)
        assert refused.isprintable(), number
        if not refused:
            ran += 1
            assert 1 <= len(text) <= 20, number  # at the byte level several bytes may make one character
    assert ran  # most changes of a weight leave a model that runs
    assert capfd.readouterr().out == ""
