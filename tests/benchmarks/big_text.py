"""Measures how fast large texts are prepared, and how much memory preparing, training and scoring take.

    python tests/benchmarks/big_text.py [--sizes 10 100 1000] [--kinds ascii mixed chinese bytes]
        [--score 1 10] [--folder DIR]

Prints a line for each kind and size of text (in MB, millions of bytes): the number of symbols; MB prepared
per second of elapsed time and of CPU time; and the peak memory in MB of preparing, and of charrnn-train,
which prepares the text and trains a small network for 20 steps. Then charrnn-score reads ASCII text of some
sizes, from a file and from a pipe, with a network trained in this way.

The texts are generated. DIR needs space for them and their tokens, at most three times the largest size;
files are deleted after use. Memory is measured in a separate process. "resident" is the system's peak
(VmHWM), which includes pages of mapped files that can be reclaimed; "own" is the part that cannot (RssAnon):
the maximum of samples taken every 5 ms and at the end. Needs Linux.
"""

from __future__ import annotations

import argparse
import atexit
import json
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine

KINDS: Final = {
    "ascii": "letters and signs, one byte each",
    "mixed": "a third of it Latin, Greek, Cyrillic, Chinese, emoji: up to four bytes each, in random order",
    "chinese": "20,000 symbols by Zipf's law, three bytes each",
    "bytes": "the mixed text at --level byte",
}

MEGABYTE: Final = 1_000_000
_BLOCK: Final = 2_000_000  # the characters after which a text repeats
_SMALL: Final = (
    *("--cell", "gru", "--layers", "1", "--hidden-size", "32", "--embedding-size", "16"),
    *("--batch-size", "8", "--seq-length", "32", "--steps", "20", "--eval-every", "20"),
    *("--val-fraction", "0.0001", "--precision", "fp32", "--no-onednn", "--threads", "1", "--device", "cpu"),
)


@dataclass
class Usage:
    """The resources of a process: elapsed seconds and peak memory in MB."""

    seconds: float
    resident: float
    own: float
    output: str

    @property
    def memory(self) -> str:
        """Both peaks, formatted for a column."""
        return f"{self.resident:5,.0f} ({self.own:,.0f})"


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--watched"]:
        run_watched(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], metavar="MB")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--score", type=float, nargs="*", default=[1, 10], metavar="MB")
    parser.add_argument(
        "--folder", type=Path, help="folder for the texts (default: the system's temporary folder)"
    )
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for kind in arguments.kinds:
            print(f"\n{kind}: {KINDS[kind]}")
            print(
                "      MB  symbols  MB/s  by processor  preparing: resident (own)  training: resident (own)"
            )
            for size in arguments.sizes:
                measure_text(folder, kind, size)
        if arguments.score:
            measure_scoring(folder, arguments.score)


def measure_text(folder: Path, kind: str, size: int) -> None:
    """Prepare a text and train on it; print one line."""
    text, tokens, run = folder / "text", folder / "tokens", folder / "run"
    make_text(text, kind, size * MEGABYTE)
    level = "byte" if kind == "bytes" else "char"
    prepared = watch("prepare", text, tokens, level)
    found = json.loads(prepared.output)
    tokens.unlink()
    trained = train(text, run, "--level", level)
    print(
        f"{size:8,}  {found['symbols']:7,}  {size / found['seconds']:4.0f}  "
        f"{size / found['processor_seconds']:12.0f}  {prepared.memory:>25}  {trained.memory:>24}",
        flush=True,
    )
    remove(run)
    text.unlink()


