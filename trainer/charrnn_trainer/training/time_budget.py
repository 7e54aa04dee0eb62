"""A plan for a time budget: measures how fast this machine learns, and lets the `rule` choose by that."""

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
"""The seconds that are counted on between a plan and the first step, and for saving at the end."""

_MEASURING: Final = 0.08
"""Of a time budget, measuring takes about this share at most; the rest is reckoned from what was measured."""


@dataclass(frozen=True)
class Plan:
    """What was chosen, and by which figures.

    Attributes:
        config: all settings.
        words: what was chosen and why, in one line.
        seconds_a_step: the time that a step takes, as measured.
        threads: the CPU threads with which it was the least.
        fixed: the names of the settings that were given.
        task: what there is to learn.
        validations: how many validations there is time for on the way.
    """

    config: TrainConfig
    words: str
    seconds_a_step: float
    threads: int
    fixed: frozenset[str]
    task: Task
    validations: int

    def anew(self, config: TrainConfig, step: int, seconds_a_step: float, seconds: float) -> Plan:
        """The plan for the rest of a run whose steps take another time than was planned.

        What follows from the number of steps is chosen again; what shapes the network stays. (To start over
        with a smaller network would give away what was learned, for a load that may end the next minute.)

        Args:
            config: the run's settings.
            step: how many steps are done.
            seconds_a_step: the time that a step takes now.
            seconds: the time that is left for steps.
        """
        steps = min(step + seconds / seconds_a_step, config.optimization.steps)
        values = derived(config, steps, self.task)
        if step >= config.optimization.warmup_steps:
            values.pop("warmup_steps", None)  # the rate would fall, and rise again
        config = replace_open(config, self.fixed, {**values, **_looks(steps, self.validations)})
        network = config.network
        words = (
            f"a step takes {seconds_a_step:.3g} s now, and {self.seconds_a_step:.3g} s were planned: about "
            f"{counted(round(steps - step), 'more step')}, dropout {network.dropout:g}, "
            f"weight drop {network.weight_drop:g}, learning rate {config.optimization.learning_rate:g}"
        )
        return Plan(config, words, seconds_a_step, self.threads, self.fixed, self.task, self.validations)


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
    """The settings that give the best network that ``config.optimization.minutes`` can give on this machine.

    From the time go what was spent before, what validating at the end takes (on all of the validation text,
    where that is at most `WHOLE_SHARE` of the time), and `SHARE` of it for validations on the way, on a
    sample of `SAMPLE` characters.

    Args:
        config: settings, of which those named in ``fixed`` stay, and the time above 0.
        fixed: the names of settings that were given.
        train_tokens: how many characters the text has for training.
        vocabulary_size: V.
        validation: the rows of the validation text, if it has one.
        processes: how many train together; what their exchange of gradients takes is not measured.
        began: what `time.perf_counter` gave when the command began; None is now.
        fine_tunes: whether the network has learned another text before.
        line_length: of a list, the mean length of a line, with its newline; 0 for other texts.
    """
    task = Task(train_tokens, vocabulary_size, processes, fine_tunes, line_length)
    if "val_sample" not in fixed:
        config = config.replace(val_sample=SAMPLE)
    machine = Measured(task, validation, RunClock(began))
    choice = choose(config, fixed, task, machine)
    looks = _looks(choice.steps, machine.validations(choice.config))
    planned = replace_open(choice.config, fixed, looks)
    if machine.compute_mode is not None and machine.seconds_to_measure(config) <= 0.0:
        settled = {"precision": machine.compute_mode.precision, "onednn": machine.compute_mode.onednn}
        planned = replace_open(planned, fixed, settled)  # measuring it again would take time that is short
    return Plan(
        planned,
        _words(choice, fixed, task, machine),
        machine.seconds_a_step(choice.config),
        machine.threads(choice.config),
        frozenset(fixed),
        task,
        machine.validations(choice.config),
    )


def _words(choice: Choice, fixed: Collection[str], task: Task, machine: Measured) -> str:
    """What was chosen, and whether the time or the number of steps ends the run."""
    config, network, optimization = choice.config, choice.config.network, choice.config.optimization
    minutes, steps, given = optimization.minutes, max(1, round(choice.steps)), "steps" in fixed
    in_time = machine.seconds_for_steps(config) / machine.seconds_a_step(config)
    if choice.steps < in_time:
        taken = f"about {minutes * choice.steps / in_time:.2g} of the {counted(minutes, 'minute')}"
        take, are = ("takes", "is") if steps == 1 else ("take", "are")
        length = (
            f"the {counted(steps, 'step')} given {take} {taken}"
            if given
            else f"{counted(steps, 'step')} {are} enough, and {take} {taken}"
        )
    else:
        length = f"{counted(minutes, 'minute')} {'is' if minutes == 1 else 'are'} about "
        if not given:
            length += counted(steps, "step")
        elif optimization.steps == 1:
            length += "the 1 step given"
        else:
            length += f"{steps:,} of the {optimization.steps:,} steps given"
    return (
        f"{length}: {network.cell.upper()}, {network.layers} x {network.hidden_size}, "
        f"{passes_over_text(config, choice.steps, task):.1f} passes over the text, "
        f"dropout {network.dropout:g}, weight drop {network.weight_drop:g}, "
        f"learning rate {optimization.learning_rate:g}"
    )


