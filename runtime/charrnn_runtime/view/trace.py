"""Records what a model does at each symbol of a text: the state of every unit, and the predictions.

Unlike scoring, which runs blocks of steps, a trace needs the state after each step, so it runs single steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import whole_number_from
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format import spec
from charrnn_runtime.logprobs import normalized
from charrnn_runtime.record import Record
from charrnn_runtime.state import UNSTARTED, State
from charrnn_runtime.view.cells import cells_of, shown, shown_symbol
from charrnn_runtime.view.units import unit_names, unit_of
from charrnn_runtime.vocabulary import Vocabulary

_LN2: Final = math.log(2)

_MOST_SHOWN: Final = 2000
"""The number of symbols of a trace shown in a notebook."""

_MOST_BITS: Final = 8.0
"""The surprise, in bits, that has the strongest colour."""


class Trace(Record):
    """A text as read by a model: T symbols (bytes, at the byte level), one row of each array per symbol.

    Attributes:
        ids: int64 ``[T]``, the symbols.
        states: float32 ``[T, S]``; row t is the state after reading symbol t.
        logprobs: float32 ``[T, V]``, in nats; row t has the log probabilities of all symbols at position t,
            given the symbols before it. The first is predicted from the start token, as in `Score`.
        vocabulary: the vocabulary.
        layout: the parts of the state in the columns of ``states``, such as h0 and c0 of layer 0.
        state: the state of the stream after the text, to continue from.

    Examples:
        >>> trace = model.trace("To be, or not to be")  # doctest: +SKIP
        >>> trace.states.shape, trace.logprobs.shape  # doctest: +SKIP
        ((19, 1024), (19, 65))
        >>> trace.unit("1:12")  # float32 [19], unit 12 of layer 1 # doctest: +SKIP
    """

    ids: NDArray[np.int64]
    states: NDArray[np.float32]
    logprobs: NDArray[np.float32]
    vocabulary: Vocabulary
    layout: tuple[spec.StateBlock, ...]
    state: State

    __eq__ = object.__eq__  # comparing arrays is ambiguous
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        symbols, units = self.states.shape
        return f"Trace({symbols:,} symbols, {units:,} units, {self.logprobs.shape[1]:,} probabilities each)"

    def __len__(self) -> int:
        """T, the number of symbols."""
        return len(self.ids)

    @property
    def text(self) -> str:
        """The text; at the byte level, invalid UTF-8 is replaced as in `Vocabulary.decode`."""
        return self.vocabulary.decode(self.ids)

    @cached_property
    def bits(self) -> NDArray[np.float32]:
        """The surprise at each symbol, float32 ``[T]``: -log2 of its probability."""
        return -np.take_along_axis(self.logprobs, self.ids[:, None], axis=1)[:, 0] / np.float32(_LN2)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The name of each column of ``states``: ``h1:12`` is the hidden state of unit 12 of layer 1."""
        return unit_names(self.layout)

    def unit(self, name: str) -> NDArray[np.float32]:
        """The activation of one unit at each symbol: float32 ``[T]`` in [-1, 1].

        Args:
            name: one of `units`; or ``layer:index``, the cell state of an LSTM or the hidden state of other
                cells. Cell states are unbounded, so their tanh is returned. ``o1:12`` is an LSTM's output
                gate, in [0, 1]; it is NaN if c is so close to 0 that the state does not determine it.

        Raises:
            SettingError: there is no such unit.
        """
        return unit_of(self.layout, name).activation(self.states)

    def most_likely(self, count: int = 5) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The most likely symbols at each position, most likely first.

        Args:
            count: N, the number of symbols per position; at most V are returned.

        Returns:
            Their ids, int64 ``[T, N]``, and their probabilities, float32 ``[T, N]``.
        """
        count = min(whole_number_from("count", count, 1, spec.MAX_VOCABULARY), self.logprobs.shape[1])
        ids = most_likely(self.logprobs, count)
        return ids, np.exp(np.take_along_axis(self.logprobs, ids, axis=1))

    def _repr_html_(self) -> str:
        """The beginning of the text coloured by surprise, with tooltips, for notebooks."""
        import html  # lazily: its table of entities takes a millisecond

        head = self.ids[:_MOST_SHOWN]
        cells = cells_of(self.vocabulary, head)
        count = min(5, self.logprobs.shape[1])
        ids = most_likely(self.logprobs[:_MOST_SHOWN], count)
        probabilities = np.exp(np.take_along_axis(self.logprobs[:_MOST_SHOWN], ids, axis=1))
        spans = []
        bits = cells.sums(self.bits[:_MOST_SHOWN]).tolist()
        for character, place, each in zip(cells.characters, cells.starts.tolist(), bits, strict=True):
            likely = ", ".join(
                f"{shown_symbol(self.vocabulary, token)} {probability:.1%}"
                for token, probability in zip(ids[place].tolist(), probabilities[place].tolist(), strict=True)
            )
            spans.append(
                f'<span title="{each:.2f} bits; most likely: {html.escape(likely)}" '
                f'style="background:rgba(230,90,20,{min(each, _MOST_BITS) / _MOST_BITS:.2f})">'
                f"{html.escape(character if character == ' ' else shown(character))}</span>"
                + ("\n" if character == "\n" else "")
            )
        more = len(self) - len(head)
        after = f"<p>and {more:,} more symbols</p>" if more else ""
        return f'<pre style="white-space:pre-wrap">{"".join(spans)}</pre>{after}'


def trace_ids(engine: Engine, ids: NDArray[Any], state: State) -> Trace:
    """Trace one stream while it reads some symbols.

    Args:
        engine: the model on its device.
        ids: integers ``[T]``.
        state: the stream's initial state. A fresh one reads the start token first.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """
    info = engine.info
    first = int(state.tokens[0])
    reads = np.concatenate([[info.start_token if first == UNSTARTED else first], ids]).astype(
        np.int64
    )  # [T+1]
    with engine.buffers(1, steps=1, sampler=None, keeps_logits=True) as buffers:
        states = np.empty((len(reads), info.state_size), np.float32)
        logits = np.empty((len(reads), len(info.vocabulary)), np.float32)
        buffers.write_state(slice(1), state.rows)
        for step in range(len(reads) if len(ids) else 0):
            buffers.tokens[0, 0] = reads[step]
            buffers.run(1)
            states[step] = buffers.read_state(slice(1))[0]
            logits[step] = buffers.logits[0, 0]
        logprobs = normalized(logits[:-1])
    after = state
    if len(ids):
        after = State(states[-2:-1], reads[-1:], state.numbers, state.positions)
    return Trace(reads[1:], states[1:], logprobs, info.vocabulary, info.state_layout, after)