def measure_scoring(folder: Path, sizes: list[float]) -> None:
    """Print a line per size: charrnn-score on a file and on a pipe."""
    text, run, model = folder / "text", folder / "run", folder / "model.onnx"
    make_text(text, "ascii", 2 * MEGABYTE)
    train(text, run)
    watch("charrnn_trainer.cli.export", run, model)
    print("\ncharrnn-score, a network of 32 units\n      MB  characters/s  resident (own) MB  from a pipe")
    for size in sizes:
        make_text(text, "ascii", int(size * MEGABYTE))
        whole = watch("charrnn_runtime.cli.score", model, text)
        with subprocess.Popen(["cat", str(text)], stdout=subprocess.PIPE) as pipe:
            piped = watch("charrnn_runtime.cli.score", model, "-", source=pipe.stdout)
        if whole.output.split()[:3] != piped.output.split()[:3]:
            sys.exit(f"a file and a pipe differ: {whole.output} {piped.output}")
        speed = size * MEGABYTE / whole.seconds
        print(f"{size:8g}  {speed:12,.0f}  {whole.memory:>17}  {piped.memory:>11}", flush=True)


def train(text: Path, run: Path, *more: str) -> Usage:
    """Run charrnn-train for 20 steps."""
    return watch("charrnn_trainer.cli.train", text, "--out", run, *_SMALL, *more)


def prepare(text: str, tokens: str, level: str) -> None:
    """Prepare one text as charrnn-train does, and print how long that took."""
    from charrnn_trainer.data.scanning import scan_text

    begin, processor = time.perf_counter(), time.process_time()
    with scan_text(text, level="byte" if level == "byte" else "char") as scanned:
        scanned.encode_to(Path(tokens), source=None)
    found = {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
        "symbols": scanned.distinct,
    }
    print(json.dumps(found))


def watch(module: str, *words: str | Path, source: IO[bytes] | None = None) -> Usage:
    """Run a module as a command, or `prepare`, and sample its memory until it ends."""
    with tempfile.TemporaryDirectory() as name:
        last = Path(name) / "status"
        command = [sys.executable, __file__, "--watched", str(last), module, *map(str, words)]
        begin = time.perf_counter()
        own = 0.0
        with subprocess.Popen(
            command, stdin=source or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            status = Path(f"/proc/{process.pid}/status")
            while process.poll() is None:
                own = max(own, megabytes(status.read_text(), "RssAnon"))
                time.sleep(0.005)
            seconds = time.perf_counter() - begin
            output, talk = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{talk.decode()}")
        end = last.read_text()
    return Usage(seconds, megabytes(end, "VmHWM"), max(own, megabytes(end, "RssAnon")), output.decode())


def run_watched(last: Path, words: list[str]) -> None:
    """The work of a watched process; it records its resource usage at the end."""
    atexit.register(lambda: last.write_text(Path("/proc/self/status").read_text()))
    if words[0] == "prepare":
        prepare(*words[1:])
        return
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def megabytes(status: str, name: str) -> float:
    """A line of a process's status in MB; 0 if the process has ended."""
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    return 0.0


def make_text(path: Path, kind: str, size: int) -> None:
    """Write a reproducible text of about ``size`` bytes."""
    block = "".join(map(chr, characters(kind).tolist())).encode()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        rest = block[: size % len(block)]
        file.write(rest.decode(errors="ignore").encode())  # no character is split


def characters(kind: str) -> NDArray[np.int64]:
    """The code points that a text repeats."""
    generator = np.random.default_rng(0)
    printable = np.array([10, *range(0x20, 0x7F)])
    if kind == "ascii":
        return generator.choice(printable, _BLOCK)
    if kind == "chinese":
        symbols = np.concatenate([range(0x4E00, 0x9C20), [10]])
        zipf = 1 / np.arange(1, len(symbols) + 1)
        drawn = generator.choice(symbols, _BLOCK, p=zipf / zipf.sum())
        drawn[: len(symbols)] = symbols  # include the rarest
        return drawn
    others = np.concatenate([range(0xC0, 0x250), range(0x391, 0x530), range(0x4E00, 0x5000)])
    emoji = np.arange(0x1F600, 0x1F650)
    drawn = generator.choice(printable, _BLOCK)
    for symbols, share in ((others, 0.3), (emoji, 0.03)):
        chosen = generator.random(_BLOCK) < share
        drawn[chosen] = generator.choice(symbols, int(chosen.sum()))
    return drawn


def remove(folder: Path) -> None:
    """Remove a run."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
