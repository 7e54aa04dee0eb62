"""Training that diverges: how it is noticed, and what is said of it."""

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
"""A loss of this many times that of guessing blindly, ln V, ends a run."""

_NAMED: Final = ("learning_rate", "clip", "warmup_steps")

_LOWER: Final = 3.0
"""The learning rate that is advised then is the run's divided by this, and at most the default."""


class DivergedError(CharRNNError):
    """The loss or the gradient is not a finite number any more, or the loss has exploded."""


def check_training_loss(context: RunContext, step: int, loss: float, norm: float) -> None:
    """Check the loss and the gradient's norm of a step.

    Raises:
        DivergedError: one of them is not finite, or the loss is too large to come back.
    """
    highest = _EXPLODED * math.log(context.network.vocabulary_size)
    if not (math.isfinite(loss) and math.isfinite(norm) and loss <= highest):
        raise _diverged(context, step, loss, norm)


def check_validation_loss(context: RunContext, loss: float) -> None:
    """Check the validation loss of the network as it is now.

    Raises:
        DivergedError: it is not finite.
    """
    if not math.isfinite(loss):
        raise _diverged(context, context.step, loss, 0.0)


def _diverged(context: RunContext, step: int, loss: float, norm: float) -> DivergedError:
    """The error with advice; not to resume, since a run repeats its steps and diverges again."""
    what = f"the loss is {loss:.4g}"
    if math.isfinite(loss) and not math.isfinite(norm):
        what = "the gradient is not finite"
    run, optimization = context.run, context.config.optimization
    if run is not None:
        run.flush_history()  # it shows how it came to this
    kept = run.checkpoints() if run is not None else []
    rate = min(optimization.learning_rate / _LOWER, OptimizationConfig().learning_rate)
    lower = f"learning_rate={rate:.2g}"
    clip = "a lower clip" if optimization.clip else "clip=1"
    if run is None or not _can_be_read_again(context.corpus):
        good = f"; the last good checkpoint is {kept[-1]}, to start from with init_from" if kept else ""
        return DivergedError(
            f"training diverged at step {step}: {what}; try a lower rate ({lower}), {clip}, or "
            f"warmup_steps{good}",
            *_NAMED,
            "init_from",
        )
    start = f" --init-from {shell_word(kept[-1])}" if kept else ""
    command = f"charrnn-train --config {shell_word(run.config_path)}{start}"
    place = "from the last good checkpoint" if kept else "from the beginning"
    return DivergedError(
        f"training diverged at step {step}: {what}; to try a lower rate {place}: {command} "
        f"{option_of('learning_rate', f'{rate:.2g}')} ({clip}, or warmup_steps, may help, too)",
        *_NAMED,
    )


def _can_be_read_again(corpus: Corpus) -> bool:
    """Whether the run's settings say where its text is: a file, or by saying nothing the default corpus."""
    if corpus.source is None:
        return corpus.sha256 in (SHA256, PLAYS_SHA256)
    paths = (corpus.source,) if isinstance(corpus.source, str) else corpus.source
    return "-" not in paths  # standard input
