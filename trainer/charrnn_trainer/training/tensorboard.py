"""TensorBoard logs of a run; needs the extra ``tensorboard``."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.training.events import Event, Logged, Started, Validated

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.tensorboard import SummaryWriter

FOLDER: Final = "tensorboard"
"""The folder of the logs in a run's folder."""

_SAMPLE_LENGTH: Final = 500


def check_installed() -> None:
    """Check that the package is installed.

    Raises:
        CharRNNError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise CharRNNError(
            "tensorboard=True needs the package tensorboard, which is not installed: pip install tensorboard",
            "tensorboard",
        )


class TensorBoardLog:
    """A listener that logs the losses, the learning rate, the speed and samples of a run.

    When a run is resumed, steps logged after its checkpoint are dropped.
    """

    def __init__(self, run: Path) -> None:
        """Prepare to log into ``run/tensorboard``.

        Raises:
            CharRNNError: the package is not installed.
        """
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        self._make: Callable[[int], SummaryWriter] = lambda step: SummaryWriter(
            str(run / FOLDER), purge_step=step + 1
        )
        self._writer: SummaryWriter | None = None
        self._write: Callable[[int], str] | None = None

    def __call__(self, event: Event) -> None:
        """Log an event."""
        if isinstance(event, Started):
            self.close()
            self._writer, self._write = self._make(event.step), event.write
        writer = self._writer
        if writer is None:
            return
        if isinstance(event, Logged):
            writer.add_scalar("loss/training", event.train_loss, event.step)
            writer.add_scalar("learning_rate", event.learning_rate, event.step)
            writer.add_scalar("seconds_per_batch", event.seconds_per_batch, event.step)
        elif isinstance(event, Validated) and self._write is not None:
            writer.add_scalar("loss/validation", event.validation_loss, event.step)
            bits = event.validation_loss / math.log(2)
            unit = "byte" if event.level == "byte" else "character"
            writer.add_scalar(f"bits_per_{unit}/validation", bits, event.step)
            sample = self._write(_SAMPLE_LENGTH)
            indented = "".join(
                f"    {line}\n" for line in sample.splitlines()
            )  # Markdown's way to quote text
            writer.add_text("sample", indented, event.step)
            writer.flush()

    def close(self) -> None:
        """Flush and close the log."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
