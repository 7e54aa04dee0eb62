"""Turns the ids of one stream into bytes or text as they come.

Two things are held back until they are decided: bytes that do not make a whole UTF-8 sequence yet (in text),
and what may be the beginning of the stop text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from charrnn_runtime.errors import SettingError
from charrnn_runtime.vocabulary import Vocabulary


class ByteStream:
    r"""What one stream writes as bytes: UTF-8 at level "char", the very bytes at level "byte".

    Attributes:
        stopped: whether the stop text has appeared. The bytes end right before it, and what comes after is
            dropped.

    Example:
        >>> stream = ByteStream(Vocabulary.of_bytes(), stop="END")
        >>> stream.push(list(b"\xff\xc3E"))
        b'\xff\xc3'
        >>> stream.push(list(b"NEW")), stream.stopped
        (b'ENEW', False)
    """

    def __init__(self, vocabulary: Vocabulary, stop: str | None = None) -> None:
        """A stream that has written nothing yet.

        Args:
            vocabulary: what the ids mean.
            stop: the text that ends the stream. Its UTF-8 form is looked for: as no sequence of UTF-8 is
                found inside another, that finds it in text just where it stands.

        Raises:
            SettingError: the stop text is empty.
        """
        if stop == "":
            raise SettingError("stop must be a text of one character or more; leave it out to never stop")
        self.stopped = False
        self._vocabulary = vocabulary
        self._stop = None if stop is None else stop.encode(errors="surrogatepass")
        self._held = b""  # a suffix that may be the beginning of the stop text

    def push(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Take some ids; gives the bytes that are certain now, of which there may be none."""
        if self.stopped:
            return b""
        data = self._vocabulary.decode_bytes(ids)
        if self._stop is None:
            return data
        data = self._held + data
        end = data.find(self._stop)
        if end >= 0:
            self.stopped = True
            self._held = b""
            return data[:end]
        keep = _overlap(data, self._stop)
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

    Example:
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

    def __init__(self, vocabulary: Vocabulary, stop: str | None = None) -> None:
        """A stream that has no text yet; its arguments and errors are those of `ByteStream`."""
        self._bytes = ByteStream(vocabulary, stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stopped(self) -> bool:
        """Whether the stop text has appeared. The text ends right before it."""
        return self._bytes.stopped

    def push(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Take some ids; gives the text that is certain now, which may be empty."""
        return self._utf8.decode(self._bytes.push(ids), self.stopped)

    def finish(self) -> str:
        """End the stream; gives what was held back. An unfinished UTF-8 sequence becomes one U+FFFD."""
        return self._utf8.decode(self._bytes.finish(), True)


def _overlap(text: bytes, stop: bytes) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
