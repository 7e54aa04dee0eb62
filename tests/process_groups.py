"""Two processes that train together on request, so that many tests share one import of torch."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.nn import network as network_module
from charrnn_trainer.nn.network import next_token_loss
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training import torch_settings, trainer, validator
from charrnn_trainer.training.api import resume, run_worker, train
from charrnn_trainer.training.distributed import ProcessGroup, join
from charrnn_trainer.training.events import Event, Stepped, TrainResult
from tiny_runs import TEXT

_SECONDS = 240.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training run in one process; ``error`` is a class name and its message."""

    step: int = 0
    stopped: bool = False
    losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    weights: bytes = b""
    drawn: bytes = b""
    error: str = ""


class Pair:
    """Two processes; call it to let them train together or to let one of them fail."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = []
        self._pipes: list[Connection] = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)

    def __call__(self, config: TrainConfig | None, folder: Path, **options: Any) -> tuple[Outcome, Outcome]:
        """Train into a folder, or resume there if ``config`` is None; see `_take_part` for the options."""
        port = free_port()
        for pipe in self._pipes:
            pipe.send((port, config, folder, options))
        outcomes = []
        for pipe in self._pipes:
            assert pipe.poll(_SECONDS), "a process hangs"
            outcomes.append(pipe.recv())
        return outcomes[0], outcomes[1]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # which ends the process behind it
        for process in self._processes:
            process.join(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(rank: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun sets for the process with this number."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **address}


def _serve(pipe: Connection, rank: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with contextlib.suppress(EOFError):
        while True:
            port, config, folder, options = pipe.recv()
            os.environ.update(environment_of(rank, port))
            try:
                with join() as group:
                    outcome = _take_part(group, config, folder, **options)
            except (CharRNNError, KeyboardInterrupt) as error:
                outcome = Outcome(error=f"{type(error).__name__}: {error}")
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            gc.collect()  # close the connections, as at the exit of a process
            pipe.send(outcome)


def _take_part(
    group: ProcessGroup,
    config: TrainConfig | None,
    folder: Path,
    *,
    stop_at: tuple[int, int] = (0, 0),
    changes: dict[str, Any] | None = None,
    spoil: tuple[str, str] = ("", ""),
) -> Outcome:
    """Train.

    Args:
        group: the two processes.
        config: the settings; None resumes.
        folder: the run's folder.
        stop_at: the step after which each process requests a stop; 0: never.
        changes: the settings that a resumed run changes.
        spoil: the failure in each process, from `SPOILS`.
    """
    losses: list[float] = []
    rates: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss or 0.0)
            rates.append(event.learning_rate)

    asked = itertools.count(1)

    def should_stop() -> bool:
        return next(asked) == stop_at[group.rank]

    with SPOILS[spoil[group.rank]]():
        if not group.is_main:
            result = run_worker(group, should_stop=should_stop)
        elif config is None:
            result = resume(folder, listen, changes=changes, should_stop=should_stop, group=group)
        else:
            corpus = Corpus.from_text(TEXT, name="hamlet")
            result = train(config, corpus, listen, out=folder, should_stop=should_stop, group=group)
    return Outcome(
        result.step, result.stopped, tuple(losses), tuple(rates), _bytes_of(result), _drawn(result)
    )


def _bytes_of(result: TrainResult) -> bytes:
    weights = [weight.detach().numpy().ravel() for weight in result.network.parameters()]
    return np.concatenate(weights).tobytes()


def _drawn(result: TrainResult) -> bytes:
    return bytes(_random_after[-1]) if result.step else b""


# --- errors ------------------------------------------------------------------------------------------------

_random_after: list[bytes] = [b""]


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    """No failure; the drawn random numbers are recorded."""
    real = torch_settings.random_states

    def noting(device: torch.device) -> dict[str, torch.Tensor]:
        states = real(device)
        _random_after.append(states["cpu"].numpy().tobytes())
        return states

    with mock.patch.object(trainer, "random_states", noting):
        yield


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if "step6" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    with mock.patch.object(os, "replace", full):
        yield


def _at_the_fifth_loss(spoiled: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    calls = itertools.count(1)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        right = next_token_loss(logits, targets)
        return spoiled(right) if next(calls) == 5 else right

    return mock.patch.object(network_module, "next_token_loss", loss)


def _no_memory() -> Any:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")

    return _at_the_fifth_loss(fail)


def _no_number() -> Any:
    return _at_the_fifth_loss(lambda loss: loss * float("nan"))


def _unreadable_text() -> Any:
    return mock.patch.object(Corpus, "open", side_effect=CharRNNError("cannot read the tokens"))


def _interrupted_validation() -> Any:
    return mock.patch.object(validator, "validation_loss", side_effect=KeyboardInterrupt)


def _worse_and_worse() -> Any:
    return mock.patch.object(validator, "validation_loss", side_effect=map(float, itertools.count(1)))


def _clock(seconds: float) -> Any:
    looks = itertools.count(0.0, seconds)
    return mock.patch("charrnn_trainer.training.trainer.time.perf_counter", side_effect=looks)


SPOILS: dict[str, Callable[[], Any]] = {
    "": _nothing,
    "full disk": _full_disk,
    "no memory": _no_memory,
    "no number": _no_number,
    "unreadable text": _unreadable_text,
    "interrupted validation": _interrupted_validation,
    "worse and worse": _worse_and_worse,
    "slow clock": lambda: _clock(1.0),
    "fast clock": lambda: _clock(100.0),
}
