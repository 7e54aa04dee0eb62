"""How long OpenMP's threads spin while they wait for one another; to be set before torch is imported."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

SPIN_COUNT: Final = "10000"
"""GNU's OpenMP spins some 300,000 rounds by itself. Where another process holds a core, the thread that waits
then spins away the time in which the one that it waits for could run, and a step takes ten times as long and
more. Without any spinning, waking threads costs all that a second one gives. Figures: docs/tried.md."""

_USERS_OWN: Final = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Set the spin count in an environment, unless the user has chosen how threads wait."""
    if not any(name in environment for name in _USERS_OWN):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
