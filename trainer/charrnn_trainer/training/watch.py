"""Watches the steps of a run under a time budget: changes the number of threads, and revises plans."""

from __future__ import annotations

import torch

from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.pace import SpeedWatch, ThreadPace, thread_counts
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.torch_settings import is_gpu


class Watch:
    """Takes note of the time of every step.

    Threads change on a CPU, in a process that trains alone, and where their number was not given. (A run
    without a time budget keeps to one number, with which it repeats byte for byte.) A plan is revised where
    there is one, and steps are not captured as a GPU's graph.

    Attributes:
        threads: with how many threads the next step is computed; None leaves PyTorch's number.
    """

    def __init__(self, config: TrainConfig, plan: Plan | None, device: torch.device, processes: int) -> None:
        self.threads = config.run.threads
        self._pace: ThreadPace | None = None
        self._speed: SpeedWatch | None = None
        self._plan = plan
        if not config.optimization.minutes or is_gpu(device) or processes > 1:
            return
        if plan is not None:
            self._speed = SpeedWatch(plan.seconds_a_step)
        most = torch.get_num_threads()
        if self.threads is None and most > 1:
            self.threads = plan.threads if plan is not None and plan.threads <= most else most
            self._pace = ThreadPace(thread_counts(most), self.threads)

    @property
    def seconds_a_step(self) -> float | None:
        """The time that the plan counts on, if there is one."""
        return None if self._plan is None else self._plan.seconds_a_step

    def step_done(self, seconds: float) -> bool:
        """Take note of a step's time, and set the threads for the next; gives whether they changed."""
        if self._pace is None or not self._pace.step_done(seconds):
            return False
        self.threads = self._pace.count
        torch.set_num_threads(self.threads)
        return True

    def plan_anew(self, seconds: float, config: TrainConfig, step: int, seconds_left: float) -> Plan | None:
        """A plan for the rest of the run, if steps have come to take half or twice the time that was planned.

        Args:
            seconds: the time of the last step.
            config: the run's settings.
            step: how many steps are done.
            seconds_left: the time that is left for steps.
        """
        if self._speed is None or self._plan is None or not self._speed.step_done(seconds):
            return None
        self._plan = self._plan.anew(config, step, self._speed.planned, max(seconds_left, 0.0))
        return self._plan
