"""Format numbers for reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

MINUS: Final = "\N{MINUS SIGN}"
MOST_LISTED: Final = 6
"""A sentence lists at most this many items."""


def nats(loss: float) -> str:
    """A loss in nats per character, such as ``1.5516``; a gap between losses may be negative."""
    return f"{loss:.4f}".replace("-", MINUS)


def bits(loss: float) -> str:
    """A loss in nats, in bits per character, such as ``2.239``."""
    return f"{loss / math.log(2):.3f}"


def signed(difference: float) -> str:
    """A difference of losses with its sign, such as ``+0.0123``."""
    return f"{difference:+.4f}".replace("-", MINUS)


def batch_time(seconds: float) -> str:
    """The time of a step, with three digits: ``0.386``, or ``0.00153``."""
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"


def duration(seconds: float) -> str:
    """A time with its unit: ``12.3 s``, ``5.2 min``, ``3.1 h``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """A number of bytes: ``3.49 MB``."""
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count:,} B"


def share(part: float, whole: float) -> str:
    """One figure as a share of another: ``76 %``."""
    return f"{100 * part / whole:.0f} %"


def listed(items: list[str]) -> str:
    """Items in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def shortened(items: Sequence[str], rest: str = "more") -> list[str]:
    """The first `MOST_LISTED` of some items and the number of the others: ``a``, ``b``, ``3 more``."""
    if len(items) <= MOST_LISTED + 1:
        return list(items)
    return [*items[:MOST_LISTED], f"{len(items) - MOST_LISTED} {rest}"]
