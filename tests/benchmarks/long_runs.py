"""Checks that memory and speed stay flat over millions of characters on one and on many streams, and many
loads.

    python tests/benchmarks/long_runs.py [MODEL.onnx] [--million N] [--cycles N]

Each tenth of the work prints a line: characters per second, and the process's resident memory. Below that is
the growth of memory after the first tenth, and in the second half, when all buffers are allocated. With
--cycles, the model is also loaded, used and dropped that many times. The exit code is 1 if memory grew by
more than GROWTH_MB in the second half of any work.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime import CharRNN

ROOT = Path(__file__).resolve().parents[2]
STREAM_LENGTH = 10_000
GROWTH_MB = 3.0
"""The tolerance for equal work: allocators return pages at arbitrary times."""
SLOWER = 2.0
"""The allowed slowdown of the last tenths relative to the first: speeds vary on a busy machine, and the last
streams may not fill the batch."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models" / "lstm.int8.onnx")
    parser.add_argument("--million", type=int, default=10, help="million characters on many streams")
    parser.add_argument("--cycles", type=int, default=0, help="number of times to load and drop the model")
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(f"{arguments.model.name}, one thread")
    model = CharRNN.load(arguments.model, device="cpu")
    flat = [one_stream(model), many_streams(model, arguments.million * 1_000_000)]
    if arguments.cycles:
        flat.append(loads(arguments.model, arguments.cycles))
    sys.exit(0 if all(flat) else 1)


def one_stream(model: CharRNN) -> bool:
    """Stream a million characters."""
    meter = Meter("one stream", 1_000_000, "characters")
    text = model.stream("", 1_000_000, seed=1)
    shown = 0
    for _ in text:
        meter.add(text.generated - shown)
        shown = text.generated
    return meter.verdict()


def many_streams(model: CharRNN, characters: int) -> bool:
    """Run many streams in one batch, returned in order."""
    streams = characters // STREAM_LENGTH
    meter = Meter(f"{streams:,} streams of {STREAM_LENGTH:,}", characters, "characters")
    prompts = itertools.repeat("", streams)
    for index, done in enumerate(model.generate_each(prompts, STREAM_LENGTH, seed=1, on_progress=meter.add)):
        assert (done.index, len(done.text)) == (index, STREAM_LENGTH)
    return meter.verdict()


def loads(path: Path, cycles: int) -> bool:
    """Load the model, generate 100 characters and drop it."""
    meter = Meter("load, generate 100 characters, drop", cycles, "times")
    for _ in range(cycles):
        CharRNN.load(path, device="cpu").generate("", 100, seed=1)
        meter.add(1)
    return meter.verdict()


class Meter:
    """Prints speed and memory at each tenth of the work."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        print(f"\n{what}: {total:,} {unit}")
        self._tenth = total // 10
        self._done = 0
        self._next = self._tenth
        self._megabytes: list[float] = []
        self._speeds: list[float] = []
        self._begin = time.perf_counter()
        self._begun_at = 0

    def add(self, amount: int) -> None:
        """Record progress."""
        self._done += amount
        if self._done < self._next:
            return
        speed = (self._done - self._begun_at) / (time.perf_counter() - self._begin)
        self._speeds.append(speed)
        gc.collect()
        self._megabytes.append(resident_megabytes())
        print(f"  {self._done:>12,}  {speed:12,.0f} per second  {self._megabytes[-1]:8.1f} MB", flush=True)
        self._next = self._done - self._done % self._tenth + self._tenth
        self._begin, self._begun_at = time.perf_counter(), self._done

    def verdict(self) -> bool:
        """Report memory and speed; return whether both were flat in the second half."""
        slower = statistics.median(self._speeds[1:4]) / statistics.median(self._speeds[-3:])
        steady = slower <= SLOWER
        print(f"  speed: the last tenths {slower:.2f} times slower than the first: {_verdict(steady)}")
        if not self._megabytes[-1]:
            print("  memory: not measured (needs Linux)")
            return steady
        first, last = self._megabytes[0], statistics.median(self._megabytes[-3:])
        middle = statistics.median(self._megabytes[3:6])
        flat = last - middle <= GROWTH_MB
        print(
            f"  memory: since the first tenth {last - first:+.1f} MB, in the second half "
            f"{last - middle:+.1f} MB: {_verdict(flat)}"
        )
        return flat and steady


def _verdict(flat: bool) -> str:
    return "flat" if flat else "NOT FLAT"


def resident_megabytes() -> float:
    """The process's resident memory now, in MB (Linux; 0 elsewhere)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
