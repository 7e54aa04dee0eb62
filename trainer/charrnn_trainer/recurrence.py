"""GRU layers for training on a CPU: their steps written out, with the gradients by hand.

PyTorch trains a GRU on a CPU as a graph of small operations: a dozen tensors are made for every character,
kept, and differentiated one by one. Here a layer's steps work in place in a few large tensors. (LSTM layers
are left to oneDNN, which has them whole.)

Shapes: T characters, B streams, I inputs, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charrnn_trainer.dropout import dropout


def gru(inputs: Tensor, state: Tensor, weights: Sequence[Tensor], drop: float) -> tuple[Tensor, Tensor]:
    """GRU layers on one another, in training mode.

    They are PyTorch's: the reset gate applies after the recurrent product (Cho et al. 2014, version 1). Under
    autocast all is computed in its type, but for sums within a product.

    Args:
        inputs: ``[B, T, I]``.
        state: ``[L, B, H]``; no gradient flows into it.
        weights: for each layer ``[3H, I]`` and ``[3H, H]`` for inputs and hidden state, and two biases
            ``[3H]``; the gates are r, z and n.
        drop: the share of the activations that is dropped between layers.

    Returns:
        the hidden states of the last layer, ``[B, T, H]``, and of all layers after the last character,
        ``[L, B, H]``, which are in the type of ``state`` and carry no gradient.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else inputs.dtype
    hidden = inputs.to(dtype).transpose(0, 1)  # (B, T, I) -> (T, B, I)
    after = torch.empty_like(state)
    with torch.autocast("cpu", enabled=False):
        for layer, before in enumerate(state):
            if layer and drop:
                hidden = dropout(hidden, drop)
            of_layer = weights[4 * layer : 4 * layer + 4]
            by_input, by_hidden, input_bias, hidden_bias = (weight.to(dtype) for weight in of_layer)
            hidden = _Layer.apply(  # type: ignore[no-untyped-call]
                hidden, before.to(dtype), by_input, by_hidden, input_bias, hidden_bias
            )
            after[layer] = hidden[-1].detach()
    return hidden.transpose(0, 1), after


class _Layer(Function):
    """One layer."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        input_weight: Tensor,
        weight: Tensor,
        input_bias: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """The hidden states ``[T, B, H]``.

        Args:
            ctx: takes what the backward pass needs.
            inputs: ``[T, B, I]``.
            start: ``[B, H]``, the hidden state before the first character.
            input_weight: ``[3H, I]``.
            weight: ``[3H, H]``, which multiplies hidden states.
            input_bias: ``[3H]``, added to the inputs' products.
            bias: ``[3H]``, added to the hidden states' products.
        """
        steps, batch, size = len(inputs), *start.shape
        # r and z add up both biases; n's of the hidden state is added where r scales the product.
        both = torch.cat([bias[: 2 * size], torch.zeros_like(bias[2 * size :])]).add_(input_bias)
        gates = functional.linear(inputs, input_weight, both)  # (T, B, I) -> (T, B, 3H), sums at first
        inner = bias[2 * size :].repeat(steps, batch, 1)  # what r scales: (T, B, H)
        hidden = torch.empty_like(inner)
        rz_weight, n_weight = weight[: 2 * size].t(), weight[2 * size :].t()
        rz = gates[:, :, : 2 * size]
        r, z, n = gates.split(size, dim=2)
        h = start
        for t in range(steps):
            rz[t].addmm_(h, rz_weight).sigmoid_()
            n[t].addcmul_(r[t], inner[t].addmm_(h, n_weight)).tanh_()
            h = torch.lerp(n[t], h, z[t], out=hidden[t])  # n + z (h - n)
        ctx.save_for_backward(inputs, start, input_weight, weight, gates, inner, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The loss's gradients by what `forward` took, from ``grad [T, B, H]`` by the hidden states."""
        inputs, start, input_weight, weight, gates, inner, hidden = ctx.saved_tensors
        steps, batch, size = inner.shape
        r, z, n = gates.split(size, dim=2)
        by_products = torch.empty_like(gates)  # the gradients by the hidden states' products
        by_r, by_z, by_inner = by_products.split(size, dim=2)
        by_n = torch.empty_like(inner)
        by_h = grad[-1].clone()
        passed, new, scratch = (torch.empty_like(by_h) for _ in range(3))
        for t in range(steps - 1, -1, -1):
            torch.mul(by_h, z[t], out=passed)  # what goes straight to the hidden state before
            torch.addcmul(by_h, by_h, z[t], value=-1, out=new)  # what goes to n
            torch.mul(new, z[t], out=scratch)
            before = hidden[t - 1] if t else start
            torch.mul(scratch, before, out=by_z[t]).addcmul_(scratch, n[t], value=-1)  # new z (before - n)
            torch.mul(new, n[t], out=scratch)
            torch.addcmul(new, scratch, n[t], value=-1, out=by_n[t])  # new (1 - n^2)
            torch.mul(by_n[t], r[t], out=by_inner[t])
            torch.mul(by_inner[t], inner[t], out=scratch)
            torch.addcmul(scratch, scratch, r[t], value=-1, out=by_r[t])  # by_n inner r (1 - r)
            if t:
                torch.add(passed, grad[t - 1], out=by_h).addmm_(by_products[t], weight)
        rows = by_products.flatten(0, 1)  # (T, B, 3H) -> (T B, 3H)
        by_weight = rows[:batch].t() @ start
        by_weight.addmm_(rows[batch:].t(), hidden[:-1].flatten(0, 1))
        by_bias = _sum(rows)
        by_inner.copy_(by_n)  # from here on these are the gradients by the inputs' products
        by_input_weight = rows.t() @ inputs.flatten(0, 1)
        by_inputs = by_products @ input_weight if ctx.needs_input_grad[0] else None
        return by_inputs, None, by_input_weight, by_weight, _sum(rows), by_bias


def _sum(rows: Tensor) -> Tensor:
    """``[N, K] -> [K]``, as a product: it sums in fp32 whatever the type, and is faster."""
    total: Tensor = (rows.new_ones(1, len(rows)) @ rows)[0]
    return total
