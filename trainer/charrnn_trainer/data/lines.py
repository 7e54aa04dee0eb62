"""Texts whose lines are independent of one another, such as lists of names: which ones train and validate.

A line is read from a zero state: the newline first, then its characters, after each of which the next one is
predicted, and after the last one the newline. A text's last line needs no newline at its end. Empty lines are
left out. A line ends with LF alone; charrnn-train reads the CR LF of Windows as that.

Of lines that are equal, all are on one side: different lines are drawn for validation, where each counts
once, and what repeats them is not trained on. Lines are told apart by a hash of 64 bits. (Of 100 million
different lines, any two are taken for equal with a chance of 1 in 4,000; they would stay on one side.)

The index takes some 40 bytes of memory a line, and the text none: it is read in windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import SettingError
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.config import DataConfig
from charrnn_trainer.data.batches import IGNORED
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.token_file import windows

_WINDOW: Final = 1 << 20  # how many characters are hashed at a time


@dataclass(frozen=True, eq=False)
class Lines:
    """Some lines of a text.

    Attributes:
        ids: the whole text, ``[N]``, perhaps mapped from a file.
        newline: the newline's id.
        begins: where each line's first character is, ``int64 [L]``.
        lengths: how many characters it has, without the newline, ``int64 [L]``.
    """

    ids: NDArray[Any]
    newline: int
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """L, the number of lines."""
        return len(self.begins)

    @property
    def characters(self) -> int:
        """How many characters are predicted: those of all lines, and a newline after each."""
        return int(self.lengths.sum()) + len(self)

    def take(self, chosen: NDArray[np.int64] | slice) -> Lines:
        """Some of them."""
        return Lines(self.ids, self.newline, self.begins[chosen], self.lengths[chosen])

    def window(
        self, chosen: NDArray[np.int64], first: int, last: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets ``[R, last - first]`` of some lines, from their place ``first`` to ``last``.

        A line's first input is the newline before it, its last target the one behind it; at places behind
        that, inputs are newlines and targets `IGNORED`. Of -1 in ``chosen``, all places are.
        """
        begins = self.begins[chosen][:, np.newaxis]  # (R, 1)
        lengths = np.where(chosen < 0, -1, self.lengths[chosen])[:, np.newaxis]
        places = np.arange(first - 1, last)  # (T + 1), of characters in their line
        within = (places >= 0) & (places < lengths)  # (R, T + 1)
        read = self.ids[np.where(within, begins + places, 0)].astype(np.int64)
        read[~within] = self.newline
        targets = np.where(places[1:] <= lengths, read[:, 1:], IGNORED)
        return read[:, :-1], targets


