"""charrnn-export: exports a checkpoint as a step model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from charrnn_runtime.cli import outputs, terminal
from charrnn_runtime.cli.option_values import one_of
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_trainer.cli.torch_installed import need_torch
from charrnn_trainer.version import __version__

if TYPE_CHECKING:
    from charrnn_trainer.runs.checkpoint import Checkpoint
    from charrnn_trainer.runs.finding import CheckpointEntry

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-export ckpt my.onnx
  charrnn-export ckpt/lstm my.onnx --checkpoint last
  charrnn-export ckpt my.int8.onnx --precision int8
  charrnn-export ckpt --list
"""


@app.command(epilog=EXAMPLES)
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT",
            help="A checkpoint file, a run's folder, or a folder of runs (the newest run is used).",
        ),
    ],
    destination: Annotated[
        Path | None, typer.Argument(metavar="MODEL.onnx", help="The file to write (- for stdout).")
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="best|last|STEP",
            help="Checkpoint of the run: best (by validation loss), last, or a step number.",
            autocompletion=lambda: ["best", "last"],
        ),
    ] = "best",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32 (everywhere), int8 (fastest on a CPU) or fp16 (for GPUs).",
            **one_of(spec.PRECISIONS),
        ),
    ] = "fp32",
    list_only: Annotated[bool, typer.Option("--list", help="List the run's checkpoints and exit.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is not a charrnn model.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-trainer", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Export a checkpoint as one ONNX file, which charrnn-gen runs without PyTorch.

    The model is verified against PyTorch before it is written. A charrnn model at the destination is
    replaced.
    """
    if checkpoint not in ("best", "last") and not re.fullmatch("[0-9]{1,18}", checkpoint):
        raise SettingError(f"--checkpoint must be best, last or a step number, not {checkpoint!r}")
    if not list_only and destination is None:
        raise SettingError("give the file to write, such as my.onnx, or --list to list the run's checkpoints")

    if destination is not None and outputs.is_stdout(destination) and terminal.stdout().isatty():
        raise SettingError(
            "- is stdout, which is a terminal: give the file to write, such as my.onnx, or redirect it"
        )
    need_torch()
    from charrnn_trainer.runs.checkpoint import load_checkpoint
    from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints

    if list_only:
        _show(list_checkpoints(source))
        return
    assert destination is not None
    which: Literal["best", "last"] | int
    which = "best" if checkpoint == "best" else "last" if checkpoint == "last" else int(checkpoint)
    path = find_checkpoint(source, which)
    outputs.check_not_input("MODEL.onnx", destination, path)

    from charrnn_trainer.export.api import export_checkpoint

    loaded = load_checkpoint(path)
    terminal.say(f"{path}: step {loaded.step:,}, validation loss {_loss(loaded)}")
    with _file_for(destination) as file:
        report = export_checkpoint(loaded, file, precision=precision, force=force, report=terminal.say)
    if report.replaced:
        terminal.say(f"replaced {destination}, previously {report.replaced}")
    info = report.info
    share = "" if precision == "fp32" else f" ({info.file_bytes / report.fp32_bytes:.0%} of fp32)"
    written = "stdout" if outputs.is_stdout(destination) else destination
    terminal.say(
        f"wrote {written}: {info.cell} {info.layers}x{info.hidden_size} {info.precision}, "
        f"{info.file_bytes:,} bytes{share}"
    )


@contextmanager
def _file_for(destination: Path) -> Iterator[Path]:
    """The file that the model is written to; for stdout one whose bytes go there once all is well."""
    if not outputs.is_stdout(destination):
        yield destination
        return
    with TemporaryDirectory() as folder:
        yield Path(folder, "model.onnx")
        with outputs.output(destination, force=False) as stream:
            stream.write(Path(folder, "model.onnx").read_bytes())


def _show(entries: list[CheckpointEntry]) -> None:
    stream = terminal.stdout()
    bits_per = f"bits/{'byte' if entries[0].level == 'byte' else 'char'}"
    stream.write(f"{'step':>9}  {'training':>8}  {'validation':>10}  {bits_per:>9}  file\n")
    for entry in entries:
        marks = [mark for mark, holds in (("best", entry.best), ("last", entry.last)) if holds]
        note = f"  ({', '.join(marks)})" if marks else ""
        bits = "-" if entry.validation_loss is None else f"{entry.validation_loss / math.log(2):.4f}"
        stream.write(
            f"{entry.step:>9,}  {_number(entry.train_loss):>8}  {_number(entry.validation_loss):>10}  "
            f"{bits:>9}  {entry.path}{note}\n"
        )


def _unit(level: str) -> str:
    return "byte" if level == "byte" else "character"


def _number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _loss(checkpoint: Checkpoint) -> str:
    loss, unit = checkpoint.validation_loss, _unit(checkpoint.vocabulary.level)
    return "not measured" if loss is None else f"{loss:.4f} ({loss / math.log(2):.4f} bits per {unit})"


def main() -> NoReturn:
    """The entry point of charrnn-export."""
    terminal.run(app, "charrnn-export", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
