"""The events of a training run, passed to its listener. ``str(event)`` is one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn_trainer.train_config import TrainConfig

if TYPE_CHECKING:
    from charrnn_trainer.nn.network import CharNetwork
    from charrnn_trainer.runs.header import Evaluation, Kind


@dataclass(frozen=True)
class Notice:
    """A message, for example that a setting was chosen or adjusted.

    Attributes:
        message: the message, in one line.
        parameters: the settings that it names, as in `CharRNNError.parameters`.
    """

    message: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Started:
    """Training starts or resumes.

    Attributes:
        config: all settings, with "auto" resolved.
        step: the number of steps done before.
        done: the fraction of the run that is done.
        parameters: the number of the network's parameters.
        train_tokens: the number of characters for training.
        validation_tokens: the number of characters held out for validation.
        device: the device that the run trains on.
        run: the run's folder, if it has one.
        write: generates this many characters with the current state of the network.
    """

    config: TrainConfig
    step: int
    done: float
    parameters: int
    train_tokens: int
    validation_tokens: int
    device: str
    run: Path | None
    write: Callable[[int], str]

    def __str__(self) -> str:
        network = self.config.network
        shape = f"{network.cell.upper()}, {network.layers} x {network.hidden_size}"
        return (
            f"training from step {self.step}: {shape}, {self.parameters:,} parameters, on {self.device}, "
            f"{f'saving to {self.run}' if self.run else 'not saved'}"
        )


@dataclass(frozen=True)
class Stepped:
    """A training step is done.

    Attributes:
        step: the number of steps done.
        loss: its loss in nats per character; None on a GPU, where reading it at every step would cost time.
        learning_rate: its learning rate.
        seconds: its duration.
        done: the fraction of the run that is done, by steps or by its time budget.
    """

    step: int
    loss: float | None
    learning_rate: float
    seconds: float
    done: float

    def __str__(self) -> str:
        loss = "" if self.loss is None else f"loss {self.loss:.4f}, "
        return f"step {self.step}: {loss}learning rate {self.learning_rate:.2g}, {self.seconds:.3f} s"


@dataclass(frozen=True)
class Logged:
    """A report, every ``log_every`` steps and at the end.

    Attributes:
        step: the number of steps done.
        train_loss: the mean loss since the last report, in nats per character.
        learning_rate: the current learning rate.
        seconds_per_batch: the mean duration of a step since the last report (or since the start).
        characters_per_second: the training throughput.
        level: "char", or "byte", where losses and counts are of bytes.
    """

    step: int
    train_loss: float
    learning_rate: float
    seconds_per_batch: float
    characters_per_second: float
    level: str = "char"

    def __str__(self) -> str:
        loss = with_bits(self.train_loss, self.level)
        speed = f"{self.seconds_per_batch:.3f} s/batch"
        return f"step {self.step}: training loss {loss}, {speed}"


@dataclass(frozen=True)
class Validated:
    """The validation loss was measured.

    Attributes:
        step: the number of steps done.
        validation_loss: in nats per character.
        best: whether it is the lowest so far.
        characters: the number of characters that it is the mean over.
        level: "char", or "byte", where losses and counts are of bytes.
    """

    step: int
    validation_loss: float
    best: bool
    characters: int
    level: str = "char"

    def __str__(self) -> str:
        best = ", best so far" if self.best else ""
        return f"step {self.step}: validation loss {with_bits(self.validation_loss, self.level)}{best}"


@dataclass(frozen=True)
class ValidatedWhole:
    """At the end of a run that validated on a sample: the best network's loss on the whole validation text.

    Attributes:
        step: the best network's step.
        validation_loss: in nats per character.
        characters: the number of characters that it is the mean over.
        level: "char", or "byte", where losses and counts are of bytes.
    """

    step: int
    validation_loss: float
    characters: int
    level: str = "char"

    def __str__(self) -> str:
        loss = with_bits(self.validation_loss, self.level)
        unit = "bytes" if self.level == "byte" else "characters"
        return f"step {self.step}: validation loss {loss} on {self.characters:,} {unit}"


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written.

    Attributes:
        step: the number of steps done.
        path: its file.
        kind: the reason.
    """

    step: int
    path: Path
    kind: Kind

    def __str__(self) -> str:
        return f"step {self.step}: saved {self.path} ({self.kind})"


Event = Notice | Started | Stepped | Logged | Validated | ValidatedWhole | Saved
"""What `train` and `resume` call ``on_event`` with."""


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The result of a training run.

    Attributes:
        network: the network after the last step, in evaluation mode.
        config: all settings, with "auto" resolved.
        step: the number of steps done.
        stopped: whether the run was stopped before its end.
        train_loss: the mean loss since the last report, in nats per character.
        evaluations: all validation losses.
        whole_loss: the best network's loss on the whole validation text, if ``evaluations`` are of a sample
            and this call finished the run; else None.
        run: the run's folder, if it has one.
    """

    network: CharNetwork
    config: TrainConfig
    step: int
    stopped: bool
    train_loss: float | None
    evaluations: tuple[Evaluation, ...]
    whole_loss: float | None
    run: Path | None

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest validation loss."""
        return min(self.evaluations, key=lambda item: item.validation_loss, default=None)


def with_bits(loss: float, level: str = "char") -> str:
    """Format a loss in nats and in bits per character: ``1.5000 (2.164 bits per character)``.

    At level "byte", both are per byte.
    """
    return f"{loss:.4f} ({loss / math.log(2):.3f} bits per {'byte' if level == 'byte' else 'character'})"


Listener = Callable[[Event], None]
"""A callable that receives every event."""


def ignore(event: Event) -> None:
    """A listener that ignores all events."""
