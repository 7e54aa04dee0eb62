"""One step of each cell as graph nodes: (input, h, c) -> (h, c).

The equations are those of torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN. The first layer's input is a token,
whose contribution to all gates is a row of a table (see `weights`); the input of the others is the h of the
layer below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from charrnn_trainer.export.graph.builder import GraphBuilder
from charrnn_trainer.export.graph.quantize import Products
from charrnn_trainer.export.graph.weights import LayerWeights, Matrix, StepWeights


@dataclass(frozen=True)
class LayerState:
    """The names of a layer's state values, float32 ``[B, H]``; only an LSTM has c."""

    h: str
    c: str | None = None


def stack(
    builder: GraphBuilder, products: Products, weights: StepWeights, token: str, states: list[LayerState]
) -> tuple[str, list[LayerState]]:
    """Build all layers for one character.

    Args:
        builder: receives the nodes.
        products: the precision's matrix products.
        weights: the folded weights.
        token: the name of the tokens, int64 ``[B]``.
        states: the layers' states before the step.

    Returns:
        The name of the top layer's h, prepared for products, and the layers' states after the step.
    """
    after: list[LayerState] = []
    below: str | None = None
    for index, (layer, state) in enumerate(zip(weights.layers, states, strict=True)):
        step = _STEPS[weights.cell]
        new = step(_Layer(builder, products, layer, f"layer{index}", weights.table, token), below, state)
        below = products.activation(new.h)
        after.append(new)
    assert below is not None
    return below, after


@dataclass(frozen=True)
class _Layer:
    """The context for building one layer."""

    builder: GraphBuilder
    products: Products
    weights: LayerWeights
    name: str
    table: Matrix
    token: str

    def gates(self, below: str | None, h: str) -> str:
        """The pre-activations of all gates: the first layer's input is a lookup, the others' a product."""
        weights, products = self.weights, self.products
        if below is None:
            return products.affine_lookup(
                h, weights.recurrent, self.table, self.token, f"{self.name}_recurrent"
            )
        assert weights.input is not None
        both = products.concatenate(below, h)  # (B, H), (B, H) -> (B, 2H)
        matrix = np.concatenate([weights.input, weights.recurrent])
        return products.affine(both, matrix, weights.bias, f"{self.name}_weights")

    def split(self, value: str, sizes: list[int]) -> list[str]:
        parts = self.builder.constant("split", np.array(sizes, np.int64))
        return self.builder.nodes("Split", value, parts, outputs=len(sizes), axis=1)

    @property
    def hidden_size(self) -> int:
        return int(self.weights.recurrent.shape[0])


def _rnn(layer: _Layer, below: str | None, state: LayerState) -> LayerState:
    """h' = tanh(W x + U h + b)"""
    gates = layer.gates(below, layer.products.activation(state.h))
    return LayerState(layer.builder.node("Tanh", gates))


def _lstm(layer: _Layer, below: str | None, state: LayerState) -> LayerState:
    """c' = f c + i g, h' = o tanh(c'), with i, f, o = sigmoid and g = tanh of their sums.

    Hochreiter and Schmidhuber, "Long short-term memory", 1997; the forget gate is from Gers et al., 2000.
    """
    node = layer.builder.node
    assert state.c is not None
    gates = layer.gates(below, layer.products.activation(state.h))  # (B, 4H)
    i, f, g, o = layer.split(gates, [layer.hidden_size] * 4)  # (B, 4H) -> 4 x (B, H)
    kept = node("Mul", node("Sigmoid", f), state.c)
    written = node("Mul", node("Sigmoid", i), node("Tanh", g))
    c = node("Add", kept, written)
    return LayerState(node("Mul", node("Sigmoid", o), node("Tanh", c)), c)


def _gru(layer: _Layer, below: str | None, state: LayerState) -> LayerState:
    """h' = n + z (h - n), with n = tanh(input product + r (U h + b)): torch's GRU.

    The reset gate is applied after the recurrent product (Cho et al., 2014, version 1 of the paper), so the
    candidate's recurrent product must be kept separate from the input's.
    """
    builder, products, weights = layer.builder, layer.products, layer.weights
    node, size = builder.node, layer.hidden_size
    assert weights.candidate_bias is not None
    h = products.activation(state.h)
    if below is None:
        # The table rows of the reset and update gates are added to the sums; the candidate's are its bias.
        apart = np.broadcast_to(weights.candidate_bias, (len(layer.table), size))
        rows = np.concatenate([layer.table[:, : 2 * size], apart], axis=1)  # (V, 3H)
        sums = products.affine_lookup(h, weights.recurrent, rows, layer.token, f"{layer.name}_recurrent")
        gates, recurrent = layer.split(sums, [2 * size, size])  # (B, 3H) -> (B, 2H), (B, H)
        candidates = builder.constant(
            f"{layer.name}_candidates", layer.table[:, 2 * size :].astype(np.float32)
        )
        candidate = node("Gather", candidates, layer.token, axis=0)  # (V, H), (B) -> (B, H)
    else:
        assert weights.input is not None
        both = products.concatenate(below, h)
        matrix = np.concatenate([weights.input, weights.recurrent])[:, : 2 * size]
        gates = products.affine(both, matrix, weights.bias[: 2 * size], f"{layer.name}_weights")
        candidate = products.affine(
            below, weights.input[:, 2 * size :], weights.bias[2 * size :], f"{layer.name}_candidate_input"
        )
        recurrent = products.affine(
            h, weights.recurrent[:, 2 * size :], weights.candidate_bias, f"{layer.name}_candidate_recurrent"
        )
    r, z = layer.split(node("Sigmoid", gates), [size, size])  # (B, 2H) -> 2 x (B, H)
    n = node("Tanh", node("Add", candidate, node("Mul", r, recurrent)))
    return LayerState(node("Add", n, node("Mul", z, node("Sub", state.h, n))))


_STEPS: Final = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
"""The builder of a layer's step, by cell name."""
