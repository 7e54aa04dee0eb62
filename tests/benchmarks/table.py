"""Write the speed tables in docs/performance.md and README.md from the recorded figures.

python tests/benchmarks/generation.py --json tests/benchmarks/generation.json
python tests/benchmarks/training.py --json tests/benchmarks/training.json
python tests/benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Insert each table between its markers."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_tables(page, path.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str, text: str) -> str:
    """The text of a page with regenerated tables."""
    for mark, figures, make in PAGES[page]:
        table = make(json.loads((FOLDER / figures).read_text(encoding="utf-8")))
        begin, end = f"<!-- {mark}: made by tests/benchmarks/table.py -->", f"<!-- end of {mark} -->"
        text = put_between(text, begin, end, table, page)
    return text


def put_between(text: str, begin: str, end: str, table: str, page: str) -> str:
    """Replace the text between two markers."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"{page} has no markers for a table: {begin} and {end}")
    return f"{before}{begin}\n{table}{end}{after}"


def make_short_table(figures: dict[str, Any]) -> str:
    """The speeds of the network shipped as lstm.onnx, for one stream and for many."""
    lines = _head(("network, streams", "int8", "fp32", "PyTorch eager", "NumPy"))
    for row in figures["speed"]:
        if (row["cell"], row["layers"], row["hidden_size"]) == ("lstm", 2, 256):
            lines.append(_row((_name(row), *_speeds(row))))
    measured = f"{_threads(figures)} each{_numpy_threads(figures)} on {figures['machine']['processor']}."
    return "\n".join([*lines, "", f"Measured with {measured}"]) + "\n"


def make_table(figures: dict[str, Any]) -> str:
    """The speeds of generation in Markdown, with the machine below them."""
    columns = ("network, streams", "int8", "fp32", "PyTorch eager", "NumPy")
    ratios = ("int8 / PyTorch", "fp32 / PyTorch", "int8 time / limit")
    lines = _head((*columns, *ratios))
    for row in figures["speed"]:
        ratio = row["times_fastest_eager"]
        cells = [*_speeds(row), f"{ratio['charrnn int8']:.1f} x", f"{ratio['charrnn fp32']:.1f} x"]
        cells.append(f"{row['times_limit']['charrnn int8']:.2f} x")
        lines.append(_row((_name(row), *cells)))
    lines += _cores(figures)
    startup = figures["startup"]
    bare = startup["import numpy, onnxruntime"]["milliseconds"]
    installed = "; ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in figures["installed"].items())
    if "runs" not in figures:
        raise SystemExit(
            "generation.json does not state which figures are from one run: measure again with generation.py"
        )
    runs = figures["runs"]
    others = sorted(part for part in runs if runs[part] != runs["speed"])
    apart = f" ({', '.join(others)}: separate runs)" if others else ""
    numpy = _numpy_threads(figures)
    explained = (
        f"Characters per second, {_threads(figures)} each{numpy}, medians of one run{apart}. "
        "PyTorch eager is the faster of the variants with and without oneDNN. The limit is the time of the "
        "int8 matrix products alone, with the fastest of onnxruntime's and PyTorch's operators."
    )
    lines += [
        "",
        explained,
        "",
        *_head(("start-up to the first character", "milliseconds", "relative to imports", "peak memory")),
        *(
            _row(
                (
                    name,
                    f"{item['milliseconds']:.0f}",
                    f"{item['milliseconds'] / bare:.1f} x",
                    f"{item['peak_megabytes']:.0f} MB",
                )
            )
            for name, item in startup.items()
        ),
        "",
        f"Installed: {installed}.",
        "",
        _machine(figures),
    ]
    return "\n".join(lines) + "\n"


def _cores(figures: dict[str, Any]) -> list[str]:
    """The speed-up of all cores over one thread, if measured."""
    rows = figures.get("cores", [])
    if not rows:
        return []
    cores = figures["machine"]["cores"]
    columns = (
        "network, streams (int8)",
        "1 thread",
        f"{cores} cores",
        "gain",
        f"gain with {cores} separate processes",
        "gain while another process is busy",
    )
    lines = ["", *_head(columns)]
    for row in rows:
        times, beside = row["microseconds"], row["microseconds_beside_a_busy_process"]
        speeds = (f"{1e6 / times[threads]:,.0f}" for threads in ("1 thread", "all cores"))
        gain, beside_gain = (f"{each['1 thread'] / each['all cores']:.2f} x" for each in (times, beside))
        apart = times.get("separate processes")
        limit = f"{times['1 thread'] / apart:.2f} x" if apart else ""
        lines.append(_row((_name(row), *speeds, gain, limit, beside_gain)))
    return lines


def _name(row: dict[str, Any]) -> str:
    return f"{row['cell'].upper()} {row['layers']}x{row['hidden_size']}, {row['streams']}"


def _speeds(row: dict[str, Any]) -> list[str]:
    """Characters per second in int8, fp32, PyTorch eager (with or without oneDNN) and NumPy."""
    speed = {name: 1e6 / value for name, value in row["microseconds"].items()}
    eager = max(speed["torch eager"], speed["torch eager, no oneDNN"])
    return [
        f"{value:,.0f}" for value in (speed["charrnn int8"], speed["charrnn fp32"], eager, speed["numpy"])
    ]


def make_training_table(figures: dict[str, Any]) -> str:
    """The speeds of training in Markdown, with the machine below them."""
    lines = _head(
        (
            "network, batch",
            "charrnn step",
            "PyTorch step",
            "matrix products",
            "speed-up",
            "share of limit",
            "loss",
            "fp32 loss",
        )
    )
    steps = {row["steps"] for row in figures["networks"]}
    for row in figures["networks"]:
        cell, size, batch = row["network"].split("-")
        times = (f"{row['milliseconds'][name]:.0f} ms" for name in ("ours", "plain", "limit"))
        ratios = (f"{row['times_plain']:.2f} x", f"{row['share_of_limit']:.2f}")
        losses = (f"{row['validation_loss'][name]:.3f}" for name in (row["precision"], "fp32"))
        lines.append(_row((f"{cell.upper()} {size}, {batch}, {row['precision']}", *times, *ratios, *losses)))
    explained = (
        f"{_threads(figures)} each, medians of one run. The limit is the time of the matrix products alone. "
        f"The losses are validation losses after {' or '.join(map(str, sorted(steps)))} steps, in the number "
        "format that `--precision auto` chose and in fp32."
    )
    return "\n".join([*lines, "", explained, "", _machine(figures)]) + "\n"


def _head(columns: Sequence[str]) -> list[str]:
    return [_row(columns), "|---" * len(columns) + "|"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numpy_threads(figures: dict[str, Any]) -> str:
    """The note about NumPy's threads: figures without their number were measured with all cores."""
    if figures.get("numpy_threads") == figures["threads"]:
        return ""
    return f" (NumPy's matrix products on all {figures['machine']['cores']} cores)"


def _threads(figures: dict[str, Any]) -> str:
    count = figures["threads"]
    return f"{count} thread{'' if count == 1 else 's'}"


def _machine(figures: dict[str, Any]) -> str:
    return f"Measured on: {'; '.join(f'{name} {value}' for name, value in figures['machine'].items())}."


PAGES = {
    "README.md": [("speed in short", "generation.json", make_short_table)],
    "docs/performance.md": [
        ("speed", "generation.json", make_table),
        ("training speed", "training.json", make_training_table),
    ],
}
"""For each page: the markers of its tables, the figures, and the function that formats them."""


if __name__ == "__main__":
    main()
