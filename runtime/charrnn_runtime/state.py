"""The state of streams: everything a caller keeps between calls, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import instance, several, shown, whole_number, whole_number_from, wrong
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

UNSTARTED: Final = -1
"""In `State.tokens`: the stream is fresh, and reads the model's start token unless primed."""


class State(Record):
    """The state of N streams. It is immutable: calls return new states, so you can return to an old one.

    Attributes:
        rows: float32 ``[N, S]``, the hidden and cell states of all layers, in the order of the state layout.
        tokens: int64 ``[N]``, the character that each stream reads next, or `UNSTARTED`.
        numbers: int64 ``[N]``, the number of each stream, which selects its random numbers.
        positions: int64 ``[N]``, the number of characters that each stream has generated.

    Examples:
        >>> state = State.start(batch=2, state_size=3)
        >>> len(state), state.rows.shape
        (2, (2, 3))
        >>> state[1].fork(3).numbers.tolist()
        [0, 1, 2]
    """

    rows: NDArray[np.float32]
    tokens: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, kind in (("rows", np.float32), ("tokens", np.int64), ("numbers", np.int64)):
            self._freeze(name, kind)
        self._freeze("positions", np.int64)
        lengths = {len(self.rows), len(self.tokens), len(self.numbers), len(self.positions)}
        if len(lengths) != 1:
            raise SettingError(
                f"state: rows {self.rows.shape}, tokens {self.tokens.shape}, numbers {self.numbers.shape} "
                f"and positions {self.positions.shape} must each have one entry per stream",
                *self._fields,
            )
        for name in ("numbers", "positions"):
            if len(self) and getattr(self, name).min() < 0:
                raise SettingError(f"state: {name} must be 0 or more", name)

    __eq__ = object.__eq__  # comparing arrays is ambiguous
    __hash__ = object.__hash__

    def _freeze(self, name: str, kind: Any) -> None:
        given = getattr(self, name)
        wanted = "an array of numbers [N, S]" if name == "rows" else "an array of N integers"
        try:
            array = np.asarray(given)
        except ValueError:  # rows of different lengths
            raise wrong(name, wanted, given) from None
        if array.ndim != (2 if name == "rows" else 1) or (array.size and array.dtype.kind not in "iuf"):
            raise wrong(name, wanted, given)
        with np.errstate(over="ignore", invalid="ignore"):  # values that do not fit are rejected below
            array, before = array.astype(kind), array  # a private copy
            fits = np.isfinite(array).all() if name == "rows" else np.array_equal(array, before)
        if not fits:
            raise wrong(name, f"{wanted}, all finite", given)
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @classmethod
    def start(cls, batch: int, state_size: int) -> State:
        """The state of ``batch`` fresh streams, numbered from 0."""
        batch = whole_number_from("batch", batch, 0, spec.MAX_STREAMS)
        state_size = whole_number_from("state_size", state_size, 1, spec.MAX_NUMBER)
        return cls(
            rows=np.zeros((batch, state_size), np.float32),
            tokens=np.full(batch, UNSTARTED, np.int64),
            numbers=np.arange(batch, dtype=np.int64),
            positions=np.zeros(batch, np.int64),
        )

    @classmethod
    def concatenate(cls, states: Sequence[State]) -> State:
        """Concatenate the streams of several states; they keep their numbers.

        Raises:
            SettingError: a value is not a state, or the states belong to different models.
        """
        states = [instance("states", each, State) for each in several("states", states, "states")]
        sizes = {each.rows.shape[1] for each in states}
        if len(sizes) != 1:
            raise SettingError(
                "states must be one or more states of the same model, but their rows have "
                f"{sorted(sizes) or 'no'} numbers",
                "states",
            )
        return cls(
            rows=np.concatenate([state.rows for state in states]),
            tokens=np.concatenate([state.tokens for state in states]),
            numbers=np.concatenate([state.numbers for state in states]),
            positions=np.concatenate([state.positions for state in states]),
        )

    def __len__(self) -> int:
        """N, the number of streams."""
        return len(self.tokens)

    def __getitem__(self, streams: int | slice | Sequence[int] | NDArray[Any]) -> State:
        """Select streams by index, slice, indices or mask; they keep their numbers.

        Raises:
            IndexError: the stream does not exist.
            SettingError: the selection is invalid.
        """
        index: Any = streams
        if isinstance(streams, int | np.integer) and not isinstance(streams, bool):
            index = [streams]
        elif not isinstance(streams, slice) and not _picks(streams):
            raise wrong("streams", "an integer, a slice, or an array of integers or booleans", streams)
        if isinstance(index, list | tuple):
            index = np.array(index, np.bool_ if index and isinstance(index[0], bool | np.bool_) else np.int64)
        return State(self.rows[index], self.tokens[index], self.numbers[index], self.positions[index])

    def fork(self, copies: int, first_number: int = 0) -> State:
        """Copy each stream, with new numbers, so that each copy draws different random numbers.

        Args:
            copies: the number of copies of each stream.
            first_number: the number of the first copy; the others are numbered consecutively.

        Raises:
            SettingError: a value is out of range.
        """
        copies = whole_number("copies", copies)
        first_number = whole_number("first_number", first_number)
        if not (1 <= copies <= spec.MAX_STREAMS and 0 <= first_number <= spec.MAX_NUMBER):
            raise SettingError(
                f"fork: copies must be between 1 and {spec.MAX_STREAMS:,} and first_number 0 or more, "
                f"not {shown(copies)} and {shown(first_number)}",
                "copies",
                "first_number",
            )
        return State(
            rows=np.repeat(self.rows, copies, axis=0),
            tokens=np.repeat(self.tokens, copies),
            numbers=np.arange(first_number, first_number + len(self) * copies, dtype=np.int64),
            positions=np.repeat(self.positions, copies),
        )


def _picks(streams: Any) -> bool:
    """Whether a value is a sequence of integers, or a boolean mask."""
    if not isinstance(streams, list | tuple | np.ndarray):
        return False
    try:
        array = np.asarray(streams)
    except ValueError:  # rows of different lengths
        return False
    return array.ndim == 1 and (array.dtype.kind in "iub" or not array.size)
