"""Measures the npm package in Node and Chromium against the Python runtime, interleaved in one run.

    python3 noxfile.py bench -- javascript [--rounds 7]

Each contender generates the same texts with one thread. A row shows the median of the rounds' ratios, which
are less sensitive to other load than the rates, and the best rate of each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime

from charrnn_runtime import CharRNN

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.machine import describe_machine  # noqa: E402

TASKS = (
    ("models/lstm.onnx", 1, 1500),
    ("models/lstm.onnx", 64, 100),
    ("models/lstm.int8.onnx", 1, 1500),
    ("models/lstm.int8.onnx", 64, 100),
    ("models/gru.onnx", 1, 1500),
    ("models/best.onnx", 1, 400),
)
ELSEWHERE = ("node", "chromium")
INT8 = "models/lstm.int8.onnx"
TEXT = ROOT / "data" / "tinyshakespeare.txt"


class Contenders:
    """The Python runtime in this process, and the two others in a Node process."""

    def __init__(self) -> None:
        self.models: dict[str, CharRNN] = {}
        command = ["node", "js/tools/speed.js"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def generate(self, where: str, model: str, streams: int, length: int) -> dict[str, Any] | None:
        """The seconds and texts of a task; None if the contender is not available."""
        if where != "python":
            return self._elsewhere({"where": where, "model": model, "streams": streams, "length": length})
        before = time.perf_counter()
        texts = self._model(model).generate(["LORD "] * streams, length, seed=1)
        return {"seconds": time.perf_counter() - before, "texts": texts}

    def nats(self, where: str, model: str, text: str) -> float | None:
        """The loss of a text."""
        if where == "python":
            return self._model(model).score(text).nats
        answer = self._elsewhere({"where": where, "model": model, "text": text})
        return float(answer["nats"]) if answer else None

    def close(self) -> None:
        """End the Node process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _model(self, path: str) -> CharRNN:
        if path not in self.models:
            self.models[path] = CharRNN.load(ROOT / path, device="cpu", threads=1)
        return self.models[path]

    def _elsewhere(self, task: dict[str, Any]) -> dict[str, Any] | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the Node process has ended: see above")
        answer: dict[str, Any] | None = json.loads(line)
        return answer


def speed(contenders: Contenders, rounds: int) -> None:
    """Print the table of rates."""
    print("| model, streams | Python | Node | of Python | Chromium | of Python |")
    print("|---|---|---|---|---|---|")
    for model, streams, length in TASKS:
        rates: dict[str, list[float]] = {where: [] for where in ("python", *ELSEWHERE)}
        for where in rates:  # the first run loads the model
            contenders.generate(where, model, streams, length)
        for _ in range(rounds):
            for where, found in rates.items():
                answer = contenders.generate(where, model, streams, length)
                if answer:
                    found.append(streams * length / answer["seconds"])
        cells = [f"{model.removeprefix('models/')}, {streams}", f"{max(rates['python']):,.0f}"]
        for where in ELSEWHERE:
            pairs = list(zip(rates[where], rates["python"], strict=False))
            if pairs:
                ratio = statistics.median(one / other for one, other in pairs)
                cells += [f"{max(rates[where]):,.0f}", f"{ratio:.2f}"]
            else:
                cells += ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


def quality(contenders: Contenders) -> None:
    """Print the number of equal texts and the bits per character of an int8 model in each contender."""
    print(f"\n{INT8}, compared with the Python runtime:")
    here = contenders.generate("python", INT8, 64, 300)
    text = TEXT.read_text(encoding="utf-8")[-20_000:] if TEXT.is_file() else ""
    bits = math.log(2) * max(len(text), 1)
    if text:
        print(f"python: {(contenders.nats('python', INT8, text) or 0) / bits:.5f} bits per character")
    for where in ELSEWHERE:
        there = contenders.generate(where, INT8, 64, 300)
        if not here or not there:
            continue
        equal = sum(one == other for one, other in zip(here["texts"], there["texts"], strict=True))
        print(f"{where}: {equal} of 64 texts of 300 characters are equal")
        if text:
            print(f"{where}: {(contenders.nats(where, INT8, text) or 0) / bits:.5f} bits per character")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    packages = json.loads((ROOT / "js/package.json").read_text(encoding="utf-8"))["devDependencies"]
    contenders = Contenders()
    speed(contenders, rounds)
    quality(contenders)
    contenders.close()
    print(
        f"\nonnxruntime {onnxruntime.__version__} in Python, "
        f"onnxruntime-node {packages['onnxruntime-node']}, "
        f"onnxruntime-web {packages['onnxruntime-web']}; {describe_machine()['processor']}."
    )


if __name__ == "__main__":
    main()