@dataclass(frozen=True, eq=False)
class LineSplit:
    """Which lines of a text train and which validate.

    Attributes:
        training: the lines that are trained on, as often as the text has them.
        validation: lines that validate, in an order drawn by the seed, each once.
        total: how many lines the text has, without empty ones.
        different: how many different ones.
        held_back: how many are not trained on: those that validate, and all their repetitions.
        empty: how many empty ones were skipped.
    """

    training: Lines
    validation: Lines
    total: int
    different: int
    held_back: int
    empty: int

    @property
    def train_tokens(self) -> int:
        """How many characters are trained on, newlines included."""
        # The text's last line may end without the newline that it is trained with.
        return min(self.training.characters, len(self.training.ids))

    @property
    def validation_tokens(self) -> int:
        """How many characters validate, newlines included."""
        return self.validation.characters

    def training_windows(self, ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The characters of a text ``[N]`` that are trained on, line by line, with a newline behind each."""
        for begin, length in zip(self.training.begins, self.training.lengths, strict=True):
            yield from windows(ids[begin : begin + length])
            yield np.array([self.training.newline], ids.dtype)

    def rows(self) -> Lines:
        """What is scored: the lines that validate."""
        return self.validation

    @property
    def words(self) -> str:
        """What was found and decided, in one line."""
        repeats = self.total - self.different
        found = f"lines: {self.total:,}, " + (
            f"{self.different:,} of them different" if repeats else "all of them different"
        )
        more = self.held_back - len(self.validation)
        also = f" (their repetitions are omitted: {_lines(more)})" if more else ""
        kept = f"; {len(self.validation):,} held back for validation{also}" if len(self.validation) else ""
        empty = f"; {_lines(self.empty, 'empty ')} skipped" if self.empty else ""
        return found + kept + empty


def _lines(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}line{'s' if count != 1 else ''}"


def newline_of(vocabulary: Vocabulary, name: str) -> int:
    """The newline's id in the vocabulary of a text of this name.

    Raises:
        SettingError: the text has none.
    """
    if vocabulary.level == "char" and vocabulary.symbols[vocabulary.start_token] != "\n":
        raise SettingError(
            f"lines=True learns lines, but {name} has no newline; give a text with one item per line, or "
            "omit lines=True",
            "lines",
        )
    return vocabulary.start_token


def split_lines(corpus: Corpus, data: DataConfig, seed: int) -> LineSplit:
    """Find a text's lines, and draw by the seed which of the different ones validate.

    As many as ``data.val_lines`` says, or else the share ``data.val_fraction`` of the different ones.

    Raises:
        SettingError: the text has no newline, only empty lines, or no more different lines than validate.
    """
    newline = newline_of(corpus.vocabulary, corpus.name)
    lines, empty = _find_lines(corpus.ids, newline)
    if not len(lines):
        raise SettingError(
            f"lines=True learns lines, but those of {corpus.name} are all empty; give a text with one item "
            "per line, or omit lines=True",
            "lines",
        )
    _, first, group, copies = np.unique(
        _hashes(lines), return_index=True, return_inverse=True, return_counts=True
    )
    different = len(first)
    wanted = data.val_lines
    if wanted is None:
        wanted = different - int((1.0 - data.val_fraction) * different)
    if wanted >= different:
        given = f"val_fraction={data.val_fraction:g}" if data.val_lines is None else f"val_lines={wanted}"
        raise SettingError(
            f"{given} holds back {_lines(wanted, 'different ')}, and {corpus.name} has {different:,}; give a "
            "list with more different lines, or hold back fewer (val_lines=0 holds back none)",
            "val_fraction",
            "val_lines",
        )
    drawn = np.random.default_rng((seed, 0)).permutation(different)[:wanted]  # numbers of groups
    validates = np.zeros(different, np.bool_)
    validates[drawn] = True
    return LineSplit(
        training=lines.take(np.flatnonzero(~validates[group])),
        validation=lines.take(first[drawn]),
        total=len(lines),
        different=different,
        held_back=int(copies[drawn].sum()),
        empty=empty,
    )


def _find_lines(ids: NDArray[Any], newline: int) -> tuple[Lines, int]:
    """All lines that are not empty, and how many are."""
    found, before = [], 0
    for window in windows(ids):
        found.append(np.flatnonzero(window == newline) + before)
        before += len(window)
    ends = np.concatenate(found)
    if not len(ends) or ends[-1] != len(ids) - 1:
        ends = np.append(ends, len(ids))
    begins = np.concatenate([[0], ends[:-1] + 1])
    filled = ends > begins
    lines = Lines(ids, newline, begins[filled], (ends - begins)[filled])
    return lines, len(filled) - len(lines)


def _hashes(lines: Lines) -> NDArray[np.uint64]:
    """A hash of each line, ``uint64 [L]``: the sum of its characters' and places' mixed bits."""
    hashes = np.zeros(len(lines), np.uint64)
    ends = lines.begins + lines.lengths
    for start in range(0, len(lines.ids), _WINDOW):
        stop = min(start + _WINDOW, len(lines.ids))
        read = lines.ids[start:stop].astype(np.uint64)
        of = slice(np.searchsorted(ends, start, "right"), np.searchsorted(lines.begins, stop, "left"))
        begins = np.maximum(lines.begins[of], start)
        counts = np.minimum(ends[of], stop) - begins
        if not len(counts):
            continue
        firsts = np.cumsum(counts) - counts  # where each line's characters begin among those of the window
        where = np.arange(counts.sum()) + np.repeat(begins - firsts, counts)
        places = (where - np.repeat(lines.begins[of], counts)).astype(np.uint64)
        hashes[of] += np.add.reduceat(_mix(read[where - start] + (places << np.uint64(17))), firsts)
    return hashes


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), after a step that moves zero."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
