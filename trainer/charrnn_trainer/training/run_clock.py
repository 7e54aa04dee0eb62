"""The time of a run under a budget: what was spent, what preparing took, and what is kept for the end."""

from __future__ import annotations

import time

from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.training.schedule import progress


class RunClock:
    """Counts a run's seconds, over all processes that worked on it.

    Attributes:
        prepared: the seconds that were spent before steps, reading, measuring and planning.
        reserved: the seconds that are kept for the last validation and for saving.
    """

    def __init__(self, began: float | None = None) -> None:
        """Count from now on, or from what `time.perf_counter` gave when the command began."""
        self._began = time.perf_counter() if began is None else began
        self._earlier = 0.0
        self.prepared = 0.0
        self.reserved = 0.0

    def go_on_from(self, seconds: float, prepared: float) -> None:
        """Count what earlier processes spent, too."""
        self._earlier, self.prepared = seconds, prepared

    def spent(self) -> float:
        """All seconds so far."""
        return self._earlier + time.perf_counter() - self._began

    def left_for_steps(self, optimization: OptimizationConfig) -> float:
        """The seconds that are left of a budget, without what is kept for the end."""
        return 60.0 * optimization.minutes - self.reserved - self.spent()

    def begin_steps(self) -> None:
        """What this process has spent so far was preparation."""
        self.prepared += self.spent() - self._earlier

    def progress(self, optimization: OptimizationConfig, step: int) -> float:
        """How much of the run is done, from 0 to 1; before the first step never all of it."""
        if not optimization.minutes:
            return progress(optimization, step, 0.0)
        left_for_steps = 60.0 * optimization.minutes - self.prepared - self.reserved
        done = progress(optimization, step, self.spent() - self.prepared, left_for_steps)
        return done if step else min(done, 0.99)
