"""Monitors step times under a time budget: adapts the number of threads, and revises the plan."""

from __future__ import annotations

import torch

from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.pace import SpeedWatch, ThreadPace, thread_counts
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.torch_settings import is_gpu


class Watch:
    """Records the time of every step.

    The number of threads adapts only on a CPU, in a single process, and if it was not given. (A run without a
    time budget keeps its number, so that it can be repeated byte for byte.) Plans are revised only on a CPU,
    in a single process.

    Attributes:
        threads: the number of threads for the next step; None for PyTorch's default.
    """

    def __init__(self, config: TrainConfig, plan: Plan | None, device: torch.device, processes: int) -> None:
        self.threads = config.run.threads
        self._pace: ThreadPace | None = None
        self._speed: SpeedWatch | None = None
        self._plan = plan
        if not config.optimization.minutes or is_gpu(device) or processes > 1:
            return
        if plan is not None:
            self._speed = SpeedWatch(plan.seconds_per_step)
        most = torch.get_num_threads()
        if self.threads is None and most > 1:
            self.threads = plan.threads if plan is not None and plan.threads <= most else most
            self._pace = ThreadPace(thread_counts(most), self.threads)

    @property
    def seconds_per_step(self) -> float | None:
        """The planned step time, if there is a plan."""
        return None if self._plan is None else self._plan.seconds_per_step

    def step_done(self, seconds: float) -> bool:
        """Record a step's time, and set the threads for the next step; return whether they changed."""
        if self._pace is None or not self._pace.step_done(seconds):
            return False
        self.threads = self._pace.count
        torch.set_num_threads(self.threads)
        return True

    def plan_anew(self, seconds: float, config: TrainConfig, step: int, seconds_left: float) -> Plan | None:
        """A revised plan for the rest of the run, if steps now take less than half or more than twice the
        planned time; else None.

        Args:
            seconds: the time of the last step.
            config: the run's settings.
            step: the number of steps done.
            seconds_left: the time left for steps.
        """
        if self._speed is None or self._plan is None or not self._speed.step_done(seconds):
            return None
        self._plan = self._plan.anew(config, step, self._speed.planned, max(seconds_left, 0.0))
        return self._plan
