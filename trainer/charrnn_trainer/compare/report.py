"""The report on some runs: one self-contained page."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from charrnn_runtime.arguments import wrong
from charrnn_trainer.compare.cell_pair import LEVEL_SHARE, CellPair, compare_cells
from charrnn_trainer.compare.comparable import WINDOW, same_split
from charrnn_trainer.compare.figures import batch_time, bits, duration, listed, nats, shortened, size
from charrnn_trainer.compare.findings import Finding, find
from charrnn_trainer.compare.measure import (
    SPEED_LENGTH,
    SPEED_REPEATS,
    ModelMeasures,
    Sample,
    SampleSettings,
    measure_models,
    write_samples,
)
from charrnn_trainer.compare.pictures import CELL_COLOURS, CELL_COLOURS_DARK, Picture, RunStyle, run_styles
from charrnn_trainer.compare.plots import draw_curves, draw_gaps
from charrnn_trainer.compare.records import RunRecord, read_runs
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.version import __version__

PAGE: Final = "report.html"
PICTURES: Final = ("curves", "gap")
_MOST_ROWS: Final = 50
_TEXT_WIDTH: Final = 100

_LIGHT: Final = {
    "ink": "#1c1e21",
    "muted": "#5b616a",
    "line": "#dfe2e6",
    "paper": "#ffffff",
    "card": "#f6f7f9",
}
_DARK: Final = {
    "ink": "#e6e8eb",
    "muted": "#a2a9b3",
    "line": "#33383f",
    "paper": "#15171a",
    "card": "#1d2024",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of runs.

    Attributes:
        runs: the runs' records.
        models: measurements of each run's exported model.
        settings: the settings of the samples.
        samples: rows with one sample per run, or None if a run has no such checkpoint.
        pictures: the pictures, by name.
        cells: the best LSTM and GRU; None if one of the two is missing.
        findings: the findings.
    """

    runs: tuple[RunRecord, ...]
    models: tuple[ModelMeasures, ...]
    settings: SampleSettings
    samples: tuple[tuple[Sample | None, ...], ...]
    pictures: dict[str, Picture]
    cells: CellPair | None
    findings: tuple[Finding, ...]

    def files(self) -> dict[str, bytes]:
        """The files of the report by name: the pictures, and the page, which includes them."""
        pictures = {f"{name}.png": picture.png for name, picture in self.pictures.items()}
        return {**pictures, PAGE: self.html().encode("utf-8", "replace")}

    def table(self) -> list[list[str]]:
        """The figures of every run: a row of headings, then one row per run."""
        headings = [
            *("run", "validation loss", "bits per character", "best at step", "training loss", "network"),
            *("parameters", "steps", "seconds per step", "characters per second", "file size"),
        ]
        return [headings, *(_figures(*pair) for pair in zip(self.runs, self.models, strict=True))]

    def text(self) -> str:
        """The tables and the findings as plain text."""
        parts = [_columns(self.table())]
        if self.cells is not None:
            rows = [[row.figure, row.lstm, row.gru, row.better, row.change] for row in self.cells.rows]
            parts.append(_columns([["", "LSTM", "GRU", "better", "change"], *rows]))
        for finding in self.findings:
            text = f"{finding.title}: {finding.text}"
            parts.append(textwrap.fill(text, _TEXT_WIDTH, break_on_hyphens=False))
            if finding.table:
                parts.append(_columns(finding.table))
        return "\n\n".join(parts)

    def html(self) -> str:
        """The page: one file that fetches nothing."""
        # Everything outside the template is escaped: names and texts of runs are untrusted.
        environment = Environment(
            loader=PackageLoader("charrnn_trainer.compare"),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        return environment.get_template(PAGE).render(_context(self))


def compare_runs(
    runs: Sequence[str | Path],
    *,
    prompt: str = "",
    length: int = 300,
    seed: int = 1,
    temperature: float = 0.8,
    checkpoints: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare runs.

    Args:
        runs: the runs' folders, or folders of runs.
        prompt: the text that all samples continue; empty starts each with the model's start token.
        length: the number of characters of a sample.
        seed: decides the samples' random numbers.
        temperature: the samples' temperature.
        checkpoints: the number of checkpoints per run to sample from, from 1 to 50; the best is added.
        report: called with a progress message.

    Raises:
        SettingError: a setting is invalid.
        CharRNNError: a run cannot be read, or does not know a character of the prompt.
    """
    if not 1 <= checkpoints <= _MOST_ROWS:
        raise wrong("checkpoints", f"between 1 and {_MOST_ROWS}", checkpoints)
    records = read_runs(runs)
    settings = SampleSettings(prompt, length, seed, temperature)
    samples = write_samples(records, settings, checkpoints, report)
    report(f"measuring how fast {listed(shortened([run.name for run in records]))} generate")
    models = measure_models(records)
    report("drawing the plots")
    drawn = [draw_curves(records), draw_gaps(records)]
    cells = compare_cells(records, models)
    return Comparison(
        runs=tuple(records),
        models=tuple(models),
        settings=settings,
        samples=tuple(tuple(row) for row in samples),
        pictures={picture.name: picture for picture in drawn if picture is not None},
        cells=cells,
        findings=find(records, cells),
    )


def _figures(run: RunRecord, model: ModelMeasures) -> list[str]:
    best = run.best
    steps = run.config.optimization.steps
    # A run that is limited by time has no planned number of steps.
    planned = f" of {steps:,}" if steps < MOST_STEPS else ", unfinished"
    return [
        run.name,
        "-" if best is None else nats(best.loss),
        "-" if best is None else bits(best.loss),
        "-" if best is None else f"{best.step:,}",
        nats(run.last_train_loss(WINDOW)),
        f"{run.cell} {run.size}",
        f"{run.parameters:,}",
        f"{run.step:,}" + ("" if run.finished else planned),
        batch_time(run.batch_seconds),
        f"{model.characters_per_second:,.0f}",
        size(model.file_bytes),
    ]


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


# --- the template's context ---------------------------------------------------------------------------------


def _context(comparison: Comparison) -> dict[str, Any]:
    runs = comparison.runs
    names = [run.name for run in runs]
    headings, *rows = comparison.table()
    styles = run_styles(runs)
    lowest = min((run.best.loss for run in runs if run.best is not None), default=None)
    comparable = len(runs) > 1 and same_split([run for run in runs if run.best is not None])
    return {
        "title": f"{listed(shortened(names))} compared" if len(names) > 1 else names[0],
        "texts": listed(list(dict.fromkeys(_text_read(run) for run in runs))),
        "colours": {"light": _variables(_LIGHT, CELL_COLOURS), "dark": _variables(_DARK, CELL_COLOURS_DARK)},
        "headings": headings,
        "runs": [
            {
                "name": row[0],
                "figures": row[1:],
                "style": style,
                "best": comparable and run.best is not None and run.best.loss == lowest,
            }
            for run, row, style in zip(runs, rows, styles, strict=True)
        ],
        "notes": _notes(runs),
        "findings": comparison.findings,
        "cells": comparison.cells,
        "level_percent": f"{100 * LEVEL_SHARE:.0f}",
        "pictures": list(comparison.pictures.values()),
        "settings": comparison.settings,
        "samples": [
            [_sample(*cell) for cell in zip(runs, styles, row, strict=True)] for row in comparison.samples
        ],
        "made": _made(runs),
    }


def _text_read(run: RunRecord) -> str:
    unit = "bytes" if run.config.data.level == "byte" else "characters"
    return f"{run.corpus.name} ({run.corpus.characters:,} {unit})"


def _variables(roles: dict[str, str], cells: Sequence[str]) -> str:
    named = {**roles, **{f"cell{i}": colour for i, colour in enumerate(cells)}}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def _notes(runs: Sequence[RunRecord]) -> str:
    notes = (
        "Validation loss: the lowest, in nats per character. Training loss: the mean of the last "
        f"{WINDOW} steps. Lower losses are better. Seconds per step: the median, as recorded by the run. "
        "Characters per second and file size: those of the fp32 model exported from the best checkpoint. The "
        f"speed is measured with one stream on one thread of this processor: the median of {SPEED_REPEATS} "
        f"texts of {SPEED_LENGTH:,} characters."
    )
    if any(run.best is None for run in runs):
        notes += " A run without validation text exports its last checkpoint."
    return notes


def _sample(run: RunRecord, style: RunStyle, sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {"name": run.name, "style": style, "about": "no such checkpoint", "text": None}
    entry = sample.checkpoint
    about = [f"step {entry.step:,}"]
    if entry.validation_loss is not None:
        about.append(f"validation loss {nats(entry.validation_loss)}")
    elif entry.train_loss is not None:
        about.append(f"training loss {nats(entry.train_loss)}")
    if entry.best and run.best is not None:
        about.append("best")
    return {"name": run.name, "style": style, "about": " · ".join(about), "text": sample.text}


def _shown(value: Any) -> Any:
    """Replace control characters other than newlines and tabs by dots."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        character if character.isprintable() or character in "\n\t" else "·" for character in value
    )


def _made(runs: Sequence[RunRecord]) -> str:
    devices = dict.fromkeys(f"{run.config.run.precision} on {run.config.run.device}" for run in runs)
    seconds = listed(shortened([f"{run.name} {duration(run.total_seconds)}" for run in runs]))
    return (
        f"Trained in {listed(list(devices))} (time in training steps: {seconds}). Made by charrnn-compare "
        f"{__version__} with onnxruntime {_onnxruntime()}, Python {platform.python_version()}, on "
        f"{platform.system()} {platform.machine()}."
    )


def _onnxruntime() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
