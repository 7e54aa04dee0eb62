"""charrnn-info: show the contents of a model file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from charrnn_runtime import __version__
from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import one_line
from charrnn_runtime.format.reader import ModelInfo, read_model_file

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-info models/lstm.onnx
  charrnn-info models/lstm.onnx --json
"""


@app.command(epilog=EXAMPLES)
def show(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to show.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with full values.")] = False,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Show the contents of a model file without running it."""
    info = read_model_file(model_path).info
    stream = terminal.stdout()
    if as_json:
        stream.write(json.dumps(info.as_dict(), ensure_ascii=False) + "\n")
        return
    for name, value in _lines(info):
        stream.write(f"{name:<18}{value}\n")


def _lines(info: ModelInfo) -> list[tuple[str, str]]:
    level = "bytes" if info.vocabulary.level == "byte" else "characters"
    shown = "" if level == "bytes" else ": " + _shorten("".join(info.vocabulary.symbols))
    start = info.vocabulary.symbols[info.start_token] if level == "characters" else chr(info.start_token)
    layout = ", ".join(
        f"{block.name}[{block.start}:{block.start + block.size}]" for block in info.state_layout
    )
    loss = info.validation_loss
    unit = "byte" if level == "bytes" else "character"
    said = "unknown" if loss is None else f"{loss:.4f} nats ({loss / math.log(2):.4f} bits) per {unit}"
    lines = [
        ("parameters", f"{info.parameters:,}"),
        ("validation loss", said),
        ("file", info.path),
        ("size", f"{info.file_bytes:,} bytes"),
        ("sha-256", info.sha256),
        ("format", f"charrnn step model, version {info.version}"),
        ("cell", info.cell),
        ("layers", str(info.layers)),
        ("hidden size", str(info.hidden_size)),
        ("precision", info.precision),
        ("vocabulary", f"{len(info.vocabulary):,} {level}{shown}"),
        ("start token", f"{info.start_token} ({start!r})"),
        ("trained on", "independent lines" if info.lines else "running text"),
        ("state", f"{info.state_size:,} numbers per stream: {layout}"),
        ("top-k maximum", f"{info.top_k_max:,}"),
    ]
    lines += [(f"training: {name}", value) for name, value in _flat(info.training)]
    width = max(len(name) for name, _ in lines) + 2
    return [(name.ljust(width), value) for name, value in lines]


def _flat(value: dict[str, Any], prefix: str = "", levels: int = 5) -> list[tuple[str, str]]:
    """Flatten nested JSON objects into pairs of a name and a value; the objects are not trusted."""
    lines = []
    for key, item in value.items():
        name = one_line(f"{prefix}{key}".replace("_", " "))
        if isinstance(item, dict) and levels > 1:
            lines += _flat(item, f"{name} ", levels - 1)
        else:
            shown = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            lines.append((name, one_line(shown)))
    return lines


def _shorten(symbols: str) -> str:
    shown = repr(symbols)
    return shown if len(shown) <= 100 else shown[:97] + "..."


def main() -> NoReturn:
    """The entry point of charrnn-info."""
    terminal.run(app, "charrnn-info")


if __name__ == "__main__":
    main()
