"""Beam search: the most likely continuations of a prompt, instead of sampled ones.

All continuations that are still alive are rows of one batch. Each step extends every one of them by every
symbol and keeps the most likely N of all (Lowerre 1976, "The Harpy speech recognition system"). What is found
is exact in its score, though not always the most likely one: that may begin with what was dropped. With at
least V**(T-1) beams, for V symbols and T characters, nothing that matters is dropped.

A score is the sum of -ln p of all characters, from the model's own probabilities: neither temperature nor any
cut of sampling is in it.
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
    """A continuation that a beam search found.

    Attributes:
        text: what comes after the prompt, without the stop text.
        data: the same as bytes: UTF-8, but at the byte level as the model has them.
        nats: the sum of -ln of the probabilities of its characters, the stop text's among them.
        characters: how many these are (bytes, at the byte level).
        finish_reason: "stop" where a stop text came, "length" where it was long enough.
        state: the state of the stream after it.
    """

    text: str
    data: bytes
    nats: float
    characters: int
    finish_reason: str
    state: State

    __eq__ = object.__eq__  # states have no one answer to whether they are equal
    __hash__ = object.__hash__

    @property
    def bits(self) -> float:
        """The same as ``nats``, in bits."""
        return self.nats / math.log(2)

    @property
    def bits_per_character(self) -> float:
        """Bits per character (byte, at the byte level); 0 of an empty one."""
        return self.bits / self.characters if self.characters else 0.0


class Path(Record):
    """A continuation as ids: ``ids`` ``[n]``, its score in nats, whether it was stopped, and where it ends.

    Attributes:
        ids: int64 ``[n]``.
        nats: its score.
        stopped: whether it ends with a stop text.
        state: the state after it, whose pending character is the last of the ids.
    """

    ids: NDArray[np.int64]
    nats: float
    stopped: bool
    state: State


def most_likely_paths(
    engine: Engine, state: State, length: int, beams: int, stops: Sequence[NDArray[np.int64]] = ()
) -> list[Path]:
    """Search for the most likely continuations of one stream, the most likely first.

    Args:
        engine: the model on its device.
        state: of one stream.
        length: how many ids a continuation has at most.
        beams: N, how many are kept after each step, and given in the end, if that many exist.
        stops: a continuation ends once it has one of these sequences of ids, each of one or more.

    Raises:
        OutOfMemoryError: there is not enough memory for this many.
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
            buffers.tokens[:] = 0  # idle rows run, too, and read a token that there is
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
    """The beams that are alive, and those that have ended."""

    def __init__(self, state: State, beams: int, stops: Sequence[NDArray[np.int64]]) -> None:
        self.ended: list[Path] = []  # the most likely first
        self._state, self._beams, self._stops = state, beams, stops
        self._nats = np.zeros(1)  # [n], of each beam
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # [n] parents and [n] ids
        self._tails = np.full((1, max(map(len, stops), default=0)), -1)  # [n, longest stop], the last ids

    def extend(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Extend all beams by all symbols, keep the most likely; gives their parents and ids, ``[n]`` each.

        Args:
            logits: float32 ``[rows, V]``, what follows each beam.
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
        """Let those end that are stopped, or all; gives the places of those that live on.

        Args:
            states: float32 ``[n, S]``, of the beams.
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
            # A loss is never below 0, so what is worse than all that have ended stays so.
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
    """The places of the smallest values, in their order; of equal ones, the first come first."""
    places = np.arange(len(values))
    if count < len(values):
        places = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    return places[np.argsort(values[places], kind="stable")][:count]
