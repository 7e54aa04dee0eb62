"""Scoring of texts: the loss of each character in nats, for many texts in a batch.

The first character of a text is predicted from the start token at a zero state, every other one from all
characters before it. Bits per character are nats / ln 2, and perplexity is exp(nats). The scheduler treats a
text as a prompt without generation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.session import Engine
from charrnn_runtime.errors import UnknownCharacterError
from charrnn_runtime.record import Record
from charrnn_runtime.scheduling.in_order import HELD, in_order
from charrnn_runtime.scheduling.request import Output, Request
from charrnn_runtime.scheduling.scheduler import Scheduler
from charrnn_runtime.vocabulary import Unknown, Vocabulary

_TOGETHER: Final = 8
"""Texts are padded to a multiple of this many characters, so that rows become free together: a block of steps
ends when any row does, which with many short lines would be after nearly every step."""


class Score(Record):
    """The score of a text.

    Attributes:
        characters: the number of characters (bytes, at the byte level).
        nats: the sum of their losses, -ln of the probability of each.
        per_character: float32 ``[characters]``, the loss of each in nats.
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
        """exp of the mean loss in nats: the effective number of equally likely characters."""
        return math.exp(min(self.nats / self.characters, 700.0)) if self.characters else 1.0


def score_tokens(
    engine: Engine,
    texts: Iterable[NDArray[Any]],
    *,
    max_batch_size: int | None = None,
    held: int = HELD,
) -> Iterator[NDArray[np.float32]]:
    """The losses of several texts, in order.

    Args:
        engine: the model on its device.
        texts: the ids of each text, integers ``[T]``; taken as rows become free.
        max_batch_size: the maximum number of texts to read at once.
        held: take no more texts while the losses of this many characters wait for an earlier text.

    Yields:
        float32 ``[T]`` for each text: -ln p of each character.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """
    lengths: deque[int] = deque()

    def requests() -> Iterator[Request]:
        for text in texts:
            lengths.append(len(text))
            prompt = np.zeros(1 + -(-len(text) // _TOGETHER) * _TOGETHER, np.int64)
            prompt[0] = engine.info.start_token
            prompt[1 : 1 + len(text)] = text
            yield Request(prompt, 0, prompt_logprobs=True)

    scheduler = Scheduler(engine, max_batch_size=max_batch_size)
    outputs = in_order(scheduler, requests(), held=held)
    return (_losses(output)[: lengths.popleft()] for output in outputs)


def score_stream(engine: Engine, chunks: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """The losses of one text given in chunks, however long.

    Memory use is bounded by a chunk: each is scored before the next one is read.

    Args:
        engine: the model on its device.
        chunks: integers ``[n]`` each, the text's tokens in order.

    Yields:
        float32 ``[n]`` for each chunk: -ln p of each character.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """
    before, state = np.array([engine.info.start_token]), None
    with closing(Scheduler(engine, max_batch_size=1)) as scheduler:
        for chunk in chunks:
            request = Request(np.concatenate([before, chunk]), 0, state=state, prompt_logprobs=True)
            scheduler.submit(request)
            outputs: list[Output] = []
            while not outputs:
                outputs = scheduler.run_block()
            before, state = request.prompt[-1:], outputs[0].state.rows[0]
            yield _losses(outputs[0])


def encode_texts(
    vocabulary: Vocabulary, texts: Iterable[str | bytes], unknown: Unknown
) -> Iterator[NDArray[Any]]:
    """The ids of several texts; errors name the text with an unknown character."""
    for index, text in enumerate(texts):
        try:
            yield vocabulary.encode(text, unknown, np.uint16)
        except UnknownCharacterError as error:
            raise error.of(index) from None


def encode_chunks(
    vocabulary: Vocabulary, chunks: Iterable[str | bytes], unknown: Unknown
) -> Iterator[NDArray[Any]]:
    """The ids of the chunks of one text; errors give positions in the whole text."""
    before = 0
    for chunk in chunks:
        try:
            yield vocabulary.encode(chunk, unknown)
        except UnknownCharacterError as error:
            positions = [before + position for position in error.positions]
            raise error.at(positions) from None
        before += len(chunk)


def _losses(output: Output) -> NDArray[np.float32]:
    assert output.logprobs is not None
    return -output.logprobs.chosen
