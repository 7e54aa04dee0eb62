"""charrnn-compare: runs side by side, in a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
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
        typer.Argument(metavar="RUN...", help="Runs' folders, or a folder of runs, of which all are taken."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The report's folder; with --reference the page, a .md file. [default: report, reference.md]"
        ),
    ] = None,
    # --- samples
    prime: Annotated[str, typer.Option("--prime", "-p", help="What all samples go on from.")] = "",
    length: Annotated[int, typer.Option(help="Characters of a sample.")] = 300,
    seed: Annotated[int, typer.Option(help="What decides the samples' random numbers.")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="The samples' temperature.")
    ] = spec.DEFAULT_TEMPERATURE,
    checkpoints: Annotated[
        int, typer.Option(help="At how many checkpoints of a run to write samples; its best comes besides.")
    ] = 3,
    # --- a reference
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Instead of the report, a page that sets the runs' training losses beside those of a table "
            "with the columns cell, step and training_loss_nats.",
        ),
    ] = None,
    reference_name: Annotated[
        str | None, typer.Option(help="What the page calls the reference. [default: its file's name]")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
    # ---
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that charrnn-compare did not write.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-trainer", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Compare runs: curves, figures, samples, and how their results differ and why.

    The report is a folder with one page, report.html, that holds everything, and the pictures as PNG files.
    Its path is printed at the end. A report that is there is replaced.
    """
    from charrnn_trainer.compare import check_installed

    check_installed()
    if reference is None:
        for flag, value in (("--reference-name", reference_name), ("--title", title)):
            if value is not None:
                raise SettingError(f"{flag} belongs to the page that --reference makes; give --reference CSV")
        _report(runs, out or _REPORT, prime, length, seed, temperature, checkpoints, force)
    else:
        _page(runs, out or _REFERENCE_PAGE, reference, reference_name or reference.name, title, force)


def _report(
    runs: list[Path],
    out: Path,
    prime: str,
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
        prime=prime,
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
        raise SettingError(f"--out {out} must be a Markdown page with --reference, such as reference.md")
    picture_name = f"{out.stem}.png"
    check_output(out.parent, [out.name, picture_name], force=force)
    losses = read_reference(reference)
    tables = beside_reference(read_runs(runs), losses)
    for cell in sorted(set(losses) - {table.run.config.network.cell for table in tables}):
        terminal.warn(f"the reference's losses of {cell} are left out: none of the runs is one")
    for table in tables:
        terminal.say(f"{table.label}: {table.summary}")
    picture = draw_reference(tables)
    text = page(
        tables,
        title=title or "Training losses beside a reference",
        reference=reference_name,
        command=shlex.join(["charrnn-compare", *sys.argv[1:]]),
        picture=picture_name,
        alt=picture.alt,
    )
    write_output(out.parent, {picture_name: picture.png, out.name: text.encode()}, force=force)
    _print(out)


def _print(path: Path) -> None:
    if sys.stdout is not None:  # where it is closed, nobody asked for the path
        terminal.product().write(f"{path}\n")


def main() -> NoReturn:
    """The entry point of charrnn-compare."""
    terminal.run(app, "charrnn-compare", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
