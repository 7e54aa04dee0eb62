"""Whether memory and speed stay flat: a million characters on one stream, then 1,000 streams of 10,000.

    python tests/benchmarks/long_runs.py [MODEL.onnx] [--cycles N]

Each tenth of the work is a line: characters a second, and the process's resident memory. With --cycles the
model is also loaded, used and dropped that often.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime import CharRNN

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models" / "lstm.int8.onnx")
    parser.add_argument("--cycles", type=int, default=0, help="load and drop the model so often")
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    model = CharRNN.load(arguments.model, device="cpu")
    print(f"{arguments.model.name}, one thread\n\none stream, 1,000,000 characters")
    meter = Meter(1_000_000)
    text = model.stream("", 1_000_000, seed=1)
    shown = 0
    for _ in text:
        meter.add(text.generated - shown)
        shown = text.generated
    print("\n1,000 streams of 10,000 characters")
    meter = Meter(10_000_000)
    count = 0
    for done in model.generate_each([""] * 1000, 10_000, seed=1, on_progress=meter.add):
        assert len(done.text) == 10_000
        assert done.index == count
        count += 1
    assert count == 1000
    if arguments.cycles:
        print(f"\n{arguments.cycles:,} times load, generate 100 characters, drop")
        meter = Meter(arguments.cycles)
        for _ in range(arguments.cycles):
            CharRNN.load(arguments.model, device="cpu").generate("", 100, seed=1)
            meter.add(1)


class Meter:
    """Prints speed and memory at each tenth of the work."""

    def __init__(self, total: int) -> None:
        self._tenth = total // 10
        self._done = self._next = 0
        self._begin = time.perf_counter()
        self._next = self._tenth

    def add(self, amount: int) -> None:
        """Note that some of the work is done."""
        self._done += amount
        if self._done >= self._next:
            seconds = time.perf_counter() - self._begin
            gc.collect()
            speed = (self._done - self._next + self._tenth) / seconds
            print(f"  {self._done:>12,}  {speed:12,.0f} a second  {resident_megabytes():8.1f} MB", flush=True)
            self._next = self._done - self._done % self._tenth + self._tenth
            self._begin = time.perf_counter()


def resident_megabytes() -> float:
    """The process's resident memory now, in MB (Linux; 0 elsewhere)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
