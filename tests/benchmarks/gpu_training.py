"""Measures the speed of training on a GPU, compared with the usual tutorial code on the same GPU.

    python tests/benchmarks/gpu_training.py [--networks NAME ...] [--steps N] [--json FILE]

For each network, interleaved: the steps of `train` in each precision and with automatic choice, and those
of a plain fp32 loop with PyTorch's defaults. The medians are compared; the course takes 6,000 steps. The JSON
file is rewritten after each of these. Without a GPU, it prints a message and exits with 1 (--device cpu tests
the script itself).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.tutorial import TutorialNetwork
from charrnn_trainer import Corpus, Event, Logged, Notice, TrainConfig, get_batches, train
from charrnn_trainer.data.default_corpus import default_corpus

NETWORKS = ("lstm-2x256-100x100", "gru-2x256-100x100", "lstm-1x1024-64x128")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
REPORTS = 4
"""The number of parts in which steps are timed; the first one is discarded."""


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="CELL-LAYERSxHIDDEN-BATCHxLENGTH")
    parser.add_argument("--steps", type=int, default=800, help="steps per contender and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU to measure on: PyTorch finds none")
    machine = describe_machine()
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    print("; ".join(f"{name} {value}" for name, value in machine.items()))
    path = default_corpus(lambda line: print(line, file=sys.stderr)).path
    corpus = Corpus.from_text(path.read_text(encoding="utf-8"))
    figures: dict[str, Any] = {"machine": machine, "networks": {}}
    for name in arguments.networks:
        print(name, flush=True)
        rows: dict[str, Any] = {}
        for rows in measure(name, corpus, device, arguments.steps, arguments.rounds):
            figures["networks"][name] = rows
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
        for way, row in rows.items():
            print(
                f"  {way:<12}{row['ms']:9.3f} ms a step{6 * row['ms']:10.1f} s for 6,000"
                f"{rows['plain loop']['ms'] / row['ms']:8.2f} x plain  {row['note']}",
                flush=True,
            )


def measure(
    name: str, corpus: Corpus, device: torch.device, steps: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield the median milliseconds per step of each contender over all rounds so far, after each run."""
    cell, size, batch = name.split("-")
    layers, hidden = map(int, size.split("x"))
    rows, length = map(int, batch.split("x"))
    every = max(1, steps // REPORTS)
    config = TrainConfig().replace(
        cell=cell,
        layers=layers,
        hidden_size=hidden,
        batch_size=rows,
        seq_length=length,
        steps=every * REPORTS,
        log_every=every,
        val_fraction=0.0,
        device=device.type,
    )
    times: dict[str, list[float]] = {way: [] for way in ("plain loop", *PRECISIONS)}
    notes = dict.fromkeys(times, "")
    for _ in range(rounds):
        for way in times:
            if way == "plain loop":
                times[way] += plain_milliseconds(config, corpus, device, every)
            else:
                parts, notes[way] = our_milliseconds(config.replace(precision=way), corpus)
                times[way] += parts
            yield {
                way: {"ms": statistics.median(parts), "note": notes[way]}
                for way, parts in times.items()
                if parts
            }


def our_milliseconds(config: TrainConfig, corpus: Corpus) -> tuple[list[float], str]:
    """The time of a step of `train`, part by part, and its notice about captured steps."""
    marks: list[float] = []
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Logged):  # the losses have been read, so all steps are complete
            marks.append(time.perf_counter())
        elif isinstance(event, Notice):
            notes.append(event.message)

    train(config, corpus, listen)
    return milliseconds(marks, config.run.log_every), "; ".join(notes)


def milliseconds(marks: list[float], steps: int) -> list[float]:
    """The time per step, given timestamps that many steps apart."""
    return [1e3 * (end - begin) / steps for begin, end in itertools.pairwise(marks)]


def plain_milliseconds(config: TrainConfig, corpus: Corpus, device: torch.device, every: int) -> list[float]:
    """The time of a step of the plain loop, part by part."""
    vocabulary = len(corpus.vocabulary)
    network = config.network
    model = TutorialNetwork(network.cell, network.hidden_size, network.layers, vocabulary).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    criterion = nn.CrossEntropyLoss()
    batches = get_batches(corpus, config.data.batch_size, config.data.seq_length)
    marks: list[float] = []
    state: Any = None
    for step in range(every * REPORTS):
        x, y = (torch.from_numpy(part.astype("int64")).to(device) for part in next(batches))
        if state is not None:
            state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        optimizer.zero_grad()
        logits, state = model(x, state)
        loss = criterion(logits.reshape(-1, vocabulary), y.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        loss.item()  # as tutorials do, to print it
        if (step + 1) % every == 0:
            marks.append(time.perf_counter())
    return milliseconds(marks, every)


if __name__ == "__main__":
    main()
