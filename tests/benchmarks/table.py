"""Writes the README's table of speeds from the figures that generation.py wrote down.

python tests/benchmarks/generation.py --json tests/benchmarks/generation.json
python tests/benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIGURES = Path(__file__).with_name("generation.json")
BEGIN, END = "<!-- speed: made by tests/benchmarks/table.py -->", "<!-- end of speed -->"


def main() -> None:
    """Put the table between its marks in README.md."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{readme} has no marks for the table: {BEGIN} and {END}")
    table = make_table(json.loads(FIGURES.read_text(encoding="utf-8")))
    readme.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def make_table(figures: dict[str, Any]) -> str:
    """The table in Markdown, with the machine below it."""
    columns = ("network, streams", "int8", "fp32", "PyTorch eager", "NumPy")
    ratios = ("int8 to PyTorch", "fp32 to PyTorch", "int8's time to its limit")
    lines = [f"| {' | '.join((*columns, *ratios))} |", "|---" * (len(columns) + len(ratios)) + "|"]
    for row in figures["speed"]:
        speed = {name: 1e6 / value for name, value in row["microseconds"].items()}
        eager = max(speed["torch eager"], speed["torch eager, no oneDNN"])
        ratio = row["times_fastest_eager"]
        name = f"{row['cell'].upper()} {row['layers']}x{row['hidden_size']}, {row['streams']}"
        cells = [
            f"{value:,.0f}" for value in (speed["charrnn int8"], speed["charrnn fp32"], eager, speed["numpy"])
        ]
        cells += [f"{ratio['charrnn int8']:.1f} x", f"{ratio['charrnn fp32']:.1f} x"]
        cells.append(f"{row['times_limit']['charrnn int8']:.2f} x")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    machine = "; ".join(f"{name} {value}" for name, value in figures["machine"].items())
    startup = figures["startup"]
    bare = startup["import numpy, onnxruntime"]["milliseconds"]
    started = "; ".join(
        f"{name} {item['milliseconds']:.0f} ms ({item['milliseconds'] / bare:.1f} x), "
        f"{item['peak_megabytes']:.0f} MB"
        for name, item in startup.items()
    )
    installed = "; ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in figures["installed"].items())
    if "runs" not in figures:
        raise SystemExit(f"{FIGURES} does not say what is of one run: measure anew with generation.py")
    runs = figures["runs"]
    others = sorted(part for part in runs if runs[part] != runs["speed"])
    apart = f" ({' and '.join(others)}: of a run of their own)" if others else ""
    explained = (
        f"Characters a second, {figures['threads']} thread each, medians of one run{apart}. PyTorch eager is "
        "the faster of with and without oneDNN. The limit is the bare matrix products of the same shapes in "
        "int8, by the fastest of onnxruntime's operators and PyTorch's."
    )
    lines += [
        "",
        explained,
        "",
        f"Start-up to the first character, and peak memory: {started}.",
        "",
        f"Installed: {installed}.",
        "",
        f"Measured on: {machine}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
