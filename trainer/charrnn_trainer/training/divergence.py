"""Detects diverging training, and words the error with advice."""

from __future__ import annotations

import math
from typing import Final

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import shell_word
from charrnn_trainer.config import OptimizationConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.default_corpus import PLAYS_SHA256, SHA256
from charrnn_trainer.setting import option_of
from charrnn_trainer.training.context import RunContext

_EXPLODED: Final = 10.0
"""A loss of this many times ln V, the loss of uniform guessing, ends a run."""

_NAMED: Final = ("learning_rate", "clip", "warmup_steps")

_LOWER: Final = 3.0
"""The advised learning rate is the run's divided by this, and at most the default."""


class DivergedError(CharRNNError):
    """The loss or the gradient is no longer finite, or the loss has exploded."""


def check_training_loss(context: RunContext, step: int, loss: float, norm: float) -> None:
    """Check the loss and the gradient norm of a step.

    Raises:
        DivergedError: one of them is not finite, or the loss is too large to recover.
    """
    highest = _EXPLODED * math.log(context.network.vocabulary_size)
    if not (math.isfinite(loss) and math.isfinite(norm) and loss <= highest):
        raise _diverged(context, step, loss, norm)


def check_validation_loss(context: RunContext, loss: float) -> None:
    """Check the current validation loss.

    Raises:
        DivergedError: it is not finite.
    """
    if not math.isfinite(loss):
        raise _diverged(context, context.step, loss, 0.0)


def _diverged(context: RunContext, step: int, loss: float, norm: float) -> DivergedError:
    """The error with advice. Resuming is not advised: the run would repeat its steps and diverge again."""
    what = f"the loss is {loss:.4g}"
    if math.isfinite(loss) and not math.isfinite(norm):
        what = "the gradient is not finite"
    run, optimization = context.run, context.config.optimization
    if run is not None:
        run.flush_history()  # it shows the course of the losses
    kept = run.checkpoints() if run is not None else []
    rate = min(optimization.learning_rate / _LOWER, OptimizationConfig().learning_rate)
    lower = f"learning_rate={rate:.2g}"
    clip = "a lower clip" if optimization.clip else "clip=1"
    if run is None or not _can_be_read_again(context.corpus):
        good = f"; to start from the last good checkpoint, {kept[-1]}, use init_from" if kept else ""
        return DivergedError(
            f"training diverged at step {step}: {what}; try a lower learning rate ({lower}), {clip}, or "
            f"warmup_steps{good}",
            *_NAMED,
            "init_from",
        )
    start = f" --init-from {shell_word(kept[-1])}" if kept else ""
    command = f"charrnn-train --config {shell_word(run.config_path)}{start}"
    place = "from the last good checkpoint" if kept else "from the beginning"
    return DivergedError(
        f"training diverged at step {step}: {what}; to retry {place} with a lower learning rate: {command} "
        f"{option_of('learning_rate', f'{rate:.2g}')} ({clip} or warmup_steps may also help)",
        *_NAMED,
    )


def _can_be_read_again(corpus: Corpus) -> bool:
    """Whether the run's settings lead to its text: a file, or the default corpus."""
    if corpus.source is None:
        return corpus.sha256 in (SHA256, PLAYS_SHA256)
    paths = (corpus.source,) if isinstance(corpus.source, str) else corpus.source
    return "-" not in paths  # standard input
