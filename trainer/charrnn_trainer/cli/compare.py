"""charrnn-compare: compares runs in a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from charrnn_runtime.cli import outputs, terminal
from charrnn_runtime.cli.option_values import SEED, TEMPERATURE, number
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_trainer.cli.torch_installed import need_torch
from charrnn_trainer.version import __version__

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-compare ckpt
  charrnn-compare ckpt/lstm --prime "LORD " --length 200 --out comparison
"""

_REPORT: Final = Path("report")
_REFERENCE_PAGE: Final = Path("reference.md")


@app.command(epilog=EXAMPLES)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or a folder that holds several runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="The folder of the report; with --reference a Markdown page. "
            "[default: report; reference.md with --reference]",
        ),
    ] = None,
    # --- samples
    prompt: Annotated[str, typer.Option("--prime", "-p", metavar="TEXT", help="Prompt of all samples.")] = "",
    length: Annotated[
        int, typer.Option("--length", "-n", help="Characters per sample.", **number(int, "CHARACTERS", 0))
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Random seed of the samples.", **SEED)] = 1,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", "--temp", "-t", help="Sampling temperature of the samples.", **TEMPERATURE
        ),
    ] = spec.DEFAULT_TEMPERATURE,
    checkpoints: Annotated[
        int,
        typer.Option(
            help="Checkpoints per run to generate samples from, in addition to the best.",
            **number(int, "CHECKPOINTS", allowed="a whole number from 1 to 50"),
        ),
    ] = 3,
    # --- a reference
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Instead of the report, write a page that compares the runs' training losses with a table "
            "that has the columns cell, step and training_loss_nats.",
        ),
    ] = None,
    reference_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name of the reference on the page. [default: its file name]"),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The heading of the page.")] = None,
    # ---
    force: Annotated[
        bool, typer.Option("--force", help="Also replace files that charrnn-compare did not write.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-trainer", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Compare runs in a report: figures, findings, curves and samples.

    The report is a folder with one self-contained page, report.html, and the pictures as PNG files. The path
    of the page is printed at the end. An existing report is replaced.
    """
    need_torch()
    from charrnn_trainer.compare import check_installed

    check_installed()
    if reference is None:
        for flag, value in (("--reference-name", reference_name), ("--title", title)):
            if value is not None:
                raise SettingError(f"{flag} needs --reference; give --reference CSV, or omit {flag}")
        _report(runs, out or _REPORT, prompt, length, seed, temperature, checkpoints, force)
    else:
        _page(runs, out or _REFERENCE_PAGE, reference, reference_name or reference.name, title, force)


def _report(
    runs: list[Path],
    out: Path,
    prompt: str,
    length: int,
    seed: int,
    temperature: float,
    checkpoints: int,
    force: bool,
) -> None:
    from charrnn_trainer.compare.output import check_output, write_output
    from charrnn_trainer.compare.report import PAGE, PICTURES, compare_runs

    check_output(out, [PAGE, *(f"{name}.png" for name in PICTURES)], force=force)
    comparison = compare_runs(
        runs,
        prompt=prompt,
        length=length,
        seed=seed,
        temperature=temperature,
        checkpoints=checkpoints,
        report=terminal.say,
    )
    write_output(out, comparison.files(), force=force)
    _print(out / PAGE)


def _page(
    runs: list[Path], out: Path, reference: Path, reference_name: str, title: str | None, force: bool
) -> None:
    from charrnn_trainer.compare.output import check_output, write_output
    from charrnn_trainer.compare.plots import draw_reference
    from charrnn_trainer.compare.records import read_runs
    from charrnn_trainer.compare.reference import beside_reference, page, read_reference

    if out.suffix != ".md":
        raise SettingError(f"with --reference, --out must be a .md file, such as reference.md, not {out}")
    picture_name = f"{out.stem}.png"
    for written in (out, out.parent / picture_name):
        outputs.check_not_input("--out", written, reference)
    check_output(out.parent, [out.name, picture_name], force=force)
    losses = read_reference(reference)
    tables = beside_reference(read_runs(runs), losses)
    for cell in sorted(set(losses) - {table.run.config.network.cell for table in tables}):
        terminal.warn(f"the reference's losses of {cell} are ignored: there is no {cell} run")
    for table in tables:
        terminal.say(f"{table.label}: {table.summary}")
    picture = draw_reference(tables)
    text = page(
        tables,
        title=title or "Training losses compared with a reference",
        reference=reference_name,
        command=shlex.join(["charrnn-compare", *sys.argv[1:]]),
        picture=picture_name,
        alt=picture.alt,
    )
    write_output(out.parent, {picture_name: picture.png, out.name: text.encode()}, force=force)
    _print(out)


def _print(path: Path) -> None:
    if sys.stdout is not None:  # None if it was closed
        terminal.write_path(path)


def main() -> NoReturn:
    """The entry point of charrnn-compare."""
    terminal.run(app, "charrnn-compare", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
