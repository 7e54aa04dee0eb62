"""Measures the C++ host (examples/cpp) against the Python runtime, interleaved in one run.

    python3 noxfile.py bench -- hosts [--rounds 7] [--program FILE]

builds the host first, with the onnxruntime of the Python package, unless it is given. Both generate one text
on one thread: C++ streams it to /dev/null, Python returns it. Start-up is excluded: the time of a C++ run
without a text is subtracted from each run. A row shows the medians of the rounds, in characters per second;
the median of the rounds' ratios, which is less sensitive to other load; the same for CPU time, which hardly
depends on other load; and whether the texts are equal, as those of fp32 files must be.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.machine import describe_machine  # noqa: E402
from charrnn_runtime import CharRNN  # noqa: E402
from charrnn_runtime.record import Record  # noqa: E402

TASKS = {
    "lstm.onnx": 6_000,
    "gru.onnx": 6_000,
    "best.onnx": 2_000,
    "lstm.int8.onnx": 20_000,
    "best.int8.onnx": 6_000,
}
"""The number of characters for each shipped model."""

PROMPT = "LORD "


class Taken(Record):
    """The cost of a run.

    Attributes:
        seconds: elapsed seconds.
        processor: CPU seconds over all cores.
    """

    seconds: float
    processor: float


def run_python(model: CharRNN, length: int) -> Taken:
    """Generate a text with the Python runtime."""
    begin, before = time.perf_counter(), time.process_time()
    model.generate(PROMPT, length, seed=1)
    return Taken(time.perf_counter() - begin, time.process_time() - before)


def run_cpp(program: Path, path: Path, length: int) -> Taken:
    """Generate a text with the C++ host."""
    begin, before = time.perf_counter(), _of_children()
    subprocess.run(_command(program, path, length), check=True, stdout=subprocess.DEVNULL)
    return Taken(time.perf_counter() - begin, _of_children() - before)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _command(program: Path, path: Path, length: int) -> list[str]:
    return [str(program), str(path), "--prime", PROMPT, "--length", str(length), "--seed", "1"]


def row(program: Path, path: Path, length: int, rounds: int) -> str:
    """A row of the table."""
    model = CharRNN.load(path, device="cpu", threads=1)
    text = model.generate(PROMPT, length, seed=1)
    written = subprocess.run(_command(program, path, length), check=True, capture_output=True).stdout
    equal = text.encode() == written
    if not equal and model.info.precision == "fp32":
        sys.exit(f"{path.name}: the texts differ")
    python, cpp = [], []
    for _ in range(rounds):
        python.append(run_python(model, length))
        start, whole = run_cpp(program, path, 0), run_cpp(program, path, length)
        cpp.append(Taken(whole.seconds - start.seconds, whole.processor - start.processor))
    pairs = list(zip(python, cpp, strict=True))
    cells = [
        f"`{path.name}`, {length:,}",
        *(f"{statistics.median(length / each.seconds for each in those):,.0f}" for those in (python, cpp)),
        f"{statistics.median(one.seconds / other.seconds for one, other in pairs):.2f}",
        f"{statistics.median(one.processor / other.processor for one, other in pairs):.2f}",
        "equal" if equal else "other",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="the host, built from examples/cpp")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the characters, for a quick check"
    )
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(f"medians of {arguments.rounds} rounds, 1 thread each\n", flush=True)
    print("| model, characters | Python | C++ | of Python | by CPU time | text |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, length in TASKS.items():
        length = max(round(length * arguments.share), 100)
        print(row(arguments.program, ROOT / "models" / name, length, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
