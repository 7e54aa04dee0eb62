"""Measures the speed-up of scoring lines with a second thread, by the length of the lines.

    python3 noxfile.py bench -- scoring TEXT [--model MODEL.onnx] [--lengths 33 100 300 1000] [--rounds 7]

The text is divided into lines of each length, with about the given total of characters, which one model
scores on one thread and on two, interleaved. A row shows the medians of the rounds, in characters per second;
the median of the rounds' ratios, which is less sensitive to other load; and the CPU time of two threads
relative to one. All scores must be bit-identical.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.machine import describe_machine  # noqa: E402
from charrnn_runtime import CharRNN  # noqa: E402

THREADS = (1, 2)


def lines_of(text: str, length: int, characters: int) -> list[str]:
    """Lines of one length, with a total of about ``characters``; the text repeats if it is too short."""
    flat = text.replace("\n", " ")
    flat *= -(-characters // len(flat))
    return [flat[begin : begin + length] for begin in range(0, max(characters - length, 0) + 1, length)]


def row(models: dict[int, CharRNN], lines: list[str], rounds: int) -> str:
    """A row of the table."""
    seconds: dict[int, list[float]] = {threads: [] for threads in THREADS}
    processor: dict[int, list[float]] = {threads: [] for threads in THREADS}
    expected = [score.nats for score in models[1].score_each(lines)]
    for _ in range(rounds):
        for threads in THREADS:
            begin, before = time.perf_counter(), time.process_time()
            nats = [score.nats for score in models[threads].score_each(lines)]
            seconds[threads].append(time.perf_counter() - begin)
            processor[threads].append(time.process_time() - before)
            if nats != expected:
                sys.exit(f"{threads} threads: the scores differ")
    characters = sum(map(len, lines))
    gains = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    costs = [two / one for one, two in zip(processor[1], processor[2], strict=True)]
    cells = [
        f"{len(lines[0]):,}",
        f"{len(lines):,}",
        *(f"{statistics.median(characters / each for each in seconds[threads]):,.0f}" for threads in THREADS),
        f"{statistics.median(gains):.2f}",
        f"{statistics.median(costs):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "lstm.int8.onnx")
    parser.add_argument("--lengths", type=int, nargs="+", default=[33, 100, 300, 1000])
    parser.add_argument("--characters", type=int, default=300_000, help="total characters of all lines")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    models = {threads: CharRNN.load(arguments.model, device="cpu", threads=threads) for threads in THREADS}
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(f"{arguments.model.name}, medians of {arguments.rounds} rounds\n", flush=True)
    print("| length | lines | 1 thread | 2 threads | gain | CPU time |")
    print("|---|---|---|---|---|---|", flush=True)
    for length in arguments.lengths:
        lines = lines_of(text, length, arguments.characters)
        print(row(models, lines, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
