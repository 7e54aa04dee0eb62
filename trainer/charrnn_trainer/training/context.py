"""The state shared by all parts of a training run: its inputs and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.lines import LineSplit
from charrnn_trainer.data.split import Split
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.folder import Run
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.distributed import ProcessGroup
from charrnn_trainer.training.events import Listener
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.run_clock import RunClock


@dataclass(eq=False)
class RunContext:
    """A run, as shared by the parts of its training.

    Attributes:
        config: all settings, fully resolved; a revised plan replaces them.
        corpus: the text.
        split: its split into training and validation text.
        run: the run's folder; None if nothing is written.
        emit: called with every event.
        group: the processes that train together.
        clock: the clock of the run.
        device: the device that it runs on.
        network: the network in training, on the device.
        step: the number of steps done.
        done: the fraction of the run that is done, by its steps or its time.
    """

    config: TrainConfig
    corpus: Corpus
    split: Split | LineSplit
    run: Run | None
    emit: Listener
    group: ProcessGroup
    clock: RunClock
    device: torch.device
    network: CharNetwork
    step: int = 0
    done: float = 0.0

    @property
    def compute_mode(self) -> ComputeMode:
        """The compute mode of training steps."""
        return ComputeMode(self.config.run.precision, bool(self.config.run.onednn))

    @property
    def exact_mode(self) -> ComputeMode:
        """The compute mode of validation losses: fp32, as in exported models."""
        return ComputeMode("fp32", bool(self.config.run.onednn))

    def update_progress(self) -> None:
        """Update ``done``; the main process's clock decides for all processes."""
        optimization = self.config.optimization
        done = self.clock.progress(optimization, self.step)
        done = max(self.done, done)  # reserving less time for the end must not rewind the schedule
        self.done = self.group.broadcast(lambda: done) if optimization.minutes else done

    def note(self, **values: Any) -> None:
        """Add a line to the run's history, if it has a folder."""
        if self.run is not None:
            self.run.note(**values)

    def flush_history(self) -> None:
        """Write the recorded history to disk."""
        if self.run is not None:
            self.run.flush_history()
