"""Findings about runs: short texts, each selected by the figures that it states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from charrnn_runtime.files import shell_word
from charrnn_trainer.compare.budget import Table, compare_budgets
from charrnn_trainer.compare.cell_pair import COMPARED, CellPair
from charrnn_trainer.compare.comparable import (
    WINDOW,
    Noise,
    differences,
    diverged,
    noise_of,
    same_split,
    same_text,
)
from charrnn_trainer.compare.figures import bits, listed, nats, shortened, signed
from charrnn_trainer.compare.records import RunRecord
from charrnn_trainer.nn.cells import CELLS
from charrnn_trainer.runs.finding import CONFIG_FILE

OVERFIT: Final = 0.01
"""A validation loss that ends at least this many nats above its best has risen again."""
IMPROVING: Final = 0.005
"""A run whose last validation lowered the loss by at least this many nats was still improving."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        title: what it is about, in a few words.
        text: the finding, in whole sentences.
        table: the figures that it is about, if they are many.
    """

    title: str
    text: str
    table: Table = ()


def find(runs: Sequence[RunRecord], cells: CellPair | None) -> tuple[Finding, ...]:
    """The findings about some runs, the most important first.

    Args:
        runs: the runs.
        cells: the LSTM and the GRU among them; None if one of the two is missing.
    """
    noise = noise_of(runs)
    several = len(runs) > 1
    budget, table = compare_budgets(runs, noise) if several else ("", ())
    found = {
        "Validation loss": _validation(runs, noise) if several else _alone(runs[0]),
        "GRU against LSTM": _gru_against_lstm(cells, noise) if cells is not None else None,
        "Divergence": _divergence(runs),
        "Training budget": budget,
        "Overfitting": _overfitting(runs),
        "Still improving": _improving(runs),
        "Settings": _settings(runs) if several else None,
        "Unfinished": _unfinished(runs),
    }
    tables = {"Training budget": table}
    return tuple(Finding(title, text, tables.get(title, ())) for title, text in found.items() if text)


# --- which loss is lower -----------------------------------------------------------------------------------


def _alone(run: RunRecord) -> str:
    other = next(cell for cell in COMPARED if cell != run.config.network.cell)
    best = run.best
    reached = (
        f"{run.name} has no validation text; its training loss is "
        f"{nats(run.last_train_loss(WINDOW))} nats per character."
        if best is None
        else f"{run.name} reached {nats(best.loss)} nats ({bits(best.loss)} bits) per character at step "
        f"{best.step:,} of {run.step:,}."
    )
    if not run.repeatable:
        return f"{reached} To compare it, train another cell on the same text with the same settings."
    command = f"charrnn-train --config {shell_word(run.folder / CONFIG_FILE)} --cell {other}"
    return f"{reached} To train a second run for comparison: {command}"


def _validation(runs: Sequence[RunRecord], noise: Noise) -> str:
    best = [(run, run.best.loss) for run in runs if run.best is not None]
    if not same_text(runs):
        return (
            "The runs were trained on different texts, so their losses cannot be compared: a text that is "
            "easier to predict gives a lower loss with any network."
        )
    if len(best) < 2:
        who = f"Only {best[0][0].name}" if best else "None of the runs"
        return (
            f"{who} has validation text. Training losses alone do not show which network is better on new "
            "text."
        )
    if not same_split([run for run, _ in best]):
        return "The runs have different validation texts, so their validation losses cannot be compared."
    lowest = min(loss for _, loss in best)
    text = _ranking(best, f"validation loss, {nats(lowest)} nats ({bits(lowest)} bits) per character", noise)
    without = [run.name for run in runs if run.best is None]
    if without:
        text += f" {_names(without)} {_has(without)} no validation text."
    return f"{text} {noise.sentence}"


def _ranking(losses: Sequence[tuple[RunRecord, float]], what: str, noise: Noise) -> str:
    """Which run is lowest, which are level with it, and which are higher."""
    (winner, lowest), *others = sorted(losses, key=lambda item: item[1])
    text = f"{winner.name} has the lowest {what}."
    for verdict, level in (("level with it", True), ("higher", False)):
        names = [
            f"{run.name} ({nats(loss)}, {signed(loss - lowest)})"
            for run, loss in others
            if noise.level(loss, lowest) == level
        ]
        if names:
            text += f" {_names(names)} {'is' if len(names) == 1 else 'are'} {verdict}."
    return text


def _gru_against_lstm(cells: CellPair, noise: Noise) -> str:
    pair = [cells.lstm, cells.gru]
    lstm, gru = cells.lstm.best, cells.gru.best
    if not same_text(pair):
        return "They were trained on different texts, so their losses are not compared."
    if lstm is None or gru is None or not same_split(pair):
        text = "They have no common validation text, so it is unknown which is better on new text."
    elif noise.level(lstm.loss, gru.loss):
        text = (
            f"The validation losses of {cells.gru.name} and {cells.lstm.name} are level "
            f"({nats(gru.loss)} and {nats(lstm.loss)}, within seed-to-seed noise)."
        )
    else:
        better, worse = (cells.gru, cells.lstm) if gru.loss < lstm.loss else (cells.lstm, cells.gru)
        text = (
            f"The validation loss of the {better.cell} is lower by {nats(abs(gru.loss - lstm.loss))} nats "
            f"({better.name} {nats(min(lstm.loss, gru.loss))}, {worse.name} "
            f"{nats(max(lstm.loss, gru.loss))})."
        )
    if any(diverged(run) for run in pair):
        text += " One of them diverged, so this says little about the cells."
    elif not noise.measured:
        text += " This compares one run of each; runs with another --seed show how much is noise."
    return f"{text} The table lists all differences."


def _divergence(runs: Sequence[RunRecord]) -> str:
    found = [
        f"{run.name} diverged: its training loss fell to {nats(run.lowest_train_loss(WINDOW))}, then rose to "
        f"{nats(float(run.losses[-1]))}. Use a learning rate below {run.config.optimization.learning_rate:g}."
        for run in runs
        if diverged(run)
    ]
    return " ".join(shortened(found, "more runs diverged."))


# --- budgets and settings -----------------------------------------------------------------------------------


def _settings(runs: Sequence[RunRecord]) -> str:
    differing = differences(runs)
    if not same_text(runs):
        differing.append("the text")
    cells = {run.config.network.cell for run in runs}
    seeds = {run.config.run.seed for run in runs}
    if differing and len(cells) == 1:
        return f"The runs have the same cell and differ in {'; '.join(differing)}."
    if differing:
        return (
            f"The runs differ in more than the cell ({'; '.join(differing)}), so the cell alone does not "
            "explain their results."
        )
    if len(cells) == 1:
        only_seed = "The runs differ only in the seed, so the differences are seed-to-seed noise."
        return only_seed if len(seeds) > 1 else "All settings are the same, including the seed."
    blocks = [
        f"{name.upper()} {cell.gates} ({' and '.join(cell.states)})"
        for name, cell in CELLS.items()
        if name in cells
    ]
    return (
        f"All settings but the cell{' and the seed' if len(seeds) > 1 else ''} are the same. The cells "
        f"differ in the number of weight blocks per layer and in their states: {listed(blocks)}."
    )


def _unfinished(runs: Sequence[RunRecord]) -> str:
    names = [run.name for run in runs if not run.finished]
    return f"{_names(names)} {_has(names)} not finished; these are the figures so far." if names else ""


# --- overfitting and further training ----------------------------------------------------------------------


def _overfitting(runs: Sequence[RunRecord]) -> str:
    """The runs whose validation loss rose again while their training loss fell."""
    return " ".join(shortened([text for run in runs if (text := _overfits(run))], "more runs overfit."))


def _overfits(run: RunRecord) -> str:
    if run.best is None or diverged(run):
        return ""
    best, last = run.best, run.validations[-1]
    before, after = run.train_loss(best.step, WINDOW), run.train_loss(last.step, WINDOW)
    if last.loss - best.loss < OVERFIT or before is None or after is None or after >= before:
        return ""
    return (
        f"{run.name} overfits after step {best.step:,} of {last.step:,}: its validation loss rises from "
        f"{nats(best.loss)} to {nats(last.loss)} while its training loss falls from {nats(before)} to "
        f"{nats(after)}. Export takes the checkpoint of step {run.best_checkpoint.step:,}."
    )


def _improving(runs: Sequence[RunRecord]) -> str:
    """The runs whose last validation clearly improved on all earlier ones."""
    names = [
        f"{run.name} (step {run.step:,})"
        for run in runs
        if len(run.validations) > 1
        and run.best == run.validations[-1]
        and run.validations[-2].loss - run.validations[-1].loss >= IMPROVING
    ]
    if not names:
        return ""
    who = "All runs" if len(names) == len(runs) > 1 else _names(names)
    was = "was" if len(names) == 1 else "were"
    return f"{who} {was} still improving at the end: longer training may lower the loss further."


def _names(names: Sequence[str]) -> str:
    return listed(shortened(names))


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
