"""Alternatives to charrnn: the same network and the same sampling, implemented in the usual ways.

All of them use weights from `reference.random_weights`, sample with temperature 0.8, top-k 40 and top-p 0.95,
and count one unit per character of each stream.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.95
STEPS = 16
"""The number of characters per stream in each call of a contender."""

# Reading the oneDNN flag makes torch query TF32 on Intel GPUs, and warn that there are none.
warnings.filterwarnings("ignore", message="TF32 acceleration", category=UserWarning)

Weights = Mapping[str, NDArray[np.float32]]
Run = Callable[[], int]


class TorchNetwork(nn.Module):
    """The network as written in tutorials."""

    def __init__(self, cell: str, layers: int, weights: Weights) -> None:
        super().__init__()
        hidden = weights["rnn.weight_hh_l0"].shape[1]
        self.vocabulary_size = len(weights["output.bias"])
        self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](self.vocabulary_size, hidden, layers)
        self.output = nn.Linear(hidden, self.vocabulary_size)
        self.load_state_dict({name: torch.from_numpy(weight.copy()) for name, weight in weights.items()})
        self.eval()

    def forward(self, token: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """One character: int64 ``[B]`` -> the next int64 ``[B]``, and the state."""
        one_hot = nn.functional.one_hot(token, self.vocabulary_size).to(self.output.weight.dtype)
        hidden, state = self.rnn(one_hot[None], state)  # (1, B, V) -> (1, B, H)
        logits = self.output(hidden[0]).float()
        values, symbols = torch.topk(logits / TEMPERATURE, TOP_K)  # (B, V) -> (B, 40)
        chances = torch.softmax(values, -1)
        before = torch.cumsum(chances, -1) - chances
        choice = torch.multinomial(chances.masked_fill(before >= TOP_P, 0.0), 1)
        return symbols.gather(1, choice)[:, 0], state


def torch_runner(
    cell: str, layers: int, weights: Weights, streams: int, *, onednn: bool = True, compiled: bool = False
) -> Run:
    """PyTorch, eager or compiled; the sampled characters reach Python as integers, as ours do."""
    network = TorchNetwork(cell, layers, weights)
    step = torch.compile(network) if compiled else network
    token = torch.zeros(streams, dtype=torch.int64)
    zeros = torch.zeros(layers, streams, network.rnn.hidden_size)
    state: Any = (zeros, zeros.clone()) if cell == "lstm" else zeros

    def run() -> int:
        nonlocal token, state
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=onednn):
            for _ in range(STEPS):
                token, state = step(token, state)
                token.tolist()
        return STEPS * streams

    return run


def numpy_runner(cell: str, layers: int, weights: Weights, streams: int) -> Run:
    """A plain NumPy loop, fp32."""
    input_weights = [weights[f"rnn.weight_ih_l{layer}"].T.copy() for layer in range(layers)]
    recurrent = [weights[f"rnn.weight_hh_l{layer}"].T.copy() for layer in range(layers)]
    input_bias = [weights[f"rnn.bias_ih_l{layer}"] for layer in range(layers)]
    recurrent_bias = [weights[f"rnn.bias_hh_l{layer}"] for layer in range(layers)]
    output, output_bias = weights["output.weight"].T.copy(), weights["output.bias"]
    hidden = recurrent[0].shape[0]
    h = [np.zeros((streams, hidden), np.float32) for _ in range(layers)]
    c = [np.zeros((streams, hidden), np.float32) for _ in range(layers)]
    generator = np.random.default_rng(0)
    token = np.zeros(streams, np.int64)

    def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = np.float32(1.0) / (np.float32(1.0) + np.exp(-x))
        return result

    def run() -> int:
        nonlocal token
        for _ in range(STEPS):
            x: Any = None
            for layer in range(layers):
                share = input_weights[0][token] if layer == 0 else x @ input_weights[layer]
                share = share + input_bias[layer]
                product = h[layer] @ recurrent[layer] + recurrent_bias[layer]
                if cell == "lstm":
                    i, f, g, o = np.split(share + product, 4, axis=1)
                    c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
                    x = sigmoid(o) * np.tanh(c[layer])
                else:
                    (ri, zi, ni), (rh, zh, nh) = np.split(share, 3, axis=1), np.split(product, 3, axis=1)
                    z = sigmoid(zi + zh)
                    n = np.tanh(ni + sigmoid(ri + rh) * nh)
                    x = (1.0 - z) * n + z * h[layer]
                h[layer] = x
            logits = (x @ output + output_bias) / np.float32(TEMPERATURE)
            chosen = np.argsort(-logits, axis=1)[:, :TOP_K]
            values = np.take_along_axis(logits, chosen, axis=1)
            chances = np.exp(values - values.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            sums = np.cumsum(chances, axis=1)
            chances[sums - chances >= TOP_P] = 0.0
            sums = np.cumsum(chances, axis=1)
            target = generator.random((streams, 1)) * sums[:, -1:]
            token = np.take_along_axis(chosen, (sums > target).argmax(axis=1)[:, None], axis=1)[:, 0]
        return STEPS * streams

    return run


def charrnn_runner(path: str, streams: int, threads: int | None, *, quick: bool = False) -> Run:
    """charrnn_runtime through its public interface; in shorter calls if ``quick``."""
    from charrnn_runtime import CharRNN

    model = CharRNN.load(path, device="cpu", threads=threads)
    prompts = [""] * streams
    # Calls are longer here, as in real use: each primes the model and decodes tokens to text.
    length = (1024 if streams == 1 else 256) // (8 if quick else 1)

    def run() -> int:
        texts = model.generate(prompts, length, seed=1, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P)
        assert len(texts) == streams
        return length * streams

    return run


@contextlib.contextmanager
def processes_runner(path: str, streams: int, processes: int, *, quick: bool = False) -> Iterator[Run]:
    """The same streams divided among single-threaded processes: the throughput of the cores without the
    contention for Python's lock."""
    code = (
        "import sys\nfrom benchmarks.contenders import charrnn_runner\n"
        f"run = charrnn_runner({path!r}, {-(-streams // processes)}, 1, quick={quick})\n"
        "for _ in sys.stdin:\n    print(run(), flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with contextlib.ExitStack() as running:
        workers = []
        for _ in range(processes):
            command = [sys.executable, "-c", code]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            running.callback(worker.kill)
            workers.append(running.enter_context(worker))

        def run() -> int:
            for worker in workers:
                print(file=worker.stdin, flush=True)
            return sum(int((worker.stdout or sys.stdin).readline()) for worker in workers)

        yield run


def bare_products(cell: str, layers: int, hidden: int, vocabulary_size: int, streams: int) -> dict[str, Run]:
    """The bare matrix products of a step, by dtype and library: the upper limit.

    The first layer's input product is a lookup in our graphs, so it is not included here either.
    """
    gates = {"lstm": 4, "gru": 3}[cell] * hidden
    shapes = [(hidden, gates)] + [(2 * hidden, gates)] * (layers - 1) + [(hidden, vocabulary_size)]
    draw = np.random.default_rng(0)
    left = [draw.uniform(-1, 1, (streams, rows)).astype(np.float32) for rows, _ in shapes]
    right = [draw.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    results = [np.empty((streams, columns), np.float32) for _, columns in shapes]
    torch_left, torch_right = [torch.from_numpy(x) for x in left], [torch.from_numpy(x) for x in right]
    torch_results = [torch.from_numpy(x) for x in results]

    def with_numpy() -> int:
        for a, b, out in zip(left, right, results, strict=True):
            np.matmul(a, b, out=out)
        return streams

    def with_torch() -> int:
        with torch.inference_mode():
            for a, b, out in zip(torch_left, torch_right, torch_results, strict=True):
                torch.mm(a, b, out=out)
        return streams

    runs = {
        "fp32 numpy": with_numpy,
        "fp32 torch": with_torch,
        "fp32 onnxruntime": _ort_products(shapes, streams, "MatMul"),
        "int8 onnxruntime": _ort_products(shapes, streams, "MatMulInteger"),
        # Ours use this operator, which also scales and adds the bias.
        "int8 onnxruntime, scaled": _ort_products(shapes, streams, "QGemm"),
    }
    bytes_left = [torch.from_numpy((x * 127).astype(np.int8)) for x in left]
    bytes_right = [torch.from_numpy((x * 127).astype(np.int8)) for x in right]

    def with_torch_int8() -> int:
        with torch.inference_mode():
            for a, b in zip(bytes_left, bytes_right, strict=True):
                torch._int_mm(a, b)
        return streams

    # PyTorch's own int8 product, which is not public and does not support every shape.
    with contextlib.suppress(AttributeError, RuntimeError, NotImplementedError):
        with_torch_int8()
        runs["int8 torch"] = with_torch_int8
    return runs


def _ort_products(shapes: list[tuple[int, int]], streams: int, operator: str) -> Run:
    """All products in one graph and one call, with preallocated bindings."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    integer = operator in ("MatMulInteger", "QGemm")
    scaled = operator == "QGemm"
    nodes, inputs, outputs, weights = [], [], [], []
    bound: list[tuple[str, NDArray[Any], bool]] = []
    for index, (rows, columns) in enumerate(shapes):
        if integer:
            matrix: NDArray[Any] = draw.integers(-64, 64, (rows, columns)).astype(np.int8)
            value: NDArray[Any] = draw.integers(0, 256, (streams, rows)).astype(np.uint8)
            zero_point = numpy_helper.from_array(np.array(128, np.uint8), f"z{index}")
            weights.append(zero_point)
        else:
            matrix = draw.uniform(-1, 1, (rows, columns)).astype(np.float32)
            value = draw.uniform(-1, 1, (streams, rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        names = [f"x{index}", f"w{index}"] + ([f"z{index}"] if integer else [])
        if scaled:
            for name, constant in (
                ("s", np.array(0.01, np.float32)),
                ("o", np.array(0, np.int8)),
                ("b", np.zeros(columns, np.int32)),
            ):
                weights.append(numpy_helper.from_array(constant, f"{name}{index}"))
            names = [f"{name}{index}" for name in ("x", "s", "z", "w", "s", "o", "b")]
        domain = "com.microsoft" if scaled else ""
        nodes.append(helper.make_node(operator, names, [f"y{index}"], domain=domain))
        kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
        result = TensorProto.INT32 if integer and not scaled else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(f"x{index}", kind, [streams, rows]))
        outputs.append(helper.make_tensor_value_info(f"y{index}", result, [streams, columns]))
        bound.append((f"x{index}", value, True))
        out = np.empty((streams, columns), np.float32 if result == TensorProto.FLOAT else np.int32)
        bound.append((f"y{index}", out, False))
    model = helper.make_model(
        helper.make_graph(nodes, "products", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_reuse = False
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array, is_input in bound:
        bind = binding.bind_input if is_input else binding.bind_output
        bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
    run_bound, raw, run_options = session._sess.run_with_iobinding, binding._iobinding, ort.RunOptions()
    kept = (session, binding, bound)

    def run() -> int:
        assert kept
        for _ in range(STEPS):
            run_bound(raw, run_options)
        return STEPS * streams

    return run
