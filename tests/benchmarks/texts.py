"""Measures `charrnn-train TEXT --minutes M` on any texts, compared with n-gram models and PPMd.

    python tests/benchmarks/texts.py [--minutes M] [--busy N] [--seed S] [--json FILE] TEXT... [-- OPTION...]
    python tests/benchmarks/texts.py --json FILE

Each text is trained on by the command itself, in a temporary folder; options after a second `--` are passed
to it. Bits per character are those of the best checkpoint, on the last 10 % of the text. They are compared,
on the same characters, with a static n-gram model (`ngram.py`), and with PPMd if the package pyppmd is
installed. Nothing else should run at the same time, except for the processes of --busy.

With --json, every text's figures are saved to a file as soon as they are known, replacing earlier ones with
the same settings. A long benchmark can thus be run text by text, and continued with --missing after an
interruption. The table shows the whole file; without texts, nothing is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.ngram import ORDERS, best_order, bits_by_order, read_corpus
from benchmarks.table import _head, _machine, _row
from charrnn_trainer import Corpus, find_checkpoint
from charrnn_trainer.runs.checkpoint import read_header

PPMD_ORDERS = (4, 6, 8, 12, 16)
PPMD_MEMORY = 1 << 30
KEY = ("text", "sha256", "minutes", "busy", "seed", "options")
"""Figures with equal values of these have the same settings; later ones replace earlier ones."""
NOT_FOR_TRAINING = (
    "--level",
    "--val-fraction",
    "--split",
    "--lines",
    "--out",
    "--resume",
    "--config",
    "--minutes",
    "--seed",
)
"""Options that would change the held-out 10 % of the characters, or that are set by this program."""

KEEP_A_CORE_BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:  # ends with the benchmark, however that ends
    sum(range(1_000_000))
"""

EXPLAINED = f"""\
`bits`: bits per character of the best checkpoint on the last 10 % of the text; `took`: total minutes of the
command; `busy`: number of other processes that each kept a core busy. `KN`: a static character n-gram model
of the first 90 %, with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999) down to the uniform
distribution over the whole text's symbols; the best order up to {ORDERS} on the last 10 % (in brackets).
`PPMd`: variant H on UTF-8, {PPMD_MEMORY >> 20:,} MB, the best of the orders
{", ".join(map(str, PPMD_ORDERS))} (in brackets); the increase of the compressed size due to the last 10 %, to
which it adapts. `ratio`: bits divided by the other model's; below 1, charrnn predicts the text better."""

Figures = dict[str, Any]
"""The measurements on one text."""


