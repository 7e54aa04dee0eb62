"""The validations of a run: when they are due, what they measure, and the time reserved for them."""

from __future__ import annotations

import time
from typing import Final

from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import Checkpoint, checkpoint_name, load_checkpoint, save_checkpoint
from charrnn_trainer.runs.header import Evaluation
from charrnn_trainer.training.context import RunContext
from charrnn_trainer.training.divergence import check_validation_loss
from charrnn_trainer.training.events import Validated, ValidatedWhole
from charrnn_trainer.training.held_out import SHARE, WHOLE_SHARE, HeldOut, ReadingTimes, sample_rows
from charrnn_trainer.training.reporting import Reporter
from charrnn_trainer.training.torch_settings import threads
from charrnn_trainer.training.validation import validation_loss

_LATE: Final = 0.03
"""The validation at the end may take the time left of a budget, plus this share of it."""


class Validator:
    """Measures validation losses during training, and at the end the best network's on the whole text.

    Attributes:
        evaluations: all validations so far.
        whole: the best step, and its loss on the whole validation text, once measured.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._all_rows = context.split.rows()
        self._sample_rows = sample_rows(self._all_rows, context.config.data.val_sample)
        self._reading = ReadingTimes()
        self._seconds = 0.0  # spent on validations during training
        self.evaluations: list[Evaluation] = []
        self.whole: tuple[int, float] | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the validations of a checkpoint."""
        self.evaluations = list(checkpoint.evaluations)

    @property
    def best_step(self) -> int | None:
        """The step with the lowest validation loss."""
        best = min(self.evaluations, key=lambda item: item.validation_loss, default=None)
        return best.step if best else None

    def is_due(self, *, ended: bool, save_due: bool) -> bool:
        """Whether to validate the network now.

        Under a time budget, validations during training take no more than their share of it.
        """
        if not self._context.split.validation_tokens:
            return False
        if ended:
            return True
        config = self._context.config
        due = self._context.step % config.run.eval_every == 0
        minutes = config.optimization.minutes
        if not minutes:
            return due or save_due
        if not due:
            return False
        seconds = self._seconds + self._reading.expected(self._sample_rows)
        return self._context.group.agree(seconds <= SHARE * 60.0 * minutes)

    def validate(self, reporter: Reporter, *, ended: bool) -> bool:
        """Measure the validation loss; return whether it is the best so far.

        Raises:
            DivergedError: it is not finite.
        """
        context = self._context
        reporter.flush_losses()
        begin = time.perf_counter()
        rows = self._sample_rows
        loss = context.group.broadcast(lambda: self._loss(context.network, rows))
        seconds = time.perf_counter() - begin
        self._seconds += 0.0 if ended else seconds
        if context.config.optimization.minutes:
            self._reading.note(rows, seconds)
            self._reserve()
        check_validation_loss(context, loss)
        best = all(loss < item.validation_loss for item in self.evaluations)
        self.evaluations.append(Evaluation(context.step, reporter.train_loss, loss))
        context.note(step=context.step, validation_loss=loss, seconds=round(seconds, 6))
        context.emit(Validated(context.step, loss, best, rows.characters, context.config.data.level))
        return best

    def _loss(self, network: CharNetwork, rows: HeldOut) -> float:
        with self._context.exact_mode.on(self._context.device):
            return validation_loss(network, self._context.corpus.ids, rows)

    # --- at the end ----------------------------------------------------------------------------------------

    def validate_whole(self) -> None:
        """Measure the best network's loss on the whole validation text, if validations used a sample."""
        best = self.best_step
        if best is None or self._sample_rows is self._all_rows:
            return
        loss = self._context.group.broadcast(lambda: self._whole_loss(best))
        if loss is not None:
            self.whole = (best, loss)

    def _whole_loss(self, best: int) -> float | None:
        """The best network's loss on all rows, or on as much of them as time allows."""
        context = self._context
        network, checkpoint = context.network, None
        if best != context.step:
            if context.run is None:
                return None
            checkpoint = load_checkpoint(context.run.folder / checkpoint_name(context.config.network, best))
            network = checkpoint.network().to(context.device)
        rows, minutes = self._all_rows, context.config.optimization.minutes
        if minutes:
            left = max(0.0, 60.0 * minutes - context.clock.spent())
            rows = self._reading.within(rows, left + _LATE * 60.0 * minutes)
        characters = rows.characters
        if characters <= self._sample_rows.characters:
            return None  # the sample is more accurate
        begin = time.perf_counter()
        loss = self._loss(network, rows)
        seconds = round(time.perf_counter() - begin, 6)
        if checkpoint is not None:
            save_checkpoint(checkpoint.with_whole_loss(loss), checkpoint.tensors)
        context.note(
            step=context.step, best_step=best, whole_loss=loss, characters=characters, seconds=seconds
        )
        context.emit(ValidatedWhole(best, loss, characters, context.config.data.level))
        return loss

    # --- time reserved for the end -------------------------------------------------------------------------

    def reserve_time(self, seconds_per_step: float | None, count: int | None) -> None:
        """Reserve time for the validations at the end of a run with a time budget.

        Args:
            seconds_per_step: the planned step time, from which the validation time is derived; None measures
                the validation speed.
            count: the number of threads to measure with.
        """
        context = self._context
        if not context.split.validation_tokens:
            return
        if seconds_per_step is None:
            with threads(count), context.exact_mode.on(context.device):
                for rows in (self._sample_rows, self._all_rows):
                    self._reading.measure(context.network, rows)
        else:
            data = context.config.data
            seconds = seconds_per_step / (data.batch_size * data.seq_length)
            self._reading.assume(seconds, self._sample_rows, self._all_rows)
        self._reserve()

    def _reserve(self) -> None:
        reading, budget = self._reading, 60.0 * self._context.config.optimization.minutes
        seconds = reading.expected(self._sample_rows)
        if self._sample_rows is not self._all_rows:
            seconds += min(reading.expected(self._all_rows), WHOLE_SHARE * budget)
        self._context.clock.reserved = min(seconds, 2.0 * WHOLE_SHARE * budget)
