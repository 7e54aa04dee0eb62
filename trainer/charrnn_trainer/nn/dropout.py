"""Dropout (Srivastava et al. 2014) whose random numbers cost a CPU little.

PyTorch draws a number for each element with a routine that takes 10 ns on a CPU: for the recurrent weights of
a layer of 952, a ninth of a training step. Here one draw of 64 bits decides on four elements.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEVELS = 2**16


def dropout(values: Tensor, share: float) -> Tensor:
    """Set a share of the elements to zero, each by chance, and scale up the others.

    On a CPU the share is rounded to a multiple of 2^-16, and the random numbers come from torch's global
    generator.

    Args:
        values: numbers of any shape.
        share: from 0 to below 1.
    """
    if values.device.type != "cpu":
        return functional.dropout(values, share)
    dropped = min(round(share * _LEVELS), _LEVELS - 1)
    if not dropped:
        return values
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[: values.numel()].view(values.shape)  # -2^15 to 2^15 - 1
    kept = (numbers >= dropped - _LEVELS // 2).to(values.dtype)
    return values * kept.mul_(_LEVELS / (_LEVELS - dropped))
