"""The clock of a run under a time budget: time spent, preparation time, and time reserved for the end."""

from __future__ import annotations

import time

from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.training.schedule import progress


class RunClock:
    """Counts the seconds of a run, including those before it was resumed.

    Attributes:
        prepared: seconds spent before the first step, on reading, measuring and planning.
        reserved: seconds reserved for the last validation and for saving.
    """

    def __init__(self, began: float | None = None) -> None:
        """Count from now, or from ``began``, an earlier value of `time.perf_counter`."""
        self._began = time.perf_counter() if began is None else began
        self._earlier = 0.0
        self.prepared = 0.0
        self.reserved = 0.0

    def resume_from(self, seconds: float, prepared: float) -> None:
        """Include the seconds spent before the run was resumed."""
        self._earlier, self.prepared = seconds, prepared

    def spent(self) -> float:
        """The seconds spent so far."""
        return self._earlier + time.perf_counter() - self._began

    def left_for_steps(self, optimization: OptimizationConfig) -> float:
        """The seconds left of the budget, without those reserved for the end."""
        return 60.0 * optimization.minutes - self.reserved - self.spent()

    def begin_steps(self) -> None:
        """End the preparation: count the time that this process has spent so far as prepared."""
        self.prepared += self.spent() - self._earlier

    def progress(self, optimization: OptimizationConfig, step: int) -> float:
        """The fraction of the run that is done; below 1 before the first step."""
        if not optimization.minutes:
            return progress(optimization, step, 0.0)
        left_for_steps = 60.0 * optimization.minutes - self.prepared - self.reserved
        done = progress(optimization, step, self.spent() - self.prepared, left_for_steps)
        return done if step else min(done, 0.99)
