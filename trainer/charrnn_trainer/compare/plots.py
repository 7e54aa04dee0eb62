"""Pictures of runs, by matplotlib: as SVG for a page that may be light or dark, and as PNG.

The SVG form takes its colours from the page: each role of `_ROLES` is drawn in a colour that nothing else
has, and becomes a variable of the page's style sheet.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from charrnn_trainer.compare.figures import nats
from charrnn_trainer.compare.records import RunRecord
from charrnn_trainer.compare.reference import ReferenceTable

POINTS: Final = 300
"""A curve of more steps is drawn as the means of so many equal stretches of it."""

RUN_COLOURS: Final = ("#1f6fc4", "#c8500a", "#1d7d46", "#8435b8", "#8a6a00", "#bf2c74")
RUN_COLOURS_DARK: Final = ("#74b4f8", "#ff9f63", "#63cf8f", "#cf9bf5", "#dfbd4a", "#ff8fbd")
"""The runs' colours, in order, on a light page and on a dark one."""

_DASHES: Final = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))  # as runs outnumber colours
_WIDTH: Final = 9.0
_PNG_DPI: Final = 160


@dataclass(frozen=True)
class _Colours:
    """The colours of a picture: of text, of lesser text, of the grid, of what lies behind, of each run."""

    ink: str
    muted: str
    grid: str
    paper: str
    runs: tuple[str, ...]


_PRINTED: Final = _Colours("#1c1e21", "#5b616a", "#dfe2e6", "#ffffff", RUN_COLOURS)
_ROLES: Final = _Colours(
    "#fe1d01", "#fe1d02", "#fe1d03", "none", tuple(f"#fe1d1{i}" for i in range(len(RUN_COLOURS)))
)
_VARIABLES: Final = {
    _ROLES.ink: "var(--ink)",
    _ROLES.muted: "var(--muted)",
    _ROLES.grid: "var(--line)",
    **{colour: f"var(--run{i})" for i, colour in enumerate(_ROLES.runs)},
}


@dataclass(frozen=True)
class Picture:
    """A picture in both forms.

    Attributes:
        name: what its file is called, without ``.png``.
        alt: what it shows, for those who do not see it.
        caption: what a reader has to know to read it.
        svg: an ``<svg>`` element for a page that defines the colours' variables.
        png: the bytes of a PNG file.
    """

    name: str
    alt: str
    caption: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        """Lets notebooks show the picture."""
        return self.png


# --- the pictures ------------------------------------------------------------------------------------------


def draw_curves(runs: Sequence[RunRecord]) -> Picture:
    """Training and validation losses against steps and against the seconds spent in training steps."""
    validated = [run for run in runs if run.validations]
    rows = 2 if validated else 1
    scale, unit = _time_unit(max(run.total_seconds for run in runs))
    highest = _highest(runs)

    def draw(figure: Figure, colours: _Colours) -> None:
        grid = figure.subplots(rows, 2, sharex="col", sharey="row", squeeze=False)
        for index, run in enumerate(runs):
            style = _run_style(index, colours)
            places = [run.steps.astype(np.float64), run.elapsed / scale]
            for column, place in enumerate(places):
                grid[0, column].plot(_thinned(place), _thinned(run.losses), linewidth=1.4, **style)
            if run.validations:
                steps = np.array([item.step for item in run.validations])
                spent = np.array([run.seconds_until(item.step) for item in run.validations]) / scale
                losses = [item.loss for item in run.validations]
                for column, at in enumerate((steps, spent)):
                    grid[1, column].plot(at, losses, marker="o", markersize=3.2, linewidth=1.4, **style)
        for axes in grid[:, 0]:
            axes.set_ylabel("nats per character")
        grid[0, 0].set_ylim(top=highest)
        for column in range(2):
            grid[0, column].set_title("training loss")
            if validated:
                grid[1, column].set_title("validation loss")
        grid[-1, 0].set_xlabel("steps")
        grid[-1, 1].set_xlabel(f"{unit} of training")
        _legend(grid[0, 1], runs, colours)
        _style(figure, grid.flat, colours)

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
    mean = f"Each point of a training curve is the mean of {points} steps or fewer. " if points > 1 else ""
    return _picture(
        name="curves",
        height=2.9 * rows,
        draw=draw,
        alt=f"Line charts of the losses against steps (left) and time (right). {ends}.",
        caption=f"{mean}The first steps lie above the picture. Time is that of the training steps alone, "
        "as each run noted it on its machine.",
    )


