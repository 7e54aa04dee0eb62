"""Measures the speed of generation on a GPU against PyTorch eager and with CUDA graphs on the same GPU.

It also compares with a graph of ONNX's LSTM and GRU operators (cuDNN's on a GPU) with our sampler, bound and
run in the same way, which should replace our graph of single products if it were faster.

"charrnn" is the complete `generate`, including prompts, random numbers and text. "charrnn steps" is the bare
loop of steps, as for all others. fp32 is computed without tf32 everywhere.

    python tests/benchmarks/gpu.py [--cells NAME ...] [--streams N ...] [--repeats N] [--seconds S] [--json F]

The JSON file is rewritten after every row. Without a usable GPU, it prints what is missing and exits with 1.
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
import onnxruntime as ort
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import STEPS, TEMPERATURE, TOP_K, TOP_P, TorchNetwork
from benchmarks.machine import describe_machine, measure
from charrnn_runtime import CharRNN, Sampling
from charrnn_runtime.backends.device import cuda_missing
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.graph.sampler import add_sampler
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.builder import GraphBuilder
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from charrnn_trainer.training.precision import ComputeMode
from reference import random_weights

VOCABULARY_SIZE = 65
CELLS = ("lstm", "gru")
STREAMS = (1, 64, 1024, 8192)
Run = Callable[[], int]


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument(
        "--streams", nargs="+", type=int, default=STREAMS, help="numbers of streams, one row each"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats, of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds per contender and repeat")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    missing = _missing()
    if missing:
        raise SystemExit(f"no GPU to measure on: {missing}")
    figures: dict[str, Any] = {
        "machine": describe_machine() | {"gpu": torch.cuda.get_device_name()},
        "speed": [],
    }
    print("; ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    print("fp32 is without tf32")
    with tempfile.TemporaryDirectory() as folder, ComputeMode("fp32", True).on(torch.device("cuda")):
        for cell in arguments.cells:
            weights = random_weights(cell, 2, 256, VOCABULARY_SIZE)
            for streams in arguments.streams:
                contenders = _contenders(Path(folder), cell, weights, streams)
                times = measure(contenders, repeats=arguments.repeats, seconds=arguments.seconds)
                figures["speed"].append({"cell": cell, "streams": streams, "microseconds": times})
                print(f"{cell.upper()} 2x256, {streams} stream(s)")
                for name, microseconds in times.items():
                    ratio = times["torch eager"] / microseconds
                    print(f"  {name:<28}{1e6 / microseconds:14,.0f} char/s  {ratio:6.2f} x torch eager")
                sys.stdout.flush()
                if arguments.json:
                    arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _missing() -> str | None:
    """Why nothing can be measured; None if it can."""
    missing = cuda_missing()
    return missing or (None if torch.cuda.is_available() else "this torch is a build without CUDA")


def _contenders(folder: Path, cell: str, weights: dict[str, np.ndarray], streams: int) -> dict[str, Run]:
    """The contenders of one row by name."""
    contenders: dict[str, Run] = {}
    for precision in ("fp32", "fp16"):
        path = _model(folder, cell, weights, precision)
        for graphs, name in ((False, precision), (True, f"{precision}, graphs")):
            contenders[f"charrnn {name}"] = _charrnn(path, streams, graphs)
            contenders[f"charrnn steps {name}"] = _steps(path, streams, graphs)
    contenders["ONNX operators fp32"] = _operators(cell, weights, streams)
    for kind, name in ((torch.float32, ""), (torch.float16, " fp16")):
        contenders[f"torch eager{name}"] = _torch(cell, weights, streams, kind)
        contenders[f"torch CUDA graph{name}"] = _torch_graph(cell, weights, streams, kind)
    return contenders


def _model(folder: Path, cell: str, weights: dict[str, np.ndarray], precision: str) -> Path:
    path = folder / f"{cell}-{precision}.onnx"
    if not path.exists():
        vocabulary = Vocabulary([chr(32 + index) for index in range(VOCABULARY_SIZE)])
        graph = build_step_model(fold_weights(cell, 2, weights), vocabulary, {}, precision)
        path.write_bytes(graph.SerializeToString())
    return path


def _charrnn(path: Path, streams: int, graphs: bool) -> Run:
    model = CharRNN.load(path, device="cuda", cuda_graphs=graphs)
    length = 256

    def run() -> int:
        sampling = Sampling(TEMPERATURE, TOP_K, TOP_P)
        texts = model.generate([""] * streams, length, seed=1, sampling=sampling, max_batch_size=streams)
        assert len(texts) == streams
        return length * streams

    return run


def _steps(path: Path, streams: int, graphs: bool, device: str = "cuda") -> Run:
    """Only our steps, in a bare loop like those of the others: with the same numbers for every block."""
    engine = Engine(read_model_file(path), device, cuda_graphs=graphs)
    sampling, ranked = Sampling(TEMPERATURE, TOP_K, TOP_P), engine.info.top_k_max
    sizes: dict[str, Any] = {"steps": STEPS, "sampler": engine.sampler(sampling.cuts(ranked))}
    with engine.buffers(streams, **sizes) as buffers:
        buffers.tokens[:] = 0
        buffers.write_state(slice(None), 0.0)
        for name, value in sampling.inputs(ranked).items():
            buffers.settings[name][:] = value
        buffers.uniforms[:] = np.random.default_rng(0).random(buffers.uniforms.shape, np.float32)

    def run() -> int:
        with engine.buffers(streams, **sizes) as buffers:  # the same again
            buffers.run(STEPS)
            buffers.tokens[0] = buffers.tokens[STEPS]
        return STEPS * streams

    return run


def _operators(cell: str, weights: dict[str, np.ndarray], streams: int, device: str = "cuda") -> Run:
    """A graph of ONNX's recurrent operators, run with all buffers on the device."""
    session = ort.InferenceSession(
        operators_model(cell, 2, weights),
        providers=[
            ("CUDAExecutionProvider", {"use_tf32": "0"}) if device == "cuda" else "CPUExecutionProvider"
        ],
    )
    size = 256 * (4 if cell == "lstm" else 2)
    values = {
        "token": np.zeros(streams, np.int64),
        "state": np.zeros((streams, size), np.float32),
        "uniform": np.full(streams, 0.5, np.float32),
        "temperature": np.full(streams, TEMPERATURE, np.float32),
        "top_k": np.full(streams, TOP_K, np.int64),
        "top_p": np.full(streams, TOP_P, np.float32),
        "min_p": np.zeros(streams, np.float32),
    }
    held = {name: ort.OrtValue.ortvalue_from_numpy(value, device, 0) for name, value in values.items()}
    after = {name: ort.OrtValue.ortvalue_from_numpy(values[name], device, 0) for name in ("token", "state")}
    bindings = []
    for reads, writes in ((held, after), (after, held)):
        binding = session.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, reads.get(name, value))
        for name in ("token", "state"):
            binding.bind_ortvalue_output(f"next_{name}", writes[name])
        bindings.append(binding)

    def run() -> int:
        for index in range(STEPS):
            session.run_with_iobinding(bindings[index % 2])
        held["token"].numpy()
        return STEPS * streams

    return run


