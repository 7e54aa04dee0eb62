"""Measures the speed of generation, compared with alternatives and with the upper limit.

    python tests/benchmarks/generation.py [--json FILE] [--quick]

The table shows microseconds per character and characters per second for each network and number of streams.
The limit is the bare matrix products of the same shapes and dtype, in the fastest of NumPy, torch and
onnxruntime. It is followed by the speed-up of all cores over one, alone and with a busy process in the
background; start-up time (process start to first character), peak memory, and installed size.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import bare_products, charrnn_runner, numpy_runner, processes_runner, torch_runner
from benchmarks.machine import describe_machine, measure
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from reference import random_weights

VOCABULARY_SIZE = 65
NETWORKS = [(cell, layers, hidden) for layers, hidden in ((2, 256), (3, 512)) for cell in ("lstm", "gru")]
STREAMS = (1, 64, 512)
PARTS = ("speed", "cores", "startup", "installed")
CORES_STREAMS = (1, 128)  # one stream stays on one thread and must not get slower

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""The variables that set the threads of NumPy's matrix products; the default is all cores."""


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--json", type=Path, help="write the figures to this file; parts not measured are kept"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats, for a quick check")
    parser.add_argument("--threads", type=int, default=1, help="threads for every contender, including NumPy")
    parser.add_argument("--no-compiled", action="store_true", help="skip compiled PyTorch (saves minutes)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    arguments = parser.parse_args()
    if os.environ.get(BLAS_THREADS) != str(arguments.threads):
        # NumPy reads this at import, so the measurement runs in a process started with it.
        environment = os.environ | {BLAS_THREADS: str(arguments.threads)}
        again = subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment, check=False)
        raise SystemExit(again.returncode)
    torch.set_num_threads(arguments.threads)
    figures: dict[str, Any] = {"machine": describe_machine(), "threads": arguments.threads}
    if "speed" in arguments.parts:
        figures["numpy_threads"] = arguments.threads
    run = time.strftime("%Y-%m-%dT%H:%M:%S")
    print("; ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    print(f"{arguments.threads} thread(s) each; temperature 0.8, top-k 40, top-p 0.95; medians\n")
    with tempfile.TemporaryDirectory() as folder:
        if "speed" in arguments.parts:
            figures["speed"] = []
            for cell, layers, hidden in NETWORKS:
                for streams in STREAMS:
                    row = measure_network(Path(folder), cell, layers, hidden, streams, arguments)
                    figures["speed"].append(row)
                    show(row)
        if "cores" in arguments.parts:
            figures["cores"] = [
                measure_cores(Path(folder), cell, layers, hidden, streams, arguments)
                for cell, layers, hidden in NETWORKS
                for streams in CORES_STREAMS
            ]
        if "startup" in arguments.parts:
            figures["startup"] = startup(Path(folder), 3 if arguments.quick else 11)
            show_startup(figures["startup"])
    if "installed" in arguments.parts:
        figures["installed"] = installed_sizes()
        for name, size in figures["installed"].items():
            print(f"installed size, {name}: {size / 1e6:,.0f} MB")
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        if before and before["machine"] != figures["machine"] and set(arguments.parts) != set(PARTS):
            raise SystemExit(f"{arguments.json} is from another machine or other versions: measure all parts")
        runs = before.get("runs", {}) | dict.fromkeys(arguments.parts, run)
        arguments.json.write_text(json.dumps(before | figures | {"runs": runs}, indent=1) + "\n")


def measure_network(
    folder: Path, cell: str, layers: int, hidden: int, streams: int, arguments: Any
) -> dict[str, Any]:
    """Measure all contenders on one network and number of streams."""
    repeats, seconds = (3, 0.05) if arguments.quick else (7, 0.25)
    weights = _weights(cell, layers, hidden)
    contenders = {}
    for precision in ("int8", "fp32"):
        path = folder / f"{cell}-{layers}x{hidden}-{precision}.onnx"
        if not path.exists():
            path.write_bytes(step_model(cell, layers, weights, precision))
        contenders[f"charrnn {precision}"] = charrnn_runner(
            str(path), streams, arguments.threads, quick=arguments.quick
        )
    contenders["torch eager"] = torch_runner(cell, layers, weights, streams)
    contenders["torch eager, no oneDNN"] = torch_runner(cell, layers, weights, streams, onednn=False)
    skipped = ""
    if not arguments.no_compiled:
        try:
            compiled = torch_runner(cell, layers, weights, streams, compiled=True)
            compiled()
            contenders["torch compiled"] = compiled
        except Exception as error:  # no C++ compiler, or a network that cannot be compiled
            skipped = f"torch compiled: {type(error).__name__}"
    contenders["numpy"] = numpy_runner(cell, layers, weights, streams)
    limits = bare_products(cell, layers, hidden, VOCABULARY_SIZE, streams)
    times = measure({**contenders, **limits}, repeats=repeats, seconds=seconds)
    limit = {kind: min(times[name] for name in limits if name.startswith(kind)) for kind in ("fp32", "int8")}
    eager = min(times["torch eager"], times["torch eager, no oneDNN"])
    return {
        "cell": cell,
        "layers": layers,
        "hidden_size": hidden,
        "streams": streams,
        "microseconds": {name: times[name] for name in contenders},
        "limit": limit,
        "bare_products": {name: times[name] for name in limits},
        "times_fastest_eager": {name: eager / times[name] for name in ("charrnn int8", "charrnn fp32")},
        "times_limit": {f"charrnn {kind}": times[f"charrnn {kind}"] / limit[kind] for kind in limit},
        "skipped": skipped,
    }


def _busy_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def measure_cores(
    folder: Path, cell: str, layers: int, hidden: int, streams: int, arguments: Any
) -> dict[str, Any]:
    """Measure streams of one network on one thread and on all cores, alone and with a busy process."""
    repeats, seconds = (3, 0.1) if arguments.quick else (7, 1.0)
    path = folder / f"{cell}-{layers}x{hidden}-int8.onnx"
    if not path.exists():
        path.write_bytes(step_model(cell, layers, _weights(cell, layers, hidden), "int8"))
    contenders = {
        name: charrnn_runner(str(path), streams, threads, quick=arguments.quick)
        for name, threads in (("1 thread", 1), ("all cores", None))
    }
    cores = int(describe_machine()["cores"])
    with ExitStack() as running:
        if streams > 1:
            apart = processes_runner(str(path), streams, cores, quick=arguments.quick)
            contenders["separate processes"] = running.enter_context(apart)
        times = measure(contenders, repeats=repeats, seconds=seconds)
        contenders.pop("separate processes", None)
        running.callback(running.enter_context(_busy_process()).kill)
        beside = measure(contenders, repeats=repeats, seconds=seconds)
    print(f"{cell.upper()} {layers}x{hidden} int8, {streams} stream(s)")
    for what, each in (("", times), (" beside a busy process", beside)):
        ratio = each["1 thread"] / each["all cores"]
        print(
            f"  all cores{what}: {1e6 / each['all cores']:,.0f} char/s, {ratio:.2f} x one thread's "
            f"{1e6 / each['1 thread']:,.0f}"
        )
    if "separate processes" in times:
        rate, ratio = 1e6 / times["separate processes"], times["1 thread"] / times["separate processes"]
        print(f"  {cores} separate processes of one thread: {rate:,.0f} char/s, {ratio:.2f} x")
    print(flush=True)
    return {
        "cell": cell,
        "layers": layers,
        "hidden_size": hidden,
        "streams": streams,
        "microseconds": times,
        "microseconds_beside_a_busy_process": beside,
    }


def _weights(cell: str, layers: int, hidden: int) -> dict[str, np.ndarray]:
    """Weights as large as trained ones, so that the sampler gets a distribution like that of text."""
    return {
        name: weight * np.float32(0.3 if name.startswith("rnn") else 1.0)
        for name, weight in random_weights(cell, layers, hidden, VOCABULARY_SIZE).items()
    }


def step_model(cell: str, layers: int, weights: dict[str, np.ndarray], precision: str) -> bytes:
    """A step model file with these weights."""
    vocabulary = Vocabulary([chr(32 + index) for index in range(VOCABULARY_SIZE)])
    folded = fold_weights(cell, layers, weights)
    data: bytes = build_step_model(folded, vocabulary, {}, precision).SerializeToString()
    return data


def show(row: dict[str, Any]) -> None:
    """Print the results of one network and number of streams."""
    print(f"{row['cell'].upper()} {row['layers']}x{row['hidden_size']}, {row['streams']} stream(s)")
    eager = min(time for name, time in row["microseconds"].items() if name.startswith("torch eager"))
    for name, microseconds in row["microseconds"].items():
        line = f"  {name:<24}{microseconds:10.2f} us/char {1e6 / microseconds:12,.0f} char/s"
        line += f"  {eager / microseconds:6.2f} x fastest eager"
        if name in row["times_limit"]:
            line += f"  {row['times_limit'][name]:5.2f} x its bare products"
        print(line)
    for name, microseconds in row["bare_products"].items():
        print(f"  bare products: {name:<26}{microseconds:10.2f} us/char")
    if row["skipped"]:
        print(f"  {row['skipped']}")
    print(flush=True)


BARE = "import numpy, onnxruntime; print('x')"

TORCH_SCRIPT = """
import sys, torch
network = torch.nn.LSTM(65, 256, 2); output = torch.nn.Linear(256, 65)
weights = torch.load(sys.argv[1], weights_only=True)
network.load_state_dict(weights["rnn"]); output.load_state_dict(weights["output"])
with torch.inference_mode():
    hidden, state = network(torch.nn.functional.one_hot(torch.tensor([[0]]), 65).float())
    print(torch.multinomial(torch.softmax(output(hidden[0]) / 0.8, -1), 1).item())
"""


def startup(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds from process start to the first character, and the process's peak memory in MB."""
    weights = random_weights("lstm", 2, 256, VOCABULARY_SIZE)
    rnn = {name[4:]: torch.from_numpy(weight) for name, weight in weights.items() if name.startswith("rnn.")}
    output = {name[7:]: torch.from_numpy(w) for name, w in weights.items() if name.startswith("output.")}
    torch.save({"rnn": rnn, "output": output}, folder / "weights.pt")
    model = folder / "startup.onnx"
    model.write_bytes(step_model("lstm", 2, weights, "int8"))
    commands = {
        "import numpy, onnxruntime": [sys.executable, "-c", BARE],
        "the same with telemetry off": [
            *(sys.executable, "-c", "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; " + BARE),
        ],
        "charrnn-gen": [sys.executable, "-m", "charrnn_runtime.cli.gen", str(model), "-q", "-s", "1"],
        "PyTorch script": [sys.executable, "-c", TORCH_SCRIPT, str(folder / "weights.pt")],
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, command in commands.items():
            taken = _first_byte(command)
            if repeat:  # the first start compiles bytecode
                milliseconds[name].append(taken)
    return {
        name: {
            "milliseconds": statistics.median(milliseconds[name]),
            "peak_megabytes": _peak_megabytes(command),
        }
        for name, command in commands.items()
    }


def _users_environment() -> dict[str, str]:
    """The environment of a typical user."""
    # Installed packages are compiled; so are those of a checkout after the first start, if Python can write.
    ours = (BLAS_THREADS, "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in ours}


def _first_byte(command: list[str]) -> float:
    """Milliseconds from process start to the first byte of output."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_users_environment()
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        milliseconds = (time.perf_counter() - begin) * 1e3
        process.stdout.read()
    if not first or process.returncode:
        raise SystemExit(f"{command} failed")
    return milliseconds


PEAK_SCRIPT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _peak_megabytes(command: list[str]) -> float:
    """The peak memory of a command, started from a small process: a child inherits its parent's peak."""
    watched = [sys.executable, "-c", PEAK_SCRIPT, *command]
    done = subprocess.run(watched, check=True, capture_output=True, env=_users_environment())
    return int(done.stdout) / 1024


def show_startup(figures: dict[str, dict[str, float]]) -> None:
    """Print the start-up times."""
    bare = figures["import numpy, onnxruntime"]["milliseconds"]
    for name, item in figures.items():
        print(
            f"start-up, {name:<28}{item['milliseconds']:8.0f} ms {item['milliseconds'] / bare:6.2f} x the "
            f"bare import; peak memory {item['peak_megabytes']:6.0f} MB"
        )


def installed_sizes() -> dict[str, int]:
    """Bytes of a distribution and all its dependencies."""
    return {
        "charrnn-runtime with its dependencies": sum(_sizes("charrnn-runtime", {}).values()),
        "with torch": sum(_sizes("torch", _sizes("charrnn-runtime", {})).values()),
    }


def _sizes(name: str, seen: dict[str, int]) -> dict[str, int]:
    """The sizes of a distribution and, recursively, of its dependencies."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return seen
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    seen[key] = sum(file.stat().st_size for file in files if file.is_file())
    for requirement in distribution.requires or []:
        if "extra ==" not in requirement:
            needed = re.match(r"[A-Za-z0-9._-]+", requirement)
            if needed:
                _sizes(needed[0], seen)
    return seen


if __name__ == "__main__":
    main()
