"""Checks whether `charrnn-train --minutes` keeps its time limit, and how much of it validation takes.

    python tests/benchmarks/budget.py TEXT ... [--minutes M ...] [--busy N] [--json FILE] [-- OPTION ...]

Each text is trained on by the command in a separate process, for each number of minutes; options after the
second -- are passed to charrnn-train. --busy starts that many processes that keep a core busy. The time is
that of the whole command. "during" is the share of validations during training, "at the end" the share of
those after the last step.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.texts import busy_cores

HEAD = (
    "text",
    "minutes",
    "planned s",
    "actual s",
    "ratio",
    "steps",
    "planned",
    "during",
    "at the end",
    "loss",
)
MAIN = "from charrnn_trainer.cli.train import main; main()"


def main() -> None:
    """Train, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, help="text files")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0], help="(default: %(default)s)")
    parser.add_argument("--busy", type=int, default=0, help="number of busy processes in the background")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    words = sys.argv[1:]
    ours, options = (
        (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    )
    arguments = parser.parse_args(ours)
    machine = describe_machine()
    print("; ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{arguments.busy} busy process(es) in the background\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    rows = []
    with busy_cores(arguments.busy):
        for text in arguments.texts:
            for minutes in arguments.minutes:
                rows.append(row := measure(text, minutes, options))
                print("| " + " | ".join(show(row)) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def measure(text: Path, minutes: float, options: list[str]) -> dict[str, Any]:
    """Train once."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-c", MAIN, str(text.resolve()), "--minutes", f"{minutes:g}"]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", str(run), *options],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        taken = time.perf_counter() - begin
        lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    plan = re.search(r"allow about ([\d,]+) steps", done.stderr)
    last = max(line["step"] for line in lines)
    validations = [line for line in lines if "validation_loss" in line or "whole_loss" in line]
    at_end = [line for line in validations if line["step"] == last]
    on_the_way = sum(line["seconds"] for line in validations if line["step"] < last)
    return {
        "text": text.name,
        "minutes": minutes,
        "planned": 60.0 * minutes,
        "taken": taken,
        "steps": last,
        "planned_steps": int(plan[1].replace(",", "")) if plan else None,
        "on_the_way": on_the_way / (60.0 * minutes),
        "at_end": sum(line["seconds"] for line in at_end) / (60.0 * minutes),
        "loss": at_end[-1].get("whole_loss", at_end[-1].get("validation_loss")) if at_end else None,
    }


def show(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a table row."""
    return (
        row["text"],
        f"{row['minutes']:g}",
        f"{row['planned']:.0f}",
        f"{row['taken']:.1f}",
        f"{row['taken'] / row['planned']:.1%}",
        f"{row['steps']:,}",
        f"{row['planned_steps']:,}" if row["planned_steps"] is not None else "",
        f"{row['on_the_way']:.1%}",
        f"{row['at_end']:.1%}",
        f"{row['loss']:.4f}" if row["loss"] is not None else "",
    )


if __name__ == "__main__":
    main()