def operators_model(cell: str, layers: int, weights: dict[str, np.ndarray]) -> bytes:
    """The step of a network of ONNX's LSTM or GRU operators, with the inputs and outputs of our file."""
    builder = GraphBuilder()
    hidden = weights["rnn.weight_hh_l0"].shape[1]
    symbols = len(weights["output.bias"])
    axis = builder.constant("first", np.array([0], np.int64))
    one_hot = builder.constant("one_hot", np.eye(symbols, dtype=np.float32))
    x = builder.node("Unsqueeze", builder.node("Gather", one_hot, "token", axis=0), axis)  # (B) -> (1, B, V)
    kinds = 2 if cell == "lstm" else 1
    sizes = builder.constant("sizes", np.full(layers * kinds, hidden, np.int64))
    before = builder.nodes("Split", "state", sizes, outputs=layers * kinds, axis=1)
    states = [builder.node("Unsqueeze", state, axis) for state in before]  # (B, H) -> (1, B, H)
    # torch's gates are i, f, g, o and r, z, n; ONNX's are i, o, f, c and z, r, h.
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}[cell]
    after: list[list[str]] = [[] for _ in range(kinds)]
    for layer in range(layers):

        def blocks(name: str, layer: int = layer) -> np.ndarray:
            parts = np.split(weights[f"rnn.{name}_l{layer}"], len(order))
            return np.concatenate([parts[index] for index in order])[None]

        bias = np.concatenate([blocks("bias_ih"), blocks("bias_hh")], axis=1)
        inputs = [x]
        for name, value in (("W", blocks("weight_ih")), ("R", blocks("weight_hh")), ("B", bias)):
            inputs.append(builder.constant(name, value))
        inputs += ["", *states[layer::layers]]
        attributes: dict[str, Any] = {"linear_before_reset": 1} if cell == "gru" else {}
        outputs = builder.nodes(cell.upper(), *inputs, outputs=1 + kinds, hidden_size=hidden, **attributes)
        x = builder.node("Squeeze", outputs[0], builder.constant("direction", np.array([1], np.int64)))
        for kept, output in zip(after, outputs[1:], strict=True):
            kept.append(builder.node("Squeeze", output, axis))  # (1, B, H) -> (B, H)
    builder.node("Concat", *[state for kept in after for state in kept], name="next_state", axis=1)
    top = builder.node("Squeeze", x, axis)  # (1, B, H) -> (B, H)
    projection = [
        builder.constant("output", weights["output.weight"].T),
        builder.constant("bias", weights["output.bias"]),
    ]
    builder.node("Gemm", top, *projection, name="logits")
    add_sampler(builder, "logits", symbols)
    shape = {"state_size": hidden * layers * kinds, "vocab": symbols}
    data: bytes = builder.model(shape, {}, contrib=False).SerializeToString()
    return data


def _network(
    cell: str, weights: dict[str, np.ndarray], streams: int, kind: torch.dtype
) -> tuple[TorchNetwork, torch.Tensor, Any]:
    """The network, its first input tokens and its state, on the GPU."""
    network = TorchNetwork(cell, 2, weights).cuda().to(kind)
    zeros = torch.zeros(2, streams, 256, device="cuda", dtype=kind)
    state = (zeros, zeros.clone()) if cell == "lstm" else zeros
    return network, torch.zeros(streams, dtype=torch.int64, device="cuda"), state


def _torch(cell: str, weights: dict[str, np.ndarray], streams: int, kind: torch.dtype) -> Run:
    network, token, state = _network(cell, weights, streams, kind)

    def run() -> int:
        nonlocal token, state
        with torch.inference_mode():
            for _ in range(STEPS):
                token, state = network(token, state)
            token.tolist()
        return STEPS * streams

    return run


def _torch_graph(cell: str, weights: dict[str, np.ndarray], streams: int, kind: torch.dtype) -> Run:
    network, token, state = _network(cell, weights, streams, kind)

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
