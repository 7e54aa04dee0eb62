"""How well a model predicts texts: nats for each character, many texts sharing each step.

The first character of a text is predicted from the start token at a zero state; every other one from all
characters before it. Bits per character are nats / ln 2, and perplexity is exp(nats).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record
from charrnn_runtime.session import BLOCK, Engine, Lane, TooManyRows, width

SCORING_ROWS = 64
"""How many texts are read at once, unless the logits of so many take too much memory."""

_LOGITS_BYTES = 64 * 1024 * 1024
"""The most that the logits of a block of steps may take, which for large vocabularies bounds the rows."""

_WINDOW = 1 << 20
"""How many characters of later texts may be scored and held while the first of all is still being read."""

_TEXT_COST = 32
"""What holding a score takes in any case, in characters."""

_WORTH_MOVING = 1000
"""The steps that must be left for a narrower lane, whose session may have to be made, to gain something."""


class Score(Record):
    """How well a text was predicted.

    Attributes:
        characters: how many were predicted (bytes, at the byte level).
        nats: the sum of their losses, -ln of the probability of each.
        per_character: float32 ``[characters]``, each one's loss in nats.
    """

    characters: int
    nats: float
    per_character: NDArray[np.float32]

    @classmethod
    def of(cls, losses: NDArray[np.float32]) -> Score:
        """The score of a text with these losses."""
        return cls(len(losses), float(losses.sum(dtype=np.float64)), losses)

    @property
    def bits_per_character(self) -> float:
        """The mean loss in bits; 0 for an empty text."""
        return self.nats / math.log(2) / self.characters if self.characters else 0.0

    @property
    def perplexity(self) -> float:
        """exp of the mean loss in nats: how many equally likely characters it is as hard as."""
        return math.exp(min(self.nats / self.characters, 700.0)) if self.characters else 1.0


def score_tokens(
    engine: Engine, texts: Iterable[NDArray[Any]], rows: int = SCORING_ROWS, window: int = _WINDOW
) -> Iterator[NDArray[np.float32]]:
    """The losses of some texts, in their order.

    However many texts there are, no more are held than those that are being read and ``window`` characters.

    Args:
        engine: the model on its device.
        texts: integers ``[T]`` each, drawn from as rows become free.
        rows: how many are read at once, at most.
        window: how many characters of later texts may be scored before the first open one has ended.

    Yields:
        float32 ``[T]`` for each text: -ln p of each character.

    Raises:
        OutOfMemoryError: memory is too little.
    """
    try:
        yield from _score_tokens(engine, texts, rows, window)
    except TooManyRows as error:
        raise engine.out_of_memory_reading(error.rows) from None


def _score_tokens(
    engine: Engine, texts: Iterable[NDArray[Any]], rows: int, window: int
) -> Iterator[NDArray[np.float32]]:
    rows = max(1, min(rows, _LOGITS_BYTES // (BLOCK * len(engine.info.vocabulary) * 4)))
    queue = _Queue(texts, window)
    state_size = engine.info.state_size
    begun: list[tuple[_Text, NDArray[np.float32]]] = []  # with their states, float32 [S]
    while True:
        while len(begun) < rows and (text := queue.take()) is not None:
            begun.append((text, np.zeros(state_size, np.float32)))
        if not begun:
            return
        with engine.lane(min(width(len(begun)), rows), logits=BLOCK, sample=False) as lane:
            slots: list[_Text | None] = [text for text, _ in begun]
            slots += [None] * (lane.rows - len(begun))
            lane.write_state(slice(len(begun)), np.stack([state for _, state in begun]))
            while any(slots) and not _other_width_is_better(slots, queue, rows):
                _read_block(lane, slots, engine.info.start_token)
                for slot, text in enumerate(slots):
                    if text is not None and text.read == len(text.tokens):
                        queue.finish(text)
                        slots[slot] = None
                yield from queue.ready()
                joining = []
                for slot, text in enumerate(slots):
                    if text is None and (following := queue.take()) is not None:
                        slots[slot] = following
                        joining.append(slot)
                if joining:
                    lane.write_state(joining, np.zeros((len(joining), state_size), np.float32))
            open_slots = [slot for slot, text in enumerate(slots) if text is not None]
            states = lane.read_state(open_slots)
            begun = [(text, state) for text, state in zip(filter(None, slots), states, strict=True)]


def score_stream(engine: Engine, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """The losses of one text that comes in pieces, however long it is.

    No more of it is held than a piece: each is scored before the next is asked for.

    Args:
        engine: the model on its device.
        pieces: integers ``[n]`` each, the text's tokens in order.

    Yields:
        float32 ``[n]`` for each piece: -ln p of each character.

    Raises:
        OutOfMemoryError: memory is too little.
    """
    try:
        yield from _score_stream(engine, pieces)
    except TooManyRows as error:
        raise engine.out_of_memory_reading(error.rows) from None


def _score_stream(engine: Engine, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    with engine.lane(1, logits=BLOCK, sample=False) as lane:
        lane.write_state(slice(None), np.zeros((1, engine.info.state_size), np.float32))
        before = engine.info.start_token
        for piece in pieces:
            losses = np.zeros(len(piece), np.float32)
            for first in range(0, len(piece), BLOCK):
                targets = piece[first : first + BLOCK, np.newaxis]  # (n, 1)
                lane.tokens[0] = before
                lane.tokens[1 : len(targets)] = targets[:-1]
                lane.run(len(targets))
                losses[first : first + BLOCK] = losses_at(lane.logits[: len(targets)], targets)[:, 0]
                before = int(targets[-1, 0])
            yield losses


class _Text:
    """A text that is being read."""

    def __init__(self, index: int, tokens: NDArray[Any]) -> None:
        self.index = index
        self.tokens = tokens
        self.losses = np.zeros(len(tokens), np.float32)
        self.read = 0


class _Queue:
    """The texts that have not begun, in order, and the scores of those that ended before earlier ones."""

    def __init__(self, texts: Iterable[NDArray[Any]], window: int) -> None:
        self._waiting = enumerate(texts)
        self._next = next(self._waiting, None)
        self._window = window
        self._done: dict[int, NDArray[np.float32]] = {}
        self._held = 0  # what is done, in characters
        self._first_open = 0

    @property
    def is_open(self) -> bool:
        """Whether a text can be taken now."""
        return self._next is not None and self._held < self._window

    def take(self) -> _Text | None:
        """The next text; None if there is none, or if too many scores wait for an earlier one."""
        if self._next is None or not self.is_open:
            return None
        index, tokens = self._next
        self._next = next(self._waiting, None)
        return _Text(index, tokens)

    def finish(self, text: _Text) -> None:
        """Take the scores of a text that was read."""
        self._done[text.index] = text.losses
        self._held += len(text.losses) + _TEXT_COST

    def ready(self) -> Iterator[NDArray[np.float32]]:
        """The scores whose turn it is."""
        while self._first_open in self._done:
            losses = self._done.pop(self._first_open)
            self._held -= len(losses) + _TEXT_COST
            self._first_open += 1
            yield losses


def _other_width_is_better(slots: list[_Text | None], queue: _Queue, rows: int) -> bool:
    """Whether to go on in a lane that is narrower, since half the slots would stay empty, or wider again."""
    busy = [text for text in slots if text is not None]
    if queue.is_open:
        return len(busy) == len(slots) < rows
    steps = max(len(text.tokens) - text.read for text in busy)
    return len(busy) <= len(slots) // 2 and steps >= _WORTH_MOVING


def _read_block(lane: Lane, slots: list[_Text | None], start_token: int) -> None:
    """Read up to a block of characters of each text, no further than the end of the first that ends."""
    texts = [(slot, text) for slot, text in enumerate(slots) if text is not None]
    steps = min(BLOCK, min(len(text.tokens) - text.read for _, text in texts))
    if steps == 0:
        return  # an empty text
    targets = np.zeros((steps, lane.rows), np.int64)
    for slot, text in texts:
        targets[:, slot] = text.tokens[text.read : text.read + steps]
        lane.tokens[0, slot] = text.tokens[text.read - 1] if text.read else start_token
    lane.tokens[1:steps] = targets[:-1]
    lane.run(steps)
    losses = losses_at(lane.logits[:steps], targets)  # (n, R, V), (n, R) -> (n, R)
    for slot, text in texts:
        text.losses[text.read : text.read + steps] = losses[:, slot]
        text.read += steps


def losses_at(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """-log softmax at the targets, computed so that large logits do not overflow.

    Args:
        logits: float32 ``[n, R, V]``.
        targets: int64 ``[n, R]``.

    Returns:
        float32 ``[n, R]``, in nats.
    """
    highest = logits.max(axis=-1, keepdims=True)
    shifted = logits - highest
    log_sum = np.log(np.exp(shifted, out=shifted).sum(axis=-1)) + highest[..., 0]
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses: NDArray[np.float32] = log_sum - chosen
    return losses
