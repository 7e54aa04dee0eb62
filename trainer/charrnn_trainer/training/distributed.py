"""Data-parallel training in several processes, started by ``torchrun`` or another launcher that sets its
environment variables (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``).

Every process holds the whole network and reads its own rows of each batch. Gradients are averaged, so all
processes take the same steps. The main process alone writes files, and decides values that must agree, such
as a learning rate that depends on the clock.

A process that fails must exit. The others notice the closed connections, and fail with `WorkerLostError`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import torch
from torch import Tensor, distributed, nn

from charrnn_runtime.errors import CharRNNError, DeviceError, SettingError
from charrnn_trainer.training.torch_settings import choose_device

T = TypeVar("T")

_WAIT: Final = datetime.timedelta(hours=6)
"""The timeout of collective operations: as long as the main process may prepare a text, or validate on it. A
process that has exited is noticed at once."""


class WorkerLostError(CharRNNError):
    """Another process of the run has ended."""


class ProcessGroup:
    """A group of one process; for several processes, see `WorkerGroup`.

    Attributes:
        rank: this process's number, from 0; 0 is the main process.
        size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process reads.

        Raises:
            SettingError: the rows cannot be shared equally.
        """
        rows, rest = divmod(batch_size, self.size)
        if rest:
            fitting = f"{rows * self.size} or {(rows + 1) * self.size}" if rows else f"{self.size}"
            raise SettingError(
                f"batches of {batch_size} rows cannot be shared equally by {self.size} processes; give "
                f"batch_size={fitting}, or start a different number of processes",
                "batch_size",
            )
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def device(self, wanted: str) -> torch.device:
        """The device for "auto", "cpu" or "cuda"; each process has a GPU to itself.

        Raises:
            DeviceError: a GPU was requested, and there is none for this process.
        """
        return choose_device(wanted)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap a network to average gradients over all processes, starting from rank 0's weights."""
        return network

    def broadcast(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the main process, and broadcast its JSON-serializable result to all."""
        return work()

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return values

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """Concatenate the parts of all processes in the main process; the others get their own part back."""
        return part

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Translate torch's errors about lost processes.

        Raises:
            WorkerLostError: another process has ended.
        """
        yield


class WorkerGroup(ProcessGroup):
    """A group of several processes, created by `join`."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def device(self, wanted: str) -> torch.device:
        device = choose_device(wanted)
        if device.type == "cpu":
            return device
        number, gpus = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if number >= gpus:
            raise DeviceError(
                f"this machine has {gpus} GPU(s) for {number + 1} processes or more; start one process per "
                f"GPU (--nproc-per-node {gpus}), or train on the CPU (device=cpu)",
                "device",
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def wrap(self, network: nn.Module) -> nn.Module:
        device = next(network.parameters()).device
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None
        )

    def broadcast(self, work: Callable[[], T]) -> T:
        # JSON instead of torch's object collectives: nothing received over a network is unpickled.
        value = work() if self.is_main else None
        content = bytearray(json.dumps(value).encode())
        length = torch.tensor([len(content)])
        distributed.broadcast(length, 0)
        received = torch.frombuffer(content, dtype=torch.uint8) if self.is_main else _bytes(int(length))
        distributed.broadcast(received, 0)
        answer: T = json.loads(received.numpy().tobytes())
        return answer

    def agree(self, flag: bool) -> bool:
        votes = torch.tensor([float(flag)])
        distributed.all_reduce(votes)
        return bool(votes > 0)

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def gather(self, part: Tensor, dim: int) -> Tensor:
        own = part.detach().cpu().contiguous()
        raw = own.view(torch.uint8)  # gloo does not support every dtype
        parts = [torch.empty_like(raw) for _ in range(self.size)] if self.is_main else None
        distributed.gather(raw, parts)
        return part if parts is None else torch.cat([item.view(own.dtype) for item in parts], dim)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            raise WorkerLostError(
                "another process of this run has ended, so the run stops; see its messages for the cause, "
                "and continue from the last checkpoint with resume",
                "resume",
            ) from error


@contextlib.contextmanager
def join() -> Iterator[ProcessGroup]:
    """Join the group of processes that the environment describes, for a ``with`` statement.

    Without such variables, it is a group of one.

    Raises:
        WorkerLostError: the other processes cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ProcessGroup()
        return
    # Values on the host, such as decisions of the main process, use gloo and never wait for the GPU.
    on_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        raise WorkerLostError(
            f"the other processes of this run cannot be reached: {' '.join(str(error).split())}"
        ) from error
    yield WorkerGroup()
    # After a failure, connections stay open until this process exits, once it has printed the cause.
    distributed.destroy_process_group()


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)
