"""The units of a network: their names, and their activations in rows of states.

``layer:index`` is a unit, both counted from 0. With a part, it names a number of the state: ``h0:12`` is a
hidden state of layer 0, ``c0:12`` a cell state of an LSTM. ``o0:12`` is its output gate, which follows from
the state: h = o tanh(c). The input and forget gates do not: c' = f c + i g has three unknowns, and the state
has only c' and c.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import wrong
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

_SMALLEST: Final = 1e-3
"""How far tanh(c) must be from 0 to compute the output gate h / tanh(c): fp16 files keep 3 digits of each."""

Layout = tuple[spec.StateBlock, ...]


class Unit(Record):
    """A unit of a model.

    Attributes:
        name: the part, the layer and the index, such as ``c0:12``.
        column: the column of its number in a state row; for an output gate, of the h.
        cell: for c and o, the column of its c; otherwise -1.
    """

    name: str
    column: int
    cell: int = -1

    def activation(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Its activation in each row of states ``[T, S]``: float32 ``[T]``.

        In [-1, 1] for h, and for the tanh of c; in [0, 1] for an output gate, which is NaN if c is so close
        to 0 that the state does not determine it.
        """
        if self.cell < 0:
            return states[:, self.column].copy()
        squashed: NDArray[np.float32] = np.tanh(states[:, self.cell])
        if self.column == self.cell:
            return squashed
        with np.errstate(divide="ignore", invalid="ignore"):
            gate = np.clip(states[:, self.column] / squashed, 0.0, 1.0)
        return np.where(np.abs(squashed) < _SMALLEST, np.float32(np.nan), gate)


def unit_names(layout: Layout) -> tuple[str, ...]:
    """The names of the numbers of a state row, in order."""
    return tuple(f"{block.name}:{index}" for block in layout for index in range(block.size))


def unit_of(layout: Layout, name: Any, parameter: str = "name") -> Unit:
    """Find a unit by name; ``layer:index`` alone is the c of an LSTM, and the h of other cells.

    Raises:
        SettingError: there is no such unit; the message calls the argument ``parameter``.
    """
    starts = {block.name: block.start for block in layout}
    has_c = "c0" in starts
    part, _, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    if part.isascii() and part.isdecimal():
        part = ("c" if has_c else "h") + part
    held = "h" + part[1:] if part.startswith("o") and has_c else part
    size = layout[0].size
    is_index = index.isascii() and index.isdecimal() and len(index) < 8
    if held not in starts or not is_index or int(index) >= size:
        layers = sum(block.name.startswith("h") for block in layout)
        parts = ", ".join([*starts, *(f"o{layer}" for layer in range(layers) if has_c)])
        raise wrong(
            parameter,
            f"layer:index with a layer from 0 to {layers - 1} and an index from 0 to {size - 1}, "
            f"or part:index with one of the parts {parts}",
            name,
        )
    column = starts[held] + int(index)
    cell = starts["c" + part[1:]] + int(index) if part[0] in "co" else -1
    return Unit(f"{part}:{int(index)}", column, cell)


def activations(layout: Layout, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """The activation of every h and c of a state row, as in `Unit.activation`: float32 ``[T, S]``."""
    squashed = states.copy()
    for block in layout:
        if block.name.startswith("c"):
            columns = squashed[:, block.start : block.start + block.size]
            np.tanh(columns, out=columns)
    return squashed
