"""Plot the losses of runs against steps and time, and the gaps between training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from charrnn_trainer.compare.comparable import WINDOW
from charrnn_trainer.compare.figures import MOST_LISTED, duration, nats
from charrnn_trainer.compare.pictures import (
    WIDE,
    Form,
    Palette,
    Picture,
    RunStyle,
    Values,
    png,
    run_styles,
    svg,
)
from charrnn_trainer.compare.records import RunRecord
from charrnn_trainer.compare.reference import ReferenceTable

POINTS: Final = 300
"""A curve with more steps is drawn as the means of this many equal intervals."""
_MOST_PANELS: Final = 12
"""Gaps are drawn for at most this many runs."""
_PLACES: Final = 40
"""A panel has tooltips at most at this many positions."""
_LABEL: Final = 34
"""A picture shows at most this many characters of a run's name."""
_BELOW_TITLE: Final = 18.0
"""How many points the title of a panel leaves for a line below it."""
_DASHED: Final = (0, (4, 2))
_PANEL: Final = 2.9
_NARROW_PANEL: Final = 2.3
"""The heights of a panel in inches."""


def draw_curves(runs: Sequence[RunRecord]) -> Picture:
    """Training and validation losses against steps and against the seconds spent in training steps."""
    validated = [run for run in runs if run.validations]
    kinds = 2 if validated else 1
    scale, unit = _time_unit(max(run.total_seconds for run in runs))
    highest = _highest(runs)
    styles = run_styles(runs)
    shown = [
        values
        for validation in (False, True)[:kinds]
        for values in (_by_step(runs, validation), _by_time(runs, validation, scale))
    ]

    def draw(figure: Figure, palette: Palette, form: Form) -> list[Values]:
        narrow = form == "narrow"
        grid = _panels(figure, kinds, narrow)
        for run, style in zip(runs, styles, strict=True):
            line = _line(style, palette)
            for column, place in enumerate((run.steps.astype(np.float64), run.elapsed / scale)):
                grid[0, column].plot(_thinned(place), _thinned(run.losses), **line)
            if run.validations:
                steps = np.array([item.step for item in run.validations])
                spent = np.array([run.seconds_until(item.step) for item in run.validations]) / scale
                losses = [item.loss for item in run.validations]
                for column, at in enumerate((steps, spent)):
                    grid[1, column].plot(at, losses, marker="o", markersize=3.2, **line)
        grid[0, 0].set_ylim(top=highest)
        for kind, title in enumerate(("training loss", "validation loss")[:kinds]):
            for column, label in enumerate(("steps", f"{unit} of training")):
                grid[kind, column].set_title(title)
                if narrow or kind == kinds - 1:
                    grid[kind, column].set_xlabel(label)
                if narrow or column == 0:
                    grid[kind, column].set_ylabel("nats per character")
        if form == "png":  # the page has its own legend
            _legend(grid[0, 1], runs, palette)
        _finish(figure, grid.flat, form)
        return [Values(axes, *values) for axes, values in zip(grid.flat, shown, strict=True)]

    ends = "; ".join(
        f"{run.name}: training loss {nats(run.last_train_loss(20))} at step {run.step:,}"
        + (
            ""
            if run.best is None
            else f", lowest validation loss {nats(run.best.loss)} at step {run.best.step:,}"
        )
        for run in runs
    )
    points = max(1, -(-max(len(run.steps) for run in runs) // POINTS))
    mean = f"Each point of a training curve is the mean of up to {points} steps. " if points > 1 else ""
    return Picture(
        "curves",
        alt=f"Line charts of the losses against steps and against time. {ends}.",
        caption=f"Lower is better. {mean}The losses of the first steps are outside the plot. Time is "
        "that spent in training steps, as each run recorded it on its machine.",
        png=png("curves", draw, _PANEL * kinds),
        wide=svg("curves", draw, _PANEL * kinds),
        narrow=svg("curves", draw, _NARROW_PANEL * 2 * kinds, narrow=True),
    )


def draw_gaps(runs: Sequence[RunRecord]) -> Picture | None:
    """One panel per run with its training and validation losses and the gap between them.

    If there are many runs, those with the lowest validation losses are shown. None if no run has one.
    """
    styles = run_styles(runs)
    shown = [(style, run) for style, run in zip(styles, runs, strict=True) if run.validations]
    if not shown:
        return None
    best = sorted(run.best.loss for _, run in shown if run.best is not None)[:_MOST_PANELS]
    of_many = f"The {len(best)} runs with the lowest validation loss. " if len(best) < len(shown) else ""
    shown = [(style, run) for style, run in shown if run.best and run.best.loss <= best[-1]][:_MOST_PANELS]
    highest = _highest([run for _, run in shown])
    rows = -(-len(shown) // 2)

    def draw(figure: Figure, palette: Palette, form: Form) -> list[Values]:
        columns = 1 if form == "narrow" or len(shown) == 1 else 2
        shape = -(-len(shown) // columns), columns
        grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
        for axes, (style, run) in zip(grid.flat, shown, strict=False):
            _draw_gap(axes, run, palette.cells[style.colour], palette.ink)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid.flat[len(shown) - columns : len(shown)]:  # the lowest of each column
            axes.set_xlabel("steps")
            axes.tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel("nats per character")
        grid[0, 0].set_ylim(top=highest)
        _finish(figure, grid.flat, form)
        return [_gap_values(axes, run) for axes, (_, run) in zip(grid.flat, shown, strict=False)]

    gaps = "; ".join(
        f"{run.name}: {nats(run.validations[-1].loss)} in validation and "
        f"{nats(run.last_train_loss(WINDOW))} in training at the end"
        for _, run in shown
    )
    return Picture(
        "gap",
        alt=f"Training loss (solid) and validation loss (dashed) of each run, with the gap shaded. {gaps}.",
        caption=f"{of_many}Solid: training loss; dashed: validation loss; shaded: the gap between them. A "
        "gap is normal; a validation loss that rises while the training loss falls is overfitting. The dot "
        "marks the checkpoint that export takes.",
        png=png("gap", draw, _PANEL * rows),
        wide=svg("gap", draw, _PANEL * rows),
        narrow=svg("gap", draw, _NARROW_PANEL * len(shown), narrow=True),
    )


def _draw_gap(axes: Axes, run: RunRecord, colour: str, ink: str) -> None:
    steps = np.array([item.step for item in run.validations])
    validation = np.array([item.loss for item in run.validations])
    place, training = _thinned(run.steps.astype(np.float64)), _thinned(run.losses)
    axes.plot(place, training, color=colour, linewidth=1.4)
    axes.plot(steps, validation, color=colour, linewidth=1.4, linestyle=_DASHED)
    between = (place >= steps[0]) & (place <= steps[-1])
    at = np.interp(place[between], steps, validation)
    axes.fill_between(place[between], training[between], at, color=colour, alpha=0.14, linewidth=0)
    best = run.best
    assert best is not None
    axes.plot([best.step], [best.loss], marker="o", markersize=5.5, color=colour)
    # Above the panel: within it there is a curve everywhere.
    axes.set_title(_label(run), pad=_BELOW_TITLE)
    axes.annotate(
        f"best {nats(best.loss)} at step {best.step:,}",
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=ink,
    )


def draw_reference(tables: Sequence[ReferenceTable]) -> Picture:
    """Each run's training loss and the reference's, with the difference below."""
    styles = run_styles([table.run for table in tables])

    def draw(figure: Figure, palette: Palette, form: Form) -> list[Values]:
        grid = figure.subplots(
            2, len(tables), sharex="col", sharey="row", squeeze=False, height_ratios=(2.2, 1)
        )
        for column, (table, style) in enumerate(zip(tables, styles, strict=True)):
            _draw_reference(grid[0, column], grid[1, column], table, palette.cells[style.colour], palette)
        grid[0, 0].set_ylabel("training loss,\nnats per character")
        grid[1, 0].set_ylabel("difference")
        _finish(figure, grid.flat, form)
        return []

    return Picture(
        "reference",
        alt="Training loss against steps, ours and the reference's, with the difference as bars below. "
        + " ".join(f"{table.label}: {table.summary}" for table in tables),
        caption="",
        png=png("reference", draw, 4.6, max(WIDE, 3.0 * len(tables))),
    )


def _draw_reference(upper: Axes, lower: Axes, table: ReferenceTable, colour: str, palette: Palette) -> None:
    steps = [row.step for row in table.rows]
    both = [row for row in table.rows if row.ours is not None]
    theirs = {"color": palette.muted, "linewidth": 1.2, "marker": "s", "markersize": 3.4}
    ours = {"color": colour, "linewidth": 1.6, "marker": "o", "markersize": 3.6}
    references = [row.reference for row in table.rows]
    upper.plot(steps, references, label="reference", linestyle=_DASHED, **theirs)  # type: ignore[arg-type]
    upper.plot([row.step for row in both], [row.ours for row in both], label="ours", **ours)  # type: ignore[arg-type]
    upper.set_title(table.label)
    upper.legend(loc="upper right", frameon=False, fontsize=8.5, labelcolor=palette.ink)
    width = 0.6 * min(np.diff(steps), default=1.0)
    differences = [row.difference or 0.0 for row in both]
    lower.bar([row.step for row in both], differences, width, color=colour)
    lower.axhline(0, color=palette.muted, linewidth=0.8)
    lower.set_xlabel("steps")


# --- panels ------------------------------------------------------------------------------------------------


def _panels(figure: Figure, kinds: int, narrow: bool) -> NDArray[Any]:
    """Axes ``[kinds, 2]``, against steps and against time; in one column on narrow pages."""
    if narrow:
        grid: NDArray[Any] = figure.subplots(2 * kinds, 1, squeeze=False).reshape(kinds, 2)
    else:
        grid = figure.subplots(kinds, 2, sharex="col", squeeze=False)
    for left, right in grid:
        right.sharey(left)
        right.tick_params(labelleft=narrow)
    return grid


def _line(style: RunStyle, palette: Palette) -> dict[str, Any]:
    return {"color": palette.cells[style.colour], "linestyle": style.linestyle, "linewidth": 1.4}


def _legend(axes: Axes, runs: Sequence[RunRecord], palette: Palette) -> None:
    names = [_label(run) for run in runs]
    columns = 1 + len(runs) // 8
    axes.legend(
        axes.get_lines(), names, loc="upper right", frameon=False, ncols=columns, labelcolor=palette.ink
    )


def _label(run: RunRecord) -> str:
    """A run's name, shortened to its end if it is long."""
    return run.name if len(run.name) <= _LABEL else f"…{run.name[1 - _LABEL :]}"


def _finish(figure: Figure, grid: Any, form: Form) -> None:
    for axes in grid:
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.locator_params(axis="x", nbins=5 if form == "narrow" else 6)
    figure.align_ylabels()


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `POINTS` means over equal intervals of some values ``[N]``."""
    stretch = max(1, -(-len(values) // POINTS))
    starts = np.arange(0, len(values), stretch)
    ends = np.append(starts[1:], len(values))
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / (ends - starts)
    return means


def _highest(runs: Sequence[RunRecord]) -> float:
    """The upper limit of a plot, which cuts off the high losses of the first steps."""
    training = max(float(np.percentile(_thinned(run.losses), 97)) for run in runs)
    # The first validation is early too, but is shown if it is the only one.
    validation = [item.loss for run in runs for item in run.validations[1:] or run.validations]
    lowest = min(float(_thinned(run.losses).min()) for run in runs)
    return max([training, *validation]) + 0.05 * (training - lowest) + 1e-3


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 300:
        return 1.0, "seconds"
    if seconds < 10_800:
        return 60.0, "minutes"
    return 3600.0, "hours"


# --- tooltips ----------------------------------------------------------------------------------------------

_Item = TypeVar("_Item")


def _by_step(runs: Sequence[RunRecord], validation: bool) -> tuple[list[float], list[str]]:
    """Positions along an axis of steps, and the losses of all runs there."""
    if validation:
        steps = sorted({item.step for run in runs for item in run.validations})
    else:
        steps = sorted({int(step) for run in runs for step in _some(run.steps.tolist())})
    steps = _some(steps)
    return [float(step) for step in steps], [
        _losses(f"step {step:,}", runs, [step if step <= run.step else 0 for run in runs], validation)
        for step in steps
    ]


def _by_time(runs: Sequence[RunRecord], validation: bool, scale: float) -> tuple[list[float], list[str]]:
    """Positions along an axis of time, in units of ``scale`` seconds, and the losses of all runs there."""
    longest = max(run.total_seconds for run in runs)
    seconds = np.linspace(longest / _PLACES, longest, _PLACES)
    done = []
    for run in runs:
        count = np.searchsorted(run.elapsed, seconds * (1 + 1e-9), side="right")  # steps done by then
        steps = np.append(0, run.steps)[count]
        done.append(np.where(seconds <= run.total_seconds * (1 + 1e-9), steps, 0))
    return (seconds / scale).tolist(), [
        _losses(f"after {duration(after)}", runs, [int(steps[place]) for steps in done], validation)
        for place, after in enumerate(seconds.tolist())
    ]


def _losses(heading: str, runs: Sequence[RunRecord], steps: Sequence[int], validation: bool) -> str:
    """The losses of runs, each after its own number of steps, lowest first; 0 omits a run."""
    losses = []
    for run, step in zip(runs, steps, strict=True):
        if validation:
            known = [item.loss for item in run.validations if item.step <= step]
            loss = known[-1] if known else None
        else:
            loss = run.train_loss(step, -(-len(run.steps) // POINTS))
        if loss is not None:
            losses.append((loss, run.name))
    lowest = [f"{name}: {nats(loss)}" for loss, name in sorted(losses)[: 2 * MOST_LISTED]]
    return "\n".join([heading, *lowest])


def _gap_values(axes: Axes, run: RunRecord) -> Values:
    validations = _some(run.validations)
    texts = []
    for item in validations:
        training = run.train_loss(item.step, WINDOW)
        known = "" if training is None else f"\ntraining {nats(training)}\ngap {nats(item.loss - training)}"
        texts.append(f"{run.name}, step {item.step:,}\nvalidation {nats(item.loss)}{known}")
    return Values(axes, [item.step for item in validations], texts)


def _some(items: Sequence[_Item]) -> list[_Item]:
    """At most `_PLACES` of some items, evenly spread."""
    places = np.unique(np.linspace(0, len(items) - 1, min(_PLACES, len(items))).round().astype(int))
    return [items[place] for place in places]
