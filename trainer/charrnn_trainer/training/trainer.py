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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format.spec import DEFAULT_TEMPERATURE
from charrnn_trainer.config import RunFile, TrainConfig
from charrnn_trainer.data.batches import Streams, fit_batch
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.data.lines import LineSplit, split_lines
from charrnn_trainer.data.split import Split, split_text
from charrnn_trainer.data.unlike import what_is_unlike
from charrnn_trainer.export.graph.weights import check_step_model_fits
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
from charrnn_trainer.training.distributed import Team
from charrnn_trainer.training.events import (
    Evaluated,
    EvaluatedWhole,
    Event,
    Listener,
    Logged,
    Noted,
    Saved,
    Started,
    Stepped,
    TrainResult,
)
from charrnn_trainer.training.held_out import SHARE, WHOLE_SHARE, HeldOut, ReadingTimes, sample_rows
from charrnn_trainer.training.precision import Arithmetic, choose_arithmetic, has_fast_bf16, is_open
from charrnn_trainer.training.run_clock import RunClock
from charrnn_trainer.training.schedule import learning_rate
from charrnn_trainer.training.step import Learn, Learner
from charrnn_trainer.training.stopping import why_ended
from charrnn_trainer.training.time_budget import Plan, choose_threads, threads_are_open
from charrnn_trainer.training.torch_settings import (
    freed_memory_kept,
    is_gpu,
    memory_errors,
    own_random,
    random_states,
    seeded_states,
    set_random_states,
    threads,
)
from charrnn_trainer.training.validation import validation_loss
from charrnn_trainer.training.watch import Watch
from charrnn_trainer.version import __version__

CHANGEABLE: Final = (
    *("steps", "minutes", "eval_every", "save_every", "log_every", "keep", "patience"),
    *("tensorboard", "device", "threads"),
)
"""The settings that may be changed when a run is resumed; all others would make it another run."""

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


# --- the public face ---------------------------------------------------------------------------------------


def train(
    config: TrainConfig,
    tokens: Corpus,
    on_event: Listener | None = None,
    *,
    out: str | Path | Run | None = None,
    init_from: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    team: Team | None = None,
    began: float | None = None,
    plan: Plan | None = None,
) -> TrainResult:
    """Train a network.

    Args:
        config: the settings. Batches are shrunk where the text does not fill two (`fit_batch`).
        tokens: the text.
        on_event: is called with every event.
        out: the folder of the run, new or empty, for checkpoints and all that `resume` needs; None writes
            nothing.
        init_from: a checkpoint to take the weights from; its network must be the same, and its vocabulary may
            lack symbols of the text's (`grow_weights`).
        should_stop: is asked after every step; True ends the run, with a checkpoint.
        team: the processes that train together, of which this is the first; the others `follow`. The run then
            needs a folder, which all of them can read.
        began: what `time.perf_counter` gave when the time of ``minutes`` began to count; None is now.
        plan: where ``config`` comes from; it is made anew where the machine turns out faster or slower.

    Raises:
        CharRNNError: the settings do not fit the text, the loss diverges, a file cannot be written, ...

    Example:
        >>> from charrnn_trainer import Corpus, TrainConfig, train
        >>> corpus = Corpus.from_text("to be, or not to be, that is the question. " * 20)
        >>> config = TrainConfig().replace(layers=1, hidden_size=32, steps=100, batch_size=8, seq_length=16)
        >>> result = train(config, corpus)
        >>> result.step, result.train_loss < 2.0
        (100, True)
    """
    if not isinstance(tokens, Corpus):
        raise SettingError(
            "train needs a Corpus: Corpus.from_text(text), or Corpus.from_ids(ids, vocabulary) for tokens"
        )
    team, clock = team or Team(), RunClock(began)
    if team.size > 1 and out is None:
        raise SettingError("several processes need a run's folder to train together; give out=FOLDER")
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors())
        stack.enter_context(team.watch())
        run = out if out is None or isinstance(out, Run) else stack.enter_context(Run.create(out))
        return _begin(config, tokens, on_event, run, init_from, should_stop, team, clock, plan)