def trace_chunks(engine: Engine, chunks: Iterable[NDArray[Any]], *, by_line: bool = False) -> Iterator[Trace]:
    """Trace each chunk of one text; each is yielded before the next chunk is read.

    Args:
        engine: the model on its device.
        chunks: integers ``[n]`` each, the text's symbols in order.
        by_line: whether each line is read from a fresh state.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """
    fresh = State.start(1, engine.info.state_size)
    newline = _newline(engine.info.vocabulary) if by_line else -1
    state = fresh
    for chunk in chunks:
        parts = []
        for ids in np.split(chunk, np.flatnonzero(chunk[:-1] == newline) + 1):
            parts.append(trace_ids(engine, ids, state))
            state = fresh if len(ids) and ids[-1] == newline else parts[-1].state
        yield parts[0] if len(parts) == 1 else _joined(parts)


def _newline(vocabulary: Vocabulary) -> int:
    """The id of the newline; -1 if there is none."""
    if vocabulary.level == "byte":
        return ord("\n")
    return vocabulary.symbols.index("\n") if "\n" in vocabulary.symbols else -1


def _joined(parts: list[Trace]) -> Trace:
    """Concatenate traces."""
    ids, states, logprobs = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "states", "logprobs")
    )
    return Trace(ids, states, logprobs, parts[0].vocabulary, parts[0].layout, parts[-1].state)


def chunk_length(vocabulary_size: int, state_size: int, most_bytes: int = 1 << 24) -> int:
    """The number of symbols of a chunk whose trace takes at most about this many bytes."""
    return max(16, most_bytes // (4 * (vocabulary_size + state_size)))


def most_likely(logprobs: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ids of the most likely symbols in each row, most likely first; ties are broken by the lower id.

    Args:
        logprobs: float32 ``[T, V]``.
        count: N, at most V.

    Returns:
        int64 ``[T, N]``.
    """
    return np.argsort(-logprobs, axis=-1, kind="stable")[:, :count]
