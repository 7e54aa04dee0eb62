"""How messages count things."""

from __future__ import annotations


def counted(number: float, what: str) -> str:
    """A number of things, which are plural but for 1: ``1 step``, ``2,059 steps``, ``0.5 minutes``."""
    return f"{number:{',' if isinstance(number, int) else 'g'}} {what}{'' if number == 1 else 's'}"
