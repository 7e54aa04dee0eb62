"""The values that options take: how they are checked, how the help names them, and what the shell completes.

`number` and `one_of` give arguments for ``typer.Option``, which typer's own types would show as <int>.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import typer

from charrnn_runtime.format import spec

_THOUSANDS_FROM: Final = 10_000
"""Numbers below have no separators in messages."""


class InvalidValue(typer.BadParameter):
    """A value is not allowed; the message says what the option must be, to follow its name."""


class Number:
    """Reads a number from the command line.

    Attributes:
        kind: int or float.
        least: the lowest number that is allowed; None where another part of the program checks the range.
        most: the highest.
        allowed: what is allowed, in words that follow "must be".
    """

    def __init__(self, kind: type[int | float], least: Any, most: Any, allowed: str) -> None:
        self.kind, self.least, self.most = kind, least, most
        whole = "a whole number" if kind is int else "a number"
        begin = "" if least is None else f" from {_written(least)}"
        self.allowed = allowed or whole + begin + ("" if most is None else f" to {_written(most)}")

    def __call__(self, given: Any) -> int | float:
        """The number.

        Raises:
            InvalidValue: it is none, or out of range.
        """
        try:
            number = self.kind(given)
        except ValueError:
            raise InvalidValue(f"must be {self.allowed}, not {_shown(given)}") from None
        above = self.least is None or number >= self.least
        if not (above and (self.most is None or number <= self.most)):
            limits = f"{_written(self.least)} or more"
            if self.most is not None:
                limits = f"between {_written(self.least)} and {_written(self.most)}"
            raise InvalidValue(f"must be {limits}, not {_written(number)}")
        return number


class Choice:
    """Reads one of some words from the command line."""

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def __call__(self, given: str) -> str:
        """The word.

        Raises:
            InvalidValue: it is none of them.
        """
        if given not in self.choices:
            *others, last = self.choices
            raise InvalidValue(f"must be {', '.join(others)} or {last}, not {_shown(given)}")
        return given


def number(
    kind: type[int | float],
    what: str,
    least: float | None = None,
    most: float | None = None,
    *,
    allowed: str = "",
) -> dict[str, Any]:
    """The arguments of ``typer.Option`` for a number.

    Args:
        kind: int or float.
        what: what it counts or measures, as the help shows it.
        least: the lowest number that is allowed; None if the range is checked elsewhere.
        most: the highest; only with ``least``.
        allowed: what is allowed, in words that follow "must be"; by default, they are made of the limits.
    """
    return {"metavar": what, "parser": Number(kind, least, most, allowed)}


def one_of(choices: Sequence[str]) -> dict[str, Any]:
    """The arguments of ``typer.Option`` for one of some words."""
    return {"metavar": "|".join(choices), "parser": Choice(choices), "autocompletion": lambda: list(choices)}


def _shown(value: Any) -> str:
    from charrnn_runtime.arguments import shown  # with numpy, which the help need not wait for

    return shown(value)


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if abs(value) > spec.MAX_SEED:
        return _shown(value)
    return f"{value:,}" if abs(value) >= _THOUSANDS_FROM else str(value)


# --- options that several commands have --------------------------------------------------------------------

STREAMS: Final = number(int, "STREAMS", 1, spec.MAX_STREAMS)
SEED: Final = number(int, "INTEGER", allowed="a whole number from 0 to 2**64 - 1")
TEMPERATURE: Final = number(float, "NUMBER", allowed="a number from 0.0001 to 10000")
TOP_K: Final = number(int, "K", allowed="a whole number from 1")
TOP_P: Final = number(float, "PROBABILITY", allowed="a number above 0 and at most 1")
MIN_P: Final = number(float, "FRACTION", allowed="a number from 0 to below 1")
THREADS: Final = number(int, "THREADS", 1, spec.MAX_THREADS)
