"""Parses individual values of a model's metadata.

All functions raise `ModelFormatError` for invalid values, with what was expected.
"""

from __future__ import annotations

import json
from typing import Any

from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import spec


def integer(metadata: dict[str, str], key: str, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, in decimal digits."""
    text = metadata.get(key, "")
    # isdecimal alone would accept digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and low <= int(text) <= high):
        allowed = f"an integer from {low:,} to {high:,}" if low != high else f"{low:,}"
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
    """A JSON value of a type."""
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise ModelFormatError(f"{spec.METADATA_PREFIX}{key} is not valid JSON") from None
    if not isinstance(value, kind):
        raise ModelFormatError(
            f"{spec.METADATA_PREFIX}{key} is JSON of the wrong type; expected a {kind.__name__}"
        )
    return value


def number(recorded: dict[str, Any], key: str) -> float | None:
    """A number in the training record, which is not trusted; None if it is not a number."""
    value = recorded.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return float(value)
    return value if isinstance(value, float) else None


def parameter_count(cell: str, layers: int, hidden_size: int, symbols: int, training: dict[str, Any]) -> int:
    """The number of weights and biases of the trained network, as PyTorch counts them.

    The embedding is folded into the graph of a model file, so its size, and whether it is tied to the output
    weights, are taken from the training record; without one, there is no embedding.
    """
    config = training.get("config")
    network = config.get("network") if isinstance(config, dict) else None
    network = network if isinstance(network, dict) else {}
    recorded = network.get("embedding_size")
    embedding = recorded if isinstance(recorded, int) and 0 < recorded <= spec.MAX_VOCABULARY else 0
    widths = [embedding or symbols, *[hidden_size] * (layers - 1)]
    recurrent = sum(spec.GATES[cell] * hidden_size * (width + hidden_size + 2) for width in widths)
    projection = hidden_size * embedding if embedding != hidden_size else 0
    output = projection if network.get("tie_weights") is True else symbols * hidden_size
    return recurrent + symbols * embedding + output + symbols