def draw_gaps(runs: Sequence[RunRecord]) -> Picture | None:
    """A panel for each run with its training and validation losses and what lies between them.

    None where no run has a validation loss.
    """
    shown = [(index, run) for index, run in enumerate(runs) if run.validations]
    if not shown:
        return None
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    highest = _highest([run for _, run in shown])
    furthest = max(run.step for _, run in shown)

    def draw(figure: Figure, colours: _Colours) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (index, run) in zip(grid.flat, shown, strict=False):
            colour = colours.runs[index % len(colours.runs)]
            steps = np.array([item.step for item in run.validations])
            validation = np.array([item.loss for item in run.validations])
            place, training = _thinned(run.steps.astype(np.float64)), _thinned(run.losses)
            axes.plot(place, training, color=colour, linewidth=1.4)
            axes.plot(steps, validation, color=colour, linewidth=1.4, linestyle=(0, (4, 2)))
            between = (place >= steps[0]) & (place <= steps[-1])
            axes.fill_between(
                place[between],
                training[between],
                np.interp(place[between], steps, validation),
                color=colour,
                alpha=0.14,
                linewidth=0,
            )
            best = run.best
            assert best is not None
            axes.plot([best.step], [best.loss], marker="o", markersize=5.5, color=colour)
            axes.annotate(
                f"best {nats(best.loss)}\nstep {best.step:,}",
                (best.step, best.loss),
                xytext=(0, 9),
                textcoords="offset points",
                ha="right" if best.step > 0.7 * furthest else "center",
                color=colours.ink,
                fontsize=8,
            )
            axes.set_title(run.name)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid[-1, :]:
            axes.set_xlabel("steps")
        for axes in grid[:, 0]:
            axes.set_ylabel("nats per character")
        grid[0, 0].set_ylim(top=highest)
        _style(figure, grid.flat, colours)

    gaps = "; ".join(
        f"{run.name}: {nats(run.validations[-1].loss)} in validation and {nats(run.last_train_loss(100))} in "
        f"training at the end"
        for _, run in shown
    )
    return _picture(
        name="gap",
        height=2.9 * rows,
        draw=draw,
        alt=f"Training loss (solid) and validation loss (dashed) of each run, with the gap shaded. {gaps}.",
        caption="Solid: training; dashed: validation; shaded: the gap between them, which grows where a "
        "network learns its text by heart. The dot is the checkpoint that export takes.",
    )


def draw_reference(tables: Sequence[ReferenceTable]) -> Picture:
    """Each run's training loss beside a reference's, and the difference below."""

    def draw(figure: Figure, colours: _Colours) -> None:
        grid = figure.subplots(
            2, len(tables), sharex="col", sharey="row", squeeze=False, height_ratios=(2.2, 1)
        )
        for column, table in enumerate(tables):
            upper, lower = grid[0, column], grid[1, column]
            colour = colours.runs[column % len(colours.runs)]
            steps = [row.step for row in table.rows]
            both = [row for row in table.rows if row.ours is not None]
            upper.plot(
                steps,
                [row.reference for row in table.rows],
                color=colours.muted,
                linewidth=1.2,
                marker="s",
                markersize=3.4,
                linestyle=(0, (4, 2)),
                label="reference",
            )
            upper.plot(
                [row.step for row in both],
                [row.ours for row in both],
                color=colour,
                linewidth=1.6,
                marker="o",
                markersize=3.6,
                label="ours",
            )
            upper.set_title(table.label)
            legend = upper.legend(loc="upper right", frameon=False, fontsize=8.5)
            for text in legend.get_texts():
                text.set_color(colours.ink)
            width = 0.6 * min(np.diff(steps), default=1.0)
            lower.bar([row.step for row in both], [row.difference for row in both], width, color=colour)
            lower.axhline(0, color=colours.muted, linewidth=0.8)
            lower.set_xlabel("steps")
        grid[0, 0].set_ylabel("training loss,\nnats per character")
        grid[1, 0].set_ylabel("difference")
        _style(figure, grid.flat, colours)

    return _picture(
        name="reference",
        height=4.6,
        width=max(_WIDTH, 3.0 * len(tables)),
        draw=draw,
        alt="Training loss against steps, ours and the reference's, with the difference in bars below. "
        + " ".join(f"{table.label}: {table.summary}" for table in tables),
        caption="",
    )


