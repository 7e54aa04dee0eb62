"""Draw with matplotlib: SVG for wide and narrow, light and dark pages, and PNG.

The SVG forms take their colours from the page: each role of `_ROLES` is drawn in a unique colour, which is
then replaced by a variable of the page's style sheet.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from charrnn_runtime.format import spec
from charrnn_trainer.compare.records import RunRecord

WIDE: Final = 9.0
NARROW: Final = 3.4
"""The widths of the two SVG forms in inches: for pages of about 1,000 and of about 400 pixels."""

CELL_COLOURS: Final = ("#1f6fc4", "#c8500a", "#1d7d46", "#8435b8", "#8a6a00", "#bf2c74")
CELL_COLOURS_DARK: Final = ("#74b4f8", "#ff9f63", "#63cf8f", "#cf9bf5", "#dfbd4a", "#ff8fbd")
"""The colours of the cells, in the order of `spec.CELLS`, on a light page and on a dark one."""

_DASHES: Final = ((), (5.0, 2.0), (1.5, 2.0), (6.0, 2.0, 1.5, 2.0))
"""Distinguishes several runs of one cell: lengths of strokes and gaps, in line widths."""
_PNG_DPI: Final = 160
_POINTS_PER_INCH: Final = 72


@dataclass(frozen=True)
class RunStyle:
    """The line style of a run: the colour shows its cell, the dashes distinguish runs of one cell.

    Attributes:
        colour: an index into the colours of the cells.
        dashes: lengths of strokes and gaps, in line widths; empty for a solid line.
    """

    colour: int
    dashes: tuple[float, ...]

    @property
    def linestyle(self) -> Any:
        """The dashes in matplotlib's format."""
        return (0, self.dashes) if self.dashes else "-"


def run_styles(runs: Sequence[RunRecord]) -> list[RunStyle]:
    """The style of each run, independent of the order of the cells."""
    seen: dict[str, int] = {}
    styles = []
    for run in runs:
        cell = run.config.network.cell
        turn = seen[cell] = seen.get(cell, -1) + 1
        colour = spec.CELLS.index(cell) % len(CELL_COLOURS)
        styles.append(RunStyle(colour, _DASHES[turn % len(_DASHES)]))
    return styles


@dataclass(frozen=True)
class Palette:
    """The colours of text, secondary text, the grid, the background and each cell."""

    ink: str
    muted: str
    grid: str
    paper: str
    cells: tuple[str, ...]


_PRINTED: Final = Palette("#1c1e21", "#5b616a", "#dfe2e6", "#ffffff", CELL_COLOURS)
_ROLES: Final = Palette(
    "#fe1d01", "#fe1d02", "#fe1d03", "none", tuple(f"#fe1d1{i}" for i in range(len(CELL_COLOURS)))
)
_VARIABLES: Final = {
    _ROLES.ink: "var(--ink)",
    _ROLES.muted: "var(--muted)",
    _ROLES.grid: "var(--line)",
    **{colour: f"var(--cell{i})" for i, colour in enumerate(_ROLES.cells)},
}


@dataclass(frozen=True)
class Picture:
    """A picture in all its forms.

    Attributes:
        name: the name of its file, without ``.png``.
        alt: the alternative text.
        caption: the caption.
        png: the bytes of a PNG file.
        wide: an ``<svg>`` element for a page that defines the colour variables; empty if there is no page.
        narrow: the same for a narrow page, with its panels in one column.
    """

    name: str
    alt: str
    caption: str
    png: bytes = field(repr=False)
    wide: str = field(default="", repr=False)
    narrow: str = field(default="", repr=False)

    def _repr_png_(self) -> bytes:
        """Lets notebooks show the picture."""
        return self.png


class Values(NamedTuple):
    """The tooltips of a panel.

    Attributes:
        axes: the panel.
        places: positions on its x axis, ascending.
        texts: the tooltip at each position.
    """

    axes: Axes
    places: Sequence[float]
    texts: Sequence[str]


