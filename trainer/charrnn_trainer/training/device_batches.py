"""Batches as tensors on the training device: cut from a text in its memory, or copied from the host."""

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
"""A text is kept on the GPU if it takes at most this share of the free GPU memory."""

_PIECE: Final = 1 << 24  # ids copied to the device at a time


class HostBatches:
    """Cuts batches on the host, from a text that may be memory-mapped, and copies them to the device."""

    def __init__(self, streams: Streams | LineBatches, device: torch.device) -> None:
        self._streams, self._device = streams, device

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch, ``int64 [B, T]`` each."""
        inputs, targets = (self._copy(part) for part in self._streams.batch(index))
        return inputs, targets

    def _copy(self, tokens: NDArray[Any]) -> Tensor:
        on_host = torch.from_numpy(tokens.astype(np.int64))
        if not is_gpu(self._device):
            return on_host.to(self._device)
        return on_host.pin_memory().to(self._device, non_blocking=True)  # asynchronous copy


class ResidentBatches:
    """Cuts batches on the device, which holds the whole text in its type on disk."""

    def __init__(self, streams: Streams, device: torch.device) -> None:
        self._streams = streams
        ids = streams.ids
        # torch has few operations on uint16, so such ids are kept as int16 with the same bits.
        self._mask = 0xFFFF if ids.dtype.itemsize == 2 else None
        kept = np.dtype(np.int16) if self._mask else ids.dtype
        self._ids = torch.empty(len(ids), dtype=torch.int16 if self._mask else torch.uint8, device=device)
        for start in range(0, len(ids), _PIECE):
            piece = np.array(ids[start : start + _PIECE]).view(kept)
            self._ids[start : start + _PIECE] = torch.from_numpy(piece).to(device)
        self._places = torch.from_numpy(streams.places).to(device)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch, ``int64 [B, T]`` each."""
        window = self._ids[self._streams.locate(self._places, index)].long()  # [B, T + 1]
        if self._mask:
            window &= self._mask
        return window[:, :-1], window[:, 1:]


Batches = HostBatches | ResidentBatches


def batches_on(device: torch.device, streams: Streams | LineBatches) -> Batches:
    """The batches of a text, which is copied to a GPU if it is small enough, else stays on the host.

    Batches of lines are always cut on the host.
    """
    if isinstance(streams, LineBatches):
        return HostBatches(streams, device)
    if is_gpu(device) and streams.ids.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return ResidentBatches(streams, device)
    return HostBatches(streams, device)
