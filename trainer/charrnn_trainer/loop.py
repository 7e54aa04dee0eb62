"""The training loop: truncated back-propagation through time over streams of text.

It reports what happens as events to whoever listens, and never prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from charrnn_runtime.contract import DEFAULT_TEMPERATURE
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer import __version__
from charrnn_trainer.batches import Streams, fit_batch
from charrnn_trainer.checkpoint import (
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
from charrnn_trainer.config import RunFile, TrainConfig
from charrnn_trainer.corpus import Corpus
from charrnn_trainer.evaluation import validation_loss
from charrnn_trainer.events import (
    Evaluated,
    Listener,
    Logged,
    Noted,
    Saved,
    Started,
    Stepped,
    TrainResult,
)
from charrnn_trainer.network import CharNetwork, State, next_token_loss, write_sample
from charrnn_trainer.precision import Arithmetic, Choice, choose_arithmetic, has_fast_bf16
from charrnn_trainer.runs import Run
from charrnn_trainer.schedule import learning_rate, share_done
from charrnn_trainer.torch_settings import (
    choose_device,
    memory_errors,
    own_random,
    random_states,
    set_random_states,
    threads,
)

CHANGEABLE: Final = (
    *("steps", "minutes", "eval_every", "save_every", "log_every", "keep", "patience"),
    *("tensorboard", "device", "threads"),
)
"""The settings that may be changed when a run is resumed; all others would make it another run."""

_EXPLODED: Final = 10.0
"""A loss of so many times that of guessing blindly, ln V, ends a run."""


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
) -> TrainResult:
    """Train a network.

    Args:
        config: the settings. Batches are shrunk where the text does not fill two (`fit_batch`).
        tokens: the text.
        on_event: is called with every event.
        out: the folder of the run, new or empty, for checkpoints and all that `resume` needs; None writes
            nothing.
        init_from: a checkpoint to take the weights from; its network and vocabulary must be the same.
        should_stop: is asked after every step; True ends the run, with a checkpoint.

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
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors())
        run = out if out is None or isinstance(out, Run) else stack.enter_context(Run.create(out))
        return _begin(config, tokens, on_event, run, init_from, should_stop)


