"""GRU layers for training on a CPU, with hand-written gradients.

PyTorch trains a GRU on a CPU as a graph of small operations: it allocates a dozen tensors for every
character, keeps them, and differentiates them one by one. Here, a layer's steps work in place in a few large
tensors. (LSTM layers use oneDNN, which implements whole layers.)

Shapes: T characters, B streams, I inputs, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from charrnn_trainer.nn.dropout import dropout

_PART: Final = 10
"""The number of time steps computed at a time: 1.5 MB of gates at the default sizes in bf16."""

_by_sigmoid = torch.ops.aten.sigmoid_backward.grad_input  # x, y: x y (1 - y)
_by_tanh = torch.ops.aten.tanh_backward.grad_input  # x, y: x (1 - y^2)


def gru(inputs: Tensor, state: Tensor, weights: Sequence[Tensor], drop: float) -> tuple[Tensor, Tensor]:
    """Stacked GRU layers, in training mode.

    They match PyTorch's: the reset gate applies after the recurrent product (Cho et al. 2014, version 1).
    Under autocast, everything but sums within a product is computed in its type.

    Args:
        inputs: ``[B, T, I]``.
        state: ``[L, B, H]``; it receives no gradient.
        weights: for each layer ``[3H, I]`` and ``[3H, H]`` for inputs and hidden state, and two biases
            ``[3H]``; the gates are r, z and n.
        drop: the dropout probability between layers.

    Returns:
        The hidden states of the last layer, ``[B, T, H]``, and of all layers after the last character,
        ``[L, B, H]``, in the type of ``state`` and without gradient.
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
            ctx: stores tensors for the backward pass.
            inputs: ``[T, B, I]``.
            start: ``[B, H]``, the hidden state before the first character.
            input_weight: ``[3H, I]``.
            weight: ``[3H, H]``, the recurrent weights.
            input_bias: ``[3H]``, added to the inputs' products.
            bias: ``[3H]``, added to the hidden states' products.
        """
        steps, batch, size = len(inputs), *start.shape
        # r and z use the sum of both biases; n's recurrent bias is added where r scales the product.
        both = torch.cat([bias[: 2 * size], torch.zeros_like(bias[2 * size :])]).add_(input_bias)
        gates = inputs.new_empty(steps, batch, 3 * size)  # r, z, and the inner sum scaled by r
        n, hidden = (inputs.new_empty(steps, batch, size) for _ in range(2))
        h = start
        for part in _parts(steps):
            r, z, inner = gates[part].split(size, dim=2)  # (P, B, H) each
            rows = gates[part].flatten(0, 1)  # (P, B, 3H) -> (P B, 3H)
            torch.addmm(both, inputs[part].flatten(0, 1), input_weight.t(), out=rows)
            n[part].copy_(inner)
            inner.copy_(bias[2 * size :])
            rz = gates[part, :, : 2 * size]
            each = (gates[part], rz, r, z, inner, n[part], hidden[part])
            for sums, rz_t, r_t, z_t, inner_t, n_t, new in zip(*map(torch.unbind, each), strict=True):
                sums.addmm_(h, weight.t())
                rz_t.sigmoid_()
                n_t.addcmul_(r_t, inner_t).tanh_()
                h = torch.lerp(n_t, h, z_t, out=new)  # n + z (h - n)
        ctx.save_for_backward(inputs, start, input_weight, weight, gates, n, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the inputs of `forward`, from ``grad [T, B, H]``, that of the hidden states.

        The gradient of a step's sums is that of its new hidden state times a factor that depends only on the
        forward pass and is computed for many steps at a time.
        """
        inputs, start, input_weight, weight, gates, n, hidden = ctx.saved_tensors
        steps, batch, size = n.shape
        by_sums = torch.empty_like(gates)  # gradients of r's, z's and the inner sums
        by_n = torch.empty_like(n)  # gradient of n's sum, before tanh
        one, by_h = n.new_ones(()), grad[-1]
        for part in reversed(_parts(steps)):
            r, z, inner = gates[part].split(size, dim=2)  # (P, B, H) each
            by_r, by_z, by_inner = by_sums[part].split(size, dim=2)
            first = part.start
            if first:
                torch.sub(hidden[first - 1 : part.stop - 1], n[part], out=by_z)
            else:
                torch.sub(start, n[0], out=by_z[0])
                torch.sub(hidden[: part.stop - 1], n[1 : part.stop], out=by_z[1:])
            _by_sigmoid(by_z, z, grad_input=by_z)  # (h - n) z (1 - z), with the previous h
            for_n = torch.sub(one, z, out=by_n[part])
            _by_tanh(for_n, n[part], grad_input=for_n)  # (1 - z) (1 - n^2)
            torch.mul(for_n, r, out=by_inner)
            torch.mul(for_n, inner, out=by_r)
            _by_sigmoid(by_r, r, grad_input=by_r)  # by_n inner r (1 - r)
            for t in range(part.stop - 1, first - 1, -1):
                by_sums[t].view(batch, 3, size).mul_(by_h.unsqueeze(1))
                by_n[t].mul_(by_h)
                if t:
                    by_h = torch.addcmul(grad[t - 1], by_h, gates[t, :, size : 2 * size])
                    by_h.addmm_(by_sums[t], weight)
        rows = by_sums.flatten(0, 1)  # (T, B, 3H) -> (T B, 3H)
        by_weight = rows[:batch].t() @ start
        by_weight.addmm_(rows[batch:].t(), hidden[:-1].flatten(0, 1))
        by_bias = _sum(rows)
        by_sums[:, :, 2 * size :] = by_n  # from here on: the gradients of the inputs' products
        by_input_weight = rows.t() @ inputs.flatten(0, 1)
        by_inputs = by_sums @ input_weight if ctx.needs_input_grad[0] else None
        return by_inputs, None, by_input_weight, by_weight, _sum(rows), by_bias


def _parts(steps: int) -> list[slice]:
    """Split the steps into parts short enough to stay in the processor's cache."""
    return [slice(start, min(start + _PART, steps)) for start in range(0, steps, _PART)]


def _sum(rows: Tensor) -> Tensor:
    """``[N, K] -> [K]``, as a matrix product, which sums in fp32 for any type, and is faster."""
    total: Tensor = (rows.new_ones(1, len(rows)) @ rows)[0]
    return total