# --- how they look -----------------------------------------------------------------------------------------


def _picture(
    name: str,
    height: float,
    draw: Callable[[Figure, _Colours], None],
    alt: str,
    caption: str,
    width: float = _WIDTH,
) -> Picture:
    # The user's own settings of matplotlib are left out, and so is what it says about its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    forms = []
    for form, colours in (("svg", _ROLES), ("png", _PRINTED)):
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name may have characters that matplotlib's font lacks
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_settings(name, colours))
            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure, colours)
            file = io.BytesIO()
            # No date: the same figures make the same bytes.
            metadata = {"Date": None} if form == "svg" else {"Software": "charrnn-compare"}
            figure.savefig(file, format=form, dpi=_PNG_DPI if form == "png" else "figure", metadata=metadata)
            forms.append(file.getvalue())
    return Picture(name, alt, caption, _inline(forms[0].decode(), name), forms[1])


def _settings(name: str, colours: _Colours) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",  # text stays text, in the page's own font
        "svg.hashsalt": name,
        "text.parse_math": False,  # a run's name may hold a dollar
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colours.grid,
        "axes.labelcolor": colours.muted,
        "axes.titlecolor": colours.ink,
        "text.color": colours.ink,
        "xtick.color": colours.grid,
        "ytick.color": colours.grid,
        "xtick.labelcolor": colours.muted,
        "ytick.labelcolor": colours.muted,
        "axes.grid": True,
        "grid.color": colours.grid,
        "grid.linewidth": 0.7,
        "axes.facecolor": colours.paper,
        "figure.facecolor": colours.paper,
        "savefig.facecolor": colours.paper,
    }


def _style(figure: Figure, grid: Sequence[Axes] | Any, colours: _Colours) -> None:
    for axes in grid:
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.locator_params(axis="x", nbins=6)
    figure.align_ylabels()


def _legend(axes: Axes, runs: Sequence[RunRecord], colours: _Colours) -> None:
    lines = axes.get_lines()
    legend = axes.legend(
        lines, [run.name for run in runs], loc="upper right", frameon=False, ncols=1 + len(runs) // 8
    )
    for text in legend.get_texts():
        text.set_color(colours.ink)


def _run_style(index: int, colours: _Colours) -> dict[str, Any]:
    turn, place = divmod(index, len(colours.runs))
    return {"color": colours.runs[place], "linestyle": _DASHES[turn % len(_DASHES)]}


def _inline(document: str, name: str) -> str:
    """The ``<svg>`` element of an SVG document: colours as the page's, ids that no other picture has."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', element)
    element = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", element)
    # The page's own font, in the two ways in which matplotlib's versions name theirs.
    element = re.sub(r"font-family: [^;\"]*", "font-family: inherit", element)
    element = re.sub(r"font: ([^;\"']*?)'[^;\"]*", r"font: \1system-ui, sans-serif", element)
    element = element.replace("*{stroke-linejoin", "svg *{stroke-linejoin")  # the rest of the page is not its
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return element.strip()


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `POINTS` means of equal stretches of some values ``[N]``."""
    stretch = max(1, -(-len(values) // POINTS))
    starts = np.arange(0, len(values), stretch)
    ends = np.append(starts[1:], len(values))
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / (ends - starts)
    return means


def _highest(runs: Sequence[RunRecord]) -> float:
    """Where a picture ends above: the first steps, which are far off, would press all else together."""
    training = max(float(np.percentile(_thinned(run.losses), 97)) for run in runs)
    # A run's first validation comes early, too; but one alone has to be seen.
    validation = [item.loss for run in runs for item in run.validations[1:] or run.validations]
    lowest = min(float(_thinned(run.losses).min()) for run in runs)
    return max([training, *validation]) + 0.05 * (training - lowest) + 1e-3


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 300:
        return 1.0, "seconds"
    if seconds < 10_800:
        return 60.0, "minutes"
    return 3600.0, "hours"