def main() -> None:
    """Measure, print and save the results."""
    words, options = split_words(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT", help="a file in UTF-8")
    parser.add_argument("--minutes", type=float, default=3.0, help="minutes for charrnn-train (default: 3)")
    parser.add_argument("--busy", type=int, default=0, help="number of cores to keep busy (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--missing", action="store_true", help="skip texts whose figures the file has")
    arguments = parser.parse_args(words)
    check(parser, arguments, options)
    machine = describe_machine()
    if find_spec("pyppmd"):
        machine["pyppmd"] = importlib.metadata.version("pyppmd")
    if arguments.texts:
        print("; ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results = read_results(arguments.json)
    try:
        for path in arguments.texts:
            corpus = read_corpus(path)
            figures: Figures = {
                "text": path.name,
                "sha256": corpus.sha256,
                "minutes": arguments.minutes,
                "busy": arguments.busy,
                "seed": arguments.seed,
                "options": options,
            }
            if arguments.missing and _key(figures) in map(_key, results):
                continue
            print(
                f"\n{path.name}: charrnn-train --minutes {arguments.minutes:g}", file=sys.stderr, flush=True
            )
            figures |= train(path, arguments.minutes, arguments.busy, arguments.seed, options)
            figures |= compare(corpus, figures["train_tokens"])
            figures["machine"] = machine
            results = merge(read_results(arguments.json) if arguments.json else results, figures)
            write_results(arguments.json, results)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if results:
            print("\n" + make_table(results))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of this program, and those for charrnn-train after the first ``--``."""
    place = words.index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """Exit with a usage error for invalid arguments, before hours of training."""
    if not arguments.texts and not (arguments.json and arguments.json.is_file()):
        parser.error("nothing to measure or show: give a TEXT, or a file of figures with --json")
    for path in arguments.texts:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"there is no folder for {arguments.json}")
    if arguments.missing and not arguments.json:
        parser.error("--missing needs the file of --json; give both")
    if not arguments.minutes > 0:
        parser.error(f"--minutes must be above 0, not {arguments.minutes:g}")
    if arguments.busy < 0:
        parser.error(f"--busy must be 0 or more, not {arguments.busy}")
    for option in options:
        if option.split("=")[0] in NOT_FOR_TRAINING:
            parser.error(f"{option.split('=')[0]} cannot be passed to charrnn-train here")


# --- measuring ---------------------------------------------------------------------------------------------


def train(path: Path, minutes: float, busy: int, seed: int, options: Sequence[str]) -> Figures:
    """Run charrnn-train as a user would, and read the results from the run."""
    with tempfile.TemporaryDirectory(prefix="charrnn-texts-") as folder:
        run = Path(folder) / "run"
        settings = ["--minutes", f"{minutes:g}", "--seed", str(seed), "--out", str(run), *options]
        with busy_cores(busy):
            begin = time.perf_counter()
            process = subprocess.run(
                [*train_command(), str(path), *settings], stdout=subprocess.DEVNULL, check=False
            )
            took = time.perf_counter() - begin
        if process.returncode != 0:
            raise SystemExit(f"charrnn-train ended with exit code {process.returncode} on {path}: see above")
        return {**read_run(run), "minutes_taken": took / 60}


def train_command() -> list[str]:
    """The charrnn-train command of this Python."""
    program = Path(sys.executable).with_name("charrnn-train.exe" if os.name == "nt" else "charrnn-train")
    return [str(program)] if program.is_file() else [sys.executable, "-m", "charrnn_trainer.cli.train"]


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep a number of cores busy with processes until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", KEEP_A_CORE_BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def read_run(run: Path) -> Figures:
    """The settings of a run, its steps, and the loss of its best checkpoint."""
    best, last = (read_header(find_checkpoint(run, which)) for which in ("best", "last"))
    if best.validation_loss is None:
        raise SystemExit(f"the run on {best.corpus.name} has no validation loss: is the text too short?")
    return {
        "characters": best.corpus.characters,
        "symbols": len(best.vocabulary),
        "train_tokens": best.corpus.train_tokens,
        "settings": best.config.flat(),
        "steps": last.step,
        "best_step": best.step,
        "bits": best.validation_loss / math.log(2),
    }


def compare(corpus: Corpus, train_tokens: int) -> Figures:
    """Bits per character of the other models, on the same characters."""
    kn = bits_by_order(corpus.ids, train_tokens, len(corpus.vocabulary))
    figures: Figures = {"kn": {"order": best_order(kn), "bits": min(kn), "by_order": kn}, "ppmd": None}
    if find_spec("pyppmd"):
        text = corpus.vocabulary.decode_bytes(corpus.ids)
        known = len(corpus.vocabulary.decode_bytes(corpus.ids[:train_tokens]))
        by_order = ppmd_bits(text, known, len(corpus) - train_tokens)
        order = min(by_order, key=lambda order: by_order[order])
        figures["ppmd"] = {"order": order, "bits": by_order[order], "by_order": by_order}
    return figures


def ppmd_bits(text: bytes, known: int, characters: int) -> dict[int, float]:
    """By order, the bits of PPMd (variant H) for each of the last ``characters`` of a text.

    Args:
        text: the bytes of the text.
        known: the number of bytes before those characters.
        characters: the number of characters.
    """
    pyppmd = importlib.import_module("pyppmd")  # optional, unknown to mypy

    def size(part: bytes, order: int) -> int:
        encoder = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY)
        return len(encoder.encode(part)) + len(encoder.flush())

    return {order: 8 * (size(text, order) - size(text[:known], order)) / characters for order in PPMD_ORDERS}


# --- the file of figures -----------------------------------------------------------------------------------


def read_results(path: Path | None) -> list[Figures]:
    """The contents of a file of figures; empty if it does not exist yet."""
    if path is None or not path.exists():
        return []
    try:
        results: list[Figures] = json.loads(path.read_text(encoding="utf-8"))["texts"]
        for figures in results:
            _key(figures)
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is not a file of this benchmark's figures: {error!r}") from error
    return results


def merge(results: Sequence[Figures], new: Figures) -> list[Figures]:
    """The results with new figures, which replace those with the same settings."""
    merged = {_key(figures): figures for figures in results}
    merged[_key(new)] = new
    return list(merged.values())


def write_results(path: Path | None, results: Sequence[Figures]) -> None:
    """Write the figures to a file atomically."""
    if path is not None:
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_text(json.dumps({"texts": results}, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def _key(figures: Figures) -> str:
    return json.dumps([figures[name] for name in KEY])


# --- the table ---------------------------------------------------------------------------------------------


def make_table(results: Sequence[Figures]) -> str:
    """The figures in Markdown, grouped by minutes, with the machine below."""
    columns = ("text", "characters", "symbols", "minutes", "busy", "chosen", "bits", "took", "KN", "PPMd")
    lines = _head(columns)
    for figures in sorted(results, key=lambda item: (item["busy"], item["minutes"], item["options"])):
        lines.append(
            _row(
                (
                    figures["text"],
                    f"{figures['characters']:,}",
                    f"{figures['symbols']:,}",
                    f"{figures['minutes']:g}",
                    f"{figures['busy']}",
                    chosen(figures),
                    f"{figures['bits']:.3f}",
                    f"{figures['minutes_taken']:.2f}",
                    against(figures["bits"], figures["kn"]),
                    against(figures["bits"], figures["ppmd"]),
                )
            )
        )
    machines = dict.fromkeys(_machine(figures) for figures in results)
    return "\n".join([*lines, "", EXPLAINED, "", *machines])


def chosen(figures: Figures) -> str:
    """The planned network, its regularization, and the number of steps."""
    settings = figures["settings"]
    words = [f"{settings['cell'].upper()} {settings['layers']} x {settings['hidden_size']}"]
    words.append(f"{figures['steps']:,} steps of {settings['batch_size']} x {settings['seq_length']}")
    if figures["best_step"] != figures["steps"]:
        words.append(f"best at {figures['best_step']:,}")
    words += [
        f"{name.replace('_', ' ')} {settings[name]:g}"
        for name in ("dropout", "weight_drop")
        if settings[name]
    ]
    words += ["tied weights"] if settings.get("tie_weights") else []
    words += [f"seed {figures['seed']}"] if figures["seed"] else []
    words += [f"`{' '.join(figures['options'])}`"] if figures["options"] else []
    return ", ".join(words)


def against(bits: float, other: Figures | None) -> str:
    """Another model's bits per character and order, and the ratio of ours to it; a dash if it is missing."""
    if other is None:
        return "-"
    # Purely repetitive text may not add a whole byte.
    ratio = bits / other["bits"] if other["bits"] > 0 else math.inf
    return f"{other['bits']:.3f} ({other['order']}), ratio {ratio:.3f}"


if __name__ == "__main__":
    main()
