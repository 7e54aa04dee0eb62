"""The ways in which charrnn-view can colour a text: by surprise, or by the activation of a unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.view.cells import Cells
    from charrnn_runtime.view.trace import Trace
    from charrnn_runtime.view.units import Unit

MOST_BITS: Final = 8.0
"""The surprise, in bits, that has the strongest colour."""


def rounded(value: float) -> float | None:
    """A number rounded for JSON; None if unknown, since JSON has no NaN."""
    return None if math.isnan(value) else round(value, 4)


class View(Record):
    """A way to colour the text.

    Attributes:
        unit: the unit; None for surprise.
        follows: what the unit tracks and how well, if known.
    """

    unit: Unit | None = None
    follows: str = ""

    @property
    def name(self) -> str:
        """A short name."""
        return "bits" if self.unit is None else self.unit.name

    @property
    def title(self) -> str:
        """A descriptive name."""
        if self.unit is None:
            return "surprise in bits"
        return self.follows or f"unit {self.unit.name}"

    @property
    def is_gate(self) -> bool:
        """Whether values range from 0 to 1."""
        return self.unit is not None and self.unit.name.startswith("o")

    @property
    def is_signed(self) -> bool:
        """Whether values range from -1 to 1."""
        return self.unit is not None and not self.is_gate

    @property
    def low(self) -> str:
        """The lowest value of the colour scale."""
        return "-1" if self.is_signed else "0"

    @property
    def high(self) -> str:
        """The highest value of the colour scale."""
        return f"{MOST_BITS:g} or more" if self.unit is None else "1"

    @property
    def digits(self) -> str:
        """The meaning of `digit`, as a continuation of the title."""
        if self.unit is None:
            return ": 0 to 9, + for 10 or more"
        near_0 = ", ? where c is near 0" if self.is_gate else ""
        return f"; digits 0 to 9 stand for {self.low} to 1{near_0}"

    def values(self, trace: Trace, cells: Cells) -> NDArray[Any]:
        """The value of each character; for a character of several bytes, the last byte's or the sum."""
        if self.unit is None:
            return cells.sums(trace.bits)
        return self.unit.activation(trace.states)[cells.ends - 1]

    def share(self, value: float) -> float:
        """The colour strength of a value, from -1 or 0 to 1."""
        return min(value / MOST_BITS, 1.0) if self.unit is None else max(-1.0, min(value, 1.0))

    def digit(self, value: float) -> str:
        """A value as one character."""
        if math.isnan(value):
            return "?"
        if self.unit is None:
            return "+" if value >= 9.5 else str(round(value))
        share = (value + 1.0) / 2.0 if self.is_signed else value
        return str(int(np.clip(share * 10, 0, 9)))
