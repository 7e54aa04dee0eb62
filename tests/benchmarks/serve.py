"""Measures charrnn-serve: throughput relative to the scheduler, time to first text, and leaks.

    python tests/benchmarks/serve.py [MODEL.onnx] [--clients 1 16 64 256] [--seconds 5] [--json FILE]
    python tests/benchmarks/serve.py --soak MINUTES

Each client streams one text on its own connection. Interleaved with it run the bare scheduler with the same
requests, and a server as in tutorials (FastAPI, PyTorch in eager mode, one thread per request) with the same
network, which returns each text when it is complete. The clients share the server's cores, and check their
results after the measurement. "By CPU" compares CPU time per character, for server and clients
together, which is hardly affected by other load. Medians over the rounds are shown.

Time to first text is measured with all clients starting at once, and for one client while others run.

In the soak test, 64 clients connect and disconnect, some of them before their text is complete; the exit code
is 1 if the server's memory, files or threads grow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from charrnn_runtime import CharRNN, Scheduler
from server_process import Client, ServerProcess, charrnn_serve, free_port, post, started

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "LORD "
TUTORIAL_LENGTH = 100
"""The length of requests to the tutorial server, which takes seconds for all clients."""

GROWTH_MB = 4.0
"""The allowed growth of the server's memory in the second half of a soak test: allocators retain pages."""

SOAKING = 64
"""The number of simultaneous clients in a soak test."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models" / "lstm.int8.onnx")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 16, 64, 256], help="numbers of simultaneous clients"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of the scheduler per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file, after each row")
    parser.add_argument("--no-tutorial", action="store_true", help="skip the tutorial server")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only run the soak test")
    arguments = parser.parse_args()
    print("; ".join(f"{name} {value}" for name, value in describe_machine().items()))
    with charrnn_serve(str(arguments.model)) as server:
        if arguments.soak:
            sys.exit(0 if asyncio.run(soak(server, arguments.soak * 60)) else 1)
        speeds(arguments, server)


def speeds(arguments: argparse.Namespace, server: ServerProcess) -> None:
    """Print all rows of the table."""
    model = CharRNN.load(arguments.model, device="cpu")
    rows: list[dict[str, Any]] = []
    print(
        f"{arguments.model.name}; characters per second, and milliseconds to the first chunk\n"
        "clients  scheduler     server  of it  by CPU   tutorial  times   at once (worst)  beside others"
    )
    if not arguments.no_tutorial and find_spec("fastapi") is None:
        print("the tutorial server is skipped: fastapi is not installed")
        arguments.no_tutorial = True
    fp32 = arguments.model.with_name(arguments.model.name.replace(".int8", ""))
    port = free_port()
    tutorial = [str(ROOT / "tests" / "benchmarks" / "tutorial_server.py"), str(fp32), str(port)]
    for clients in arguments.clients:
        length = min(calibrated(model, clients, arguments.seconds), 100_000)  # the limit of the server
        found: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            results = bare(model, clients, length) | asyncio.run(served(server, clients, length))
            results["of_scheduler"] = results["server"] / results["scheduler"]
            results["of_scheduler_by_cpu"] = results["scheduler_cpu_us"] / results["server_cpu_us"]
            for name, value in results.items():
                found.setdefault(name, []).append(value)
            found.setdefault("beside_ms", []).append(asyncio.run(beside(server, clients, length)))
        if not arguments.no_tutorial:
            with started(tutorial, port) as other:
                for _ in range(arguments.rounds):
                    for name, value in asyncio.run(asked(other, clients)).items():
                        found.setdefault(name, []).append(value)
        row = {"clients": clients, "length": length, "rounds": found}
        row |= {name: statistics.median(values) for name, values in found.items()}
        rows.append(row)
        print(line(row), flush=True)
        if arguments.json:
            about = {"machine": describe_machine(), "model": arguments.model.name, "rows": rows}
            arguments.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    said = f"{row['clients']:7} {row['scheduler']:10,.0f} {row['server']:10,.0f} {row['of_scheduler']:6.2f} "
    said += f"{row['of_scheduler_by_cpu']:7.2f} "
    if "tutorial" in row:
        said += f"{row['tutorial']:10,.0f} {row['server'] / row['tutorial']:6.1f}"
    else:
        said += " " * 17
    return f"{said}    {row['first_ms']:7.1f} ({row['worst_ms']:.1f}) {row['beside_ms']:14.1f}"


# --- the bare scheduler ------------------------------------------------------------------------------------


def calibrated(model: CharRNN, clients: int, seconds: float) -> int:
    """The length of text for which the scheduler takes about a given time."""
    bare(model, clients, 100)
    return max(200, round(bare(model, clients, 400)["scheduler"] * seconds / clients))


def bare(model: CharRNN, clients: int, length: int) -> dict[str, float]:
    """Characters per second of live streams in the scheduler, and CPU microseconds per character."""
    scheduler: Scheduler = model.scheduler()
    sampled = 0
    begin, cpu = time.perf_counter(), time.process_time()
    scheduler.submit(
        *(model.request(PROMPT, length, number=i, seed=1, temperature=0.8, live=True) for i in range(clients))
    )
    while scheduler.busy:
        sampled += sum(len(output.tokens) for output in scheduler.run_block())
    seconds = time.perf_counter() - begin
    scheduler.close()
    assert sampled == clients * length
    used = time.process_time() - cpu
    return {"scheduler": sampled / seconds, "scheduler_cpu_us": used / sampled * 1e6}


# --- charrnn-serve -----------------------------------------------------------------------------------------


def streamed(length: int, seed: int) -> bytes:
    """A streaming request."""
    fields = {"prompt": PROMPT, "max_tokens": length, "temperature": 0.8, "seed": seed, "stream": True}
    return post("/v1/completions", fields)


async def served(server: ServerProcess, clients: int, length: int) -> dict[str, float]:
    """Characters per second over HTTP, and the milliseconds until the first chunks."""
    requests = [streamed(length, seed) for seed in range(clients)]
    begin, cpu = time.perf_counter(), time.process_time() + server.cpu_seconds
    running = await asyncio.gather(*(Client.connect(server.port, request) for request in requests))
    await asyncio.gather(*(client.ended for client in running))
    seconds = max(client.last for client in running) - begin
    cpu = time.process_time() + server.cpu_seconds - cpu
    for client in running:
        assert len(client.text()) == length
    waits = sorted((client.first - client.sent) * 1e3 for client in running)
    return {
        "server": clients * length / seconds,
        "server_cpu_us": cpu / (clients * length) * 1e6,
        "first_ms": statistics.median(waits),
        "worst_ms": waits[-1],
        "characters_a_piece": clients * length / sum(client.pieces() for client in running),
    }


async def beside(server: ServerProcess, clients: int, length: int) -> float:
    """The 95th percentile of a client's milliseconds to the first chunk while the others run."""
    others = [await Client.connect(server.port, streamed(length, seed)) for seed in range(clients - 1)]
    await asyncio.sleep(0.2)
    waits = []
    for seed in range(20):
        client = await Client.connect(server.port, streamed(20, seed))
        await client.ended
        waits.append((client.first - client.sent) * 1e3)
    for other in others:
        assert other.transport is not None
        other.transport.abort()
    while server.streams():
        await asyncio.sleep(0.05)
    return sorted(waits)[int(len(waits) * 0.95) - 1]