Form = Literal["wide", "narrow", "png"]
Draw = Callable[[Figure, Palette, Form], list[Values]]
"""Draws into a figure in a palette's colours, for one of the forms; returns the tooltips of its panels."""


def svg(name: str, draw: Draw, height: float, *, narrow: bool = False) -> str:
    """An ``<svg>`` element; ``height`` is in inches."""
    form: Form = "narrow" if narrow else "wide"
    figure, values, content = _drawn(name, draw, form, (NARROW if narrow else WIDE, height))
    element = _inline(content.decode(), f"{name}-{form}")
    element = element.removesuffix("</svg>") + _hover(figure, values) + "</svg>"
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "·", element)  # control characters in runs' names


def png(name: str, draw: Draw, height: float, width: float = WIDE) -> bytes:
    """The bytes of a PNG file; sizes are in inches."""
    return _drawn(name, draw, "png", (width, height))[2]


def _drawn(
    name: str, draw: Draw, form: Form, inches: tuple[float, float]
) -> tuple[Figure, list[Values], bytes]:
    # Ignore the user's matplotlib settings and its messages about the font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    palette = _PRINTED if form == "png" else _ROLES
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters missing from matplotlib's font
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_settings(name, palette))
        figure = Figure(figsize=inches, layout="constrained", dpi=_POINTS_PER_INCH)
        values = draw(figure, palette, form)
        file = io.BytesIO()
        # No date, so that equal figures give equal bytes.
        if form == "png":
            figure.savefig(file, format="png", dpi=_PNG_DPI, metadata={"Software": "charrnn-compare"})
        else:
            figure.savefig(file, format="svg", metadata={"Date": None})
    return figure, values, file.getvalue()


def _settings(name: str, palette: Palette) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",  # text stays text, in the page's own font
        "svg.hashsalt": name,
        "text.parse_math": False,  # a run's name may contain a dollar sign
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.muted,
        "axes.titlecolor": palette.ink,
        "text.color": palette.ink,
        "xtick.color": palette.grid,
        "ytick.color": palette.grid,
        "xtick.labelcolor": palette.muted,
        "ytick.labelcolor": palette.muted,
        "axes.grid": True,
        "grid.color": palette.grid,
        "grid.linewidth": 0.7,
        "axes.facecolor": palette.paper,
        "figure.facecolor": palette.paper,
        "savefig.facecolor": palette.paper,
    }


def _inline(document: str, name: str) -> str:
    """The ``<svg>`` element of an SVG document, with the page's colours and unique ids."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', element)
    element = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", element)
    # Use the page's font; matplotlib's versions write fonts in two ways.
    element = re.sub(r"font-family: [^;\"]*", "font-family: inherit", element)
    element = re.sub(r"font: ([^;\"']*?)'[^;\"]*", r"font: \1system-ui, sans-serif", element)
    element = element.replace("*{stroke-linejoin", "svg *{stroke-linejoin")  # leave other elements alone
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return element.strip()


def _hover(figure: Figure, values: Sequence[Values]) -> str:
    """Invisible strips over the panels, each with a tooltip (an SVG title) of the values there."""
    height = figure.bbox.height
    strips = []
    for axes, places, texts in values:
        box = axes.get_window_extent()  # in points from the bottom, since a pixel is a point
        at = axes.transData.transform([(place, 0.0) for place in places])[:, 0]
        edges = np.clip([box.x0, *(at[1:] + at[:-1]) / 2, box.x1], box.x0, box.x1)
        for left, right, text in zip(edges[:-1], edges[1:], texts, strict=True):
            strips.append(
                f'<rect class="values" x="{left:.1f}" y="{height - box.y1:.1f}" width="{right - left:.1f}" '
                f'height="{box.height:.1f}"><title>{escape(text)}</title></rect>'
            )
    return "".join(strips)
