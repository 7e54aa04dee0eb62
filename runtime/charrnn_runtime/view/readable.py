"""Finds units that track visible properties of the text: quotes, brackets, capitals, lines.

Karpathy, Johnson and Li (2015, "Visualizing and Understanding Recurrent Networks") found such units manually.
Here every unit is tested for each property. The measure is the area under the ROC curve (the probability that
the activation is higher where the property holds than where it does not; 0.5 is chance level); for the
position in the line, which is a number, it is the correlation. A unit is selected on every second block of a
text and scored on the others: the best of a thousand units always looks good on the text that selected it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record
from charrnn_runtime.view.trace import Trace
from charrnn_runtime.view.units import Layout, activations, unit_names
from charrnn_runtime.vocabulary import Vocabulary

_BINS: Final = 256
"""The number of bins for activations; activations in the same bin count as equal."""

_LEAST: Final = 3
"""The minimum number of separate occurrences of a property in each half of the blocks."""

_BLOCK: Final = 200
"""The length of a block in symbols; blocks alternately select and score units."""

_LONGEST_QUOTE: Final = 500
"""In characters: a mark without a partner within this distance is taken for an apostrophe."""

_ELISIONS: Final = frozenset(
    (
        *("bout", "cause", "em", "gainst", "gan", "gins", "mongst", "neath", "pon", "scape", "til", "till"),
        *("tis", "twas", "twere", "twill", "twould"),
    )
)
"""Words that start with an apostrophe, which is not an opening quote."""

_WORD: Final = re.compile(r"\w+")

_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_QUOTES: Final = {'"': '"', "“": "”", "«": "»", "„": "“", "「": "」", "'": "'", "‘": "’"}  # noqa: RUF001


class FoundUnit(Record):
    """A unit that tracks a property of the text.

    Attributes:
        unit: its name, such as ``c0:12``.
        follows: the property.
        measure: "AUC", the area under the ROC curve, or "r", the correlation.
        score: its value on text that was not used to select the unit: 1 is perfect, an AUC of 0.5 or an r of
            0 is chance level. For a unit that is low where the property holds, of its negative.
        sign: 1, or -1 for a unit that is low where the property holds.
    """

    unit: str
    follows: str
    measure: str
    score: float
    sign: int

    def __str__(self) -> str:
        low = "" if self.sign > 0 else ", falling" if self.measure == "r" else ", low there"
        return f"{self.unit} follows {self.follows} ({self.measure} {self.score:.3f}{low})"


def in_quotes(text: str) -> NDArray[np.bool_]:
    """Where a text is inside quotation marks: from the opening mark to the last character before the closing.

    Single marks can be apostrophes: one opens a quote only before a word, and only if a closing mark follows
    in the same paragraph.
    """
    inside = np.zeros(len(text), np.bool_)
    place = 0
    while place < len(text):
        mark = text[place]
        end = _closing(text, place, _QUOTES[mark]) if mark in _QUOTES else -1
        if end > 0:
            inside[place:end] = True
            place = end
        place += 1
    return inside


def _closing(text: str, begin: int, closing: str) -> int:
    """The end of the quote that opens at a position; -1 if none opens there."""
    is_single = closing in "'’"  # noqa: RUF001
    if is_single:
        word = _WORD.match(text, begin + 1)
        elided = word is not None and word[0].casefold() in _ELISIONS
        if text[begin - 1 : begin].isalnum() or not text[begin + 1 : begin + 2].strip() or elided:
            return -1
    limit = min(len(text), begin + _LONGEST_QUOTE)
    paragraph = text.find("\n\n", begin, limit)
    limit = limit if paragraph < 0 else paragraph
    end = text.find(closing, begin + 1, limit)
    while end > 0 and is_single and (text[end - 1].isspace() or text[end + 1 : end + 2].isalnum()):
        end = text.find(closing, end + 1, limit)
    return end


def in_brackets(text: str) -> NDArray[np.bool_]:
    """Where a text is inside round, square or curly brackets: from the opening to before the closing one."""
    inside = np.zeros(len(text), np.bool_)
    open_ones: list[str] = []
    for place, character in enumerate(text):
        if character in _PAIRS:
            open_ones.append(_PAIRS[character])
        elif open_ones and character in open_ones:
            while open_ones.pop() != character:  # also closes brackets that were left open within it
                pass
        elif character == "\n" and text[place - 1 : place] == "\n" and "}" not in open_ones:
            open_ones.clear()  # a bracket left open in a paragraph is not one: a smiley, or 1) in a list
        inside[place] = bool(open_ones)
    return inside


def uppercase(text: str) -> NDArray[np.bool_]:
    """Which characters are uppercase letters."""
    return np.fromiter((character.isupper() for character in text), np.bool_, len(text))


def before_line_end(text: str) -> NDArray[np.bool_]:
    """Which characters are the last of their line: the next one is a newline."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    ends = np.zeros(len(text), np.bool_)
    ends[:-1] = (codes[1:] == 10) & (codes[:-1] != 10)
    return ends