def resume(
    folder: str | Path,
    on_event: Listener | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
    team: Team | None = None,
    began: float | None = None,
) -> TrainResult:
    """Go on with a run exactly where its last checkpoint was saved (without one, from its start).

    On a CPU and with the same number of threads, the checkpoints that follow are byte for byte those of a
    run that was not interrupted. (With several processes, or another number of them than before, sums are
    rounded otherwise, and all but the first draw their random numbers anew.)

    Args:
        folder: the run's folder.
        on_event: is called with every event.
        changes: settings to change, of those in `CHANGEABLE`; more ``steps`` train a finished run further.
            What was changed stays changed when the run is resumed again.
        should_stop: as for `train`.
        team: as for `train`.
        began: as for `train`.

    Raises:
        CharRNNError: the folder holds no run, its files do not belong together, another process trains there.
    """
    for name in changes or {}:
        if name not in CHANGEABLE:
            raise SettingError(
                f"--{name.replace('_', '-')} cannot be changed when a run is resumed; "
                f"only {', '.join('--' + item.replace('_', '-') for item in CHANGEABLE)} can"
            )
    team, clock = team or Team(), RunClock(began)
    with memory_errors(), team.watch(), Run.open(folder) as run:
        file = run.read_config()
        files = run.checkpoints()
        checkpoint = load_checkpoint(files[-1]) if files else None
        config = file.config
        if checkpoint is not None:
            # Of what may be changed the file knows more: a run may be killed before its next checkpoint.
            held = file.config.flat()
            config = checkpoint.config.replace(**{name: held[name] for name in CHANGEABLE})
        config = config.replace(**changes or {})
        steps = config.optimization.steps
        if checkpoint is not None and steps < checkpoint.step:
            raise SettingError(
                f"--steps {steps}: {checkpoint.step} steps are done already; give as many or more"
            )
        corpus = Corpus.open(run.tokens_path)
        if checkpoint is None:
            run.cut_history(0)
            return _begin(config, corpus, on_event, run, file.init_from, should_stop, team, clock)
        _check_same_text(checkpoint, corpus)
        settled = _settle_settings(config, corpus, on_event, team, batches_fit=True)
        _call_team(team, settled, run, checkpoint)
        training = _Training(settled, corpus, run, on_event, team, clock)
        training.restore(checkpoint)
        if training.config != file.config:
            run.write_config(dataclasses.replace(file, config=training.config))
        return training.run_steps(should_stop)


def follow(team: Team, *, should_stop: Callable[[], bool] | None = None) -> TrainResult:
    """Take part in what the first process of a team begins with `train` or goes on with by `resume`.

    Args:
        team: the processes that train together, of which this is not the first.
        should_stop: as for `train`; True ends the run for all.

    Raises:
        CharRNNError: the run's folder cannot be read from here, another process has ended, ...
    """
    with memory_errors(), team.watch():
        call: dict[str, Any] = team.first(dict)
        config = TrainConfig.from_dict(call["config"])
        training = _Training(config, Corpus.open(Path(call["tokens"])), None, None, team, RunClock())
        if call["checkpoint"]:
            training.restore(load_checkpoint(call["checkpoint"]))
        return training.run_steps(should_stop)


def _begin(
    config: TrainConfig,
    corpus: Corpus,
    on_event: Listener | None,
    run: Run | None,
    init_from: str | Path | None,
    should_stop: Callable[[], bool] | None,
    team: Team,
    clock: RunClock,
    plan: Plan | None = None,
) -> TrainResult:
    _say_if_unlike(config, corpus, on_event or _nobody)
    config = _settle_settings(config, corpus, on_event, team)
    if run is not None:
        if not run.tokens_path.exists():
            corpus.save(run.tokens_path)
        _call_team(team, config, run)
    training = _Training(config, corpus, run, on_event, team, clock, plan)
    if init_from is not None:
        training.take_weights(load_checkpoint(init_from))
    if run is not None:
        start = None if init_from is None else str(Path(init_from).absolute())
        run.write_config(RunFile(config, corpus.source, start))
    return training.run_steps(should_stop)


