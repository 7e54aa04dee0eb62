"""Reads single values of a model's metadata.

All functions raise `ModelFormatError`, saying what is expected, where a value is none of it.
"""

from __future__ import annotations

import json
from typing import Any

from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import spec


def integer(metadata: dict[str, str], key: str, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, written in decimal digits."""
    text = metadata.get(key, "")
    # isdecimal alone would let digits of other scripts through.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and low <= int(text) <= high):
        allowed = f"a whole number from {low:,} to {high:,}" if low != high else f"{low:,}"
        raise ModelFormatError(f"{spec.METADATA_PREFIX}{key} is {text[:40]!r}; expected {allowed}")
    return int(text)


def choice(metadata: dict[str, str], key: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed values."""
    if metadata[key] not in allowed:
        raise ModelFormatError(
            f"{spec.METADATA_PREFIX}{key} is {metadata[key][:40]!r}; expected {' or '.join(allowed)}"
        )
    return metadata[key]


def json_value(metadata: dict[str, str], key: str, kind: type) -> Any:
    """JSON of a kind."""
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise ModelFormatError(f"{spec.METADATA_PREFIX}{key} is no JSON") from None
    if not isinstance(value, kind):
        raise ModelFormatError(
            f"{spec.METADATA_PREFIX}{key} is JSON of the wrong kind; expected a {kind.__name__}"
        )
    return value
