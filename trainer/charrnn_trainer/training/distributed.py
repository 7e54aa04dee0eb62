"""Several processes that train one network together, started by ``torchrun`` or anything else that sets its
environment variables (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``).

Every process holds the whole network and reads its own rows of each batch; the gradients are averaged, so
that all of them take the same steps. What must be the same everywhere, such as a learning rate that depends
on the clock, is decided by the first process, which alone writes files.

A process that fails must end. The others notice that by the connections it leaves, and end with a
`WorkerLostError`.
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
"""How long a process waits for the others: as long as the first may prepare a text, or validate on it. One
that has ended is not waited for."""


class WorkerLostError(CharRNNError):
    """Another process of the training has ended."""


class ProcessGroup:
    """A single-process group. `WorkerGroup` is what several processes that train together have.

    Attributes:
        rank: this process's number, from 0; 0 is the main process.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which decides and writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process reads.

        Raises:
            SettingError: there are not as many for each process.
        """
        rows, rest = divmod(batch_size, self.size)
        if rest:
            fitting = f"{rows * self.size} or {(rows + 1) * self.size}" if rows else f"{self.size}"
            raise SettingError(
                f"batches of {batch_size} rows cannot be shared equally by {self.size} processes; give "
                f"batch_size={fitting}, or start another number of processes",
                "batch_size",
            )
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def device(self, wanted: str) -> torch.device:
        """The device for "auto", "cpu" or "cuda"; of several GPUs each process has its own.

        Raises:
            DeviceError: a GPU was asked for, and there is none for this process.
        """
        return choose_device(wanted)

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are the means over all processes; weights become the first one's."""
        return network

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process do something, and give its result (as JSON can hold it) to all."""
        return work()

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return values

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """The parts of all processes, joined along an axis, for the first; the others get their own back."""
        return part

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Tell the loss of another process from other failures of torch.

        Raises:
            WorkerLostError: another process has ended.
        """
        yield


class WorkerGroup(ProcessGroup):
    """A group of several processes, as one of them sees it; `join` makes it."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def device(self, wanted: str) -> torch.device:
        device = choose_device(wanted)
        if device.type == "cpu":
            return device
        number, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if number >= there:
            raise DeviceError(
                f"this machine has {there} GPU(s) for {number + 1} processes or more; start one process per "
                f"GPU (--nproc-per-node {there}), or train on the CPU (device=cpu)",
                "device",
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def wrap(self, network: nn.Module) -> nn.Module:
        device = next(network.parameters()).device
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None
        )

    def first(self, work: Callable[[], T]) -> T:
        # As JSON, and not as torch would send objects: nothing that comes over a network is unpickled.
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
        raw = own.view(torch.uint8)  # gloo does not know every type of number
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
                "another process of this training has ended, and the others end with it; its messages say "
                "why, and resume continues from the last checkpoint",
                "resume",
            ) from error


@contextlib.contextmanager
def join() -> Iterator[ProcessGroup]:
    """Meet the other processes that were started with this one, for a ``with`` statement.

    Where the environment names no others, it is a group of one.

    Raises:
        WorkerLostError: they cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ProcessGroup()
        return
    # Numbers on the host, such as what the first process decides, never wait for the GPU.
    on_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        raise WorkerLostError(
            f"the other processes of this training cannot be reached: {' '.join(str(error).split())}"
        ) from error
    yield WorkerGroup()
    # After a failure, the connections are left to the end of the process, which comes when it has told why.
    distributed.destroy_process_group()


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)
