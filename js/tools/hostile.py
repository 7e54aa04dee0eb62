"""Collects the files that the tests of the Python reader try on it, with what it makes of each.

    python js/tools/hostile.py FOLDER [--quick]

The tests of the reader run as they are, and whatever they let it read is recorded; mutated models follow.
The folder gets `hostile.bin`, all files one after the other, and `hostile.json`, which says of each how many
bytes it has and whether the reader refuses it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]

from charrnn_runtime import ModelFormatError  # noqa: E402
from charrnn_runtime.format import reader  # noqa: E402
from mutations import Draw, changed_model  # noqa: E402
from subjects import MODELS  # noqa: E402

TESTS = ("hostile_models", "reader", "graph_check", "proto")
LARGEST = 1 << 20


class Recorder:
    """Stands in for the reader, which it asks and writes down what it says."""

    def __init__(self) -> None:
        self.files: dict[bytes, str | None] = {}
        self._checked = reader._checked

    def __call__(self, data: bytes, path: str) -> Any:
        try:
            model = self._checked(data, path)
        except ModelFormatError as error:
            self._record(data, str(error))
            raise
        self._record(data, None)
        return model

    def _record(self, data: bytes, refusal: str | None) -> None:
        if len(data) <= LARGEST:
            self.files[data] = refusal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    recorder = Recorder()
    reader._checked = recorder
    tests = [
        str(ROOT / "tests" / "runtime" / f"test_{name}.py")
        for name in TESTS[: 1 if arguments.quick else None]
    ]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *tests])
    if code:
        sys.exit(f"the tests of the reader fail: {code}")
    for seed in range(200 if arguments.quick else 1000):
        first, other = MODELS[seed % len(MODELS)], MODELS[(seed + 1) % len(MODELS)]
        with contextlib.suppress(ModelFormatError):
            recorder(changed_model(first, other, Draw(seed)), "mutated.onnx")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "hostile.bin").write_bytes(b"".join(recorder.files))
    listed = [{"bytes": len(data), "refusal": refusal} for data, refusal in recorder.files.items()]
    (arguments.folder / "hostile.json").write_text(json.dumps(listed), encoding="utf-8")
    refused = sum(refusal is not None for refusal in recorder.files.values())
    print(f"{len(listed)} files, of which the reader refuses {refused}")


if __name__ == "__main__":
    main()
