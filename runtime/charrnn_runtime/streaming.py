"""What one stream writes, as it comes: ids turned into bytes or text.

Two things are held back until they are decided: bytes of an incomplete UTF-8 sequence (in text),
and what may be the beginning of the stop text.
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
"""A stop text, or several in a list, tuple or set, or none."""


class ByteStream:
    r"""What one stream writes as bytes: UTF-8 at level "char", the raw bytes at level "byte".

    Attributes:
        stopped: whether a stop text has appeared. The bytes end right before it, and what comes after is
            dropped.

    Examples:
        >>> stream = ByteStream(Vocabulary.of_bytes(), stop="END")
        >>> stream.push(list(b"\xff\xc3E"))
        b'\xff\xc3'
        >>> stream.push(list(b"NEW")), stream.stopped
        (b'ENEW', False)
    """

    def __init__(self, vocabulary: Vocabulary, stop: Stop = None) -> None:
        """A stream that has written nothing yet.

        Args:
            vocabulary: what the ids mean.
            stop: the text that ends the stream, or several of which the first to be complete does. Their
                UTF-8 forms are looked for: as no sequence of UTF-8 is found inside another, that finds them
                in text just where they are.

        Raises:
            SettingError: a stop text is empty.
        """
        self.stopped = False
        self._vocabulary = vocabulary
        self._stops = [each.encode(errors="surrogatepass") for each in stop_texts(stop)]
        self._held = b""  # a suffix that may be the beginning of a stop text

    def begin(self, data: bytes) -> bytes:
        """Take bytes that come before all ids, such as a prompt; gives them."""
        return data

    def push(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Take some ids; gives the bytes that are certain now, of which there may be none."""
        if self.stopped:
            return b""
        data = self._vocabulary.decode_bytes(ids)
        if not self._stops:
            return data
        data = self._held + data
        # The one that was complete first ends it; of two that end alike, the longer.
        found = [(begin + len(stop), begin) for stop in self._stops if (begin := data.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = b""
            return data[: min(found)[1]]
        keep = max(_overlap(data, stop) for stop in self._stops)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self) -> bytes:
        """End the stream; gives what was held back."""
        held, self._held = self._held, b""
        return held


class TextStream:
    """The text of one stream. It is valid UTF-8 whatever the model writes.

    At level "byte", each maximal part of a sequence that is not UTF-8 becomes one U+FFFD, as
    `Vocabulary.decode` has it; one that the end of the stream or the stop text cuts short likewise.

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
        """A stream that has no text yet; its arguments and errors are those of `ByteStream`."""
        self._bytes = ByteStream(vocabulary, stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stopped(self) -> bool:
        """Whether a stop text has appeared. The text ends right before it."""
        return self._bytes.stopped

    def begin(self, data: bytes) -> str:
        """Take bytes that come before all ids, such as a prompt; gives the text that is certain now."""
        return self._utf8.decode(data)

    def push(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Take some ids; gives the text that is certain now, which may be empty."""
        return self._utf8.decode(self._bytes.push(ids), self.stopped)

    def finish(self) -> str:
        """End the stream; gives what was held back. An unfinished UTF-8 sequence becomes one U+FFFD."""
        return self._utf8.decode(self._bytes.finish(), True)


class _Live(Iterator[AnyStr]):
    """What one stream writes, as it comes."""

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
        self._prompt = prompt  # what comes first, if it is wanted
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
        """The text that is certain now that a request gave this."""
        self.generated += len(output.tokens)
        text: AnyStr = self._written.push(output.tokens)
        if output.finished:
            self.state, self.finish_reason = output.state, output.finished
            text += self._written.finish()
        return text

    def close(self) -> None:
        """End it here, and let go of the buffers that it runs in; what was held back is dropped."""
        self._outputs.close()
        self.finish_reason = self.finish_reason or "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LiveText(_Live[str]):
    """The text of one stream, as it comes. Close it if you do not read it to its end.

    Attributes:
        seed: the seed that is used.
        state: the state of the stream; until its text has ended, the state before it.
        generated: how many characters (bytes, at the byte level) were sampled so far.
        finish_reason: why it ended: "stop" where a stop text came, "length" where it was long enough, and
            "cancelled" where it was closed before; None until then.
    """


class LiveBytes(_Live[bytes]):
    """What one stream writes as bytes, as it comes; otherwise it is like `LiveText`."""


def _overlap(text: bytes, stop: bytes) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
