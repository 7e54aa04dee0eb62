"""Tries many files on a reader in separate processes, so that crashes and hangs are reported.

    python tests/mutation_workers.py                     10,000 models and 10,000 checkpoints
    python tests/mutation_workers.py models --count 500 --first 20000
    python tests/mutation_workers.py models --only 1234  repeat one seed and keep its file

A subject is a function that creates the file of a seed, reads it, and returns the outcome: "refused" or
"works". Anything else is a fault, reported with its seed: an exception, a crash, no response within a minute,
output on stdout, more than a gigabyte of memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

Subject = Callable[[Path, int], str]
"""Writes the file of a seed to a path, reads it, and returns the outcome. A function of the same module with
the prefix "prepare_" does slow preparation first."""

SUBJECTS: Final = {
    "models": "subjects:try_model",
    "checkpoints": "subjects:try_checkpoint",
}

OUTCOMES: Final = ("refused", "works")
MOST_MEMORY: Final = 2**30
"""The maximum memory of a process in bytes, including Python and all libraries."""

LONGEST: Final = 60.0
"""Seconds without a response after which a file counts as a hang; most take milliseconds."""

LONGEST_START: Final = 600.0
"""The same for a process that still has to import libraries and create the valid files."""


@dataclass
class Tally:
    """The outcome of many files.

    Attributes:
        outcomes: the numbers of rejected and of working files.
        faults: the seeds with faults, and what went wrong with each.
        peak: the peak memory of any process, in bytes.
        slowest: the longest time for one file, in seconds, and its seed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    peak: int = 0
    slowest: tuple[float, int] = (0.0, -1)

    def __str__(self) -> str:
        seconds, seed = self.slowest
        return (
            f"{self.outcomes['refused']:,} refused, {self.outcomes['works']:,} work, "
            f"{len(self.faults):,} faults; at most {self.peak / 2**20:,.0f} MiB in a process; "
            f"the slowest (seed {seed}) took {seconds * 1000:,.0f} ms"
        )


def try_seeds(subject: str, first: int, count: int, *, workers: int = 1, longest: float = LONGEST) -> Tally:
    """Try the files of the seeds from ``first`` on.

    Args:
        subject: "module:function", with a module in tests/.
        first: the first seed.
        count: the number of seeds.
        workers: the number of processes.
        longest: seconds without a response after which a file counts as a hang.
    """
    tally = Tally()
    with selectors.DefaultSelector() as selector, tempfile.TemporaryDirectory() as folder:
        lanes = [
            _Lane(subject, range(first + lane, first + count, workers), Path(folder))
            for lane in range(workers)
        ]
        for lane in lanes:
            lane.start(selector)
        while selector.get_map():
            for key, _ in selector.select(timeout=0.5):
                key.data.take(selector, tally)
            for lane in lanes:
                if lane.is_busy and time.monotonic() - lane.since > (
                    longest if lane.has_begun else LONGEST_START
                ):
                    lane.give_up(selector, tally, f"no answer within {longest:.0f} seconds")
    tally.faults.sort()
    return tally


class _Lane:
    """A range of seeds and the process that tries them; if it dies, another continues with the next seed."""

    def __init__(self, subject: str, seeds: range, folder: Path) -> None:
        self.subject = subject
        self.seeds = seeds
        self.folder = folder
        self.is_busy = self.has_begun = False
        self.since = 0.0

    def start(self, selector: selectors.BaseSelector) -> None:
        if not self.seeds:
            return
        reading, writing = os.pipe()
        self.reports, self.rest = reading, b""
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  (`_ended` closes it)
        words = [self.subject, self.seeds.start, self.seeds.stop, self.seeds.step, writing, self.folder]
        with tempfile.TemporaryFile() as stdout:  # a file, so that the process can see whether it grew
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "mutation_workers.py"), "worker", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=self.stderr,
                pass_fds=(writing,),
                env=worker_environment(),
            )
        os.close(writing)
        self.is_busy, self.has_begun, self.since = True, False, time.monotonic()
        selector.register(reading, selectors.EVENT_READ, self)

    def take(self, selector: selectors.BaseSelector, tally: Tally) -> None:
        """Read the reports of the process."""
        received = os.read(self.reports, 65536)
        *lines, self.rest = (self.rest + received).split(b"\n")
        for line in lines:
            report = json.loads(line)
            self.since = time.monotonic()
            self.has_begun = True
            tally.peak = max(tally.peak, report["peak"])
            if (seed := report.get("seed")) is None:
                continue  # the process has started this seed
            tally.slowest = max(tally.slowest, (report["seconds"], seed))
            self.seeds = range(seed + self.seeds.step, self.seeds.stop, self.seeds.step)
            if report["outcome"] in OUTCOMES:
                tally.outcomes[report["outcome"]] += 1
            else:
                tally.faults.append((seed, report["outcome"]))
        if not received:
            status, last_words = self._ended(selector)
            if status:
                self._fault(tally, f"the process died ({status}): {last_words}")
            self.start(selector)

    def give_up(self, selector: selectors.BaseSelector, tally: Tally, why: str) -> None:
        """Kill a process that does not respond."""
        self.process.kill()
        self._ended(selector)
        self._fault(tally, why)
        self.start(selector)

    def _ended(self, selector: selectors.BaseSelector) -> tuple[int, str]:
        """The exit code of the process and the end of its stderr."""
        selector.unregister(self.reports)
        os.close(self.reports)
        self.is_busy = False
        status = self.process.wait()
        with self.stderr:
            self.stderr.seek(0)
            words = self.stderr.read().decode(errors="replace").split()
        return status, " ".join(words)[-300:]

    def _fault(self, tally: Tally, why: str) -> None:
        tally.faults.append((self.seeds.start, why))
        self.seeds = range(self.seeds.start + self.seeds.step, self.seeds.stop, self.seeds.step)


