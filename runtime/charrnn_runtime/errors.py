"""The errors that charrnn raises on purpose.

All of them derive from `CharRNNError`, so that a caller needs one ``except``. A message says what was
given, what is allowed, and how to fix it, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CharRNNError(Exception):
    """The base of every error that charrnn raises on purpose. Commands exit with 1.

    Attributes:
        parameters: the parameters that the message names, as ``top_k`` or ``top_k=1``. Commands say
            ``--top-k`` or ``--top-k 1`` instead.
    """

    parameters: tuple[str, ...] = ()

    def __init__(self, message: str = "", *parameters: str) -> None:
        super().__init__(message)
        self.parameters = parameters

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by its arguments: those of some errors are not their message.
        return _anew, (type(self), self.args, self.__dict__)


class SettingError(CharRNNError, ValueError):
    """A setting has an invalid value, such as a temperature of 0. Commands exit with 2."""


class ModelFormatError(CharRNNError):
    """A file is not a charrnn step model: it breaks a rule of the format, or is truncated or damaged."""


class DeviceError(CharRNNError):
    """The device that was asked for cannot be used, or has too little memory."""


class OutOfMemoryError(DeviceError):
    """A device has too little memory for this many streams at once."""


class QueueFullError(CharRNNError):
    """The queue is full: no further request is accepted."""


class UnknownCharacterError(CharRNNError):
    """A text holds characters that a vocabulary does not know.

    Attributes:
        characters: the distinct unknown characters, in the order of their first appearance.
        positions: for each of them, the index of its first appearance in the text, from 0.
        known: how many characters the vocabulary has.
        index: which text it is, from 0, where several were given; else None.
        written: a part of the text that is unknown as it is written there, but known in its other Unicode
            form, such as "e" and a combining accent; else "".
        known_as: that form, such as "é"; else "".
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
        """Say what is unknown.

        Args:
            characters: see the attributes, as the next three.
            positions: see the attributes.
            known: see the attributes.
            index: see the attributes.
            name: what the message calls the text, such as "line 3".
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
                f"{_code_points(written)} ({written!r}) it knows as {_code_points(known_as)} ({known_as!r}), "
                'which means the same: let it be written so with unknown="normalize"'
            )
        else:
            advice = (
                f'it knows {known} characters: leave these out, or let them be dropped with unknown="skip"'
            )
        super().__init__(f"{name} has characters that the model does not know: {shown}; {advice}", "unknown")

    def at(self, positions: Sequence[int]) -> UnknownCharacterError:
        """The same error, with positions in a longer text."""
        return UnknownCharacterError(
            self.characters, positions, self.known, written=self.written, known_as=self.known_as
        )

    def of(self, index: int | None, name: str = "") -> UnknownCharacterError:
        """The same error, said of one among several texts, or of the only one."""
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


def _anew(cls: Any, arguments: Any, attributes: Any) -> CharRNNError:
    """The error of a pickle, which may hold anything."""
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
    """A message that may hold anything from a file, as one line of harmless length."""
    if len(message) > most:
        message = message[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
