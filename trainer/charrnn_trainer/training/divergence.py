"""Training that diverges: how it is noticed, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.training.context import RunContext

_EXPLODED: Final = 10.0
"""A loss of so many times that of guessing blindly, ln V, ends a run."""


class DivergedError(CharRNNError):
    """The loss or the gradient is not a finite number any more, or the loss has exploded."""


def check_training_loss(context: RunContext, step: int, loss: float, norm: float) -> None:
    """Check the loss and the gradient's norm of a step.

    Raises:
        DivergedError: one of them is no finite number, or the loss is too large to come back.
    """
    highest = _EXPLODED * math.log(context.network.vocabulary_size)
    if not (math.isfinite(loss) and math.isfinite(norm) and loss <= highest):
        raise _diverged(context, step, loss, norm)


def check_validation_loss(context: RunContext, loss: float) -> None:
    """Check the validation loss of the network as it is now.

    Raises:
        DivergedError: it is no finite number.
    """
    if not math.isfinite(loss):
        raise _diverged(context, context.step, loss, 0.0)


def _diverged(context: RunContext, step: int, loss: float, norm: float) -> DivergedError:
    what = "the gradient is not finite" if math.isfinite(loss) and not math.isfinite(norm) else None
    kept: list[Path] = []
    if context.run is not None:
        context.run.flush_history()  # it shows how it came to this
        kept = context.run.checkpoints()
    optimization = context.config.optimization
    rate = f"--learning-rate {optimization.learning_rate / 3:.2g}"
    clip = "a lower --clip" if optimization.clip else "--clip 1"
    way_on = f"; the last good checkpoint is {kept[-1]}: --init-from it with {rate} goes on" if kept else ""
    return DivergedError(
        f"training diverged at step {step}: {what or f'the loss is {loss:.4g}'}; try a lower rate "
        f"({rate}), {clip}, or --warmup-steps{way_on}"
    )
