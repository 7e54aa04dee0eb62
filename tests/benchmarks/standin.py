"""Measures the host time for many streams on a GPU whose kernels take no time.

    LD_LIBRARY_PATH=FOLDER python tests/benchmarks/standin.py [--streams 8192] [--length 1024] [--graphs]

FOLDER contains stubs of the CUDA libraries: onnxruntime's real CUDA provider runs on them, memory is host
memory, and kernels do nothing (`nox -s cuda_standin` builds them). It prints CPU time for creating the
requests and running the first block of steps, for a block in the middle, and for the end: in onnxruntime,
which launches the kernels, and in everything else (Python, NumPy, and copies to and from the GPU). It says
nothing about the speed of a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime.backends import session
from charrnn_runtime.backends.buffers import Buffers
from charrnn_runtime.backends.device import _preload_cuda
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scheduling.request import Request
from charrnn_runtime.scheduling.scheduler import Scheduler

MODEL = Path(__file__).resolve().parents[2] / "models" / "lstm.onnx"
REPEATS = 5


class Clock:
    """The CPU time of the process, split into onnxruntime's steps and the rest."""

    def __init__(self) -> None:
        self.steps = 0.0
        use = Buffers._use

        def timed_use(buffers: Buffers, of: Any) -> None:
            use(buffers, of)
            run = buffers._run_bound

            def timed(binding: Any, options: Any) -> None:
                begin = time.process_time()
                run(binding, options)
                self.steps += time.process_time() - begin

            buffers._run_bound = timed

        setattr(Buffers, "_use", timed_use)  # noqa: B010 - a method is not assigned otherwise

    def now(self) -> np.ndarray:
        """Milliseconds outside of steps, and in steps."""
        return 1e3 * np.array([time.process_time() - self.steps, self.steps])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=8192, help="number of simultaneous streams")
    parser.add_argument("--length", type=int, default=1024, help="characters sampled per stream")
    parser.add_argument("--graphs", action="store_true", help="capture CUDA graphs")
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    # Kernels that do nothing do not pass the trial step.
    setattr(session, "choose_device", lambda device, *_: (device, ""))  # noqa: B010
    _preload_cuda()
    clock = Clock()
    engine = session.Engine(read_model_file(MODEL), "cuda", cuda_graphs=arguments.graphs)
    rounds = [measure(engine, clock, arguments.streams, arguments.length) for _ in range(1 + REPEATS)]
    print(f"{arguments.streams:,} streams of {arguments.length} characters, CPU ms (Python, onnxruntime):")
    for name in rounds[0]:
        first, *others = (each[name] for each in rounds)
        words = ", ".join(f"{value:.2f}" for value in np.median(others, axis=0))
        print(f"  {name:<22}{words}   (the first time: {', '.join(f'{value:.2f}' for value in first)})")


def measure(engine: session.Engine, clock: Clock, streams: int, length: int) -> dict[str, np.ndarray]:
    """Milliseconds by part, each in Python and in onnxruntime's steps."""
    begin = clock.now()
    start, sampling = np.array([0]), Sampling()
    scheduler = Scheduler(engine, max_batch_size=streams)
    scheduler.submit(
        *(Request(start, length, number=number, sampling=sampling, seed=1) for number in range(streams))
    )
    scheduler.run_block()
    start_taken = clock.now() - begin
    blocks, ended = [], 0
    while scheduler.busy:
        begin = clock.now()
        ended += len(scheduler.run_block())
        blocks.append(clock.now() - begin)
    scheduler.close()
    assert ended == streams
    return {
        "start": start_taken,
        "a block, median": np.array([statistics.median(part) for part in np.transpose(blocks[:-1])]),
        "a block, mean": np.mean(blocks[:-1], axis=0),
        "end": blocks[-1],
    }


if __name__ == "__main__":
    main()
