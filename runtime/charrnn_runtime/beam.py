"""Beam search: the most likely continuations of a prompt instead of sampled ones.

All active continuations are rows of one batch. Each step extends each of them by every symbol and keeps the
N most likely (Lowerre 1976, "The Harpy speech recognition system"). The scores are exact, but the search is
not: the most likely continuation may start with a dropped one. With at least V**(T-1) beams, for V symbols
and T characters, the search is exhaustive.

A score is the sum of -ln p over all characters, under the model's own probabilities: temperature and
truncation (top-k, top-p, min-p) do not apply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.session import Engine, width
from charrnn_runtime.record import Record
from charrnn_runtime.state import UNSTARTED, State


class Continuation(Record):
    """A continuation found by beam search.

    Attributes:
        text: the text after the prompt, without the stop text.
        data: the text as bytes: UTF-8, or the raw bytes at the byte level.
        nats: the sum of -ln of the probabilities of its characters, including the stop text.
        characters: the number of these characters (bytes, at the byte level).
        finish_reason: "stop" at a stop text, "length" at the maximum length.
        state: the state of the stream after the continuation.
    """

    text: str
    data: bytes
    nats: float
    characters: int
    finish_reason: str
    state: State

    __eq__ = object.__eq__  # comparing states is ambiguous
    __hash__ = object.__hash__

    @property
    def bits(self) -> float:
        """The score in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_character(self) -> float:
        """Bits per character (byte, at the byte level); 0 if empty."""
        return self.bits / self.characters if self.characters else 0.0


class Path(Record):
    """A continuation as ids.

    Attributes:
        ids: int64 ``[n]``.
        nats: its score.
        stopped: whether it ends with a stop text.
        state: the state after it; its pending character is the last id.
    """

    ids: NDArray[np.int64]
    nats: float
    stopped: bool
    state: State


def most_likely_paths(
    engine: Engine, state: State, length: int, beams: int, stops: Sequence[NDArray[np.int64]] = ()
) -> list[Path]:
    """Search for the most likely continuations of one stream; returns them most likely first.

    Args:
        engine: the model on its device.
        state: the state of one stream.
        length: the maximum number of ids.
        beams: N, the number of continuations to keep after each step, and to return if that many exist.
        stops: non-empty sequences of ids, each of which ends a continuation.

    Raises:
        OutOfMemoryError: the device has too little memory for this many beams.
    """
    if not length:
        return [Path(np.empty(0, np.int64), 0.0, False, state)]
    search = _Search(state, beams, stops)
    with engine.buffers(width(beams), steps=1, sampler=None, keeps_logits=True) as buffers:
        first = int(state.tokens[0])
        tokens = np.array([engine.info.start_token if first == UNSTARTED else first])
        states = state.rows
        for step in range(length):
            rows = len(tokens)
            buffers.tokens[:] = 0  # idle rows also run, and need a valid token
            buffers.tokens[0, :rows] = tokens
            buffers.write_state(slice(rows), states)
            buffers.run(1)
            parents, tokens = search.extend(buffers.logits[0, :rows])
            states = buffers.read_state(parents)
            kept = search.end_some(states, is_last=step + 1 == length)
            states, tokens = states[kept], tokens[kept]
            if not len(tokens):
                break
    return search.ended


class _Search:
    """The active beams, and the finished continuations."""

    def __init__(self, state: State, beams: int, stops: Sequence[NDArray[np.int64]]) -> None:
        self.ended: list[Path] = []  # most likely first
        self._state, self._beams, self._stops = state, beams, stops
        self._nats = np.zeros(1)  # [n], of each beam
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # [n] parents and [n] ids
        self._tails = np.full((1, max(map(len, stops), default=0)), -1)  # [n, longest stop], the last ids

    def extend(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Extend all beams by all symbols, keep the most likely; returns their parents and ids, ``[n]``.

        Args:
            logits: float32 ``[rows, V]``, the logits after each beam.
        """
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted  # [rows, V], -ln p
        nats = (self._nats[:, np.newaxis] + losses).ravel()
        chosen = _smallest(nats, self._beams)
        parents, ids = np.divmod(chosen, logits.shape[1])
        self._nats = nats[chosen]
        self._steps.append((parents, ids))
        self._tails = np.column_stack([self._tails[parents], ids])[:, 1:]
        return parents, ids

    def end_some(self, states: NDArray[np.float32], *, is_last: bool) -> NDArray[np.int64]:
        """Finish the beams that are stopped, or all; returns the indices of the active ones.

        Args:
            states: float32 ``[n, S]``, the states of the beams.
            is_last: whether this was the last step.
        """
        stopped = np.zeros(len(states), np.bool_)
        for stop in self._stops:
            stopped |= (self._tails[:, self._tails.shape[1] - len(stop) :] == stop).all(axis=1)
        for row in np.flatnonzero(stopped | is_last).tolist():
            ids = self._ids_of(row)
            after = State(
                rows=states[row : row + 1],
                tokens=ids[-1:],
                numbers=self._state.numbers,
                positions=self._state.positions + len(ids),
            )
            self.ended.append(Path(ids, float(self._nats[row]), bool(stopped[row]), after))
        self.ended.sort(key=lambda path: path.nats)
        del self.ended[self._beams :]
        lives = ~stopped & (not is_last)
        if len(self.ended) == self._beams:
            # Losses only grow, so a beam that is worse than all finished ones stays worse.
            lives &= self._nats < self.ended[-1].nats
        kept = np.flatnonzero(lives)
        self._nats, self._tails = self._nats[kept], self._tails[kept]
        parents, ids = self._steps[-1]
        self._steps[-1] = parents[kept], ids[kept]
        return kept

    def _ids_of(self, row: int) -> NDArray[np.int64]:
        """All ids of a beam."""
        ids = []
        for parents, those in reversed(self._steps):
            ids.append(int(those[row]))
            row = int(parents[row])
        return np.array(ids[::-1], np.int64)


def _smallest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The indices of the smallest values, in order; ties are broken by index."""
    places = np.arange(len(values))
    if count < len(values):
        places = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    return places[np.argsort(values[places], kind="stable")][:count]
