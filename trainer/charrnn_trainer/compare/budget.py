"""How runs compare after the same steps and the same time, where they had more or less of either."""

from __future__ import annotations

from collections.abc import Sequence

from charrnn_trainer.compare.comparable import (
    WINDOW,
    Noise,
    busy,
    computing_differences,
    same_batches,
    same_split,
    same_steps,
    same_text,
    same_time,
    step_after,
)
from charrnn_trainer.compare.figures import duration, listed, nats, shortened
from charrnn_trainer.compare.records import RunRecord

Table = tuple[tuple[str, ...], ...]
"""A table of figures: its headings, and then a row for each run."""


def compare_budgets(runs: Sequence[RunRecord], noise: Noise) -> tuple[str, Table]:
    """What the budgets of several runs say in words, and a table of them; empty where they are equal."""
    columns = {
        "run": [run.name for run in runs],
        "steps": [f"{run.step:,}" for run in runs],
        "time": [duration(run.total_seconds) for run in runs],
    }
    at_equal = []
    if same_time(runs):
        if same_steps(runs):
            return "", ()
        text = "All runs trained for about the same time."
    elif same_steps(runs):
        text = "All runs did the same number of steps in different times."
    else:
        text = "The budgets are unequal, so the final losses do not depend on the networks alone."
        if same_batches(runs):
            step = min(run.step for run in runs)
            at_equal.append((f"after {step:,} steps", [step for _ in runs]))
    if not same_time(runs):
        seconds = min(run.total_seconds for run in runs)
        at_equal.append((f"after {duration(seconds)}", [step_after(run, seconds) for run in runs]))
    if same_text(runs):
        for when, steps in at_equal:
            what, losses = _losses_at(runs, steps)
            if len([loss for loss in losses if loss is not None]) < 2:
                continue
            columns[f"{what} {when}"] = ["-" if loss is None else nats(loss) for loss in losses]
            text += f" {_standing(when, what, runs, losses, noise)}"
        cut = any(run.step > min(steps) for _, steps in at_equal for run in runs)
        if cut and any(run.config.optimization.schedule != "constant" for run in runs):
            text += " (A run whose learning rate has not yet decayed is at a disadvantage there.)"
    computed, slowed = computing_differences(runs), busy(runs)
    if computed:
        text += f" The runs also differ in how they compute ({'; '.join(computed)}), which affects the times."
    if slowed:
        text += f" Other programs slowed some runs down ({_names(slowed)}), so the times are approximate."
    return text, (tuple(columns), *zip(*columns.values(), strict=True))


def _losses_at(runs: Sequence[RunRecord], steps: Sequence[int]) -> tuple[str, list[float | None]]:
    """The loss of each run when it had done a number of steps, and which it is; None where it is unknown.

    It is the validation loss, where all runs had one by then.
    """
    validated = [run.best_until(step) for run, step in zip(runs, steps, strict=True)]
    losses = [None if found is None else found.loss for found in validated]
    if None not in losses and same_split(runs):
        return "validation loss", losses
    return "training loss", [run.train_loss(step, WINDOW) for run, step in zip(runs, steps, strict=True)]


def _standing(
    when: str, what: str, runs: Sequence[RunRecord], losses: Sequence[float | None], noise: Noise
) -> str:
    """Which run has the lowest loss, and which are level with it."""
    known = [(loss, run) for run, loss in zip(runs, losses, strict=True) if loss is not None]
    lowest, winner = min(known, key=lambda pair: pair[0])
    level = [run.name for loss, run in known if run is not winner and noise.level(loss, lowest)]
    text = f"{when[0].upper()}{when[1:]} each, {winner.name} has the lowest {what}"
    if level:
        text += f"; {_names(level)} {'is' if len(level) == 1 else 'are'} level with it"
    return f"{text}."


def _names(names: Sequence[str]) -> str:
    return listed(shortened(names))