def resume(
    folder: str | Path,
    on_event: Listener | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Go on with a run exactly where its last checkpoint was saved (without one, from its start).

    On a CPU and with the same number of threads, the checkpoints that follow are byte for byte those of a
    run that was not interrupted.

    Args:
        folder: the run's folder.
        on_event: is called with every event.
        changes: settings to change, of those in `CHANGEABLE`; more ``steps`` train a finished run further.
        should_stop: as for `train`.

    Raises:
        CharRNNError: the folder holds no run, its files do not belong together, another process trains there.
    """
    for name in changes or {}:
        if name not in CHANGEABLE:
            raise SettingError(
                f"--{name.replace('_', '-')} cannot be changed when a run is resumed; "
                f"only {', '.join('--' + item.replace('_', '-') for item in CHANGEABLE)} can"
            )
    with memory_errors(), Run.open(folder) as run:
        file = run.read_config()
        files = run.checkpoints()
        checkpoint = load_checkpoint(files[-1]) if files else None
        config = (checkpoint.config if checkpoint else file.config).replace(**changes or {})
        steps = config.optimization.steps
        if checkpoint is not None and steps < checkpoint.step:
            raise SettingError(
                f"--steps {steps}: {checkpoint.step} steps are done already; give as many or more"
            )
        corpus = Corpus.open(run.tokens_path)
        if checkpoint is None:
            run.cut_history(0)
            return _begin(config, corpus, on_event, run, file.init_from, should_stop)
        _check_same_text(checkpoint, corpus)
        training = _Training(config, corpus, run, on_event, batches_fit=True)
        training.restore(checkpoint)
        if config != checkpoint.config:
            run.write_config(dataclasses.replace(file, config=training.config))
        return training.run_steps(should_stop)


def _begin(
    config: TrainConfig,
    corpus: Corpus,
    on_event: Listener | None,
    run: Run | None,
    init_from: str | Path | None,
    should_stop: Callable[[], bool] | None,
) -> TrainResult:
    training = _Training(config, corpus, run, on_event)
    if init_from is not None:
        training.take_weights(load_checkpoint(init_from))
    if run is not None:
        if not run.tokens_path.exists():
            corpus.save(run.tokens_path)
        start = None if init_from is None else str(Path(init_from).absolute())
        run.write_config(RunFile(training.config, corpus.source, start))
    return training.run_steps(should_stop)


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
        *,
        batches_fit: bool = False,
    ) -> None:
        self._emit: Listener = on_event or (lambda event: None)
        self._corpus, self._run = corpus, run
        self._train_tokens = corpus.train_tokens(config.data.val_fraction)
        self._validates = self._train_tokens < len(corpus)
        self._device = choose_device(config.run.device)
        vocabulary_size = len(corpus.vocabulary)
        if config.data.level != corpus.vocabulary.level:
            config = config.replace(level=corpus.vocabulary.level)
        config = config.replace(
            embedding_size=config.network.resolve(vocabulary_size).embedding_size, device=self._device.type
        )
        if not batches_fit:
            config = self._fit_batch(config)
        with threads(config.run.threads):
            choice = choose_arithmetic(config, vocabulary_size, self._device)
        self._note_choice(choice)
        self._arithmetic: Arithmetic = choice.arithmetic
        self.config = config.replace(precision=self._arithmetic.precision, onednn=self._arithmetic.onednn)
        data = self.config.data
        self._streams = Streams(
            corpus.ids[: self._train_tokens],
            data.batch_size,
            data.seq_length,
            seed=self.config.run.seed if data.random_start else None,
        )
        self._step = 0
        self._earlier_seconds = 0.0  # what the run spent before this process went on with it
        self._began: float | None = None
        self._window = (0.0, 0)  # the sum and the number of losses since the last report
        self._logged_loss: float | None = None
        self._evaluations: list[Evaluation] = []
        self._pending: list[tuple[int, Tensor, Tensor, float, float]] = []
        self._seconds: list[float] = []
        # Every random number of the training comes from the seed, and the caller's generators stay theirs.
        with own_random(self._device):
            torch.manual_seed(self.config.run.seed)
            self._network = CharNetwork(self.config.network, vocabulary_size).to(self._device)
            self._random = random_states(self._device)
        self._state: State = self._network.initial_state(data.batch_size)
        self._names, self._optimizer = self._make_optimizer()

    def take_weights(self, checkpoint: Checkpoint) -> None:
        """Start from the weights of a checkpoint."""
        if checkpoint.vocabulary != self._corpus.vocabulary:
            raise CheckpointError(
                f"{checkpoint.path} knows other characters than the text; encode the text with the "
                "checkpoint's vocabulary"
            )
        self._network.load_weights(checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was saved."""
        if checkpoint.batches_per_pass != self._streams.batches_per_pass:
            raise CheckpointError(f"{checkpoint.path} was trained on a text of another length")
        self._step = checkpoint.step
        self._earlier_seconds = checkpoint.seconds or 0.0
        self._window = checkpoint.window
        self._logged_loss = checkpoint.train_loss
        self._evaluations = list(checkpoint.evaluations)
        self._network.load_weights(checkpoint)
        self._state = tuple(
            checkpoint.tensors[f"state.{part}"].to(self._device) for part in ("h", "c")[: len(self._state)]
        )
        saved = checkpoint.part("optimizer.")
        state = {
            index: {part: saved[f"{name}.{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(self._names)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._random = {**self._random, **checkpoint.part("random.")}
        if self._run is not None:
            self._run.cut_history(checkpoint.step)
            self._remove_superseded()

    def run_steps(self, should_stop: Callable[[], bool] | None) -> TrainResult:
        """Train up to the end of the run, or until ``should_stop`` says so."""
        self._began = time.perf_counter()
        self._emit(
            Started(
                self.config,
                self._step,
                self._share_done(),
                self._network.parameter_count(),
                self._train_tokens,
                len(self._corpus) - self._train_tokens,
                str(self._device),
                self._run.folder if self._run else None,
                self._write,
            )
        )
        stopped = False
        self._network.train()
        with own_random(self._device), threads(self.config.run.threads):
            set_random_states(self._random, self._device)
            ended = self._has_ended()
            while not ended and not stopped:
                self._train_step()
                ended = self._look_up()
                stopped = not ended and should_stop is not None and should_stop()
            self._settle()
            if stopped:
                self._save("interrupted")
            self._random = random_states(self._device)
        if self._run is not None:
            self._run.flush_history()
        self._network.eval()
        return TrainResult(
            self._network,
            self.config,
            self._step,
            stopped,
            self._train_loss(),
            tuple(self._evaluations),
            self._run.folder if self._run else None,
        )

    # --- a step --------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        begin = time.perf_counter()
        optimization = self.config.optimization
        inputs, targets = (self._on_device(part) for part in self._streams.batch(self._step))  # [B, T]
        self._forget_some()
        rate = learning_rate(optimization, self._step, self._share_done())
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self._arithmetic.on(self._device):
            logits, state = self._network(inputs, self._state)
            loss = next_token_loss(logits, targets)
            self._optimizer.zero_grad()
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), optimization.clip or math.inf)
        self._optimizer.step()
        self._state = tuple(part.detach() for part in state)
        self._step += 1
        on_cpu = self._device.type == "cpu"
        seconds = time.perf_counter() - begin
        self._seconds.append(seconds)
        self._pending.append((self._step, loss.detach(), norm, rate, seconds))
        if on_cpu:  # elsewhere, asking for a loss waits for the device
            self._settle()
        shown = float(loss.detach()) if on_cpu else None
        self._emit(Stepped(self._step, shown, rate, seconds, self._share_done()))

    def _forget_some(self) -> None:
        """Let the streams that begin anew with the next batch start from nothing."""
        data = self.config.data
        if self._streams.starts_pass(self._step):
            self._state = self._network.initial_state(data.batch_size)
        if data.reset_chance:
            stays = torch.rand(data.batch_size, device=self._device) >= data.reset_chance
            self._state = tuple(part * stays[:, None] for part in self._state)  # (L, B, H) * (B, 1)

    def _on_device(self, tokens: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(tokens.astype(np.int64)).to(self._device)

    def _settle(self) -> None:
        """Ask for the losses of the steps since the last time, note them, and stop where one is no number."""
        highest = _EXPLODED * math.log(self._network.vocabulary_size)
        for step, loss_tensor, norm_tensor, rate, seconds in self._pending:
            loss, norm = float(loss_tensor), float(norm_tensor)
            if not (math.isfinite(loss) and math.isfinite(norm) and loss <= highest):
                raise self._diverged(step, loss, norm)
            self._window = (self._window[0] + loss, self._window[1] + 1)
            if self._run is not None:
                self._run.note(
                    step=step, loss=loss, learning_rate=rate, gradient_norm=norm, seconds=round(seconds, 6)
                )
        self._pending.clear()

    def _diverged(self, step: int, loss: float, norm: float) -> DivergedError:
        what = "the gradient is not finite" if math.isfinite(loss) and not math.isfinite(norm) else None
        kept = self._run.checkpoints() if self._run else []
        last = f"the last good checkpoint is {kept[-1]}; " if kept else ""
        return DivergedError(
            f"training diverged at step {step}: {what or f'the loss is {loss:.4g}'}; {last}"
            f"try a lower --learning-rate (such as {self.config.optimization.learning_rate / 3:.2g}), "
            "a lower --clip, or --warmup-steps"
        )

    # --- looking up from the steps -------------------------------------------------------------------------

    def _look_up(self) -> bool:
        """Report, validate and save where that is due; gives whether the run has ended."""
        run = self.config.run
        ended = self._has_ended()
        save_due = self._step % run.save_every == 0
        if ended or self._step % run.log_every == 0:
            self._log(close=self._step % run.log_every == 0)
        best = False
        if self._validates and (ended or save_due or self._step % run.eval_every == 0):
            best = self._evaluate()
            ended = ended or self._has_ended()
        if save_due:
            self._save("scheduled")
        elif ended:
            self._save("last")
        elif best:
            self._save("best")
        return ended

    def _has_ended(self) -> bool:
        """Whether all steps are done, or the time is up, or the patience is at its end."""
        patience = self.config.run.patience
        waited = sum(item.step > (self._best_step() or 0) for item in self._evaluations)
        return self._share_done() >= 1.0 or (0 < patience <= waited)

    def _share_done(self) -> float:
        return share_done(self.config.optimization, self._step, self._seconds_spent())

    def _seconds_spent(self) -> float:
        since = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._earlier_seconds + since

    def _log(self, *, close: bool) -> None:
        self._settle()
        loss = self._train_loss()
        assert loss is not None  # a step was done
        if close:
            self._logged_loss, self._window = loss, (0.0, 0)
        mean = sum(self._seconds) / len(self._seconds)
        data = self.config.data
        rate = self._optimizer.param_groups[0]["lr"]
        self._emit(Logged(self._step, loss, rate, mean, data.batch_size * data.seq_length / mean))
        self._seconds.clear()
        if self._run is not None:
            self._run.flush_history()

    def _train_loss(self) -> float | None:
        total, count = self._window
        return total / count if count else self._logged_loss

    def _evaluate(self) -> bool:
        """Measure the validation loss; gives whether it is the best so far."""
        self._settle()
        begin = time.perf_counter()
        # In fp32, which exported models compute in.
        with Arithmetic("fp32", self._arithmetic.onednn).on(self._device):
            loss = validation_loss(self._network, self._corpus.ids, self._train_tokens)
        if not math.isfinite(loss):
            raise self._diverged(self._step, loss, 0.0)
        best = all(loss < item.validation_loss for item in self._evaluations)
        self._evaluations.append(Evaluation(self._step, self._train_loss(), loss))
        if self._run is not None:
            seconds = round(time.perf_counter() - begin, 6)
            self._run.note(step=self._step, validation_loss=loss, seconds=seconds)
        self._emit(Evaluated(self._step, loss, best))
        return best

    def _best_step(self) -> int | None:
        best = min(self._evaluations, key=lambda item: item.validation_loss, default=None)
        return best.step if best else None

    def _save(self, kind: Kind) -> None:
        """Write a checkpoint, unless this step's is there already, and remove what it supersedes."""
        if self._run is None:
            return
        self._settle()
        self._run.flush_history()  # a checkpoint never knows of steps that the history lacks
        path = self._run.folder / checkpoint_name(self.config.network, self._step)
        if kind == "interrupted" and path.exists():
            return
        measured = self._evaluations[-1] if self._evaluations else None
        header = CheckpointHeader(
            path=path,
            kind=kind,
            config=self.config,
            vocabulary=self._corpus.vocabulary,
            corpus=CorpusInfo(self._corpus.name, self._corpus.sha256, len(self._corpus), self._train_tokens),
            step=self._step,
            batches_per_pass=self._streams.batches_per_pass,
            train_loss=self._train_loss(),
            validation_loss=measured.validation_loss if measured and measured.step == self._step else None,
            window=self._window,
            evaluations=tuple(self._evaluations),
            seconds=round(self._seconds_spent(), 3) if self.config.optimization.minutes else None,
            trainer_version=__version__,
        )
        save_checkpoint(header, self._tensors())
        self._remove_superseded()
        self._emit(Saved(self._step, path, kind))

    def _remove_superseded(self) -> None:
        if self._run is not None:
            self._run.remove_superseded(self._best_step(), self.config.run.keep)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": weight for name, weight in self._network.state_dict().items()}
        state = self._optimizer.state_dict()["state"]
        for index, name in enumerate(self._names):
            for part in ("step", "exp_avg", "exp_avg_sq"):
                tensors[f"optimizer.{name}.{part}"] = state[index][part]
        for part, tensor in zip(("h", "c"), self._state, strict=False):
            tensors[f"state.{part}"] = tensor
        for name, tensor in random_states(self._device).items():
            tensors[f"random.{name}"] = tensor
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
        )
        return vocabulary.decode(ids)

    # --- preparing -----------------------------------------------------------------------------------------

    def _fit_batch(self, config: TrainConfig) -> TrainConfig:
        wanted = (config.data.batch_size, config.data.seq_length)
        fitting = fit_batch(self._train_tokens, *wanted)
        if fitting == wanted:
            return config
        self._emit(
            Noted(
                f"the text is short: its {self._train_tokens:,} characters for training do not fill two "
                f"batches of {wanted[0]} x {wanted[1]}, so the larger of the two numbers was halved until "
                f"they do: {fitting[0]} streams of {fitting[1]} characters"
            )
        )
        return config.replace(batch_size=fitting[0], seq_length=fitting[1])

    def _note_choice(self, choice: Choice) -> None:
        if choice.milliseconds:
            times = ", ".join(f"{way} {time:.1f} ms" for way, time in choice.milliseconds.items())
            self._emit(Noted(f"computing in {choice.arithmetic}, measured as the fastest ({times})"))
        elif choice.arithmetic.precision == "bf16" and self._device.type == "cpu" and not has_fast_bf16():
            self._emit(Noted("this processor is slow at bf16; --precision fp32 would be faster"))

    def _make_optimizer(self) -> tuple[list[str], torch.optim.AdamW]:
        """AdamW that decays matrices and leaves biases alone; and the weights' names in its order."""
        named = list(self._network.named_parameters())
        matrices = [(name, weight) for name, weight in named if weight.ndim > 1]
        biases = [(name, weight) for name, weight in named if weight.ndim == 1]
        decay = self.config.optimization.weight_decay
        groups = [
            {"params": [weight for _, weight in matrices], "weight_decay": decay},
            {"params": [weight for _, weight in biases], "weight_decay": 0.0},
        ]
        names = [name for name, _ in matrices + biases]
        return names, torch.optim.AdamW(groups, lr=self.config.optimization.learning_rate, fused=True)