def line_position(text: str) -> NDArray[np.float64]:
    """The number of characters before each character in its line; 0 after the end of the line."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    places = np.arange(len(text))
    starts = np.zeros(len(text), np.int64)
    starts[1:] = np.where(codes[:-1] == 10, places[1:], 0)
    return (places - np.maximum.accumulate(starts)).astype(np.float64)


PROPERTIES: Final[dict[str, Callable[[str], NDArray[Any]]]] = {
    "quotes": in_quotes,
    "line position": line_position,
    "brackets": in_brackets,
    "uppercase": uppercase,
    "line end next": before_line_end,
}
"""The properties that units may track, in display order. Boolean ones are measured by the AUC."""


def text_of(vocabulary: Vocabulary, ids: NDArray[Any]) -> tuple[str, NDArray[np.int64]]:
    """The characters of some symbols, and the number of symbols of each (bytes, at the byte level)."""
    if vocabulary.level == "char":
        text = vocabulary.decode(ids)
        return text, np.ones(len(text), np.int64)
    text = vocabulary.decode_bytes(ids).decode(errors="surrogateescape")
    return text, np.array([len(each.encode(errors="surrogateescape")) for each in text], np.int64)


def find_units(
    vocabulary: Vocabulary, layout: Layout, ids: NDArray[Any], traces: Iterable[Trace]
) -> list[FoundUnit]:
    """Find the unit that tracks each property best, in one pass over the states; see the module.

    States are aggregated incrementally, so memory use is bounded by a chunk.

    Args:
        vocabulary: the vocabulary.
        layout: the model's state layout.
        ids: integers ``[T]``, the symbols of a text.
        traces: the traces of these symbols, in chunks.

    Returns:
        A unit for each property that occurs often enough in the text, best score first.
    """
    text, lengths = text_of(vocabulary, ids)
    is_first = np.arange(len(ids)) // _BLOCK % 2 == 0
    labels = {name: np.repeat(of(text), lengths) for name, of in PROPERTIES.items()}
    labels = {
        name: label
        for name, label in labels.items()
        if all(_is_measurable(label, each) for each in (is_first, ~is_first))
    }
    first, second = _Counts(layout, labels), _Counts(layout, labels)
    place = 0
    for trace in traces:
        here = is_first[place : place + len(trace)]
        for counts, rows in ((first, here), (second, ~here)):
            if rows.any():
                counts.add(trace.states[rows], place + np.flatnonzero(rows))
        place += len(trace)
    found, names = [], unit_names(layout)
    for name, label in labels.items():
        told = first.told(name)
        column = int(np.abs(told).argmax())
        sign = 1 if told[column] > 0 else -1
        score = sign * float(second.told(name)[column])
        is_truth = label.dtype == np.bool_
        found.append(
            FoundUnit(
                names[column],
                name,
                "AUC" if is_truth else "r",
                (score + 1.0) / 2.0 if is_truth else score,
                sign,
            )
        )
    return sorted(found, key=_share, reverse=True)


def _share(found: FoundUnit) -> float:
    """From 0 at chance level to 1, for either measure."""
    return 2.0 * found.score - 1.0 if found.measure == "AUC" else found.score


def _is_measurable(label: NDArray[Any], part: NDArray[np.bool_]) -> bool:
    """Whether a part of a text has a property often enough to measure units."""
    if label.dtype != np.bool_:
        return bool(part.any()) and bool(label[part].min() < label[part].max())
    begins = np.flatnonzero(label[1:] & ~label[:-1] & part[1:])
    return len(begins) >= _LEAST and not label[part].all()


class _Counts:
    """Histograms of the activations of all units, and sums with a number, over a part of a text."""

    def __init__(self, layout: Layout, labels: dict[str, NDArray[Any]]) -> None:
        self._layout, self._labels = layout, labels
        self._size = sum(block.size for block in layout)
        self._everywhere = np.zeros(self._size * _BINS, np.int64)
        self._where = {
            name: np.zeros(self._size * _BINS, np.int64)
            for name, label in labels.items()
            if label.dtype == np.bool_
        }
        # For a number p: the sums of a, a * a and a * p for every activation a; and of 1, p and p * p.
        self._sums = {name: np.zeros((3, self._size)) for name in labels if name not in self._where}
        self._moments = {name: np.zeros(3) for name in self._sums}

    def add(self, states: NDArray[np.float32], places: NDArray[np.int64]) -> None:
        """Add states ``[n, S]`` of the symbols at ``places``."""
        ordered = np.nan_to_num(_ordered(self._layout, states))
        bins = np.clip((ordered + 1.0) * (_BINS / 2), 0, _BINS - 1).astype(np.int64)
        bins += np.arange(self._size) * _BINS
        self._everywhere += np.bincount(bins.ravel(), minlength=len(self._everywhere))
        for name, counts in self._where.items():
            counts += np.bincount(bins[self._labels[name][places]].ravel(), minlength=len(counts))
        if self._sums:
            values = activations(self._layout, states).astype(np.float64)
            for name, sums in self._sums.items():
                numbers = self._labels[name][places]
                sums += [values.sum(axis=0), (values**2).sum(axis=0), numbers @ values]
                self._moments[name] += [len(numbers), numbers.sum(), numbers @ numbers]

    def told(self, name: str) -> NDArray[np.float64]:
        """How well each unit tracks a property, float64 ``[S]`` in [-1, 1]: 2 AUC - 1, or the correlation."""
        return 2.0 * self._aucs(name) - 1.0 if name in self._where else self._correlations(name)

    def _aucs(self, name: str) -> NDArray[np.float64]:
        inside = self._where[name].reshape(self._size, _BINS).astype(np.float64)
        outside = self._everywhere.reshape(self._size, _BINS) - inside
        below = np.cumsum(outside, axis=1) - outside / 2.0  # those in the same bin count half
        pairs = inside.sum(axis=1) * outside.sum(axis=1)
        aucs: NDArray[np.float64] = (inside * below).sum(axis=1) / pairs
        return aucs

    def _correlations(self, name: str) -> NDArray[np.float64]:
        total, squares, products = self._sums[name]
        n, number, number_squares = self._moments[name]
        spread = (squares - total**2 / n) * (number_squares - number**2 / n)
        told: NDArray[np.float64] = (products - total * number / n) / np.sqrt(np.maximum(spread, 1e-9))
        return told


def _ordered(layout: Layout, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """States mapped monotonically to (-1, 1); large values of c saturate later than with tanh."""
    values = states.copy()
    for block in layout:
        if block.name.startswith("c"):
            columns = values[:, block.start : block.start + block.size]
            columns /= 1.0 + np.abs(columns)
    return values