def worker_environment() -> dict[str, str]:
    """An environment in which processes find both distributions and these tests."""
    paths = os.pathsep.join(str(path) for path in (ROOT / "runtime", ROOT / "trainer", TESTS))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


# --- in the process ----------------------------------------------------------------------------------------


def work(subject: str, seeds: range, reports: int, folder: Path) -> None:
    """Try seeds one by one and report each; exit after one that took too much memory."""
    try_it = found(subject)
    path = folder / f"{os.getpid()}.file"
    printed = _printed()
    _report(reports, peak=_peak())
    _limit_memory()
    for seed in seeds:
        begin = time.perf_counter()
        try:
            outcome = try_it(path, seed)
        except Exception as error:
            outcome = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        else:
            if outcome not in OUTCOMES:
                outcome = f"it said {outcome!r}"
        seconds = time.perf_counter() - begin
        if outcome in OUTCOMES and _printed() != printed:
            printed, outcome = _printed(), "it printed to stdout"
        peak = _peak()
        if peak > MOST_MEMORY:
            outcome = f"it took {peak / 2**20:,.0f} MiB ({outcome})"
        _report(reports, seed=seed, outcome=outcome, seconds=seconds, peak=peak)
        if peak > MOST_MEMORY:
            return  # peak memory never decreases: a new process continues


def found(subject: str) -> Subject:
    """Import the function of a subject."""
    module_name, name = subject.split(":")
    module = importlib.import_module(module_name)
    getattr(module, f"prepare_{name}", lambda: None)()
    function: Subject = getattr(module, name)
    return function


def _report(reports: int, **values: Any) -> None:
    os.write(reports, json.dumps(values).encode() + b"\n")


def _printed() -> int:
    sys.stdout.flush()
    return os.fstat(1).st_size


def _peak() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _limit_memory() -> None:
    """Limit memory to three times the allowed amount beyond the current mappings, to protect the machine."""
    import resource

    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * MOST_MEMORY,) * 2)


# --- the command -------------------------------------------------------------------------------------------


def main() -> int:
    """Try the requested subjects; return 1 after a fault."""
    if sys.argv[1:2] == ["worker"]:
        subject, first, stop, step, reports, folder = sys.argv[2:]
        work(subject, range(int(first), int(stop), int(step)), int(reports), Path(folder))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="default: all")
    parser.add_argument("--count", type=int, default=10_000, help="number of files of each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")
    parser.add_argument("--only", type=int, metavar="SEED", help="try one seed in this process")
    options = parser.parse_args()
    failed = False
    for name in options.subjects or SUBJECTS:
        if options.only is not None:
            path = Path(tempfile.gettempdir()) / f"mutated-{name}-{options.only}"
            print(f"{path}: {found(SUBJECTS[name])(path, options.only)}")
            continue
        begin = time.perf_counter()
        tally = try_seeds(SUBJECTS[name], options.first, options.count, workers=options.workers)
        print(f"{name}: {tally}; {time.perf_counter() - begin:,.0f} s in all", flush=True)
        for seed, why in tally.faults:
            print(f"  seed {seed}: {why}")
        failed = failed or bool(tally.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
