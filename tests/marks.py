"""Marks used by several tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_daily(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Values to parametrize with: the first run daily, the others in the nightly session."""
    return [
        value if index < count else pytest.param(value, marks=pytest.mark.nightly)
        for index, value in enumerate(values)
    ]
