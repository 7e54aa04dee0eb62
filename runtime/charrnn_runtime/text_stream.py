"""Turns the ids of one stream into text as they come.

Two things are held back until they are decided: bytes that do not make a whole UTF-8 sequence yet, and
characters that may be the beginning of the stop text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from charrnn_runtime.errors import SettingError
from charrnn_runtime.vocabulary import Vocabulary


class TextStream:
    """The text of one stream.

    Attributes:
        stopped: whether the stop text has appeared. The text ends right before it, and what comes after is
            dropped.

    Example:
        >>> stream = TextStream(Vocabulary.of_bytes(), stop="END")
        >>> stream.push(list("né".encode())[:2])  # half of the é
        'n'
        >>> stream.push([0xA9, *b" the E"])
        'é the '
        >>> stream.push(b"ND, and more")
        ''
        >>> stream.stopped
        True
    """

    def __init__(self, vocabulary: Vocabulary, stop: str | None = None) -> None:
        """A stream that has no text yet.

        Args:
            vocabulary: what the ids mean.
            stop: the text that ends the stream.

        Raises:
            SettingError: the stop text is empty.
        """
        if stop == "":
            raise SettingError("stop must be a text of one character or more; leave it out to never stop")
        self.stopped = False
        self._vocabulary = vocabulary
        self._stop = stop
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # a suffix that may be the beginning of the stop text

    def push(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Take some ids; gives the text that is certain now, which may be empty."""
        return self._release(self._decode(ids, final=False), final=False)

    def finish(self) -> str:
        """End the stream; gives what was held back. An unfinished UTF-8 sequence becomes one U+FFFD."""
        return self._release(self._decode((), final=True), final=True)

    def _decode(self, ids: Sequence[int] | NDArray[Any], *, final: bool) -> str:
        if self._vocabulary.level == "byte":
            return self._utf8.decode(self._vocabulary.decode_bytes(ids), final)
        return self._vocabulary.decode(ids) if len(ids) else ""

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        if self._stop is None:
            return text
        text = self._held + text
        end = text.find(self._stop)
        if end >= 0:
            self.stopped = True
            self._held = ""
            return text[:end]
        keep = 0 if final else _overlap(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
