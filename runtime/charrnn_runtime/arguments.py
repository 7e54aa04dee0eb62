"""Argument checks of the public API: each returns the value, or raises an error that says what is allowed.

Without them, Python reports wrong types late or never: a string is a sequence of letters, True is 1, and the
truth value of an array is ambiguous.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from charrnn_runtime.errors import SettingError

_LONGEST_SHOWN: Final = 60

_Kind = TypeVar("_Kind")


def whole_number(name: str, value: Any) -> int:
    """Check an integer of any integer type; returns an int.

    Raises:
        SettingError: it is not an integer.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise wrong(name, "a whole number", value) from None


def whole_number_from(name: str, value: Any, least: int, most: int) -> int:
    """Check an integer in a range, inclusive.

    Raises:
        SettingError: it is not an integer in the range.
    """
    number = whole_number(name, value)
    if not least <= number <= most:
        shown_most = f"{most:,}" if most >= 10_000 else str(most)
        raise wrong(name, f"between {least} and {shown_most}", number)
    return number


def real_number(name: str, value: Any) -> float:
    """Check a number of any integer or floating-point type; returns a float, which may be infinite or NaN.

    Raises:
        SettingError: it is not a number, or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise wrong(name, "a number", value)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def switch(name: str, value: Any) -> bool:
    """Check a boolean.

    Raises:
        SettingError: it is neither True nor False.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise wrong(name, "True or False", value)


def choice(name: str, value: Any, among: Collection[str]) -> str:
    """Check that a value is one of several words.

    Raises:
        SettingError: it is not one of them.
    """
    if isinstance(value, str) and value in among:
        return value
    *others, last = among
    raise wrong(name, f"{', '.join(others)} or {last}", value)


def text(name: str, value: Any, level: str, label: str = "") -> str | bytes:
    """Check a text for a model of a level ("char" or "byte"): a str, or at the byte level also bytes.

    Raises:
        SettingError: it is not a text; the message calls it ``label`` if given, otherwise ``name``.
    """
    if isinstance(value, str) or (level == "byte" and isinstance(value, bytes)):
        return value
    if isinstance(value, bytes):
        raise SettingError(
            f"{label or name} must be a str, since this model reads characters, not bytes: decode it",
            name,
        )
    kinds = "a str, or bytes" if level == "byte" else "a str"
    raise SettingError(f"{label or name} must be {kinds}, not {shown(value)}", name)


def each_text(name: str, values: Any, level: str) -> Iterator[str | bytes]:
    """Check the texts of an iterable lazily.

    Raises:
        SettingError: it is not an iterable of texts; or, on iteration, an item is not a text.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or _is_scalar(values):
        one = "one text" if isinstance(values, str | bytes) else shown(values)
        raise SettingError(f"{name} must be an iterable of texts, such as a list, not {one}", name)
    return (text(name, value, level, f"{name}[{index}]") for index, value in enumerate(values))


def several(name: str, value: Any, what: str) -> Iterable[Any]:
    """Check that a value is an iterable; its items are not checked.

    Raises:
        SettingError: it is not an iterable, or is a str or bytes, which count as one value.
    """
    is_one = not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray)
    if not is_one and not _is_scalar(value):
        return value  # type: ignore[no-any-return]
    raise wrong(name, f"an iterable of {what}, such as a list", value)


def stop_texts(value: Any) -> tuple[str, ...]:
    """Normalize stop texts given as a single text, an iterable of texts, or None.

    Raises:
        SettingError: it is none of these, or a stop text is empty or not a text.
    """
    is_one = not isinstance(value, Collection) or isinstance(value, str | bytes | bytearray | Mapping)
    texts = () if value is None else (value,) if is_one or _is_scalar(value) else tuple(value)
    for each in texts:
        if not isinstance(each, str) or not each:
            raise SettingError(
                f"stop must be a non-empty text, or several in a list, not {shown(each)}; omit it for none",
                "stop",
            )
    return texts


def call_back(name: str, value: Any) -> Callable[..., Any] | None:
    """Check a callback, which may be None.

    Raises:
        SettingError: it is neither callable nor None.
    """
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise wrong(name, "a function, or None", value)


def file_path(name: str, value: Any) -> str:
    """Check the path of a file; returns a str.

    Raises:
        SettingError: it is not a path.
    """
    if isinstance(value, str | os.PathLike) and isinstance(path := os.fspath(value), str):
        return path
    raise wrong(name, "the path of a file, as a str or a Path", value)


def instance(name: str, value: Any, kind: type[_Kind]) -> _Kind:
    """Check that a value is an instance of a class.

    Raises:
        SettingError: it is not.
    """
    if isinstance(value, kind):
        return value
    raise wrong(name, f"a {kind.__name__}", value)


def ids_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """Check a one-dimensional array of integers ``[n]`` of any integer type.

    Raises:
        SettingError: it is not.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # for example, rows of different lengths
        array = np.empty((0, 0))
    if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        return array
    raise wrong(name, "a one-dimensional sequence of integers, such as a list", value)


def wrong(name: str, wanted: str, value: Any) -> SettingError:
    """The error for an invalid argument."""
    return SettingError(f"{name} must be {wanted}, not {shown(value)}", name)


def _is_scalar(value: Any) -> bool:
    """Whether a value is a zero-dimensional array, which cannot be iterated."""
    return isinstance(value, np.ndarray) and not value.ndim


def shown(value: Any) -> str:
    """A value for error messages: one short line."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    try:
        said = " ".join(repr(value).split())
    except Exception:  # for example, Python does not format integers of more than 4,300 digits
        return f"a huge {type(value).__name__}" if isinstance(value, int) else f"a {type(value).__name__}"
    return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}... ({type(value).__name__})"
