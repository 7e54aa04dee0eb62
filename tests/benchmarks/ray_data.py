"""Measures how long it takes to score 30,000 lines: in one process, by charrnn-score, and on Ray Data actors.

    python tests/benchmarks/ray_data.py TEXT [--model MODEL.onnx] [--lines N] [--repeats N] [--batch N]

It needs the extra ``ray``, and Linux. All variants run in turn, --repeats times. A row shows the median
elapsed seconds and CPU seconds of all processes, including Ray's, and the ratios of both to one process on
one thread; CPU seconds hardly depend on other load. Rows for Ray include the start of the actors, which is
shown below each, measured with the same pipeline on one line per actor. Actors that only pass rows on show
the overhead of Ray itself. All scores must be equal to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime import CharRNN
from charrnn_runtime.ray import ScoreTexts

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "lstm.int8.onnx")
    parser.add_argument("--lines", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    arguments = parser.parse_args()
    lines = [line for line in arguments.text.read_text(encoding="utf-8").splitlines() if line]
    lines = lines[: arguments.lines]
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    print(f"{arguments.model.name}, {len(lines):,} lines of {sum(map(len, lines)):,} characters", flush=True)
    with cluster() as data, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ways = ways_to_score(data, arguments.model, lines, path, arguments.batch)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        expected = None
        for _ in range(arguments.repeats):
            for name, run in ways.items():
                begin, before = time.perf_counter(), processor_seconds()
                done = run()
                taken[name].append((time.perf_counter() - begin, computed_since(before)))
                print(
                    f"  {name}: {taken[name][-1][0]:.2f} s, {taken[name][-1][1]:.2f} CPU seconds",
                    flush=True,
                )
                nats = [] if done is None else done()
                expected = nats if expected is None else expected
                if nats and nats != expected:
                    sys.exit(f"{name}: the scores differ")
    rows = {
        name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()
    }
    print(f"{'':32} {'seconds':>16}  {'CPU seconds':>16}")
    one = next(iter(rows.values()))
    for name, (seconds, processors) in rows.items():
        shares = seconds / one[0], processors / one[1]
        print(f"{name:32} {seconds:8.2f} {shares[0]:7.2f}  {processors:8.2f} {shares[1]:7.2f}")


def processor_seconds() -> dict[int, float]:
    """The CPU time of this process and its descendants so far, including children that have ended."""
    parents, times = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            times[int(path.parent.name)] = sum(map(int, fields[11:15]))  # proc(5): utime to cstime
    found = {}
    for process, ticks in times.items():
        ancestor = process
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            found[process] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def computed_since(before: dict[int, float]) -> float:
    """The CPU time since then; Ray workers of an earlier variant may have ended in the meantime."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in processor_seconds().items())


Way = Callable[[], Callable[[], list[float]] | None]
"""A measured variant; returns the nats of all lines, if they can be compared."""


class PassOn:
    """An actor that returns each batch unchanged."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


def ways_to_score(data: Any, model: Path, lines: list[str], path: Path, batch: int) -> dict[str, Way]:
    """The measured variants by name."""
    loaded = {threads: CharRNN.load(model, device="cpu", threads=threads) for threads in (1, 2)}

    def in_process(threads: int) -> Callable[[], list[float]]:
        scores = list(loaded[threads].score_each(lines))
        return lambda: [score.nats for score in scores]

    def by_command(threads: int) -> None:
        command = [sys.executable, "-m", "charrnn_runtime.cli.score", str(model), str(path), "--by-line"]
        options = ["--threads", str(threads), "--device", "cpu", "--quiet"]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)

    def run(dataset: Any, actors: int, actor: type, **arguments: Any) -> Any:
        return dataset.map_batches(
            actor,
            fn_constructor_kwargs=arguments,
            compute=data.ActorPoolStrategy(size=actors),
            num_cpus=0.5,
            batch_size=batch,
        ).materialize()

    def on_actors(actors: int) -> Callable[[], list[float]]:
        scored = run(everything, actors, ScoreTexts, model=str(model), device="cpu")
        return lambda: [nats for _, nats in sorted((row["id"], row["nats"]) for row in scored.take_all())]

    def dataset(texts: list[str], blocks: int) -> Any:
        rows = [{"id": index, "text": text} for index, text in enumerate(texts)]
        return data.from_items(rows, override_num_blocks=blocks).materialize()

    def start(actors: int) -> None:
        run(few[actors], actors, ScoreTexts, model=str(model), device="cpu")

    def pass_on() -> None:
        run(everything, 2, PassOn)

    def start_to_pass_on() -> None:
        run(few[2], 2, PassOn)

    everything, few = dataset(lines, 16), {actors: dataset(lines[:actors], actors) for actors in (1, 2)}
    return {
        "one process, 1 thread": functools.partial(in_process, 1),
        "one process, 2 threads": functools.partial(in_process, 2),
        "charrnn-score --threads 1": functools.partial(by_command, 1),
        "charrnn-score --threads 2": functools.partial(by_command, 2),
        "Ray Data, 1 actor": functools.partial(on_actors, 1),
        "Ray Data, 1 actor: start": functools.partial(start, 1),
        "Ray Data, 2 actors": functools.partial(on_actors, 2),
        "Ray Data, 2 actors: start": functools.partial(start, 2),
        "Ray Data, passing on": pass_on,
        "Ray Data, passing on: start": start_to_pass_on,
    }


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """A local Ray that leaves no files behind; yields `ray.data`."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ |= {"RAY_raylet_start_wait_time_s": "300", "RAY_worker_register_timeout_seconds": "300"}
    import ray
    import ray.data

    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
            _temp_dir=folder,
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield ray.data
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
