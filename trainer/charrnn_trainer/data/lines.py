"""Texts of independent lines, such as lists of names, and their split into training and validation lines.

A line is read from a zero state: first the newline, then its characters. After each of these, the next
character is predicted, and the newline after the last one. The last line of a text needs no newline. Empty
lines are skipped. Only LF ends a line; charrnn-train reads the CR LF of Windows as LF.

Equal lines are always on the same side of the split: validation lines are drawn from the distinct lines, each
counts once, and their repetitions are excluded from training. Lines are compared by a 64-bit hash. (Among 100
million distinct lines, the probability that any two collide is 1 in 4,000; they would stay on the same side.)

The index takes about 40 bytes of memory per line; the text itself is read in windows and takes none.
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

_WINDOW: Final = 1 << 20  # characters hashed at a time


@dataclass(frozen=True, eq=False)
class Lines:
    """Some lines of a text.

    Attributes:
        ids: the whole text, ``[N]``, possibly memory-mapped.
        newline: the newline's id.
        begins: the start position of each line, ``int64 [L]``.
        lengths: the length of each line without the newline, ``int64 [L]``.
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
        """The number of predicted characters: those of all lines, and a newline after each."""
        return int(self.lengths.sum()) + len(self)

    def take(self, chosen: NDArray[np.int64] | slice) -> Lines:
        """A subset of the lines."""
        return Lines(self.ids, self.newline, self.begins[chosen], self.lengths[chosen])

    def window(
        self, chosen: NDArray[np.int64], first: int, last: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets ``[R, last - first]`` of some lines, for positions ``first`` to ``last``.

        The first input of a line is a newline, and its last target the newline after it. After that, inputs
        are newlines and targets `IGNORED`, as in the whole row of a -1 in ``chosen``.
        """
        begins = self.begins[chosen][:, np.newaxis]  # (R, 1)
        lengths = np.where(chosen < 0, -1, self.lengths[chosen])[:, np.newaxis]
        places = np.arange(first - 1, last)  # (T + 1), positions in the line
        within = (places >= 0) & (places < lengths)  # (R, T + 1)
        read = self.ids[np.where(within, begins + places, 0)].astype(np.int64)
        read[~within] = self.newline
        targets = np.where(places[1:] <= lengths, read[:, 1:], IGNORED)
        return read[:, :-1], targets


@dataclass(frozen=True, eq=False)
class LineSplit:
    """The split of a text into training and validation lines.

    Attributes:
        training: the training lines, including repetitions.
        validation: the distinct validation lines, in an order drawn by the seed.
        total: the number of lines, without empty ones.
        distinct: the number of distinct lines.
        held_out: the number of lines not trained on: validation lines with all their repetitions.
        empty: the number of empty lines, which are skipped.
    """

    training: Lines
    validation: Lines
    total: int
    distinct: int
    held_out: int
    empty: int

    @property
    def train_tokens(self) -> int:
        """The number of characters for training, including newlines."""
        # Training adds a newline to a last line that lacks one.
        return min(self.training.characters, len(self.training.ids))

    @property
    def validation_tokens(self) -> int:
        """The number of characters for validation, including newlines."""
        return self.validation.characters

    def training_windows(self, ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The training characters of a text ``[N]``, line by line, with a newline after each."""
        for begin, length in zip(self.training.begins, self.training.lengths, strict=True):
            yield from windows(ids[begin : begin + length])
            yield np.array([self.training.newline], ids.dtype)

    def rows(self) -> Lines:
        """The lines to score: the validation lines."""
        return self.validation

    @property
    def words(self) -> str:
        """A summary in one line."""
        repeats = self.total - self.distinct
        found = f"lines: {self.total:,}, " + (f"{self.distinct:,} distinct" if repeats else "all distinct")
        more = self.held_out - len(self.validation)
        also = f" (and {_lines(more)} that repeat them)" if more else ""
        kept = f"; {len(self.validation):,} held out for validation{also}" if len(self.validation) else ""
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
            f"lines=True needs lines, but {name} has no newline; give a text with one item per line, or "
            "omit lines=True",
            "lines",
        )
    return vocabulary.start_token


def split_lines(corpus: Corpus, data: DataConfig, seed: int) -> LineSplit:
    """Find a text's lines, and draw the validation lines from the distinct ones by the seed.

    Their number is ``data.val_lines``, or the share ``data.val_fraction`` of the distinct lines.

    Raises:
        SettingError: the text has no newline, only empty lines, or too few distinct lines.
    """
    newline = newline_of(corpus.vocabulary, corpus.name)
    lines, empty = _find_lines(corpus.ids, newline)
    if not len(lines):
        raise SettingError(
            f"lines=True needs lines, but all lines of {corpus.name} are empty; give a text with one item "
            "per line, or omit lines=True",
            "lines",
        )
    _, first, group, copies = np.unique(
        _hashes(lines), return_index=True, return_inverse=True, return_counts=True
    )
    distinct = len(first)
    wanted = data.val_lines
    if wanted is None:
        wanted = distinct - int((1.0 - data.val_fraction) * distinct)
    if wanted >= distinct:
        given = f"val_fraction={data.val_fraction:g}" if data.val_lines is None else f"val_lines={wanted}"
        raise SettingError(
            f"{given} holds out {_lines(wanted, 'distinct ')}, but {corpus.name} has only {distinct:,}; give "
            "a list with more distinct lines, or hold out fewer (val_lines=0 for none)",
            "val_fraction",
            "val_lines",
        )
    drawn = np.random.default_rng((seed, 0)).permutation(distinct)[:wanted]  # indices of groups
    validates = np.zeros(distinct, np.bool_)
    validates[drawn] = True
    return LineSplit(
        training=lines.take(np.flatnonzero(~validates[group])),
        validation=lines.take(first[drawn]),
        total=len(lines),
        distinct=distinct,
        held_out=int(copies[drawn].sum()),
        empty=empty,
    )


def _find_lines(ids: NDArray[Any], newline: int) -> tuple[Lines, int]:
    """All non-empty lines, and the number of empty ones."""
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
    """A hash of each line, ``uint64 [L]``: the sum of its mixed (character, position) pairs."""
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
        firsts = np.cumsum(counts) - counts  # the start of each line among the window's characters
        where = np.arange(counts.sum()) + np.repeat(begins - firsts, counts)
        places = (where - np.repeat(lines.begins[of], counts)).astype(np.uint64)
        hashes[of] += np.add.reduceat(_mix(read[where - start] + (places << np.uint64(17))), firsts)
    return hashes


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014), after adding its increment."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
