"""Decides when a run saves a checkpoint, and assembles its content."""

from __future__ import annotations

import time
from typing import Final

from torch import Tensor

from charrnn_trainer.data.batches import Streams
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.nn.cells import CELLS
from charrnn_trainer.nn.network import State
from charrnn_trainer.runs.checkpoint import Checkpoint, checkpoint_name, save_checkpoint
from charrnn_trainer.runs.header import CheckpointHeader, CorpusInfo, Kind
from charrnn_trainer.training.context import RunContext
from charrnn_trainer.training.events import Saved
from charrnn_trainer.training.reporting import Reporter
from charrnn_trainer.training.step import TrainStep
from charrnn_trainer.training.torch_settings import random_states
from charrnn_trainer.training.validator import Validator
from charrnn_trainer.version import __version__

_SAVE_AFTER: Final = 120.0
"""After this many seconds without a checkpoint, one is saved, which the next checkpoint replaces."""


class Saver:
    """Writes the checkpoints of a run, and removes those that are superseded."""

    def __init__(
        self,
        context: RunContext,
        reporter: Reporter,
        validator: Validator,
        train_step: TrainStep,
        streams: Streams | LineBatches,
    ) -> None:
        self._context, self._reporter, self._validator = context, reporter, validator
        self._train_step, self._streams = train_step, streams
        self._saved_at = time.perf_counter()

    def reason_to_save(self, *, due: bool, ended: bool, best: bool) -> Kind | None:
        """The reason to save a checkpoint now; None if there is none.

        Args:
            due: whether a checkpoint is scheduled at this step.
            ended: whether the run has ended.
            best: whether the network has just been validated as the best so far.
        """
        if due:
            return "scheduled"
        if ended:
            return "last"
        if best:
            return "best"
        if self._context.group.size == 1 and time.perf_counter() - self._saved_at >= _SAVE_AFTER:
            return "timed"
        return None

    def save(self, kind: Kind, state: State) -> None:
        """Write a checkpoint, unless this step already has one, and remove those that it supersedes.

        Args:
            kind: the reason to save it.
            state: the hidden state of this process's streams.
        """
        context, reporter = self._context, self._reporter
        reporter.flush_losses()
        self._saved_at = time.perf_counter()
        whole_state = tuple(context.group.gather(part, dim=1) for part in state)  # (L, B, H) -> (L, all B, H)
        if context.run is None:
            return
        context.run.flush_history()  # the history must not lag behind a checkpoint
        path = context.run.folder / checkpoint_name(context.config.network, context.step)
        if kind == "interrupted" and path.exists():
            return
        evaluations, whole = self._validator.evaluations, self._validator.whole
        measured = evaluations[-1] if evaluations else None
        timed = bool(context.config.optimization.minutes)
        corpus = context.corpus
        header = CheckpointHeader(
            path=path,
            kind=kind,
            config=context.config,
            vocabulary=corpus.vocabulary,
            corpus=CorpusInfo(corpus.name, corpus.sha256, len(corpus), context.split.train_tokens),
            step=context.step,
            batches_per_pass=self._streams.batches_per_pass,
            train_loss=reporter.train_loss,
            validation_loss=measured.validation_loss if measured and measured.step == context.step else None,
            whole_loss=whole[1] if whole and whole[0] == context.step else None,
            window=reporter.window,
            evaluations=tuple(evaluations),
            seconds=round(self._seconds_to_record(), 3) if timed else None,
            prepared=round(context.clock.prepared, 3) if timed else None,
            trainer_version=__version__,
        )
        save_checkpoint(header, self._tensors(whole_state))
        self.remove_superseded()
        context.emit(Saved(context.step, path, kind))

    def remove_superseded(self) -> None:
        """Remove the checkpoints that are no longer needed."""
        if self._context.run is not None:
            self._context.run.remove_superseded(self._validator.best_step, self._context.config.run.keep)

    def _seconds_to_record(self) -> float:
        """The time spent; at the end of a run its whole budget, part of which was reserved for the end."""
        context = self._context
        spent = context.clock.spent()
        return max(spent, 60.0 * context.config.optimization.minutes) if context.done >= 1.0 else spent

    def _tensors(self, state: State) -> dict[str, Tensor]:
        network = self._context.network
        tensors = {f"model.{name}": weight for name, weight in network.state_dict().items()}
        for name, part in self._train_step.optimizer.tensors().items():
            tensors[f"optimizer.{name}"] = part
        for name, part in zip(CELLS[network.config.cell].states, state, strict=True):
            tensors[f"state.{name}"] = part
        for name, part in random_states(self._context.device).items():
            tensors[f"random.{name}"] = part
        return tensors


def saved_state(checkpoint: Checkpoint) -> State:
    """The hidden state of all processes' streams in a checkpoint, ``[L, B, H]`` each."""
    states = CELLS[checkpoint.config.network.cell].states
    return tuple(checkpoint.tensors[f"state.{name}"] for name in states)
