"""How well a model predicts texts: nats for each character, many texts sharing each step.

The first character of a text is predicted from the start token at a zero state; every other one from all
characters before it. Bits per character are nats / ln 2, and perplexity is exp(nats).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.session import BLOCK, Engine, Lane

SCORING_ROWS = 64
"""How many texts are read at once."""


@dataclass(frozen=True)
class Score:
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
    engine: Engine, texts: Iterable[NDArray[np.int64]], rows: int = SCORING_ROWS
) -> Iterator[NDArray[np.float32]]:
    """The losses of some texts, in their order.

    Args:
        engine: the model on its device.
        texts: int64 ``[T]`` each, drawn from as rows become free.
        rows: how many are read at once.

    Yields:
        float32 ``[T]`` for each text: -ln p of each character.
    """
    waiting = enumerate(texts)
    begun: list[_Text] = []
    while len(begun) < rows and (text := _next(waiting)) is not None:
        begun.append(text)
    done: dict[int, NDArray[np.float32]] = {}
    following = 0
    if begun:
        with engine.lane(len(begun), reading=True) as lane:
            lane.write_state(slice(None), np.zeros((lane.rows, engine.info.state_size), np.float32))
            slots: list[_Text | None] = list(begun)
            while any(slots):
                _read_block(lane, slots, engine.info.start_token)
                for slot, text in enumerate(slots):
                    if text is None or text.read < len(text.tokens):
                        continue
                    done[text.index] = text.losses
                    slots[slot] = _next(waiting)
                    lane.write_state([slot], np.zeros((1, engine.info.state_size), np.float32))
                while following in done:
                    yield done.pop(following)
                    following += 1


def score_stream(engine: Engine, pieces: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
    """The losses of one text that comes in pieces, however long it is.

    Args:
        engine: the model on its device.
        pieces: int64 ``[n]`` each, the text's tokens in order.

    Yields:
        float32 ``[n]`` for up to a block of characters each: -ln p.
    """
    with engine.lane(1, reading=True) as lane:
        lane.write_state(slice(None), np.zeros((1, engine.info.state_size), np.float32))
        before = engine.info.start_token
        for piece in pieces:
            for first in range(0, len(piece), BLOCK):
                targets = piece[first : first + BLOCK, np.newaxis]  # (n, 1)
                lane.tokens[0] = before
                lane.tokens[1 : len(targets)] = targets[:-1]
                lane.run(len(targets))
                yield _losses(lane.logits[: len(targets)], targets)[:, 0]
                before = int(targets[-1, 0])


class _Text:
    """A text that is being read."""

    def __init__(self, index: int, tokens: NDArray[np.int64]) -> None:
        self.index = index
        self.tokens = tokens
        self.losses = np.zeros(len(tokens), np.float32)
        self.read = 0


def _next(waiting: Iterator[tuple[int, NDArray[np.int64]]]) -> _Text | None:
    item = next(waiting, None)
    return None if item is None else _Text(*item)


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
    losses = _losses(lane.logits[:steps], targets)  # (n, R, V), (n, R) -> (n, R)
    for slot, text in texts:
        text.losses[text.read : text.read + steps] = losses[:, slot]
        text.read += steps


def _losses(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """-log softmax at the targets, computed so that large logits do not overflow."""
    highest = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[..., 0]
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses: NDArray[np.float32] = log_sum - chosen
    return losses