def _say_if_unlike(config: TrainConfig, corpus: Corpus, emit: Listener) -> None:
    if config.data.split == "end" and not config.data.lines:
        train_tokens = split_text(len(corpus), config.data).train_tokens
        warning = what_is_unlike(corpus.ids, train_tokens, corpus.vocabulary)
        if warning is not None:
            emit(Noted(warning))


def _split(corpus: Corpus, config: TrainConfig) -> Split | LineSplit:
    """Which part of the text is for what."""
    if config.data.lines:
        return split_lines(corpus, config.data, config.run.seed)
    return split_text(len(corpus), config.data)


def _streams(
    corpus: Corpus, split: Split | LineSplit, config: TrainConfig, team: Team
) -> Streams | LineBatches:
    """The batches of this process."""
    data, seed = config.data, config.run.seed
    if isinstance(split, LineSplit):
        share = (team.rank, team.size)
        return LineBatches(split.training, data.batch_size, data.seq_length, seed, share)
    at_end = data.split == "end"
    return Streams(
        corpus.ids[: split.train_tokens] if at_end else corpus.ids,
        data.batch_size,
        data.seq_length,
        seed=seed if data.random_start else None,
        rows=team.rows(data.batch_size),
        split=None if at_end else split,
    )


def _call_team(team: Team, config: TrainConfig, run: Run, checkpoint: Checkpoint | None = None) -> None:
    """Tell the processes that `follow` what to do."""
    if team.size > 1:
        call = {
            "config": config.to_dict(),
            "tokens": str(run.tokens_path.absolute()),
            "checkpoint": str(checkpoint.path.absolute()) if checkpoint else None,
        }
        team.first(lambda: call)


def _settle_settings(
    config: TrainConfig, corpus: Corpus, on_event: Listener | None, team: Team, *, batches_fit: bool = False
) -> TrainConfig:
    """The settings with all that is left open in them decided for this text and this machine."""
    emit = on_event or _nobody
    device = team.device(config.run.device)
    config = config.replace(
        level=corpus.vocabulary.level,
        embedding_size=config.network.resolve(len(corpus.vocabulary)).embedding_size,
        device=device.type,
    )
    check_step_model_fits(config.network, len(corpus.vocabulary))  # hours of training must not end in vain
    if not batches_fit and not config.data.lines:
        config = _fit_batch(config, split_text(len(corpus), config.data).train_tokens, emit)
    rows = team.rows(config.data.batch_size)
    measured = config.replace(batch_size=rows.stop - rows.start)
    # Under a time budget the number of threads changes with the machine, and stays open.
    open_threads = not config.optimization.minutes and threads_are_open(config, device, team.size)
    if open_threads or is_open(measured, device):
        emit(Noted("measuring how this machine computes fastest"))
    with threads(config.run.threads):
        choice = choose_arithmetic(measured, len(corpus.vocabulary), device)
    if choice.milliseconds:
        times = ", ".join(f"{way} {time:.1f} ms" for way, time in choice.milliseconds.items())
        emit(Noted(f"computing in {choice.arithmetic}, measured as the fastest ({times})"))
    elif choice.arithmetic.precision == "bf16" and device.type == "cpu" and not has_fast_bf16():
        emit(Noted("this processor is slow at bf16; --precision fp32 would be faster"))
    config = config.replace(precision=choice.arithmetic.precision, onednn=choice.arithmetic.onednn)
    if open_threads:
        most = torch.get_num_threads()
        config = config.replace(threads=choose_threads(config, len(corpus.vocabulary), device))
        if config.run.threads != most:
            emit(Noted(f"computing with {config.run.threads} of {most} threads, measured as the fastest"))
    return config


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _fit_batch(config: TrainConfig, train_tokens: int, emit: Listener) -> TrainConfig:
    wanted = (config.data.batch_size, config.data.seq_length)
    fitting = fit_batch(train_tokens, *wanted)
    if fitting == wanted:
        return config
    emit(
        Noted(
            f"the text is short: its {train_tokens:,} characters for training do not fill two "
            f"batches of {wanted[0]} x {wanted[1]}, so the larger of the two numbers was halved until "
            f"they do: {_count(fitting[0], 'stream')} of {_count(fitting[1], 'character')}"
        )
    )
    return config.replace(batch_size=fitting[0], seq_length=fitting[1])


