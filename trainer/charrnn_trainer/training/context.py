"""What all parts of a training share: what it was given, and how far it has come."""

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
    """A run as the parts of its training see it.

    Attributes:
        config: all settings, with nothing left open; a revised plan replaces them.
        corpus: the text.
        split: which part of it is trained on, and which validates.
        run: the folder, if anything is written.
        emit: is called with every event.
        group: the processes that train together.
        clock: the time of the run.
        device: where it computes.
        network: what is trained, on the device.
        step: how many steps are done.
        done: how much of the run is done, from 0 to 1, by its steps or its time.
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
        """How steps are computed."""
        return ComputeMode(self.config.run.precision, bool(self.config.run.onednn))

    @property
    def exact_mode(self) -> ComputeMode:
        """How losses for validation are computed: in fp32, as exported models compute."""
        return ComputeMode("fp32", bool(self.config.run.onednn))

    def look_at_clock(self) -> None:
        """Find how much of the run is done, by the clock of the first process for all."""
        optimization = self.config.optimization
        done = self.clock.progress(optimization, self.step)
        done = max(self.done, done)  # less time for the end than was kept for it does not wind back the rate
        self.done = self.group.first(lambda: done) if optimization.minutes else done

    def note(self, **values: Any) -> None:
        """Add a line to the run's history, if it has a folder."""
        if self.run is not None:
            self.run.note(**values)

    def flush_history(self) -> None:
        """Write what was recorded to the disk."""
        if self.run is not None:
            self.run.flush_history()
