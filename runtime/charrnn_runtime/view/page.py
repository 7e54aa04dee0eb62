"""A web page that shows a trace: one self-contained HTML file.

The data of all characters are in arrays that the page's own script reads: neither the text, the model nor
their names are ever HTML or script there. Its Content-Security-Policy forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format.reader import ModelInfo
from charrnn_runtime.view.cells import cells_of, shown, shown_symbol
from charrnn_runtime.view.trace import Trace
from charrnn_runtime.view.units import Unit, unit_names, unit_of

_ALL_UNITS: Final = 4 * 1024 * 1024
"""The most activations, of one byte each, for which a page includes every unit."""

_MOST_LIKELY: Final = 5
_NOT_KNOWN: Final = -128
"""The activation of a gate that the state does not determine."""


class Page:
    """A page for a text, whose traces are added one by one."""

    def __init__(self, info: ModelInfo, name: str, shown_units: list[tuple[Unit, str]], symbols: int) -> None:
        """Create a page without text.

        Args:
            info: the model.
            name: the name of the text.
            shown_units: units to include, and what is known of each, or "".
            symbols: the length of the text. The longer, the fewer units fit.
        """
        self._info, self._name = info, _last(name)
        self._units = dict(shown_units)
        if symbols * info.state_size <= _ALL_UNITS:
            layout = info.state_layout
            known = {unit.name for unit in self._units}
            self._units |= {unit_of(layout, each): "" for each in unit_names(layout) if each not in known}
        self._characters: list[str] = []
        self._bits: list[NDArray[np.uint16]] = []
        self._most_likely: list[NDArray[np.int64]] = []
        self._probabilities: list[NDArray[np.uint16]] = []
        self._activations: list[NDArray[np.int8]] = []

    @property
    def contents(self) -> str:
        """A description of the numbers of the state, and output gates, that can be selected."""
        gates = sum(unit.name.startswith("o") for unit in self._units)
        numbers, all_numbers = len(self._units) - gates, self._info.state_size
        shown_numbers = f"{numbers:,} of the" if numbers < all_numbers else "all"
        more = f", and {gates} output gate{'s' if gates > 1 else ''}" if gates else ""
        return f"{shown_numbers} {all_numbers:,} numbers of the state{more}"

    def add(self, trace: Trace) -> None:
        """Add the next part of the text."""
        cells = cells_of(trace.vocabulary, trace.ids)
        self._characters += [each if each in " \n" else shown(each) for each in cells.characters]
        hundredths = np.round(cells.sums(trace.bits) * 100.0)
        self._bits.append(np.clip(hundredths, 0, 65535).astype(np.uint16))
        ids, probabilities = trace.most_likely(_MOST_LIKELY)
        self._most_likely.append(ids[cells.starts])
        self._probabilities.append(np.round(probabilities[cells.starts] * 65535.0).astype(np.uint16))
        states = trace.states[cells.ends - 1]
        activations = np.empty((len(self._units), len(cells)), np.int8)
        for row, unit in enumerate(self._units):
            values = np.round(unit.activation(states) * 127.0)
            activations[row] = np.where(np.isnan(values), _NOT_KNOWN, values).astype(np.int8)
        self._activations.append(activations)

    def html(self) -> str:
        """The page as HTML."""
        source = resources.files("charrnn_runtime.view").joinpath("templates/page.html")
        template = source.read_text(encoding="utf-8")
        style = _block(template, "style")
        script = _block(template, "script")
        policy = f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
        info = self._info
        model = _last(info.path)
        parts = {
            "policy": policy,
            "title": html.escape(_visible(f"{self._name} as {model} reads it")),
            "data": _script_json(self._data(_visible(model))),
        }
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)

    def _data(self, model: str) -> dict[str, Any]:
        info = self._info
        most_likely = np.concatenate(self._most_likely)  # [n, 5]
        used, places = np.unique(most_likely, return_inverse=True)
        return {
            "model": model,
            "network": f"{info.cell} {info.layers}x{info.hidden_size}",
            "text": _visible(self._name),
            "characters": self._characters,
            "symbols": [shown_symbol(info.vocabulary, token) for token in used.tolist()],
            "count": most_likely.shape[1],
            "most_likely": _base64(places.astype("<u2")),
            "probabilities": _base64(np.concatenate(self._probabilities).astype("<u2")),
            "bits": _base64(np.concatenate(self._bits).astype("<u2")),
            "units": [{"name": unit.name, "follows": follows} for unit, follows in self._units.items()],
            "allUnits": self._info.state_size,
            "activations": _base64(np.concatenate(self._activations, axis=1)),
        }


def _last(path: str) -> str:
    """The last part of a path, for any operating system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _visible(text: str) -> str:
    """A name with each character in visible form."""
    return "".join(each if each == " " else shown(each) for each in text)


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _script_json(value: Any) -> str:
    """JSON for a script element, which no text in it can close; in ASCII, with every < escaped."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _block(template: str, element: str) -> str:
    """The contents of the style or script element of the template."""
    found = re.search(rf"<{element}>(.*?)</{element}>", template, re.DOTALL)
    assert found is not None
    return found[1]


def _hash(block: str) -> str:
    return base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
