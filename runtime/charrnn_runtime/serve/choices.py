"""Converts the output of a stream to pieces of a choice: text, log probabilities and finish reason."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.logprobs import LogProbs
from charrnn_runtime.scheduling.request import Output
from charrnn_runtime.serve.api_errors import json_bytes
from charrnn_runtime.serve.completion_request import CompletionRequest
from charrnn_runtime.streaming import ByteStream
from charrnn_runtime.vocabulary import Vocabulary

_PIECE: Final = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}'

_SLICE: Final = 256
"""The most characters in a piece with log probabilities; more would block the event loop."""

_LEAST: Final = -9999.0
"""The lowest log probability in a response, since JSON has no infinity."""


class Piece:
    """A part of a choice, in the format of the API.

    Attributes:
        index: the index of the choice.
        text: the next part of the text.
        logprobs: the log probabilities of its characters; None if not requested.
        finished: the finish reason if this is the last piece; otherwise None.
    """

    __slots__ = ("finished", "index", "logprobs", "text")

    def __init__(self, index: int, text: str, logprobs: dict[str, Any] | None, finished: str | None) -> None:
        self.index, self.text, self.logprobs, self.finished = index, text, logprobs, finished

    def json(self) -> bytes:
        """The piece as JSON."""
        text = json_bytes(self.text)
        logs = b"null" if self.logprobs is None else json_bytes(self.logprobs)
        return _PIECE % (
            self.index,
            text,
            logs,
            b'"%s"' % self.finished.encode() if self.finished else b"null",
        )


class Choice:
    """Collects the output of one stream.

    Attributes:
        index: the index of the choice.
        sampled: the number of characters (bytes, at the byte level) sampled so far.
        finished: the finish reason, "stop" or "length"; None while running.
    """

    def __init__(self, request: CompletionRequest, index: int) -> None:
        """An empty choice."""
        vocabulary = request.served.model.vocabulary
        prompt = request.prompts[index // request.n]
        self.index = index
        self.sampled = 0
        self.finished: str | None = None
        self._bytes = ByteStream(vocabulary, request.stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._vocabulary = vocabulary
        self._head = vocabulary.decode_bytes(prompt) if request.echo else b""
        # Most streams need none of the following: their ids map directly to text.
        plain = vocabulary.level == "char" and not (
            request.echo or request.stop or request.logprobs is not None
        )
        self._codes = vocabulary.codes if plain else None
        self._log = (
            None if request.logprobs is None else _Log(vocabulary, prompt if request.echo else prompt[:0])
        )

    def take(self, output: Output) -> Iterator[Piece]:
        """Yield the pieces that are final now: none, one or several.

        Args:
            output: the output of the stream.
        """
        self.sampled += len(output.tokens)
        if self._codes is not None and output.finished is None:
            yield Piece(self.index, self._codes[output.tokens].tobytes().decode("utf-32-le"), None, None)
            return
        data = self._head + self._bytes.push(output.tokens)
        self._head = b""
        if output.finished is not None:
            self.finished = output.finished
            data += self._bytes.finish()
        if self._log is None:
            text = self._utf8.decode(data, output.finished is not None)
            if text or self.finished:
                yield Piece(self.index, text, None, self.finished)
            return
        assert output.logprobs is not None
        self._log.add(output.tokens, output.logprobs)
        symbols = data if self._vocabulary.level == "byte" else data.decode()
        last = max(0, len(symbols) - 1) // _SLICE * _SLICE
        for begin in range(0, last + 1, _SLICE):
            part = symbols[begin : begin + _SLICE]
            finished = self.finished if begin == last else None
            text = part if isinstance(part, str) else self._utf8.decode(part, finished is not None)
            if part or finished:
                yield Piece(self.index, text, self._log.take(len(part)), finished)


class WholeChoice:
    """A complete choice, assembled from its pieces as JSON."""

    def __init__(self) -> None:
        self._last = Piece(0, "", None, None)
        self._texts: list[str] = []
        self._logs: dict[str, list[bytes]] = {}

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self._last = piece
        self._texts.append(piece.text)
        for name, values in (piece.logprobs or {}).items():
            self._logs.setdefault(name, []).append(json_bytes(values)[1:-1])

    def json(self) -> bytes:
        """The choice as JSON, after the last piece."""
        said = Piece(self._last.index, "".join(self._texts), None, self._last.finished).json()
        if not self._logs:
            return said
        logs = [
            json_bytes(name) + b":[" + b",".join(filter(None, parts)) + b"]"
            for name, parts in self._logs.items()
        ]
        # The name cannot occur in the text, where quotation marks are escaped.
        return said.replace(b'"logprobs":null', b'"logprobs":{' + b",".join(logs) + b"}", 1)


class _Log:
    """The log probabilities of characters not sent yet, in the format of the API."""

    def __init__(self, vocabulary: Vocabulary, head: NDArray[np.int64]) -> None:
        """Start with the ids that the text of the choice begins with; the first has no log probability."""
        self._vocabulary = vocabulary
        self._head = head
        self._without = len(head) > 0
        self._ids = head[:0]
        self._logprobs: LogProbs | None = None  # of these, except the first if it has none
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # of the next character in the text of the choice

    def add(self, tokens: NDArray[np.int64], logprobs: LogProbs) -> None:
        """Add sampled tokens; the first time, preceded by the prompt."""
        self._ids = np.concatenate([self._ids, self._head, tokens])
        self._head = self._head[:0]
        before = self._logprobs
        self._logprobs = logprobs if before is None else LogProbs.concatenate([before, logprobs])

    def take(self, count: int) -> dict[str, Any]:
        """Take the first ``count`` characters; those after a stop text are never taken."""
        assert self._logprobs is not None
        ids, self._ids = self._ids[:count].tolist(), self._ids[count:]
        without = self._without and count > 0  # whether the first one has no log probability
        self._without = self._without and not without
        known = self._logprobs[: count - without]
        self._logprobs = self._logprobs[count - without :]
        chosen = np.maximum(known.chosen, _LEAST).tolist()
        others = [[self._name(each) for each in row] for row in known.most_likely.tolist()]
        values = np.maximum(known.values, _LEAST).tolist()
        most_likely = [dict(zip(*each, strict=True)) for each in zip(others, values, strict=True)]
        names = [self._name(each) for each in ids]
        for name, value, best in zip(names[without:], chosen, most_likely, strict=True):
            best.setdefault(name, value)
        offsets = []
        for each in ids:
            offsets.append(self._offset)
            self._offset += len(self._utf8.decode(self._vocabulary.decode_bytes([each])))
        return {
            "tokens": names,
            "token_logprobs": [None] * without + chosen,
            "top_logprobs": [None] * without + most_likely,
            "text_offset": offsets,
        }

    def _name(self, id_: int) -> str:
        return token_name(self._vocabulary, id_)


def token_name(vocabulary: Vocabulary, id_: int) -> str:
    r"""The API's name of a token: its character, or "bytes:\xe9" for a byte that is not a character."""
    if vocabulary.level == "char":
        return vocabulary.symbols[id_]
    return chr(id_) if id_ < 0x80 else f"bytes:\\x{id_:02x}"