def _nobody(event: Event) -> None:
    """Listens to nothing."""


def _check_same_text(checkpoint: Checkpoint, corpus: Corpus) -> None:
    if checkpoint.corpus.sha256 != corpus.sha256 or checkpoint.vocabulary != corpus.vocabulary:
        raise CheckpointError(
            f"{checkpoint.path} was trained on another text than the run's folder holds; put the run's own "
            "files back, or start a new run with --init-from"
        )


# --- the loop ----------------------------------------------------------------------------------------------


class _Training:
    """A network that is being trained, and all that its next step depends on."""

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        run: Run | None,
        on_event: Listener | None,
        team: Team,
        clock: RunClock,
        plan: Plan | None = None,
    ) -> None:
        """Prepare for settings in which nothing is left open."""
        self._emit: Listener = on_event or _nobody
        self._team = team
        self._corpus, self._run = corpus, run
        self._split = _split(corpus, config)
        self._validates = self._split.validation_tokens > 0
        self._all_rows = self._split.rows()
        self._rows_on_the_way = sample_rows(self._all_rows, config.data.val_sample)
        self._device = team.device(config.run.device)
        self.config = config
        data = config.data
        self._rows = team.rows(data.batch_size)
        self._streams = _streams(corpus, self._split, config, team)
        self._step = 0
        self._done = 0.0  # the share of the run that lies behind
        self._clock = clock
        self._saved_at = time.perf_counter()
        self._reading = ReadingTimes()
        self._validating = 0.0  # the seconds that validations on the way took
        self._whole: tuple[int, float] | None = None  # the best step, and its loss over all rows
        self._watch = Watch(config, plan, self._device, team.size)
        self._rate = config.optimization.learning_rate
        self._loss: float | None = None  # the last step's, where it is known already
        self._window = (0.0, 0)  # the sum and the number of losses since the last report
        self._logged_loss: float | None = None
        self._evaluations: list[Evaluation] = []
        self._pending: list[tuple[int, Tensor, Tensor, float, float]] = []
        self._seconds: list[float] = []
        self._underway: collections.deque[torch.cuda.Event] = collections.deque()
        self._arithmetic = Arithmetic(config.run.precision, bool(config.run.onednn))
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
            characters = self._streams.characters_per_batch / team.size
        self._learner = Learner(
            self._network, config.optimization, self._arithmetic, self._device, characters
        )
        self._learn: Learn = self._learner.learn
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
        self._learner.restore_optimizer(checkpoint.part("optimizer."))
        self._random = {**self._random, **checkpoint.part("random.")}
        self._draw_apart()
        if self._run is not None:
            self._run.cut_history(checkpoint.step)
            self._remove_superseded()

    def _draw_apart(self) -> None:
        """Let all processes but the first draw random numbers of their own, by their number and the step.

        What the first one draws is what a process alone would, and what checkpoints keep.
        """
        if not self._team.leads:
            place = (self.config.run.seed, self._team.rank, self._step)
            self._random = seeded_states(place, self._device)

    def run_steps(self, should_stop: Callable[[], bool] | None) -> TrainResult:
        """Train up to the end of the run, or until ``should_stop`` says so."""
        if self.config.optimization.minutes:
            self._keep_time_for_the_end()
        self._clock.begin_steps()
        self._look_at_clock()
        if isinstance(self._split, LineSplit):
            self._emit(Noted(self._split.words))
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
        self._learner.model = self._team.wrap(self._network)
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
                self._train_step()
                ended = self._look_up()
                stopped = not ended and self._team.agree(should_stop is not None and should_stop())
            self._settle()
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

    def _train_step(self) -> None:
        begin = time.perf_counter()
        inputs, targets = self._batches.batch(self._step)  # (B, T)
        self._forget_some(len(inputs))
        self._rate = learning_rate(self.config.optimization, self._step, self._done)
        self._learner.set_rate(self._rate)
        loss, norm, self._state = self._learn(inputs, targets, self._state)
        self._step += 1
        on_gpu = is_gpu(self._device)
        if on_gpu:
            self._wait_if_far_ahead()
        seconds = time.perf_counter() - begin
        self._seconds.append(seconds)
        self._pending.append((self._step, loss, norm, self._rate, seconds))
        if not on_gpu:  # there, asking for a loss waits for the device
            self._settle()
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
        self._emit(Noted(plan.words))
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

    def _settle(self) -> None:
        """Ask for the losses of the steps since the last time, note them, and stop where one is no number."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        losses = self._team.mean(torch.stack([loss for _, loss, _, _, _ in pending])).tolist()
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
            self._emit(Noted("the text is large for this GPU, so that its batches come from the host"))
        if self._team.size > 1:
            return  # the exchange of gradients has its own way of waiting
        self._learner.set_rate(learning_rate(self.config.optimization, self._step, self._done))
        choice = choose_step(self._learner, self._network, self._batches, self._step, self._state)
        self._learn = choice.learn
        self._emit(Noted(choice.words))

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
        elif self._team.size == 1 and time.perf_counter() - self._saved_at >= _SAVE_AFTER:
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
        return self._team.agree(seconds <= SHARE * 60.0 * minutes)

    def _keep_time_for_the_end(self) -> None:
        """Reserve the time for the validations at the end: measured, or as a plan has it."""
        if not self._validates:
            return
        if self._watch.seconds_a_step is None:
            with threads(self._watch.threads), Arithmetic("fp32", self._arithmetic.onednn).on(self._device):
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
            self._emit(Noted(f"the run is over: {why}; a larger --patience, or 0 for none, goes on"))

    def _look_at_clock(self) -> None:
        """Find how much of the run lies behind, by the clock of the first process for all."""
        optimization = self.config.optimization
        done = self._clock.share_done(optimization, self._step)
        done = max(self._done, done)  # less time for the end than was kept for it does not wind back the rate
        self._done = self._team.first(lambda: done) if optimization.minutes else done

    def _log(self, *, close: bool) -> None:
        self._settle()
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
        self._settle()
        begin = time.perf_counter()
        rows = self._rows_on_the_way
        loss = self._team.first(lambda: self._validation_loss(self._network, rows))
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
        self._emit(Evaluated(self._step, loss, best, rows.characters))
        return best

    def _validation_loss(self, network: CharNetwork, rows: HeldOut) -> float:
        # In fp32, which exported models compute in.
        with Arithmetic("fp32", self._arithmetic.onednn).on(self._device):
            return validation_loss(network, self._corpus.ids, rows)

    def _read_whole(self) -> None:
        """At the end, let the best network read the whole validation text, where a sample has chosen it."""
        best = self._best_step()
        if best is None or self._rows_on_the_way is self._all_rows:
            return
        loss = self._team.first(lambda: self._whole_loss(best))
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
        self._emit(EvaluatedWhole(best, loss, characters))
        return loss

    def _best_step(self) -> int | None:
        best = min(self._evaluations, key=lambda item: item.validation_loss, default=None)
        return best.step if best else None

    def _save(self, kind: Kind) -> None:
        """Write a checkpoint, unless this step's is there already, and remove what it supersedes."""
        self._settle()
        self._saved_at = time.perf_counter()
        if isinstance(self._streams, LineBatches) and self._streams.starts_anew(self._step):
            self._state = self._network.initial_state(self._rows.stop - self._rows.start)
        state = tuple(self._team.gather(part, dim=1) for part in self._state)  # (L, B, H) -> (L, all B, H)
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
        for name, part in self._learner.optimizer_tensors().items():
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