def _looks(steps: float, validations: int) -> dict[str, Any]:
    """How often a run of ``steps`` steps validates, saves and reports."""
    every = round(steps / (validations + 1)) if validations else MOST_STEPS
    return {
        "eval_every": max(1, every),
        "save_every": max(1, round(steps / 3)),
        "log_every": max(1, round(steps / 30)),
    }


@dataclass
class _Speed:
    """What was measured of one network."""

    seconds_a_step: float
    threads: int
    work: float
    reading: ReadingTimes = field(default_factory=ReadingTimes)


class Measured:
    """How fast steps and validations run on this machine (`rule.Machine`).

    A step is timed as PyTorch runs it by itself and with nothing dropped. So a plan counts on a few more
    steps than dropping leaves on a CPU, and on fewer than a CUDA graph gives on a GPU; the schedule follows
    the clock, and ends with the time in any case.
    """

    def __init__(self, task: Task, validation: HeldOut | None, clock: RunClock) -> None:
        self._vocabulary_size, self._processes = task.vocabulary_size, task.processes
        self._line_length = task.line_length
        self._validation, self._clock = validation, clock
        self.compute_mode: ComputeMode | None = None
        self._known: dict[tuple[Any, ...], _Speed] = {}
        self._began = clock.spent()

    def seconds_a_step(self, config: TrainConfig) -> float:
        """The median of three steps, after one that prepares what the others reuse."""
        return self._speed(config).seconds_a_step

    def threads(self, config: TrainConfig) -> int:
        """The CPU threads with which that was the least; those that were given, where they were."""
        return self._speed(config).threads

    def seconds_to_measure(self, config: TrainConfig) -> float:
        """The time that is left for measuring."""
        return _MEASURING * 60.0 * config.optimization.minutes - (self._clock.spent() - self._began)

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """The time, without what is spent already, and what validating takes."""
        seconds = 60.0 * config.optimization.minutes
        share = SHARE if self.validations(config) else 0.0
        left = seconds * (1.0 - share) - self._clock.spent() - _STARTING - self._at_end(config)
        return max(left, 0.1 * seconds)

    def validations(self, config: TrainConfig) -> int:
        """How many validations on the way fit into their share of the time."""
        if self._validation is None:
            return 0
        rows = sample_rows(self._validation, config.data.val_sample)
        once = self._speed(config).reading.expected(rows)
        return min(MOST, int(SHARE * 60.0 * config.optimization.minutes / once))

    def _at_end(self, config: TrainConfig) -> float:
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
            self._known[key] = self._reckoned(config) or self._measured(config)
        return self._known[key]

    def _reckoned(self, config: TrainConfig) -> _Speed | None:
        """What the network that is nearest in work lets expect, where no time is left to measure this one."""
        if not self._known:
            return None
        work = self._work(config)
        known = min(self._known.values(), key=lambda speed: abs(math.log(speed.work / work)))
        seconds = known.seconds_a_step * work / known.work
        if TIMED_STEPS * seconds < self.seconds_to_measure(config):
            return None
        return self._speed_of(config, seconds, known.threads)

    def _work(self, config: TrainConfig) -> float:
        """How many numbers a step multiplies, but for a factor."""
        network, data = config.network, config.data
        weights = recurrent_weights(network, self._vocabulary_size)
        weights += network.hidden_size * self._vocabulary_size
        return weights * data.batch_size * data.seq_length

    def _speed_of(self, config: TrainConfig, seconds: float, count: int) -> _Speed:
        """A speed, with validations that take as long for a character as steps do."""
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
            # Batches of a list are as large and take fewer turns, for which a GRU above all takes less time.
            rows = config.data.batch_size * config.data.seq_length // self._line_length
            config = config.replace(batch_size=rows, seq_length=self._line_length)
        if self.compute_mode is None:
            self.compute_mode = choose_compute_mode(config, self._vocabulary_size, device).compute_mode
        network = CharNetwork(config.network, self._vocabulary_size).to(device)
        open_ = threads_are_open(config, device, self._processes)
        limit = self.seconds_to_measure(config)
        count, seconds = time_steps(network, config, self.compute_mode, device, open_=open_, limit=limit)
        return self._speed_of(whole, seconds, count)