# --- the tutorial's server ---------------------------------------------------------------------------------


async def asked(server: ServerProcess, clients: int) -> dict[str, float]:
    """Characters per second of the tutorial server, and CPU microseconds per character."""
    request = post("/generate", {"prompt": PROMPT, "length": TUTORIAL_LENGTH, "temperature": 0.8})
    warm = await Client.connect(server.port, request)
    await warm.ended
    begin, cpu = time.perf_counter(), time.process_time() + server.cpu_seconds
    running = await asyncio.gather(*(Client.connect(server.port, request) for _ in range(clients)))
    await asyncio.gather(*(client.ended for client in running))
    seconds = max(client.last for client in running) - begin
    cpu = time.process_time() + server.cpu_seconds - cpu
    for client in running:
        assert len(json.loads(client.body)["text"]) == TUTORIAL_LENGTH
    characters = clients * TUTORIAL_LENGTH
    return {"tutorial": characters / seconds, "tutorial_cpu_us": cpu / characters * 1e6}


# --- the soak test -----------------------------------------------------------------------------------------


async def soak(server: ServerProcess, seconds: float) -> bool:
    """Connect and disconnect clients for some time; return whether the server's resources stayed flat."""
    end = time.monotonic() + seconds
    counts = {"complete": 0, "left": 0, "characters": 0}
    visitors = [asyncio.create_task(visit(server, random.Random(i), end, counts)) for i in range(SOAKING)]
    print("  minutes   texts complete   left early    characters     MB   files   threads")
    samples: list[tuple[float, int, int]] = []
    every = seconds / 20
    begin = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(every)
        samples.append((server.megabytes, server.files, server.threads))
        minutes = (time.monotonic() - begin) / 60
        print(
            f"  {minutes:7.1f} {counts['complete']:16,} {counts['left']:12,} {counts['characters']:13,}"
            f" {samples[-1][0]:6.1f} {samples[-1][1]:7} {samples[-1][2]:9}",
            flush=True,
        )
    await asyncio.gather(*visitors)
    while server.streams():
        await asyncio.sleep(0.05)
    return verdict(samples, server)


async def visit(server: ServerProcess, draw: random.Random, end: float, counts: dict[str, int]) -> None:
    """Run one client after another: each requests a text, and one in four disconnects before its end."""
    while time.monotonic() < end:
        length = int(2 ** draw.uniform(4, 14))
        client = await Client.connect(server.port, streamed(length, draw.randrange(1 << 32)))
        if draw.random() < 0.25:
            await asyncio.wait([client.ended], timeout=draw.expovariate(4.0))
            assert client.transport is not None
            client.transport.abort()
            counts["left"] += 1
        else:
            await client.ended
            assert len(client.text()) == length
            counts["complete"] += 1
            counts["characters"] += length


def verdict(samples: Sequence[tuple[float, int, int]], server: ServerProcess) -> bool:
    """Report whether memory, files and threads stayed flat."""
    middle = len(samples) // 2
    first = statistics.median(each[0] for each in samples[middle - 3 : middle + 1])
    last = statistics.median(each[0] for each in samples[-4:])
    flat = last - first <= GROWTH_MB
    print(f"memory in the second half: {last - first:+.1f} MB: {'flat' if flat else 'NOT FLAT'}")
    time.sleep(1)
    files, threads = server.files, server.threads
    closed = files <= min(each[1] for each in samples)
    print(f"in the end, files {files}, threads {threads}: {'none left' if closed else 'SOME LEFT'}")
    return flat and closed


if __name__ == "__main__":
    main()
