"""The plan for a time budget: measures this machine's training speed, and applies the `rule`."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.counting import counted
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.held_out import (
    MOST,
    SAMPLE,
    SHARE,
    WHOLE_SHARE,
    HeldOut,
    ReadingTimes,
    sample_rows,
)
from charrnn_trainer.training.precision import ComputeMode, choose_compute_mode
from charrnn_trainer.training.rule import (
    Choice,
    Task,
    choose,
    derived,
    passes_over_text,
    recurrent_weights,
    replace_open,
)
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.step_timing import TIMED_STEPS, threads_are_open, time_steps
from charrnn_trainer.training.torch_settings import (
    choose_device,
    freed_memory_kept,
    own_random,
    threads,
)

_STARTING: Final = 2.0
"""Seconds allowed between the plan and the first step, and for saving at the end."""

_MEASURING: Final = 0.08
"""Measuring takes at most about this share of a time budget; further speeds are estimated."""


@dataclass(frozen=True)
class Plan:
    """The settings chosen for a time budget, and the figures behind them.

    Attributes:
        config: all settings.
        words: the choice and its reason, in one line.
        seconds_per_step: the measured step time.
        threads: the number of CPU threads with which it was measured.
        fixed: the names of the settings that were given.
        task: the training task.
        validations: the number of validations during training that the time allows.
    """

    config: TrainConfig
    words: str
    seconds_per_step: float
    threads: int
    fixed: frozenset[str]
    task: Task
    validations: int

    def anew(self, config: TrainConfig, step: int, seconds_per_step: float, seconds: float) -> Plan:
        """Revise the plan for the rest of a run whose steps take more or less time than planned.

        Settings that follow from the number of steps are chosen anew; the architecture stays. (Starting over
        with a smaller network would discard what was learned, for a load that may soon end.)

        Args:
            config: the run's settings.
            step: the number of steps done.
            seconds_per_step: the current step time.
            seconds: the time left for steps.
        """
        steps = min(step + seconds / seconds_per_step, config.optimization.steps)
        values = derived(config, steps, self.task)
        if step >= config.optimization.warmup_steps:
            values.pop("warmup_steps", None)  # the learning rate would drop and rise again
        config = replace_open(config, self.fixed, {**values, **_intervals(steps, self.validations)})
        network = config.network
        words = (
            f"steps now take {seconds_per_step:.3g} s instead of the planned {self.seconds_per_step:.3g} s; "
            f"about {counted(round(steps - step), 'step')} left: dropout {network.dropout:g}, "
            f"weight drop {network.weight_drop:g}, learning rate {config.optimization.learning_rate:g}"
        )
        return Plan(config, words, seconds_per_step, self.threads, self.fixed, self.task, self.validations)


def plan_for_minutes(
    config: TrainConfig,
    fixed: Collection[str],
    train_tokens: int,
    vocabulary_size: int,
    *,
    validation: HeldOut | None = None,
    processes: int = 1,
    began: float | None = None,
    fine_tunes: bool = False,
    line_length: int = 0,
) -> Plan:
    """Choose the settings for the best network that this machine can train in
    ``config.optimization.minutes``.

    The time for steps excludes the time already spent, the validation at the end (on the whole validation
    text, if that takes at most `WHOLE_SHARE` of the time), and `SHARE` of the time for validations during
    training, on a sample of `SAMPLE` characters.

    Args:
        config: settings, of which those named in ``fixed`` stay; ``minutes`` must be above 0.
        fixed: the names of the settings that were given.
        train_tokens: the number of characters for training.
        vocabulary_size: V.
        validation: the rows of the validation text, if there is one.
        processes: the number of processes that train together; their exchange of gradients is not timed.
        began: the value of `time.perf_counter` at the start of the command; None for now.
        fine_tunes: whether the network was trained on another text before.
        line_length: for a list, the mean length of a line, including its newline; 0 for other texts.
    """
    task = Task(train_tokens, vocabulary_size, processes, fine_tunes, line_length)
    if "val_sample" not in fixed:
        config = config.replace(val_sample=SAMPLE)
    machine = Measured(task, validation, RunClock(began))
    choice = choose(config, fixed, task, machine)
    intervals = _intervals(choice.steps, machine.validations(choice.config))
    planned = replace_open(choice.config, fixed, intervals)
    if machine.compute_mode is not None and machine.seconds_to_measure(config) <= 0.0:
        settled = {"precision": machine.compute_mode.precision, "onednn": machine.compute_mode.onednn}
        planned = replace_open(planned, fixed, settled)  # no time left to measure again
    return Plan(
        planned,
        _words(choice, fixed, task, machine),
        machine.seconds_per_step(choice.config),
        machine.threads(choice.config),
        frozenset(fixed),
        task,
        machine.validations(choice.config),
    )


def _words(choice: Choice, fixed: Collection[str], task: Task, machine: Measured) -> str:
    """The choice, and whether time or steps end the run, in words."""
    config, network, optimization = choice.config, choice.config.network, choice.config.optimization
    minutes, steps, given = optimization.minutes, max(1, round(choice.steps)), "steps" in fixed
    in_time = machine.seconds_for_steps(config) / machine.seconds_per_step(config)
    if choice.steps < in_time:
        taken = f"about {minutes * choice.steps / in_time:.2g} of the {counted(minutes, 'minute')}"
        take, are = ("takes", "is") if steps == 1 else ("take", "are")
        length = (
            f"the {counted(steps, 'requested step')} {take} {taken}"
            if given
            else f"{counted(steps, 'step')} {are} enough and {take} {taken}"
        )
    else:
        length = f"{counted(minutes, 'minute')} {'allows' if minutes == 1 else 'allow'} about "
        if not given:
            length += counted(steps, "step")
        elif optimization.steps == 1:
            length += "the 1 requested step"
        else:
            length += f"{steps:,} of the {optimization.steps:,} requested steps"
    return (
        f"{length}: {network.cell.upper()}, {network.layers} x {network.hidden_size}, "
        f"{passes_over_text(config, choice.steps, task):.1f} passes over the text, "
        f"dropout {network.dropout:g}, weight drop {network.weight_drop:g}, "
        f"learning rate {optimization.learning_rate:g}"
    )


def _intervals(steps: float, validations: int) -> dict[str, Any]:
    """The intervals at which a run of ``steps`` steps validates, saves and reports."""
    every = round(steps / (validations + 1)) if validations else MOST_STEPS
    return {
        "eval_every": max(1, every),
        "save_every": max(1, round(steps / 3)),
        "log_every": max(1, round(steps / 30)),
    }


@dataclass
class _Speed:
    """The measured speed of one network."""

    seconds_per_step: float
    threads: int
    work: float
    reading: ReadingTimes = field(default_factory=ReadingTimes)


class Measured:
    """The measured speed of steps and validations on this machine (`rule.Machine`).

    Steps are timed without CUDA graphs and without dropout. A plan therefore assumes a few more steps than
    dropout allows on a CPU, and fewer than a CUDA graph allows on a GPU; the schedule follows the clock and
    always ends on time.
    """

    def __init__(self, task: Task, validation: HeldOut | None, clock: RunClock) -> None:
        self._vocabulary_size, self._processes = task.vocabulary_size, task.processes
        self._line_length = task.line_length
        self._validation, self._clock = validation, clock
        self.compute_mode: ComputeMode | None = None
        self._known: dict[tuple[Any, ...], _Speed] = {}
        self._began = clock.spent()

    def seconds_per_step(self, config: TrainConfig) -> float:
        """The median step time after one warm-up step."""
        return self._speed(config).seconds_per_step

    def threads(self, config: TrainConfig) -> int:
        """The fastest number of CPU threads, or the number that was given."""
        return self._speed(config).threads

    def seconds_to_measure(self, config: TrainConfig) -> float:
        """The time left for measuring."""
        return _MEASURING * 60.0 * config.optimization.minutes - (self._clock.spent() - self._began)

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """The budget without the time already spent and the time for validations."""
        seconds = 60.0 * config.optimization.minutes
        share = SHARE if self.validations(config) else 0.0
        left = (
            seconds * (1.0 - share) - self._clock.spent() - _STARTING - self._final_validation_seconds(config)
        )
        return max(left, 0.1 * seconds)

    def validations(self, config: TrainConfig) -> int:
        """The number of validations during training that fit into their share of the time."""
        if self._validation is None:
            return 0
        rows = sample_rows(self._validation, config.data.val_sample)
        once = self._speed(config).reading.expected(rows)
        return min(MOST, int(SHARE * 60.0 * config.optimization.minutes / once))

    def _final_validation_seconds(self, config: TrainConfig) -> float:
        """The time for the validation at the end."""
        if self._validation is None:
            return 0.0
        reading = self._speed(config).reading
        rows = sample_rows(self._validation, config.data.val_sample)
        whole = reading.expected(self._validation)
        if rows is self._validation:
            return whole
        return reading.expected(rows) + min(whole, WHOLE_SHARE * 60.0 * config.optimization.minutes)

    def _speed(self, config: TrainConfig) -> _Speed:
        key = (config.network, config.data.batch_size, config.data.seq_length)
        if key not in self._known:
            self._known[key] = self._estimated(config) or self._measured(config)
        return self._known[key]

    def _estimated(self, config: TrainConfig) -> _Speed | None:
        """An estimate from the measured network of the most similar cost, if there is no time to measure."""
        if not self._known:
            return None
        work = self._work(config)
        known = min(self._known.values(), key=lambda speed: abs(math.log(speed.work / work)))
        seconds = known.seconds_per_step * work / known.work
        if TIMED_STEPS * seconds < self.seconds_to_measure(config):
            return None
        return self._speed_of(config, seconds, known.threads)

    def _work(self, config: TrainConfig) -> float:
        """The cost of a step: its multiplications, up to a constant factor."""
        network, data = config.network, config.data
        weights = recurrent_weights(network, self._vocabulary_size)
        weights += network.hidden_size * self._vocabulary_size
        return weights * data.batch_size * data.seq_length

    def _speed_of(self, config: TrainConfig, seconds: float, count: int) -> _Speed:
        """A speed that assumes that validations take as long per character as steps."""
        speed = _Speed(seconds, count, self._work(config))
        if self._validation is not None:
            several = (self._validation, sample_rows(self._validation, config.data.val_sample))
            speed.reading.assume(seconds / (config.data.batch_size * config.data.seq_length), *several)
        return speed

    def _measured(self, config: TrainConfig) -> _Speed:
        device = choose_device(config.run.device)
        with own_random(device), threads(config.run.threads), freed_memory_kept():
            return self._measure(config, device)

    def _measure(self, whole: TrainConfig, device: torch.device) -> _Speed:
        config = whole.replace(batch_size=max(1, whole.data.batch_size // self._processes))
        if 0 < self._line_length < config.data.seq_length:
            # Batches of lines have the same size but fewer time steps, which speeds up above all a GRU.
            rows = config.data.batch_size * config.data.seq_length // self._line_length
            config = config.replace(batch_size=rows, seq_length=self._line_length)
        if self.compute_mode is None:
            self.compute_mode = choose_compute_mode(config, self._vocabulary_size, device).compute_mode
        network = CharNetwork(config.network, self._vocabulary_size).to(device)
        open_ = threads_are_open(config, device, self._processes)
        limit = self.seconds_to_measure(config)
        count, seconds = time_steps(network, config, self.compute_mode, device, open_=open_, limit=limit)
        return self._speed_of(whole, seconds, count)
