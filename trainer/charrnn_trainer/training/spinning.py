"""Limits how long OpenMP threads spin while waiting. Must be set before torch is imported."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

SPIN_COUNT: Final = "10000"
"""By default, GNU OpenMP spins for about 300,000 iterations. If another process holds a core, a waiting
thread then spins away the time in which the thread that it waits for could run, and a step takes ten times as
long or more. Without any spinning, waking threads costs all that a second thread gains. Figures:
docs/tried.md."""

_USER_VARIABLES: Final = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Set the spin count in an environment, unless the user has set how threads wait."""
    if not any(name in environment for name in _USER_VARIABLES):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
