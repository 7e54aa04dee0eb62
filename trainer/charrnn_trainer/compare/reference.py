"""Compare our training losses with published ones."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.compare.figures import nats, signed
from charrnn_trainer.compare.records import RunRecord

WINDOW: Final = 20
"""Our loss at a step is the mean of the last 20 steps up to it, since the loss of a single batch is noisy."""
SETTLED: Final = 1_000
"""Differences count from this step on; before, the loss falls too fast for a close comparison."""
TOLERANCE: Final = 0.03
"""A loss less than this many nats above the reference is level with it."""

_COLUMNS: Final = ("cell", "step", "training_loss_nats")


@dataclass(frozen=True)
class Row:
    """One step in a table.

    Attributes:
        step: the step.
        ours: our training loss in nats per character; None if the run's history does not include the step.
        reference: the reference's loss.
    """

    step: int
    ours: float | None
    reference: float

    @property
    def difference(self) -> float | None:
        """Our loss minus the reference's: negative if ours is lower."""
        return None if self.ours is None else self.ours - self.reference


@dataclass(frozen=True)
class ReferenceTable:
    """A run compared with the reference's losses for the same cell.

    Attributes:
        run: the run.
        rows: one row per step of the reference.
    """

    run: RunRecord
    rows: tuple[Row, ...]

    @property
    def settled(self) -> tuple[Row, ...]:
        """The rows from step `SETTLED` on that have a difference."""
        return tuple(row for row in self.rows if row.step >= SETTLED and row.difference is not None)

    @property
    def label(self) -> str:
        """The cell's name, followed by the run's name if it differs."""
        run = self.run
        return run.cell if run.name == run.config.network.cell else f"{run.cell} ({run.name})"

    @property
    def summary(self) -> str:
        """A summary of the table in a sentence or two."""
        missing = sum(row.ours is None for row in self.rows)
        gap = f" The run has no loss yet at {missing} of the {len(self.rows)} steps." if missing else ""
        if not self.settled:
            return f"there is nothing to compare from step {SETTLED:,} on.{gap}"
        differences = [row.difference or 0.0 for row in self.settled]
        worst = max(self.settled, key=lambda row: row.difference or 0.0)
        lower = sum(difference <= 0 for difference in differences)
        above = sum(difference > TOLERANCE for difference in differences)
        where = "all" if lower == len(differences) else f"{lower} of"
        verdict = f"our loss is at or below the reference's at {where} {len(differences)} steps"
        if lower < len(differences):
            verdict += f", and more than {TOLERANCE} above it at {above or 'none'}"
        mean = signed(float(np.mean(differences)))
        return (
            f"from step {SETTLED:,} on, {verdict}; the difference is {mean} on average, and at most "
            f"{signed(max(differences))}, at step {worst.step:,}.{gap}"
        )


def read_reference(path: Path) -> dict[str, dict[int, float]]:
    """Read a CSV file of training losses: for each cell, the loss at each step.

    The columns ``cell``, ``step`` and ``training_loss_nats`` are needed; others are ignored.

    Raises:
        CharRNNError: it cannot be read, lacks a column or any row, or a row is invalid.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise CharRNNError(
                    f"{path} has no column {missing[0]}; its first line must name the columns "
                    f"{', '.join(_COLUMNS)}"
                )
            cells: dict[str, dict[int, float]] = {}
            for row in reader:
                cell, step, loss = (row[name] or "" for name in _COLUMNS)
                losses = cells.setdefault(cell.strip().lower(), {})
                number, value = int(step), float(loss)
                if number < 1 or number in losses or not 0 <= value < math.inf:
                    raise ValueError(f"step {step} with a loss of {loss}")
                losses[number] = value
    except OSError as error:
        raise CharRNNError(f"cannot read the reference {path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise CharRNNError(f"{path} is not a valid table of losses: {_line(error)}") from error
    if not cells:
        raise CharRNNError(f"{path} has no rows; give a CSV file with the columns {', '.join(_COLUMNS)}")
    return cells


def beside_reference(
    runs: Sequence[RunRecord], reference: dict[str, dict[int, float]]
) -> list[ReferenceTable]:
    """One table per run.

    Raises:
        CharRNNError: the reference has no losses of a run's cell.
    """
    tables = []
    for run in runs:
        cell = run.config.network.cell
        if cell not in reference:
            raise CharRNNError(
                f"{run.folder} has the cell {cell}, but the reference has only {', '.join(reference)}; omit "
                "this run"
            )
        rows = tuple(
            Row(step, run.train_loss(step, WINDOW), loss) for step, loss in sorted(reference[cell].items())
        )
        tables.append(ReferenceTable(run, rows))
    return tables


def page(
    tables: Sequence[ReferenceTable], *, title: str, reference: str, command: str, picture: str, alt: str
) -> str:
    """The page, in Markdown.

    Args:
        tables: one table per run.
        title: the page's heading.
        reference: the name of the reference.
        command: the command line that makes the page.
        picture: the name of the picture's file, in the page's folder.
        alt: the picture's alternative text.
    """
    lines = [
        "<!-- made by charrnn-compare -->",
        "",
        f"# {_text(title)}",
        "",
        (
            f"Training losses in nats per character. The reference is {_text(reference)}. Our loss at a step "
            f"is the mean of the {WINDOW} steps up to it, since the loss of a single batch is noisy. A "
            "negative difference means that ours is lower."
        ),
        "",
        *(f"- **{_text(table.label)}**: {_text(table.summary)}" for table in tables),
        "",
        f"![{_text(alt)}]({picture})",
        "",
    ]
    for table in tables:
        lines += [f"## {_text(table.label)}", "", _settings(table.run), ""]
        lines += ["| step | ours | reference | difference |", "|---:|---:|---:|---:|"]
        for row in table.rows:
            ours = "-" if row.ours is None else nats(row.ours)
            difference = "-" if row.difference is None else signed(row.difference)
            lines.append(f"| {row.step:,} | {ours} | {nats(row.reference)} | {difference} |")
        lines.append("")
    lines += ["Made by this command:", "", "```text", command.replace("```", "'''"), "```", ""]
    return "\n".join(lines)


def _settings(run: RunRecord) -> str:
    data, learning, how = run.config.data, run.config.optimization, run.config.run
    first = "the first " if data.split == "end" and not data.lines else ""
    part = (
        "the whole text"
        if run.corpus.train_tokens == run.corpus.characters
        else f"{first}{run.corpus.train_tokens:,} of its {run.corpus.characters:,} characters"
    )
    return (
        f"{run.cell}, {run.size}, {run.parameters:,} parameters, trained on {part} of "
        f"{_text(run.corpus.name)}: batches of {data.batch_size} streams by {data.seq_length} characters, "
        f"learning rate {learning.learning_rate:g} ({learning.schedule}), clip {learning.clip:g}, dropout "
        f"{run.config.network.dropout:g}, {how.precision} on {how.device}, seed {how.seed}; "
        f"{run.step:,} steps."
    )


def _text(words: str) -> str:
    """Escape a text for Markdown."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#~" else character for character in words)
    return " ".join(escaped.split())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
