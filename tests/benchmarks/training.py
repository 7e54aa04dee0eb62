"""Measures the speed of training on a CPU, compared with the usual tutorial code and with the upper limit.

    python tests/benchmarks/training.py [--threads N] [--steps N] [--networks NAME ...] [--json FILE]

For each network, interleaved in one run: a step of `train`; a step of a plain fp32 loop in a separate
process, with PyTorch's defaults; and the limit: the matrix products of a step, forward and backward, of the
same shapes and in the type of `train`, each in the fastest layout. The medians of the rounds are compared.
Then follows the validation loss after --steps steps, in the chosen type and in fp32.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.tutorial import TutorialNetwork
from charrnn_trainer import Corpus, Event, Notice, Started, Stepped, TrainConfig, train
from charrnn_trainer.data.default_corpus import default_corpus

NETWORKS = ("lstm-2x256-100x100", "gru-2x256-100x100", "lstm-1x512-32x64", "gru-1x512-32x64")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
WARM_UP = 2


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="CELL-LAYERSxHIDDEN-BATCHxLENGTH, such as %(default)s"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads for every contender"
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of timed steps of each")
    parser.add_argument(
        "--steps", type=int, default=300, help="steps before the validation losses; 0 skips them"
    )
    parser.add_argument("--precision", default="auto", help="as for charrnn-train")
    parser.add_argument("--plain", help=argparse.SUPPRESS)  # arguments of the process of the plain loop
    arguments = parser.parse_args()
    networks = [Network(name) for name in ([arguments.plain] if arguments.plain else arguments.networks)]
    report = _say_nothing if arguments.plain else _say
    text = default_corpus(report).path.read_text(encoding="utf-8")
    corpus = Corpus.from_text(text)
    torch.set_num_threads(arguments.threads)
    if arguments.plain:
        serve_plain_steps(networks[0], np.asarray(corpus.ids), len(corpus.vocabulary))
        return
    figures: dict[str, Any] = {"machine": describe_machine(), "threads": arguments.threads, "networks": []}
    print("; ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    print(f"{arguments.threads} thread(s) each; medians of {arguments.rounds} rounds\n", flush=True)
    for network in networks:
        row = measure_network(network, corpus, arguments)
        figures["networks"].append(row)
        show(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _say_nothing(line: str) -> None:
    pass


class Network:
    """A network and the size of its batches, by a name such as "lstm-2x256-100x100"."""

    def __init__(self, name: str) -> None:
        match = re.fullmatch(r"(lstm|gru|rnn)-(\d+)x(\d+)-(\d+)x(\d+)", name)
        if match is None:
            raise SystemExit(f"{name!r} is not a network; give one such as {NETWORKS[0]}")
        self.name, self.cell = name, match[1]
        self.layers, self.hidden, self.batch, self.length = map(int, match.groups()[1:])

    def config(self, arguments: Any, precision: str) -> TrainConfig:
        """The settings of the course preset, except the sizes."""
        # Without validation, run only the timed steps; otherwise, do not validate before the end.
        steps = arguments.steps or arguments.rounds + WARM_UP
        return TrainConfig().replace(
            cell=self.cell,
            layers=self.layers,
            hidden_size=self.hidden,
            batch_size=self.batch,
            seq_length=self.length,
            steps=max(steps, arguments.rounds + WARM_UP),
            eval_every=10**9,
            save_every=10**9,
            val_fraction=0.1 if arguments.steps else 0.0,
            precision=precision,
            threads=arguments.threads,
            device="cpu",
        )


def measure_network(network: Network, corpus: Corpus, arguments: Any) -> dict[str, Any]:
    """Measure all contenders on one network."""
    times: dict[str, list[float]] = {"ours": [], "plain": [], "limit": []}
    notes: list[str] = []
    limit: Callable[[], None] | None = None
    precision = ""
    with PlainLoop(network, arguments.threads) as plain:

        def listen(event: Event) -> None:
            """Run a step of the others after each of ours."""
            nonlocal limit, precision
            if isinstance(event, Notice):
                notes.append(event.message)
            elif isinstance(event, Started):
                precision = event.config.run.precision
                dtype = torch.bfloat16 if precision == "bf16" else torch.float32
                limit = matrix_products(network, len(corpus.vocabulary), dtype)
            elif isinstance(event, Stepped) and event.step <= arguments.rounds + WARM_UP:
                assert limit is not None
                begin = time.perf_counter()
                limit()
                seconds = {"ours": event.seconds, "limit": time.perf_counter() - begin, "plain": plain.step()}
                if event.step > WARM_UP:
                    for name, value in seconds.items():
                        times[name].append(value)

        result = train(network.config(arguments, arguments.precision), corpus, listen)
    losses = {}
    if result.best is not None:
        losses[precision] = result.best.validation_loss
        if precision != "fp32":
            in_fp32 = train(network.config(arguments, "fp32"), corpus).best
            assert in_fp32 is not None
            losses["fp32"] = in_fp32.validation_loss
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    return {
        "network": network.name,
        "precision": precision,
        "notes": notes,
        "milliseconds": medians,
        "least_milliseconds": {name: min(values) * 1e3 for name, values in times.items()},
        "characters_per_second": network.batch * network.length / medians["ours"] * 1e3,
        "times_plain": medians["plain"] / medians["ours"],
        "share_of_limit": medians["limit"] / medians["ours"],
        "steps": result.step,
        "validation_loss": losses,
    }


def show(row: dict[str, Any]) -> None:
    """Print the results of one network."""
    print(f"{row['network']} in {row['precision']}")
    for note in row["notes"]:
        print(f"  {note}")
    for name, what in (
        ("ours", "a step of train"),
        ("plain", "a plain loop, fp32"),
        ("limit", "bare products"),
    ):
        line = (
            f"  {what:<20}{row['milliseconds'][name]:9.1f} ms (least {row['least_milliseconds'][name]:.1f})"
        )
        if name == "ours":
            line += f", {row['characters_per_second']:,.0f} characters a second: "
            line += f"{row['times_plain']:.2f} x plain, {row['share_of_limit']:.2f} of the limit"
        print(line)
    if row["validation_loss"]:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in row["validation_loss"].items())
        print(f"  validation loss after {row['steps']} steps: {losses}")
    print(flush=True)


# --- the limit ---------------------------------------------------------------------------------------------


def matrix_products(network: Network, vocabulary: int, dtype: torch.dtype) -> Callable[[], None]:
    """A function that computes the matrix products of one step, and nothing else."""
    rows = network.batch * network.length
    gates = GATES[network.cell] * network.hidden
    products: list[tuple[int, int, int, int]] = []  # M, K, N, and their number
    for layer in range(network.layers):
        inputs = network.hidden if layer else vocabulary
        products += [
            (rows, inputs, gates, 1),  # forward: inputs
            (network.batch, network.hidden, gates, network.length),  # forward: hidden states
            (network.batch, gates, network.hidden, network.length - 1),  # backward: hidden states
            (gates, rows, inputs, 1),  # backward: weights
            (gates, rows, network.hidden, 1),
        ]
        if layer:
            products.append((rows, gates, inputs, 1))  # backward: inputs
    products += [(rows, network.hidden, vocabulary, 1), (rows, vocabulary, network.hidden, 1)]
    products.append((vocabulary, rows, network.hidden, 1))
    runs = [(_fastest_product(m, k, n, dtype), count) for m, k, n, count in products]

    def run() -> None:
        for product, count in runs:
            for _ in range(count):
                product()

    return run


def _fastest_product(m: int, k: int, n: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """``[M, K] @ [K, N]``, with the factors laid out as is fastest."""
    lefts = (torch.randn(m, k).to(dtype), torch.randn(k, m).to(dtype).t())
    rights = (torch.randn(k, n).to(dtype), torch.randn(n, k).to(dtype).t())
    out = torch.empty(m, n, dtype=dtype)
    ways: list[Callable[[], Tensor]] = [
        lambda left=left, right=right: torch.mm(left, right, out=out)  # type: ignore[misc]
        for left in lefts
        for right in rights
    ]
    return min(ways, key=_least_seconds)


def _least_seconds(way: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        way()
        times.append(time.perf_counter() - begin)
    return min(times)


# --- the plain loop ----------------------------------------------------------------------------------------


class PlainLoop:
    """The plain loop in a separate process, unaffected by settings of `train`."""

    def __init__(self, network: Network, threads: int) -> None:
        command = [sys.executable, __file__, "--plain", network.name, "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> PlainLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its input, which stops it

    def step(self) -> float:
        """Run one step; return its duration in seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def serve_plain_steps(network: Network, ids: NDArray[Any], vocabulary: int) -> None:
    """Run a step for every line of stdin; print its duration in seconds."""
    steps = plain_steps(network, ids, vocabulary)
    for _ in sys.stdin:
        begin = time.perf_counter()
        next(steps)
        print(time.perf_counter() - begin, flush=True)


def plain_steps(network: Network, ids: NDArray[Any], vocabulary: int) -> Iterator[float]:
    """The plain fp32 loop; yields the loss of each step."""
    model = TutorialNetwork(network.cell, network.hidden, network.layers, vocabulary)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    criterion = nn.CrossEntropyLoss()
    width = network.batch * network.length
    rows = ids[: len(ids) // width * width].reshape(network.batch, -1).astype(np.int64)
    while True:
        state = None
        for start in range(0, rows.shape[1] - network.length, network.length):
            inputs = torch.from_numpy(rows[:, start : start + network.length])
            targets = torch.from_numpy(rows[:, start + 1 : start + network.length + 1])
            if state is not None:
                state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
            optimizer.zero_grad()
            logits, state = model(inputs, state)
            loss = criterion(logits.reshape(-1, vocabulary), targets.reshape(-1))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            yield loss.item()


if __name__ == "__main__":
    main()
