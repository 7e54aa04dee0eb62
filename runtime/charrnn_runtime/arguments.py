"""What callers may pass: each check gives the value back, or says in one line what the parameter takes.

Python finds out late, or never, that a value has the wrong type: a string is a list of letters, True is 1,
and an array has no one truth. So what is public checks its parameters by these.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from charrnn_runtime.errors import SettingError

_LONGEST_SHOWN: Final = 60

_Kind = TypeVar("_Kind")


def whole_number(name: str, value: Any) -> int:
    """A whole number of any integer type, as an int.

    Raises:
        SettingError: it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise wrong(name, "a whole number", value) from None


def whole_number_from(name: str, value: Any, least: int, most: int) -> int:
    """A whole number of a range, both ends included.

    Raises:
        SettingError: it is none.
    """
    number = whole_number(name, value)
    if not least <= number <= most:
        shown_most = f"{most:,}" if most >= 10_000 else str(most)
        raise wrong(name, f"between {least} and {shown_most}", number)
    return number


def real_number(name: str, value: Any) -> float:
    """A number of any integer or floating type, as a float; it may be infinite, or NaN.

    Raises:
        SettingError: it is none, or none that a float can hold.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise wrong(name, "a number", value)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def switch(name: str, value: Any) -> bool:
    """Whether something is wanted.

    Raises:
        SettingError: it is neither True nor False.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise wrong(name, "True or False", value)


def choice(name: str, value: Any, among: Collection[str]) -> str:
    """One of some words.

    Raises:
        SettingError: it is none of them.
    """
    if isinstance(value, str) and value in among:
        return value
    *others, last = among
    raise wrong(name, f"{', '.join(others)} or {last}", value)


def text(name: str, value: Any, level: str, label: str = "") -> str | bytes:
    """A text for a model of a level ("char" or "byte"): a str, or at the byte level bytes.

    Raises:
        SettingError: it is none; the message calls it ``label``, if that is given.
    """
    if isinstance(value, str) or (level == "byte" and isinstance(value, bytes)):
        return value
    if isinstance(value, bytes):
        raise SettingError(
            f"{label or name} must be a str, since this model reads characters and not bytes: decode it",
            name,
        )
    kinds = "a str, or bytes" if level == "byte" else "a str"
    raise SettingError(f"{label or name} must be {kinds}, not {shown(value)}", name)


def each_text(name: str, values: Any, level: str) -> Iterator[str | bytes]:
    """The texts of an iterable, each checked as it comes.

    Raises:
        SettingError: it is not an iterable of several texts; or later, one of them is not a text.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or _is_scalar(values):
        one = "one text" if isinstance(values, str | bytes) else shown(values)
        raise SettingError(f"{name} must be several texts, as in a list, and not {one}", name)
    return (text(name, value, level, f"{name}[{index}]") for index, value in enumerate(values))


def several(name: str, value: Any, what: str) -> Iterable[Any]:
    """Several values of some kind, which are not looked at.

    Raises:
        SettingError: it is not an iterable, or is a str or bytes, which iterate but are one.
    """
    is_one = not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray)
    if not is_one and not _is_scalar(value):
        return value  # type: ignore[no-any-return]
    raise wrong(name, f"several {what}, as in a list", value)


def stop_texts(value: Any) -> tuple[str, ...]:
    """The stop texts that were given: one, several in a list, tuple, set or the like, or None.

    Raises:
        SettingError: it is none of these, or one of them is empty or not a text.
    """
    is_one = not isinstance(value, Collection) or isinstance(value, str | bytes | bytearray | Mapping)
    texts = () if value is None else (value,) if is_one or _is_scalar(value) else tuple(value)
    for each in texts:
        if not isinstance(each, str) or not each:
            raise SettingError(
                "stop must be a text of one character or more, or several in a list, not "
                f"{shown(each)}; without it, a text ends at its length",
                "stop",
            )
    return texts


def call_back(name: str, value: Any) -> Callable[..., Any] | None:
    """Something to call, or None.

    Raises:
        SettingError: it is neither.
    """
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise wrong(name, "a function, or None", value)


def instance(name: str, value: Any, kind: type[_Kind]) -> _Kind:
    """A value of a class of this package.

    Raises:
        SettingError: it is none.
    """
    if isinstance(value, kind):
        return value
    raise wrong(name, f"a {kind.__name__}", value)


def ids_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """Integers ``[n]`` of any type, as an array.

    Raises:
        SettingError: they are not integers, or not one after the other.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # of rows that differ in length, for one
        array = np.empty((0, 0))
    if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        return array
    raise wrong(name, "whole numbers in one row, as in a list", value)


def wrong(name: str, wanted: str, value: Any) -> SettingError:
    """The error about a parameter that has the wrong type."""
    return SettingError(f"{name} must be {wanted}, not {shown(value)}", name)


def _is_scalar(value: Any) -> bool:
    """Whether it is an array without a length, over which nothing iterates."""
    return isinstance(value, np.ndarray) and not value.ndim


def shown(value: Any) -> str:
    """A value as messages show it: in one short line, whatever it is."""
    if isinstance(value, np.ndarray):
        return f"an array of the shape {list(value.shape)}"
    try:
        said = " ".join(repr(value).split())
    except Exception:  # Python writes no whole number of more than 4,300 digits
        return f"a huge {type(value).__name__}" if isinstance(value, int) else f"a {type(value).__name__}"
    return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}... ({type(value).__name__})"
