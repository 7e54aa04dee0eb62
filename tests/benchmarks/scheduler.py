"""Measures the time of the scheduler itself, with buffers that compute nothing.

    python tests/benchmarks/scheduler.py [--streams 8192] [--length 256] [--short 1000000]

Prints the CPU time for 8,192 streams of 256 characters, in total and per block of 32 steps; then whether
memory stays flat over a million short requests.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime.backends.buffers import BLOCK, Buffers, Sizes
from charrnn_runtime.format.reader import ModelInfo, read_model_file
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scheduling.request import Request
from charrnn_runtime.scheduling.scheduler import Scheduler

MODEL = Path(__file__).resolve().parents[1] / "models" / "lstm-2x12-fp32.onnx"
REPEATS = 7


class NoBuffers(Buffers):
    """Buffers that compute nothing: every stream samples token 1."""

    def __init__(self, sizes: Sizes) -> None:
        self.reset = np.ones((sizes.steps, sizes.rows), np.int64)
        super().__init__(_NoSession(), sizes)

    def run(self, steps: int, *_: Any) -> int:
        self.tokens[1 : steps + 1] = 1
        return steps


class _NoSession:
    class _sess:  # noqa: N801 - onnxruntime's own name
        run_with_iobinding = None


class NoEngine:
    """The engine interface used by the scheduler, without a model."""

    def __init__(self, info: ModelInfo, threads: int = 1) -> None:
        self.info, self.threads, self.device = info, threads, "cpu"
        self._made: dict[Sizes, NoBuffers] = {}

    def sampler(self, wanted: Cuts | None) -> Cuts | None:
        """The sampler to run for a requested one."""
        return wanted

    @contextlib.contextmanager
    def buffers(self, rows: int, **how: Any) -> Iterator[NoBuffers]:
        """Create buffers."""
        sizes = Sizes(
            rows=rows, state_size=self.info.state_size, vocabulary_size=len(self.info.vocabulary), **how
        )
        if sizes not in self._made:
            self._made[sizes] = NoBuffers(sizes)
        yield self._made[sizes]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=8192, help="number of simultaneous requests")
    parser.add_argument("--length", type=int, default=256, help="characters sampled per request")
    parser.add_argument("--short", type=int, default=1_000_000, help="number of short requests that follow")
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    engine: Any = NoEngine(read_model_file(MODEL).info)
    everything, blocks = measure(engine, arguments.streams, arguments.length)
    print(
        f"{arguments.streams:,} streams of {arguments.length} characters: {everything:.1f} ms of CPU in all; "
        f"a block of {BLOCK} steps:  {blocks:.2f} ms"
    )
    if arguments.short:
        before, after, seconds = short_requests(engine, arguments.short)
        print(
            f"{arguments.short:,} short requests: {arguments.short / seconds:,.0f} per second; peak memory "
            f"{before:.0f} MB after the first tenth, {after:.0f} MB at the end"
        )


def measure(engine: Any, streams: int, length: int) -> tuple[float, float]:
    """CPU milliseconds for a number of streams, and for a block in the middle: the best of several tries."""
    start = np.array([0])
    sampling = Sampling()
    totals, blocks = [], []
    for _ in range(REPEATS):
        begin = time.process_time()
        scheduler = Scheduler(engine, max_batch_size=streams)
        scheduler.submit(
            *(Request(start, length, number=i, sampling=sampling, seed=1) for i in range(streams))
        )
        ended = 0
        while scheduler.busy:
            block = time.process_time()
            outputs = scheduler.run_block()
            if not outputs:
                blocks.append(time.process_time() - block)
            ended += len(outputs)
        scheduler.close()
        totals.append(time.process_time() - begin)
        assert ended == streams
    middle = sorted(blocks)[: len(blocks) // 2 + 1]
    return min(totals) * 1e3, middle[-1] * 1e3


def short_requests(engine: Any, count: int) -> tuple[float, float, float]:
    """Peak memory in MB after a tenth of some short requests and after all of them, and the seconds taken."""
    scheduler = Scheduler(engine, max_batch_size=64, max_waiting=256)
    prompts: list[NDArray[np.int64]] = [np.zeros(1 + i % 3, np.int64) for i in range(3)]
    submitted = ended = 0
    before = 0.0
    begin = time.perf_counter()
    while ended < count:
        while submitted < count and scheduler.room > -128:
            prompt = prompts[submitted % 3]
            scheduler.submit(Request(prompt, submitted % 5, number=submitted, live=submitted % 7 == 0))
            submitted += 1
        ended += sum(output.finished is not None for output in scheduler.run_block())
        if not before and ended > count // 10:
            before = _peak()
    scheduler.close()
    return before, _peak(), time.perf_counter() - begin


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
