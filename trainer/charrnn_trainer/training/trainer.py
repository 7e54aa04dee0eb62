"""The training loop: truncated back-propagation through time over streams of text.

It reports its progress as events to a listener, and never prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Final

import torch

from charrnn_runtime.format.spec import DEFAULT_TEMPERATURE
from charrnn_trainer.counting import counted
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.data.lines import LineSplit
from charrnn_trainer.nn.network import CharNetwork, State, write_sample
from charrnn_trainer.nn.output_bias import init_output_bias
from charrnn_trainer.runs.checkpoint import Checkpoint
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.runs.header import CheckpointError, Kind
from charrnn_trainer.runs.weight_growth import grow_weights
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.context import RunContext
from charrnn_trainer.training.device_batches import batches_on
from charrnn_trainer.training.distributed import ProcessGroup
from charrnn_trainer.training.events import Listener, Notice, Started, Stepped, TrainResult, ignore
from charrnn_trainer.training.gpu import StepQueue, choose_gpu_step
from charrnn_trainer.training.reporting import Reporter
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.saving import Saver, saved_state
from charrnn_trainer.training.schedule import learning_rate
from charrnn_trainer.training.step import StepFunction, TrainStep
from charrnn_trainer.training.stopping import why_ended
from charrnn_trainer.training.streams import split_corpus, training_streams
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.torch_settings import (
    freed_memory_kept,
    is_gpu,
    own_random,
    quiet_about_weights,
    random_states,
    seeded_states,
    set_random_states,
    threads,
)
from charrnn_trainer.training.validator import Validator
from charrnn_trainer.training.watch import Watch

_TOO_LATE: Final = 0.9
"""After this fraction of a run, its plan is no longer revised."""


class Trainer:
    """A network in training, and all state that its next step depends on."""

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        run: Run | None,
        on_event: Listener | None,
        group: ProcessGroup,
        clock: RunClock,
        plan: Plan | None = None,
    ) -> None:
        """Set up the training; all settings must be resolved."""
        device = group.device(config.run.device)
        split = split_corpus(corpus, config)
        # All random numbers come from the seed; the caller's generators are left unchanged.
        with own_random(device):
            torch.manual_seed(config.run.seed)
            network = CharNetwork(config.network, len(corpus.vocabulary)).to(device)
            init_output_bias(network, split.training_windows(corpus.ids))
            self._random = random_states(device)
        self._context = RunContext(
            config, corpus, split, run, on_event or ignore, group, clock, device, network
        )
        self._on_gpu = is_gpu(device)
        self._separate_random()
        self._rows = group.rows(config.data.batch_size)
        self._streams = training_streams(corpus, split, config, group)
        self._batches = batches_on(device, self._streams)
        self._state: State = network.initial_state(self._rows.stop - self._rows.start)
        characters = None
        if isinstance(self._streams, LineBatches):  # of one process
            characters = self._streams.characters_per_batch / group.size
        self._train_step = TrainStep(
            network, config.optimization, self._context.compute_mode, device, characters
        )
        self._learn: StepFunction = self._train_step.learn
        self._queue = StepQueue()
        self._watch = Watch(config, plan, device, group.size)
        self._reporter = Reporter(self._context)
        self._validator = Validator(self._context)
        self._saver = Saver(self._context, self._reporter, self._validator, self._train_step, self._streams)

    # --- the loop ------------------------------------------------------------------------------------------

    def run(self, should_stop: Callable[[], bool] | None) -> TrainResult:
        """Train to the end of the run, or until ``should_stop`` returns True."""
        context, reporter, validator, saver = self._context, self._reporter, self._validator, self._saver
        self._begin()
        with self._torch_settings():
            ended, stopped = self._why_ended() is not None, False
            if not ended and self._on_gpu and not isinstance(self._streams, LineBatches):
                self._learn = choose_gpu_step(context, self._train_step, self._batches, self._state)
            while not ended and not stopped:
                rate = learning_rate(context.config.optimization, context.step, context.done)
                self._take_step(rate)

                every = context.config.run
                report_due = context.step % every.log_every == 0
                save_due = context.step % every.save_every == 0
                ended = self._why_ended() is not None
                if report_due or ended:
                    reporter.report(close=report_due)

                best = False
                if validator.is_due(ended=ended, save_due=save_due):
                    best = validator.validate(reporter, ended=ended)
                    context.update_progress()
                    if not ended and self._why_ended() is not None:  # by time or patience
                        ended = True
                        if not report_due:
                            reporter.report(close=False)
                if ended:
                    validator.validate_whole()

                why_save = saver.reason_to_save(due=save_due, ended=ended, best=best)
                if why_save is not None:
                    self._save(why_save)
                stopped = not ended and context.group.agree(should_stop is not None and should_stop())
            reporter.flush_losses()
            if stopped:
                self._save("interrupted")
            self._random = random_states(context.device)
        context.flush_history()
        return self._end(stopped=stopped)

    def _take_step(self, rate: float) -> None:
        """Train on the next batch."""
        context = self._context
        begin = time.perf_counter()
        inputs, targets = self._batches.batch(context.step)  # (B, T)
        self._reset_states(len(inputs))
        self._train_step.optimizer.set_rate(rate)
        loss, norm, self._state = self._learn(inputs, targets, self._state)
        context.step += 1
        if self._on_gpu:
            self._queue.step_queued()
        seconds = time.perf_counter() - begin
        self._reporter.step_done(loss, norm, rate, seconds)
        if not self._on_gpu:  # on a GPU, reading a loss waits for the device
            self._reporter.flush_losses()
        context.update_progress()
        known = None if self._on_gpu else self._reporter.last_loss
        context.emit(Stepped(context.step, known, rate, seconds, context.done))
        self._adapt_to_speed(seconds)

    def _reset_states(self, rows: int) -> None:
        """Reset the states of streams that start anew with the next batch, of ``rows`` rows."""
        context = self._context
        if self._streams.starts_anew(context.step):
            self._state = context.network.initial_state(rows)
        if isinstance(self._streams, LineBatches):
            return
        if context.config.data.reset_chance:
            keep = torch.rand(rows, device=context.device) >= context.config.data.reset_chance
            self._state = tuple(part * keep[:, None] for part in self._state)  # (L, B, H) * (B, 1)

    def _adapt_to_speed(self, seconds: float) -> None:
        """Adapt threads and plan to the step time."""
        context = self._context
        if self._watch.step_done(seconds):
            context.note(step=context.step, threads=self._watch.threads)
        if context.done > _TOO_LATE:
            return
        left = context.clock.left_for_steps(context.config.optimization)
        plan = self._watch.plan_anew(seconds, context.config, context.step, left)
        if plan is None:
            return
        context.emit(Notice(plan.words))
        context.config = plan.config
        context.network.drop_as(plan.config.network)
        self._reserve_time()
        if context.run is not None:
            context.run.write_config(dataclasses.replace(context.run.read_config(), config=plan.config))

    def _save(self, kind: Kind) -> None:
        context = self._context
        if isinstance(self._streams, LineBatches) and self._streams.starts_anew(context.step):
            self._state = context.network.initial_state(self._rows.stop - self._rows.start)
        self._saver.save(kind, self._state)

    def _why_ended(self) -> str | None:
        context = self._context
        return why_ended(context.config, context.step, context.done, self._validator.evaluations)

    # --- before and after the loop -------------------------------------------------------------------------

    @property
    def config(self) -> TrainConfig:
        """All current settings."""
        return self._context.config

    def take_weights(self, checkpoint: Checkpoint) -> None:
        """Start from the weights of a checkpoint."""
        grown = grow_weights(checkpoint, self._context.corpus.vocabulary, self.config.run.seed)
        self._context.network.load_weights(grown.weights, checkpoint.path)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint."""
        context = self._context
        if checkpoint.batches_per_pass != self._streams.batches_per_pass:
            raise CheckpointError(f"{checkpoint.path} was trained on a text of a different length")
        context.step = checkpoint.step
        context.clock.resume_from(checkpoint.seconds or 0.0, checkpoint.prepared or 0.0)
        context.network.load_weights(checkpoint.weights, checkpoint.path)
        self._reporter.restore(checkpoint)
        self._validator.restore(checkpoint)
        self._train_step.optimizer.restore(checkpoint.part("optimizer."))
        self._state = tuple(
            part[:, self._rows].to(context.device)  # (L, all B, H) -> (L, B, H)
            for part in saved_state(checkpoint)
        )
        self._random = {**self._random, **checkpoint.part("random.")}
        self._separate_random()
        if context.run is not None:
            context.run.cut_history(checkpoint.step)
            self._saver.remove_superseded()

    def _separate_random(self) -> None:
        """Give each worker its own random numbers, derived from its rank and the step.

        The main process draws the same numbers as a single process would; checkpoints keep its generators.
        """
        context = self._context
        if not context.group.is_main:
            place = (context.config.run.seed, context.group.rank, context.step)
            self._random = seeded_states(place, context.device)

    def _begin(self) -> None:
        """Start the clock for steps, and emit `Started`."""
        context, split = self._context, self._context.split
        if context.config.optimization.minutes:
            self._reserve_time()
        context.clock.begin_steps()
        context.update_progress()
        self._warn_if_out_of_time()
        if isinstance(split, LineSplit):
            context.emit(Notice(split.words))
        context.emit(
            Started(
                context.config,
                context.step,
                context.done,
                context.network.parameter_count(),
                split.train_tokens,
                split.validation_tokens,
                str(context.device),
                context.run.folder if context.run else None,
                self._write,
            )
        )
        context.network.train()
        self._train_step.model = context.group.wrap(context.network)

    def _warn_if_out_of_time(self) -> None:
        """Emit a notice if startup and measuring used up all the time; the run still takes one step."""
        context, optimization = self._context, self.config.optimization
        if optimization.minutes and not context.step and context.clock.left_for_steps(optimization) <= 0.0:
            context.emit(
                Notice(
                    f"startup and measuring took {context.clock.spent():.0f} s and left no time of the "
                    f"{counted(optimization.minutes, 'minute')}; the run takes one step and ends late"
                )
            )

    def _reserve_time(self) -> None:
        self._validator.reserve_time(self._watch.seconds_per_step, self._watch.threads)

    @contextlib.contextmanager
    def _torch_settings(self) -> Iterator[None]:
        """Set torch's random generators, threads and memory for the steps, within a ``with`` statement."""
        device, count = self._context.device, self._watch.threads
        with own_random(device), threads(count), freed_memory_kept(), quiet_about_weights(device):
            set_random_states(self._random, device)
            yield

    def _end(self, *, stopped: bool) -> TrainResult:
        """Return the result; emit a notice if the run ended before its last step and its time."""
        context, validator = self._context, self._validator
        why = self._why_ended()
        if why is not None and context.done < 1.0:
            context.emit(
                Notice(
                    f"stopped early: {why}; to continue, give a larger patience, or 0 for none",
                    ("patience",),
                )
            )
        context.network.eval()
        return TrainResult(
            context.network,
            context.config,
            context.step,
            stopped,
            self._reporter.train_loss,
            tuple(validator.evaluations),
            validator.whole[1] if validator.whole else None,
            context.run.folder if context.run else None,
        )

    def _write(self, length: int) -> str:
        """A sample of the network's text, drawn with a separate random generator."""
        context = self._context
        vocabulary = context.corpus.vocabulary
        ids = write_sample(
            context.network,
            vocabulary.start_token,
            length,
            temperature=DEFAULT_TEMPERATURE,
            seed=context.config.run.seed + context.step,
            lines=context.config.data.lines,
        )
        return vocabulary.decode(ids)
