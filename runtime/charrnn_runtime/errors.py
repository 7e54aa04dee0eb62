"""The errors that charrnn raises deliberately.

All of them derive from `CharRNNError`, so callers can catch that alone. A message is one line: what was
given, what is allowed, and how to fix it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CharRNNError(Exception):
    """The base class of all errors that charrnn raises deliberately. Commands exit with 1.

    Attributes:
        parameters: the parameters that the message names, as ``top_k`` or ``top_k=1``. Commands print
            ``--top-k`` or ``--top-k 1`` instead.
    """

    parameters: tuple[str, ...] = ()

    def __init__(self, message: str = "", *parameters: str) -> None:
        super().__init__(message)
        self.parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by arguments: those of some subclasses are not the message.
        return _restored, (type(self), self.args, self.__dict__)


class SettingError(CharRNNError, ValueError):
    """A setting has an invalid value, such as a temperature of 0. Commands exit with 2."""


class ModelFormatError(CharRNNError):
    """A file is not a valid charrnn step model: it violates the format, or is truncated or damaged."""


class DeviceError(CharRNNError):
    """The requested device cannot be used, or has too little memory."""


class OutOfMemoryError(DeviceError):
    """The device has too little memory for this many concurrent streams."""


class QueueFullError(CharRNNError):
    """The queue is full: no further requests are accepted."""


class UnknownCharacterError(CharRNNError):
    """A text contains characters that are not in the vocabulary.

    Attributes:
        characters: the distinct unknown characters, in the order of their first appearance.
        positions: the index of the first appearance of each in the text, from 0.
        known: the size of the vocabulary.
        index: the index of the text, from 0, if several were given; otherwise None.
        written: a part of the text that is unknown as written but known in its other Unicode form, such as
            "e" followed by a combining accent; otherwise "".
        known_as: that other form, such as "é"; otherwise "".
    """

    def __init__(
        self,
        characters: Sequence[str],
        positions: Sequence[int],
        known: int,
        *,
        index: int | None = None,
        name: str = "",
        written: str = "",
        known_as: str = "",
    ) -> None:
        """Compose the message.

        Args:
            characters: see the attributes, as the next three.
            positions: see the attributes.
            known: see the attributes.
            index: see the attributes.
            name: the name of the text in the message, such as "line 3".
            written: see the attributes.
            known_as: see the attributes.
        """
        self.characters = tuple(characters)
        self.positions = tuple(positions)
        self.known = known
        self.index = index
        self.written, self.known_as = written, known_as
        shown = ", ".join(
            f"{character!r} (U+{ord(character):04X}) at position {position}"
            for character, position in zip(self.characters[:5], self.positions[:5], strict=True)
        )
        more = len(self.characters) - 5
        if more > 0:
            shown += f" and {more} more"
        name = name or ("the text" if index is None else f"the text of index {index}")
        if known_as:
            advice = (
                f"it knows {_code_points(written)} ({written!r}) as {_code_points(known_as)} ({known_as!r}), "
                'which is equivalent; convert it with unknown="normalize"'
            )
        else:
            advice = (
                f"its vocabulary has {known} characters; remove the unknown ones, or skip them with "
                'unknown="skip"'
            )
        super().__init__(f"{name} has characters that the model does not know: {shown}; {advice}", "unknown")

    def at(self, positions: Sequence[int]) -> UnknownCharacterError:
        """The same error with positions in a longer text."""
        return UnknownCharacterError(
            self.characters, positions, self.known, written=self.written, known_as=self.known_as
        )

    def of(self, index: int | None, name: str = "") -> UnknownCharacterError:
        """The same error for one of several texts, or for the only one."""
        return UnknownCharacterError(
            self.characters,
            self.positions,
            self.known,
            index=index,
            name=name,
            written=self.written,
            known_as=self.known_as,
        )


def _code_points(text: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in text)


def _restored(cls: Any, arguments: Any, attributes: Any) -> CharRNNError:
    """Restore an error from a pickle, which is not trusted."""
    try:
        if issubclass(cls, CharRNNError):
            error: CharRNNError = cls.__new__(cls, *arguments)
            error.__dict__.update(attributes)
            return error
    except Exception as wrong:
        raise CharRNNError(
            f"a pickled error is truncated or damaged: {one_line(str(wrong), most=200)}"
        ) from wrong
    raise CharRNNError("a pickled error is truncated or damaged: it is not one of charrnn's")


def one_line(message: str, most: int = 500) -> str:
    """An untrusted message as one printable line of limited length."""
    if len(message) > most:
        message = message[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
