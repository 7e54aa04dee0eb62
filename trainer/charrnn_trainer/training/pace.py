"""Follows the speed of a run: which number of threads is fastest, and whether the plan still holds.

This module neither reads clocks nor changes settings: it turns step times into decisions.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

TRIAL_STEPS: Final = 4
"""A new number of threads is tried for this many steps."""

HOPELESS: Final = 1.5
"""A trial ends immediately if a step takes this many times the usual time."""

BETTER: Final = 0.95
"""A new number of threads is kept if it reduces the time to this fraction."""

SLOW: Final = 1.5
"""Two consecutive steps of this many times the usual time suggest that other processes need the cores."""

FIRST_WAIT: Final = 10.0
LONGEST_WAIT: Final = 120.0
"""Seconds between trials: doubled after each unsuccessful one."""

WINDOW: Final = 4.0
"""The mean step time over this many seconds (at least three steps) is compared with the plan."""

OFF: Final = 2.0
"""A mean that differs from the plan by this factor in either direction triggers a new plan."""


def thread_counts(most: int) -> tuple[int, ...]:
    """The numbers of threads to try: powers of two, and the maximum.

    Examples:
        >>> thread_counts(2), thread_counts(12)
        ((1, 2), (1, 2, 4, 8, 12))
    """
    counts = [1]
    while 2 * counts[-1] < most:
        counts.append(2 * counts[-1])
    return (*counts, most) if most > 1 else (1,)


def fastest_count(counts: Sequence[int], time_step: Callable[[int], float]) -> tuple[int, float]:
    """The number of threads with the fastest step, and the step's time.

    Args:
        counts: numbers of threads, ascending. The search ends at the first that brings no gain.
        time_step: returns the step time for a number of threads.
    """
    best, seconds = counts[0], time_step(counts[0])
    for count in counts[1:]:
        other = time_step(count)
        if other > BETTER * seconds:
            break
        best, seconds = count, other
    return best, seconds


class ThreadPace:
    """Chooses the number of threads for the next step after every step.

    From time to time, and immediately if steps have become slow, the next smaller or larger number is tried
    for `TRIAL_STEPS` steps, and kept if those are faster. The run thus uses fewer threads while other
    processes need the cores.

    Attributes:
        count: the number of threads for the next step.
        home: the fastest number so far; differs from ``count`` during a trial.
    """

    def __init__(self, counts: Sequence[int], start: int) -> None:
        """Choose among ``counts``, in ascending order, beginning with ``start``."""
        self._counts = tuple(counts)
        self._place = self._counts.index(start)
        self.count = start
        self._recent: deque[float] = deque(maxlen=5)  # times at home
        self._usual: float | None = None
        self._slow = 0
        self._trial: list[float] | None = None
        self._way = 0
        self._waits = {-1: FIRST_WAIT, 1: FIRST_WAIT}
        self._since = {-1: 0.0, 1: 0.0}  # seconds since the last trial in this direction

    @property
    def home(self) -> int:
        return self._counts[self._place]

    def step_done(self, seconds: float) -> bool:
        """Record a step's time; return whether `count` has changed."""
        before = self.count
        for way in self._since:
            self._since[way] += seconds
        if self._trial is not None:
            self._continue_trial(seconds)
        else:
            self._stay_or_try(seconds)
        return self.count != before

    def _stay_or_try(self, seconds: float) -> None:
        self._recent.append(seconds)
        slow = self._usual is not None and seconds > SLOW * self._usual
        self._slow = self._slow + 1 if slow else 0
        if len(self._recent) < self._recent.maxlen and self._slow < 2:  # type: ignore[operator]
            return
        if self._slow < 2:
            now = statistics.median(self._recent)
            self._usual = now if self._usual is None else min(self._usual, now)
        ways = [way for way in (-1, 1) if 0 <= self._place + way < len(self._counts)]
        if self._slow >= 2 and -1 in ways and self._since[-1] > FIRST_WAIT / 10:
            self._try(-1)
            return
        due = [way for way in ways if self._since[way] >= self._waits[way]]
        if due:
            self._try(max(due, key=lambda way: self._since[way]))

    def _try(self, way: int) -> None:
        if self._slow >= 2:
            recent = list(self._recent)[-2:]
            self._recent.clear()
            self._recent.extend(recent)
        self._way, self._trial = way, []
        self.count = self._counts[self._place + way]

    def _continue_trial(self, seconds: float) -> None:
        assert self._trial is not None
        self._trial.append(seconds)
        usual = statistics.median(self._recent)
        hopeless = seconds > HOPELESS * usual
        if len(self._trial) < TRIAL_STEPS and not hopeless:
            return
        way = self._way
        self._since[way] = 0.0
        if not hopeless and statistics.median(self._trial) < BETTER * usual:
            self._place += way
            self._recent = deque(self._trial, maxlen=self._recent.maxlen)
            self._waits = {-1: FIRST_WAIT, 1: FIRST_WAIT}
            self._since[-way] = 0.0
            self._usual = None
        else:
            self._waits[way] = min(LONGEST_WAIT, 2.0 * self._waits[way])
            if self._slow >= 2:  # slow with any number of threads: learn the usual time anew
                self._usual = None
        self._slow, self._trial = 0, None
        self.count = self.home


class SpeedWatch:
    """Detects that steps take far more or far less time than planned."""

    def __init__(self, planned: float) -> None:
        """Compare step times with ``planned`` seconds."""
        self.planned = planned
        self._recent: deque[float] = deque()

    def step_done(self, seconds: float) -> bool:
        """Record a step's time; return whether the plan is off.

        If so, `planned` becomes the mean of the recent steps.
        """
        self._recent.append(seconds)
        while len(self._recent) > 3 and sum(self._recent) - self._recent[0] >= WINDOW:
            self._recent.popleft()
        if len(self._recent) < 3 or sum(self._recent) < WINDOW:
            return False
        mean = sum(self._recent) / len(self._recent)
        if self.planned / OFF <= mean <= self.planned * OFF:
            return False
        self.planned = mean
        self._recent.clear()
        return True
