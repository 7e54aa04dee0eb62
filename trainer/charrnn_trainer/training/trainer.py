"""The training loop: truncated back-propagation through time over streams of text.

It reports what happens as events to whoever listens, and never prints.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format.spec import DEFAULT_TEMPERATURE
from charrnn_trainer.config import TrainConfig
from charrnn_trainer.data.batches import Streams
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.data.lines import LineSplit, split_lines
from charrnn_trainer.data.split import Split, split_text
from charrnn_trainer.nn.first_guess import guess_by_frequency
from charrnn_trainer.nn.network import CharNetwork, State, write_sample
from charrnn_trainer.nn.weight_growth import grow_weights
from charrnn_trainer.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointHeader,
    CorpusInfo,
    Evaluation,
    Kind,
    checkpoint_name,
    load_checkpoint,
    save_checkpoint,
)
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.training.cuda_graph import choose_step
from charrnn_trainer.training.device_batches import HostBatches, batches_on
from charrnn_trainer.training.distributed import ProcessGroup
from charrnn_trainer.training.events import (
    Listener,
    Logged,
    Notice,
    Saved,
    Started,
    Stepped,
    TrainResult,
    Validated,
    ValidatedWhole,
    ignore,
)
from charrnn_trainer.training.held_out import SHARE, WHOLE_SHARE, HeldOut, ReadingTimes, sample_rows
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.schedule import learning_rate
from charrnn_trainer.training.step import StepFunction, TrainStep
from charrnn_trainer.training.stopping import why_ended
from charrnn_trainer.training.time_budget import Plan
from charrnn_trainer.training.torch_settings import (
    freed_memory_kept,
    is_gpu,
    own_random,
    random_states,
    seeded_states,
    set_random_states,
    threads,
)
from charrnn_trainer.training.validation import validation_loss
from charrnn_trainer.training.watch import Watch
from charrnn_trainer.version import __version__

_EXPLODED: Final = 10.0
"""A loss of so many times that of guessing blindly, ln V, ends a run."""

_SAVE_AFTER: Final = 120.0
"""So many seconds after the last checkpoint, another one is saved, which the next replaces."""

_TOO_LATE: Final = 0.9
"""When so much of a run is over, its plan stays what it is."""

_LATE: Final = 0.03
"""The validation at the end may take the time that is left of a budget, and this share of it more."""

_AHEAD: Final = 8
"""A GPU has at most so many steps before it that it has not done: enough never to wait for the host, and few
enough for the clock of a time budget to be right."""


class DivergedError(CharRNNError):
    """The loss or the gradient is not a finite number any more, or the loss has exploded."""


def _split(corpus: Corpus, config: TrainConfig) -> Split | LineSplit:
    """Which part of the text is for what."""
    if config.data.lines:
        return split_lines(corpus, config.data, config.run.seed)
    return split_text(len(corpus), config.data)


def _streams(
    corpus: Corpus, split: Split | LineSplit, config: TrainConfig, group: ProcessGroup
) -> Streams | LineBatches:
    """The batches of this process."""
    data, seed = config.data, config.run.seed
    if isinstance(split, LineSplit):
        share = (group.rank, group.size)
        return LineBatches(split.training, data.batch_size, data.seq_length, seed, share)
    at_end = data.split == "end"
    return Streams(
        corpus.ids[: split.train_tokens] if at_end else corpus.ids,
        data.batch_size,
        data.seq_length,
        seed=seed if data.random_start else None,
        rows=group.rows(data.batch_size),
        split=None if at_end else split,
    )


# --- the loop ----------------------------------------------------------------------------------------------


class Trainer:
    """A network that is being trained, and all that its next step depends on."""

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
        """Prepare for settings in which nothing is left open."""
        self._emit: Listener = on_event or ignore
        self._group = group
        self._corpus, self._run = corpus, run
        self._split = _split(corpus, config)
        self._validates = self._split.validation_tokens > 0
        self._all_rows = self._split.rows()
        self._rows_on_the_way = sample_rows(self._all_rows, config.data.val_sample)
        self._device = group.device(config.run.device)
        self.config = config
        data = config.data
        self._rows = group.rows(data.batch_size)
        self._streams = _streams(corpus, self._split, config, group)
        self._step = 0
        self._done = 0.0  # the share of the run that lies behind
        self._clock = clock
        self._saved_at = time.perf_counter()
        self._reading = ReadingTimes()
        self._validating = 0.0  # the seconds that validations on the way took
        self._whole: tuple[int, float] | None = None  # the best step, and its loss over all rows
        self._watch = Watch(config, plan, self._device, group.size)
        self._rate = config.optimization.learning_rate
        self._loss: float | None = None  # the last step's, where it is known already
        self._window = (0.0, 0)  # the sum and the number of losses since the last report
        self._logged_loss: float | None = None
        self._evaluations: list[Evaluation] = []
        self._pending: list[tuple[int, Tensor, Tensor, float, float]] = []
        self._seconds: list[float] = []
        self._underway: collections.deque[torch.cuda.Event] = collections.deque()
        self._compute_mode = ComputeMode(config.run.precision, bool(config.run.onednn))
        # Every random number of the training comes from the seed, and the caller's generators stay theirs.
        with own_random(self._device):
            torch.manual_seed(config.run.seed)
            self._network = CharNetwork(config.network, len(corpus.vocabulary)).to(self._device)
            guess_by_frequency(self._network, self._split.training_windows(corpus.ids))
            self._random = random_states(self._device)
        self._draw_apart()
        self._state: State = self._network.initial_state(self._rows.stop - self._rows.start)
        characters = None
        if isinstance(self._streams, LineBatches):  # the mean over all processes counts
            characters = self._streams.characters_per_batch / group.size
        self._train_step = TrainStep(
            self._network, config.optimization, self._compute_mode, self._device, characters
        )
        self._learn: StepFunction = self._train_step.learn
        self._batches = batches_on(self._device, self._streams)

    def take_weights(self, checkpoint: Checkpoint) -> None:
        """Start from the weights of a checkpoint."""
        grown = grow_weights(checkpoint, self._corpus.vocabulary, self.config.run.seed)
        self._network.load_weights(grown)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was saved."""
        if checkpoint.batches_per_pass != self._streams.batches_per_pass:
            raise CheckpointError(f"{checkpoint.path} was trained on a text of another length")
        self._step = checkpoint.step
        self._clock.go_on_from(checkpoint.seconds or 0.0, checkpoint.prepared or 0.0)
        self._window = checkpoint.window
        self._logged_loss = checkpoint.train_loss
        self._evaluations = list(checkpoint.evaluations)
        self._network.load_weights(checkpoint)
        self._state = tuple(
            checkpoint.tensors[f"state.{part}"][:, self._rows].to(self._device)  # (L, all B, H) -> (L, B, H)
            for part in ("h", "c")[: len(self._state)]
        )
        self._train_step.restore_optimizer(checkpoint.part("optimizer."))
        self._random = {**self._random, **checkpoint.part("random.")}
        self._draw_apart()
        if self._run is not None:
            self._run.cut_history(checkpoint.step)
            self._remove_superseded()

    def _draw_apart(self) -> None:
        """Let all processes but the first draw random numbers of their own, by their number and the step.

        What the first one draws is what a process alone would, and what checkpoints keep.
        """
        if not self._group.is_main:
            place = (self.config.run.seed, self._group.rank, self._step)
            self._random = seeded_states(place, self._device)

    def run_steps(self, should_stop: Callable[[], bool] | None) -> TrainResult:
        """Train up to the end of the run, or until ``should_stop`` says so."""
        if self.config.optimization.minutes:
            self._keep_time_for_the_end()
        self._clock.begin_steps()
        self._look_at_clock()
        if isinstance(self._split, LineSplit):
            self._emit(Notice(self._split.words))
        self._emit(
            Started(
                self.config,
                self._step,
                self._done,
                self._network.parameter_count(),
                self._split.train_tokens,
                self._split.validation_tokens,
                str(self._device),
                self._run.folder if self._run else None,
                self._write,
            )
        )
        stopped = False
        self._network.train()
        self._train_step.model = self._group.wrap(self._network)
        with (
            own_random(self._device),
            threads(self._watch.threads),
            freed_memory_kept(),
            _quiet_about_weights(self._device),
        ):
            set_random_states(self._random, self._device)
            ended = self._why_ended() is not None
            if not ended and is_gpu(self._device):
                self._prepare_gpu()
            while not ended and not stopped:
                self._take_step()
                ended = self._look_up()
                stopped = not ended and self._group.agree(should_stop is not None and should_stop())
            self._flush_losses()
            if stopped:
                self._save("interrupted")
            self._random = random_states(self._device)
        if self._run is not None:
            self._run.flush_history()
        self._say_if_patience_ended()
        self._network.eval()
        return TrainResult(
            self._network,
            self.config,
            self._step,
            stopped,
            self._train_loss(),
            tuple(self._evaluations),
            self._whole[1] if self._whole else None,
            self._run.folder if self._run else None,
        )

    # --- a step --------------------------------------------------------------------------------------------

    def _take_step(self) -> None:
        begin = time.perf_counter()
        inputs, targets = self._batches.batch(self._step)  # (B, T)
        self._forget_some(len(inputs))
        self._rate = learning_rate(self.config.optimization, self._step, self._done)
        self._train_step.set_rate(self._rate)
        loss, norm, self._state = self._learn(inputs, targets, self._state)
        self._step += 1
        on_gpu = is_gpu(self._device)
        if on_gpu:
            self._wait_if_far_ahead()
        seconds = time.perf_counter() - begin
        self._seconds.append(seconds)
        self._pending.append((self._step, loss, norm, self._rate, seconds))
        if not on_gpu:  # there, asking for a loss waits for the device
            self._flush_losses()
        self._look_at_clock()
        self._emit(Stepped(self._step, None if on_gpu else self._loss, self._rate, seconds, self._done))
        self._watch_speed(seconds)

    def _watch_speed(self, seconds: float) -> None:
        """Let threads and plan follow what steps take."""
        if self._watch.step_done(seconds) and self._run is not None:
            self._run.note(step=self._step, threads=self._watch.threads)
        if self._done > _TOO_LATE:
            return
        left = self._clock.left_for_steps(self.config.optimization)
        plan = self._watch.plan_anew(seconds, self.config, self._step, left)
        if plan is None:
            return
        self._emit(Notice(plan.words))
        self.config = plan.config
        self._network.drop_as(plan.config.network)
        self._keep_time_for_the_end()
        if self._run is not None:
            self._run.write_config(dataclasses.replace(self._run.read_config(), config=plan.config))

    def _forget_some(self, rows: int) -> None:
        """Let the streams that begin anew with the next batch, of so many rows, start from nothing."""
        if self._streams.starts_anew(self._step):
            self._state = self._network.initial_state(rows)
        if isinstance(self._streams, LineBatches):
            return
        if self.config.data.reset_chance:
            stays = torch.rand(rows, device=self._device) >= self.config.data.reset_chance
            self._state = tuple(part * stays[:, None] for part in self._state)  # (L, B, H) * (B, 1)

    def _flush_losses(self) -> None:
        """Ask for the losses of the steps since the last time, note them, and stop where one is no number."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        losses = self._group.mean(torch.stack([loss for _, loss, _, _, _ in pending])).tolist()
        norms = torch.stack([norm for _, _, norm, _, _ in pending]).tolist()
        highest = _EXPLODED * math.log(self._network.vocabulary_size)
        for (step, _, _, rate, seconds), loss, norm in zip(pending, losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm) and loss <= highest):
                raise self._diverged(step, loss, norm)
            self._window = (self._window[0] + loss, self._window[1] + 1)
            self._loss = loss
            if self._run is not None:
                self._run.note(
                    step=step, loss=loss, learning_rate=rate, gradient_norm=norm, seconds=round(seconds, 6)
                )

    def _diverged(self, step: int, loss: float, norm: float) -> DivergedError:
        what = "the gradient is not finite" if math.isfinite(loss) and not math.isfinite(norm) else None
        kept: list[Path] = []
        if self._run is not None:
            self._run.flush_history()  # it shows how it came to this
            kept = self._run.checkpoints()
        optimization = self.config.optimization
        rate = f"--learning-rate {optimization.learning_rate / 3:.2g}"
        clip = "a lower --clip" if optimization.clip else "--clip 1"
        way_on = (
            f"; the last good checkpoint is {kept[-1]}: --init-from it with {rate} goes on" if kept else ""
        )
        return DivergedError(
            f"training diverged at step {step}: {what or f'the loss is {loss:.4g}'}; try a lower rate "
            f"({rate}), {clip}, or --warmup-steps{way_on}"
        )

    # --- on a GPU ------------------------------------------------------------------------------------------

    def _prepare_gpu(self) -> None:
        """Say where batches are cut, and find out whether a step runs better as a graph."""
        if isinstance(self._streams, LineBatches):
            return  # batches differ in shape, and a graph has one
        if isinstance(self._batches, HostBatches):
            self._emit(Notice("the text is large for this GPU, so that its batches come from the host"))
        if self._group.size > 1:
            return  # the exchange of gradients has its own way of waiting
        self._train_step.set_rate(learning_rate(self.config.optimization, self._step, self._done))
        choice = choose_step(self._train_step, self._network, self._batches, self._step, self._state)
        self._learn = choice.learn
        self._emit(Notice(choice.words))

    def _wait_if_far_ahead(self) -> None:
        """Wait until the GPU has done the step that was begun `_AHEAD` steps ago."""
        event = torch.cuda.Event()
        event.record()
        self._underway.append(event)
        if len(self._underway) > _AHEAD:
            self._underway.popleft().synchronize()

    # --- looking up from the steps -------------------------------------------------------------------------

    def _look_up(self) -> bool:
        """Report, validate and save where that is due; gives whether the run has ended."""
        run = self.config.run
        ended = self._why_ended() is not None
        save_due = self._step % run.save_every == 0
        log_due = self._step % run.log_every == 0
        logged = ended or log_due
        if logged:
            self._log(close=log_due)
        best = False
        if self._validates and (ended or self._validation_is_due(save_due=save_due)):
            best = self._evaluate(on_the_way=not ended)
            self._look_at_clock()
            ended = ended or self._why_ended() is not None
            if ended and not logged:
                self._log(close=False)
        if ended:
            self._read_whole()
        if save_due:
            self._save("scheduled")
        elif ended:
            self._save("last")
        elif best:
            self._save("best")
        elif self._group.size == 1 and time.perf_counter() - self._saved_at >= _SAVE_AFTER:
            self._save("timed")
        return ended

    def _validation_is_due(self, *, save_due: bool) -> bool:
        run, minutes = self.config.run, self.config.optimization.minutes
        due = self._step % run.eval_every == 0
        if not minutes:
            return due or save_due
        if not due:
            return False
        seconds = self._validating + self._reading.expected(self._rows_on_the_way)
        return self._group.agree(seconds <= SHARE * 60.0 * minutes)

    def _keep_time_for_the_end(self) -> None:
        """Reserve the time for the validations at the end: measured, or as a plan has it."""
        if not self._validates:
            return
        if self._watch.seconds_a_step is None:
            with (
                threads(self._watch.threads),
                ComputeMode("fp32", self._compute_mode.onednn).on(self._device),
            ):
                for rows in (self._rows_on_the_way, self._all_rows):
                    self._reading.measure(self._network, rows)
        else:
            data = self.config.data
            seconds = self._watch.seconds_a_step / (data.batch_size * data.seq_length)
            self._reading.assume(seconds, self._rows_on_the_way, self._all_rows)
        self._reserve()

    def _reserve(self) -> None:
        reading, budget = self._reading, 60.0 * self.config.optimization.minutes
        seconds = reading.expected(self._rows_on_the_way)
        if self._rows_on_the_way is not self._all_rows:
            seconds += min(reading.expected(self._all_rows), WHOLE_SHARE * budget)
        self._clock.reserved = min(seconds, 2.0 * WHOLE_SHARE * budget)

    def _why_ended(self) -> str | None:
        return why_ended(self.config, self._step, self._done, self._evaluations)

    def _say_if_patience_ended(self) -> None:
        """Say so where a run is over though neither its steps nor its time are."""
        why = self._why_ended()
        if why is not None and self._done < 1.0:
            self._emit(Notice(f"the run is over: {why}; a larger --patience, or 0 for none, goes on"))

    def _look_at_clock(self) -> None:
        """Find how much of the run lies behind, by the clock of the first process for all."""
        optimization = self.config.optimization
        done = self._clock.progress(optimization, self._step)
        done = max(self._done, done)  # less time for the end than was kept for it does not wind back the rate
        self._done = self._group.first(lambda: done) if optimization.minutes else done

    def _log(self, *, close: bool) -> None:
        self._flush_losses()
        loss = self._train_loss()
        assert loss is not None  # a step was done
        if close:
            self._logged_loss, self._window = loss, (0.0, 0)
        mean = sum(self._seconds) / len(self._seconds)
        data = self.config.data
        self._emit(Logged(self._step, loss, self._rate, mean, data.batch_size * data.seq_length / mean))
        self._seconds.clear()
        if self._run is not None:
            self._run.flush_history()

    def _train_loss(self) -> float | None:
        total, count = self._window
        return total / count if count else self._logged_loss

    def _evaluate(self, *, on_the_way: bool) -> bool:
        """Measure the validation loss; gives whether it is the best so far."""
        self._flush_losses()
        begin = time.perf_counter()
        rows = self._rows_on_the_way
        loss = self._group.first(lambda: self._validation_loss(self._network, rows))
        seconds = time.perf_counter() - begin
        self._validating += seconds if on_the_way else 0.0
        if self.config.optimization.minutes:
            self._reading.note(rows, seconds)
            self._reserve()
        if not math.isfinite(loss):
            raise self._diverged(self._step, loss, 0.0)
        best = all(loss < item.validation_loss for item in self._evaluations)
        self._evaluations.append(Evaluation(self._step, self._train_loss(), loss))
        if self._run is not None:
            self._run.note(step=self._step, validation_loss=loss, seconds=round(seconds, 6))
        self._emit(Validated(self._step, loss, best, rows.characters))
        return best

    def _validation_loss(self, network: CharNetwork, rows: HeldOut) -> float:
        # In fp32, which exported models compute in.
        with ComputeMode("fp32", self._compute_mode.onednn).on(self._device):
            return validation_loss(network, self._corpus.ids, rows)

    def _read_whole(self) -> None:
        """At the end, let the best network read the whole validation text, where a sample has chosen it."""
        best = self._best_step()
        if best is None or self._rows_on_the_way is self._all_rows:
            return
        loss = self._group.first(lambda: self._whole_loss(best))
        if loss is not None:
            self._whole = (best, loss)

    def _whole_loss(self, best: int) -> float | None:
        """The loss of the best network over all rows, or as much of them as there is time for."""
        network, checkpoint = self._network, None
        if best != self._step:
            if self._run is None:
                return None
            checkpoint = load_checkpoint(self._run.folder / checkpoint_name(self.config.network, best))
            network = CharNetwork.from_checkpoint(checkpoint).to(self._device)
        rows, minutes = self._all_rows, self.config.optimization.minutes
        if minutes:
            left = max(0.0, 60.0 * minutes - self._clock.spent())
            rows = self._reading.within(rows, left + _LATE * 60.0 * minutes)
        characters = rows.characters
        if characters <= self._rows_on_the_way.characters:
            return None  # the sample says more
        begin = time.perf_counter()
        loss = self._validation_loss(network, rows)
        seconds = round(time.perf_counter() - begin, 6)
        if checkpoint is not None:
            save_checkpoint(checkpoint.with_whole_loss(loss), checkpoint.tensors)
        if self._run is not None:
            self._run.note(
                step=self._step, best_step=best, whole_loss=loss, characters=characters, seconds=seconds
            )
        self._emit(ValidatedWhole(best, loss, characters))
        return loss

    def _best_step(self) -> int | None:
        best = min(self._evaluations, key=lambda item: item.validation_loss, default=None)
        return best.step if best else None

    def _save(self, kind: Kind) -> None:
        """Write a checkpoint, unless this step's is there already, and remove what it supersedes."""
        self._flush_losses()
        self._saved_at = time.perf_counter()
        if isinstance(self._streams, LineBatches) and self._streams.starts_anew(self._step):
            self._state = self._network.initial_state(self._rows.stop - self._rows.start)
        state = tuple(self._group.gather(part, dim=1) for part in self._state)  # (L, B, H) -> (L, all B, H)
        if self._run is None:
            return
        self._run.flush_history()  # a checkpoint never knows of steps that the history lacks
        path = self._run.folder / checkpoint_name(self.config.network, self._step)
        if kind == "interrupted" and path.exists():
            return
        measured = self._evaluations[-1] if self._evaluations else None
        timed = bool(self.config.optimization.minutes)
        header = CheckpointHeader(
            path=path,
            kind=kind,
            config=self.config,
            vocabulary=self._corpus.vocabulary,
            corpus=CorpusInfo(
                self._corpus.name, self._corpus.sha256, len(self._corpus), self._split.train_tokens
            ),
            step=self._step,
            batches_per_pass=self._streams.batches_per_pass,
            train_loss=self._train_loss(),
            validation_loss=measured.validation_loss if measured and measured.step == self._step else None,
            whole_loss=self._whole[1] if self._whole and self._whole[0] == self._step else None,
            window=self._window,
            evaluations=tuple(self._evaluations),
            seconds=round(self._seconds_to_note(), 3) if timed else None,
            prepared=round(self._clock.prepared, 3) if timed else None,
            trainer_version=__version__,
        )
        save_checkpoint(header, self._tensors(state))
        self._remove_superseded()
        self._emit(Saved(self._step, path, kind))

    def _seconds_to_note(self) -> float:
        """The time that was spent; where the run is over, all that it had, some of which was for its end."""
        spent = self._clock.spent()
        return max(spent, 60.0 * self.config.optimization.minutes) if self._done >= 1.0 else spent

    def _remove_superseded(self) -> None:
        if self._run is not None:
            self._run.remove_superseded(self._best_step(), self.config.run.keep)

    def _tensors(self, state: State) -> dict[str, Tensor]:
        tensors = {f"model.{name}": weight for name, weight in self._network.state_dict().items()}
        for name, part in self._train_step.optimizer_tensors().items():
            tensors[f"optimizer.{name}"] = part
        for name, part in zip(("h", "c"), state, strict=False):
            tensors[f"state.{name}"] = part
        for name, part in random_states(self._device).items():
            tensors[f"random.{name}"] = part
        return tensors

    def _write(self, length: int) -> str:
        """What the network writes now, from a random generator of its own."""
        vocabulary = self._corpus.vocabulary
        ids = write_sample(
            self._network,
            vocabulary.start_token,
            length,
            temperature=DEFAULT_TEMPERATURE,
            seed=self.config.run.seed + self._step,
            lines=self.config.data.lines,
        )
        return vocabulary.decode(ids)


@contextlib.contextmanager
def _quiet_about_weights(device: torch.device) -> Iterator[None]:
    """Let cuDNN gather weights that are dropped, or cast, anew in every step without a warning."""
    if not is_gpu(device):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
        yield
