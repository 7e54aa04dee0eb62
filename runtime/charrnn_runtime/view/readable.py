"""Which units follow something that a reader sees in the text: quotes, brackets, capitals, lines.

Karpathy, Johnson and Li (2015, "Visualizing and Understanding Recurrent Networks") found such units by eye.
Here every unit is tried on each property. How well a unit tells where a property holds is the area under the
ROC curve (the chance that it is higher where the property holds than where it does not; 0.5 is blind), and
for the position in the line, which is a number, the correlation. A unit is chosen on every second block of a
text, and its score is of the others: the best of a thousand units looks good on the text that chose it.
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
"""Into how many bins activations are counted; what falls into one counts as equal."""

_LEAST: Final = 3
"""How many separate places of a text must have a property, in each half of its blocks."""

_BLOCK: Final = 200
"""How many symbols a block has, of which one chooses a unit and the next measures it."""

_LONGEST_QUOTE: Final = 500
"""In characters: a mark without its partner in this distance is taken for an apostrophe."""

_ELISIONS: Final = frozenset(
    (
        *("bout", "cause", "em", "gainst", "gan", "gins", "mongst", "neath", "pon", "scape", "til", "till"),
        *("tis", "twas", "twere", "twill", "twould"),
    )
)
"""Words that begin with an apostrophe, which opens no quote."""

_WORD: Final = re.compile(r"\w+")

_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}
_QUOTES: Final = {'"': '"', "“": "”", "«": "»", "„": "“", "「": "」", "'": "'", "‘": "’"}  # noqa: RUF001


class FoundUnit(Record):
    """A unit that follows something.

    Attributes:
        unit: its name, such as ``c0:12``.
        follows: what it follows, in words.
        measure: "AUC", the area under the ROC curve, or "r", the correlation.
        score: its value on text that the unit was not chosen on: 1 follows exactly, and an AUC of 0.5 or
            an r of 0 not at all. Of a unit that is low where the property holds, it is that of its negative.
        sign: 1, or -1 of a unit that is low where the property holds.
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

    Single marks are apostrophes, too: one opens a quote only before a word, and only if one that closes comes
    before the end of the paragraph.
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
    """Where the quote ends that opens at a place; -1 if none opens there."""
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
            while open_ones.pop() != character:  # what was left open before it ends, too
                pass
        elif character == "\n" and text[place - 1 : place] == "\n" and "}" not in open_ones:
            open_ones.clear()  # a bracket that a paragraph leaves open was none: a smiley, a list's 1)
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
    """How many characters of its line come before each character, and after the line's end 0."""
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
"""What units may follow, in the order in which it is shown. Those with truth values are told by the AUC."""


def text_of(vocabulary: Vocabulary, ids: NDArray[Any]) -> tuple[str, NDArray[np.int64]]:
    """The characters of some symbols, and how many symbols each of them has (bytes, at the byte level)."""
    if vocabulary.level == "char":
        text = vocabulary.decode(ids)
        return text, np.ones(len(text), np.int64)
    text = vocabulary.decode_bytes(ids).decode(errors="surrogateescape")
    return text, np.array([len(each.encode(errors="surrogateescape")) for each in text], np.int64)


def find_units(
    vocabulary: Vocabulary, layout: Layout, ids: NDArray[Any], traces: Iterable[Trace]
) -> list[FoundUnit]:
    """The unit that follows each property best, in one pass over the states; see the module.

    States are counted and summed as they come, so that no more of them is held than a chunk.

    Args:
        vocabulary: what the ids mean.
        layout: the model's state layout.
        ids: integers ``[T]``, the symbols of a text.
        traces: of these symbols, in chunks.

    Returns:
        One for each property that the text has often enough, the best score first.
    """
    text, lengths = text_of(vocabulary, ids)
    is_first = np.arange(len(ids)) // _BLOCK % 2 == 0
    labels = {name: np.repeat(of(text), lengths) for name, of in PROPERTIES.items()}
    labels = {
        name: label
        for name, label in labels.items()
        if all(_is_told(label, each) for each in (is_first, ~is_first))
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
    """From 0 for a blind unit to 1, by either measure."""
    return 2.0 * found.score - 1.0 if found.measure == "AUC" else found.score


def _is_told(label: NDArray[Any], part: NDArray[np.bool_]) -> bool:
    """Whether a part of a text has enough of a property to tell a unit by it."""
    if label.dtype != np.bool_:
        return bool(part.any()) and bool(label[part].min() < label[part].max())
    begins = np.flatnonzero(label[1:] & ~label[:-1] & part[1:])
    return len(begins) >= _LEAST and not label[part].all()


class _Counts:
    """How often every unit is in which bin, and its sums with a number, over a part of a text."""

    def __init__(self, layout: Layout, labels: dict[str, NDArray[Any]]) -> None:
        self._layout, self._labels = layout, labels
        self._size = sum(block.size for block in layout)
        self._everywhere = np.zeros(self._size * _BINS, np.int64)
        self._where = {
            name: np.zeros(self._size * _BINS, np.int64)
            for name, label in labels.items()
            if label.dtype == np.bool_
        }
        # Of a number p: the sums of a, a * a and a * p for every activation a; and those of 1, p and p * p.
        self._sums = {name: np.zeros((3, self._size)) for name in labels if name not in self._where}
        self._moments = {name: np.zeros(3) for name in self._sums}

    def add(self, states: NDArray[np.float32], places: NDArray[np.int64]) -> None:
        """Count some rows of states ``[n, S]``, of the symbols at ``places``."""
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
        """How well each unit tells a property, float64 ``[S]`` in [-1, 1]: 2 AUC - 1, or the correlation."""
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
    """States in (-1, 1) by a curve that keeps their order, and large ones of c apart for longer than tanh."""
    values = states.copy()
    for block in layout:
        if block.name.startswith("c"):
            columns = values[:, block.start : block.start + block.size]
            columns /= 1.0 + np.abs(columns)
    return values
