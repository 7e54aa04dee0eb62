"""Batches as tensors on the device that trains: cut from a text that is there, or brought from the host."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn_trainer.data.batches import Streams
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.training.torch_settings import is_gpu

RESIDENT_SHARE: Final = 0.25
"""A text stays on a GPU if it takes at most this share of the memory that is free there."""

_PIECE: Final = 1 << 24  # how many ids are copied to the device at a time


class HostBatches:
    """Cuts batches on the host, from a text that may be mapped from a file, and brings them to the device."""

    def __init__(self, streams: Streams | LineBatches, device: torch.device) -> None:
        self._streams, self._device = streams, device

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, ``int64 [B, T]`` each, of the batch with this number."""
        inputs, targets = (self._bring(part) for part in self._streams.batch(index))
        return inputs, targets

    def _bring(self, tokens: NDArray[Any]) -> Tensor:
        on_host = torch.from_numpy(tokens.astype(np.int64))
        if not is_gpu(self._device):
            return on_host.to(self._device)
        return on_host.pin_memory().to(self._device, non_blocking=True)  # the copy is not waited for


class ResidentBatches:
    """Cuts batches on the device, where the whole text lies in the type that it has on disk."""

    def __init__(self, streams: Streams, device: torch.device) -> None:
        self._streams = streams
        ids = streams.ids
        # torch has few operations on uint16, so that such ids are kept as int16 with the same bits.
        self._mask = 0xFFFF if ids.dtype.itemsize == 2 else None
        kept = np.dtype(np.int16) if self._mask else ids.dtype
        self._ids = torch.empty(len(ids), dtype=torch.int16 if self._mask else torch.uint8, device=device)
        for start in range(0, len(ids), _PIECE):
            piece = np.array(ids[start : start + _PIECE]).view(kept)
            self._ids[start : start + _PIECE] = torch.from_numpy(piece).to(device)
        self._places = torch.from_numpy(streams.places).to(device)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, ``int64 [B, T]`` each, of the batch with this number."""
        window = self._ids[self._streams.locate(self._places, index)].long()  # [B, T + 1]
        if self._mask:
            window &= self._mask
        return window[:, :-1], window[:, 1:]


Batches = HostBatches | ResidentBatches


def batches_on(device: torch.device, streams: Streams | LineBatches) -> Batches:
    """The batches of a text, which is brought to a GPU if it is small enough, and else stays on the host.

    Batches of lines are cut on the host in any case.
    """
    if isinstance(streams, LineBatches):
        return HostBatches(streams, device)
    if is_gpu(device) and streams.ids.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return ResidentBatches(streams, device)
    return HostBatches(streams, device)
