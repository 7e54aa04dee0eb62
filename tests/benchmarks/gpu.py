"""How fast text is generated on a GPU, against PyTorch eager and PyTorch with CUDA graphs on the same GPU.

    python tests/benchmarks/gpu.py [--json FILE]

Without a usable GPU it says what is missing and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import STEPS, TEMPERATURE, TOP_K, TOP_P, TorchNetwork
from benchmarks.machine import describe_machine, measure
from charrnn_runtime import CharRNN
from charrnn_runtime.session import cuda_missing
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.graph.step_model import build_step_model
from charrnn_trainer.graph.weights import fold_weights
from reference import random_weights

VOCABULARY_SIZE = 65
STREAMS = (1, 64, 1024, 8192)
Run = Callable[[], int]


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    missing = cuda_missing()
    if missing or not torch.cuda.is_available():
        raise SystemExit(f"no GPU to measure on: {missing or 'this torch is a build without CUDA'}")
    figures: dict[str, Any] = {
        "machine": describe_machine() | {"gpu": torch.cuda.get_device_name()},
        "speed": [],
    }
    print("; ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        for cell in ("lstm", "gru"):
            weights = random_weights(cell, 2, 256, VOCABULARY_SIZE)
            for streams in STREAMS:
                contenders = {
                    f"charrnn {precision}{', graphs' if graphs else ''}": _charrnn(
                        Path(folder), cell, weights, precision, streams, graphs
                    )
                    for precision in ("fp32", "fp16")
                    for graphs in (False, True)
                }
                contenders["torch eager"] = _torch(cell, weights, streams)
                contenders["torch CUDA graph"] = _torch_graph(cell, weights, streams)
                times = measure(contenders, repeats=5, seconds=0.5)
                figures["speed"].append({"cell": cell, "streams": streams, "microseconds": times})
                print(f"{cell.upper()} 2x256, {streams} stream(s)")
                for name, microseconds in times.items():
                    ratio = times["torch eager"] / microseconds
                    print(f"  {name:<20}{1e6 / microseconds:14,.0f} char/s  {ratio:6.2f} x torch eager")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _charrnn(
    folder: Path, cell: str, weights: dict[str, np.ndarray], precision: str, streams: int, graphs: bool
) -> Run:
    path = folder / f"{cell}-{precision}.onnx"
    if not path.exists():
        vocabulary = Vocabulary([chr(32 + index) for index in range(VOCABULARY_SIZE)])
        graph = build_step_model(fold_weights(cell, 2, weights), vocabulary, {}, precision)
        path.write_bytes(graph.SerializeToString())
    model = CharRNN.load(path, device="cuda", cuda_graphs=graphs)
    length = 256

    def run() -> int:
        texts = model.generate(
            [""] * streams, length, seed=1, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, rows=streams
        )
        assert len(texts) == streams
        return length * streams

    return run


def _torch(cell: str, weights: dict[str, np.ndarray], streams: int) -> Run:
    network = TorchNetwork(cell, 2, weights).cuda()
    token = torch.zeros(streams, dtype=torch.int64, device="cuda")
    zeros = torch.zeros(2, streams, 256, device="cuda")
    state: Any = (zeros, zeros.clone()) if cell == "lstm" else zeros

    def run() -> int:
        nonlocal token, state
        with torch.inference_mode():
            for _ in range(STEPS):
                token, state = network(token, state)
            token.tolist()
        return STEPS * streams

    return run


def _torch_graph(cell: str, weights: dict[str, np.ndarray], streams: int) -> Run:
    network = TorchNetwork(cell, 2, weights).cuda()
    token = torch.zeros(streams, dtype=torch.int64, device="cuda")
    zeros = torch.zeros(2, streams, 256, device="cuda")
    state: Any = (zeros, zeros.clone()) if cell == "lstm" else zeros

    def step() -> None:
        following, after = network(token, state)
        token.copy_(following)
        for held, new in zip(
            state if cell == "lstm" else (state,), after if cell == "lstm" else (after,), strict=True
        ):
            held.copy_(new)

    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()

    def run() -> int:
        for _ in range(STEPS):
            graph.replay()
        token.tolist()
        return STEPS * streams

    return run


if __name__ == "__main__":
    main()
