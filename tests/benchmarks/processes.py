"""Checks that memory and open files stay flat over many forks and pickles.

    python tests/benchmarks/processes.py [MODEL.onnx] [--forks N] [--generations N] [--pickles N]

A process with a model on two threads and with active streams forks; each child uses them, releases them and
exits normally. Then the model is pickled, unpickled and used. Each tenth of the work prints a line: the rate
per second, and the process's resident memory. Finally, children fork children, each from the one before, and
print the memory of some generations. The exit code is 1 if memory grew or files stayed open.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.long_runs import Meter
from benchmarks.machine import describe_machine
from charrnn_runtime import CharRNN

MODEL = Path(__file__).resolve().parents[1] / "models" / "lstm-2x12-fp32.onnx"
PROMPTS = ["LORD "] * 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--forks", type=int, default=1000)
    parser.add_argument("--generations", type=int, default=30)
    parser.add_argument("--pickles", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns about forking with threads
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(f"{arguments.model.name}, two threads")
    flat = [forks(arguments.model, arguments.forks), pickles(arguments.model, arguments.pickles)]
    generations(arguments.model, arguments.generations)
    sys.exit(0 if all(flat) else 1)


def forks(path: Path, count: int) -> bool:
    """Fork, let the child work and wait for it."""
    model = CharRNN.load(path, device="cpu", threads=2)
    expected = model.generate(PROMPTS, 20, seed=1)
    begun = model.generate_each(iter(PROMPTS), 50, seed=1, max_batch_size=4)
    next(begun)
    files = open_files()
    meter = Meter("fork, use the model in the child, end", count, "times")
    for _ in range(count):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            assert model.generate(PROMPTS, 20, seed=1) == expected
            assert len(list(begun)) == len(PROMPTS) - 1
            del model, begun
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        meter.add(1)
    return meter.verdict() and closed(files)


def pickles(path: Path, count: int) -> bool:
    """Pickle the model, unpickle it and use it."""
    model = CharRNN.load(path, device="cpu", threads=2)
    pickle.loads(pickle.dumps(model)).generate(PROMPTS, 20, seed=1)
    files = open_files()
    print(f"\n{len(pickle.dumps(model)):,} bytes a pickle, {path.stat().st_size:,} the file")
    meter = Meter("pickle, unpickle, use, drop", count, "times")
    for _ in range(count):
        model = pickle.loads(pickle.dumps(model))
        model.generate(PROMPTS, 20, seed=1)
        meter.add(1)
    return meter.verdict() and closed(files)


def generations(path: Path, count: int) -> None:
    """Let every child fork the next one, so that the last inherits the sessions of all; print memory."""
    model = CharRNN.load(path, device="cpu", threads=2)
    expected = model.generate(PROMPTS, 20, seed=1)
    print(f"\n{count} generations of children, each forked from the one before it", flush=True)
    for generation in range(1, count + 1):
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            assert status == 0
            if generation > 1:
                sys.exit(0)
            return
        assert model.generate(PROMPTS, 20, seed=1) == expected
        if generation % max(1, count // 5) == 0:
            status_lines = Path("/proc/self/status").read_text().splitlines()
            resident = next(line for line in status_lines if line.startswith("VmRSS:"))
            print(f"  {generation:>5}  {int(resident.split()[1]) / 1024:8.1f} MB", flush=True)
    sys.exit(0)


def closed(before: int) -> bool:
    """Report whether the number of open files is unchanged."""
    after = open_files()
    print(f"  open files: {before} before, {after} after")
    return after == before


def open_files() -> int:
    """The number of open files of this process (Linux; 0 elsewhere)."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


if __name__ == "__main__":
    main()
