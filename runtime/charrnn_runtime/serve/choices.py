"""What comes of one stream, as the pieces of a choice: text, log-probabilities, and why it ended."""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.logprobs import LogProbs
from charrnn_runtime.request import Output
from charrnn_runtime.serve.asked import Asked
from charrnn_runtime.streaming import ByteStream
from charrnn_runtime.vocabulary import Vocabulary

_LEAST = -9999.0
"""The lowest log-probability that is written: JSON has no infinity."""


class Choice:
    """What comes of one stream.

    Attributes:
        index: which choice it is.
        sampled: how many characters (bytes, at the byte level) were sampled so far.
        finished: why it ended: "stop" or "length"; None until then.
    """

    def __init__(self, asked: Asked, index: int) -> None:
        """A choice of which nothing has come yet."""
        vocabulary = asked.served.model.vocabulary
        prompt = asked.prompts[index // asked.n]
        self.index = index
        self.sampled = 0
        self.finished: str | None = None
        self._bytes = ByteStream(vocabulary, asked.stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._vocabulary = vocabulary
        self._head = vocabulary.decode_bytes(prompt) if asked.echo else b""
        self._log = None if asked.logprobs is None else _Log(vocabulary, prompt if asked.echo else prompt[:0])

    def take(self, output: Output) -> dict[str, Any] | None:
        """The piece that is certain now; None where there is nothing to say.

        Args:
            output: what the stream gave.
        """
        self.sampled += len(output.tokens)
        data = self._head + self._bytes.push(output.tokens)
        self._head = b""
        if output.finished:
            self.finished = output.finished
            data += self._bytes.finish()
        text = self._utf8.decode(data, output.finished is not None)
        log = None
        if self._log is not None:
            assert output.logprobs is not None
            self._log.add(output.tokens, output.logprobs)
            count = len(data) if self._vocabulary.level == "byte" else len(text)
            log = self._log.take(count)
        if not (text or log or self.finished):
            return None
        return {"index": self.index, "text": text, "logprobs": log, "finish_reason": self.finished}


class _Log:
    """The log-probabilities of the characters that are not given out yet, in the API's form."""

    def __init__(self, vocabulary: Vocabulary, head: NDArray[np.int64]) -> None:
        """Those of a choice whose text begins with some ids, of which the first has none."""
        self._vocabulary = vocabulary
        self._head = head
        self._ids: list[int] = []
        self._chosen: list[float | None] = []
        self._likeliest: list[dict[str, float] | None] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # of the next character in the choice's text

    def add(self, tokens: NDArray[np.int64], logprobs: LogProbs) -> None:
        """Take in what a stream sampled; the first time, with what it read before."""
        if len(self._head):
            tokens = np.concatenate([self._head, tokens])
            self._head = self._head[:0]
            self._chosen.append(None)
            self._likeliest.append(None)
        ids = tokens.tolist()
        own = ids[len(ids) - len(logprobs) :]
        chosen = np.maximum(logprobs.chosen, _LEAST).tolist()
        others = logprobs.likeliest.tolist()
        values = np.maximum(logprobs.values, _LEAST).tolist()
        self._ids += ids
        self._chosen += chosen
        for id_, value, other, theirs in zip(own, chosen, others, values, strict=True):
            best = {self._name(each): its for each, its in zip(other, theirs, strict=True)}
            best.setdefault(self._name(id_), value)
            self._likeliest.append(best)

    def take(self, count: int) -> dict[str, Any]:
        """Give out the first ones; what follows a stop text is never given out."""
        ids, self._ids = self._ids[:count], self._ids[count:]
        chosen, self._chosen = self._chosen[:count], self._chosen[count:]
        likeliest, self._likeliest = self._likeliest[:count], self._likeliest[count:]
        offsets = []
        for each in ids:
            offsets.append(self._offset)
            self._offset += len(self._utf8.decode(self._vocabulary.decode_bytes([each])))
        return {
            "tokens": [self._name(each) for each in ids],
            "token_logprobs": chosen,
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }

    def _name(self, id_: int) -> str:
        return token_name(self._vocabulary, id_)


def token_name(vocabulary: Vocabulary, id_: int) -> str:
    r"""What the API calls a token: its character; a byte that is none by itself is called "bytes:\xe9"."""
    if vocabulary.level == "char":
        return vocabulary.symbols[id_]
    return chr(id_) if id_ < 0x80 else f"bytes:\\x{id_:02x}"
