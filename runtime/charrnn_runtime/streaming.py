"""Incremental output of a stream: converts ids to bytes or text.

Two things are held back until they are decided: bytes of an incomplete UTF-8 sequence (in text), and a
possible beginning of a stop text.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any, AnyStr, Self

from numpy.typing import NDArray

from charrnn_runtime.arguments import stop_texts
from charrnn_runtime.scheduling.request import Output
from charrnn_runtime.state import State
from charrnn_runtime.vocabulary import Vocabulary

Stop = str | Collection[str] | None
"""A stop text, an iterable of stop texts, or None."""


class ByteStream:
    r"""Converts the output of a stream to bytes: UTF-8 at level "char", raw bytes at level "byte".

    Attributes:
        stopped: whether a stop text has appeared. The bytes end right before it; later output is dropped.

    Examples:
        >>> stream = ByteStream(Vocabulary.of_bytes(), stop="END")
        >>> stream.push(list(b"\xff\xc3E"))
        b'\xff\xc3'
        >>> stream.push(list(b"NEW")), stream.stopped
        (b'ENEW', False)
    """

    def __init__(self, vocabulary: Vocabulary, stop: Stop = None) -> None:
        """Start without output.

        Args:
            vocabulary: the vocabulary.
            stop: the text that ends the stream; with several, the first to be complete does. Their UTF-8
                forms are searched in the bytes, which is equivalent to searching the text, since UTF-8 is
                self-synchronizing.

        Raises:
            SettingError: a stop text is empty.
        """
        self.stopped = False
        self._vocabulary = vocabulary
        self._stops = [each.encode(errors="surrogatepass") for each in stop_texts(stop)]
        self._held = b""  # a suffix that may be the beginning of a stop text

    def begin(self, data: bytes) -> bytes:
        """Add bytes that precede all ids, such as a prompt, and return them."""
        return data

    def push(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Add ids; returns the bytes that are final now, possibly none."""
        if self.stopped:
            return b""
        data = self._vocabulary.decode_bytes(ids)
        if not self._stops:
            return data
        data = self._held + data
        # The stop text that is complete first wins; if two end at the same place, the longer one.
        found = [(begin + len(stop), begin) for stop in self._stops if (begin := data.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = b""
            return data[: min(found)[1]]
        keep = max(_overlap(data, stop) for stop in self._stops)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        """End the stream; returns the bytes held back."""
        held, self._held = self._held, b""
        return held


class TextStream:
    """Converts the output of a stream to text, which is valid UTF-8 whatever the model writes.

    At level "byte", each maximal part of an invalid UTF-8 sequence becomes one U+FFFD, as in
    `Vocabulary.decode`; so does a sequence cut off by the end of the stream or by the stop text.

    Examples:
        >>> stream = TextStream(Vocabulary.of_bytes(), stop="END")
        >>> stream.push(list("né".encode())[:2])  # half of the é
        'n'
        >>> stream.push([0xA9, *b" the E"])
        'é the '
        >>> stream.push(list(b"ND, and more"))
        ''
        >>> stream.stopped
        True
    """

    def __init__(self, vocabulary: Vocabulary, stop: Stop = None) -> None:
        """Start without output; see `ByteStream` for the arguments and errors."""
        self._bytes = ByteStream(vocabulary, stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stopped(self) -> bool:
        """Whether a stop text has appeared. The text ends right before it."""
        return self._bytes.stopped

    def begin(self, data: bytes) -> str:
        """Add bytes that precede all ids, such as a prompt; returns the text that is final now."""
        return self._utf8.decode(data)

    def push(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Add ids; returns the text that is final now, possibly empty."""
        return self._utf8.decode(self._bytes.push(ids), self.stopped)

    def finish(self) -> str:
        """End the stream; returns the text held back. An incomplete UTF-8 sequence becomes one U+FFFD."""
        return self._utf8.decode(self._bytes.finish(), True)


class _Live(Iterator[AnyStr]):
    """The incremental output of a stream."""

    def __init__(
        self,
        outputs: Generator[Output, None, None],
        written: ByteStream | TextStream,
        state: State,
        seed: int,
        prompt: bytes = b"",
    ) -> None:
        self._outputs = outputs
        self._written: Any = written
        self._prompt = prompt  # to be echoed first
        self.state = state
        self.seed = seed
        self.generated = 0
        self.finish_reason: str | None = None

    def __next__(self) -> AnyStr:
        if self._prompt:
            text, self._prompt = self._written.begin(self._prompt), b""
            if text:
                return text  # type: ignore[no-any-return]
        for output in self._outputs:
            text = self._take(output)
            if text:
                return text
        raise StopIteration

    def _take(self, output: Output) -> AnyStr:
        """The text that is final after an output of the request."""
        self.generated += len(output.tokens)
        text: AnyStr = self._written.push(output.tokens)
        if output.finished:
            self.state, self.finish_reason = output.state, output.finished
            text += self._written.finish()
        return text

    def close(self) -> None:
        """Cancel the stream and release its buffers; pending output is dropped."""
        self._outputs.close()
        self.finish_reason = self.finish_reason or "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LiveText(_Live[str]):
    """An iterator of the text of one stream. Close it if you do not exhaust it.

    Attributes:
        seed: the seed.
        state: the state of the stream; until the end, its initial state.
        generated: the number of characters (bytes, at the byte level) sampled so far.
        finish_reason: "stop" at a stop text, "length" at the maximum length, "cancelled" if closed before;
            None while running.
    """


class LiveBytes(_Live[bytes]):
    """An iterator of the bytes of one stream; otherwise like `LiveText`."""


def _overlap(text: bytes, stop: bytes) -> int:
    """The length of the longest proper prefix of ``stop`` that ``text`` ends with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
