"""One step of each cell as graph nodes: (input's share, h, c) -> (h, c).

Equations as in torch.nn.LSTM, torch.nn.GRU and torch.nn.RNN. ``share`` is what the input adds to all gates,
bias included, in torch's order of gates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from charrnn_trainer.graph.builder import GraphBuilder
from charrnn_trainer.graph.quantize import Products
from charrnn_trainer.graph.weights import LayerWeights, StepWeights


@dataclass(frozen=True)
class LayerState:
    """The names of a layer's state values, float32 ``[B, H]``; c is there for an LSTM alone."""

    h: str
    c: str | None = None


def stack(
    builder: GraphBuilder, products: Products, weights: StepWeights, token: str, states: list[LayerState]
) -> tuple[str, list[LayerState]]:
    """All layers on one character.

    Args:
        builder: where the nodes go.
        products: how to multiply.
        weights: the folded weights.
        token: the name of the tokens, int64 ``[B]``.
        states: the layers' states before the step.

    Returns:
        The name of the top layer's h, prepared for products, and the layers' states after the step.
    """
    table = builder.constant("table", weights.table.astype(np.float32))
    share = builder.node("Gather", table, token, axis=0)  # (V, G*H), (B) -> (B, G*H)
    after: list[LayerState] = []
    below: str | None = None
    for index, (layer, state) in enumerate(zip(weights.layers, states, strict=True)):
        step = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[weights.cell]
        new = step(_Layer(builder, products, layer, f"layer{index}"), share, below, state)
        below = products.activation(new.h)
        after.append(new)
    assert below is not None
    return below, after


@dataclass(frozen=True)
class _Layer:
    """What a cell needs to write one layer."""

    builder: GraphBuilder
    products: Products
    weights: LayerWeights
    name: str

    def gates(self, share: str, below: str | None, h: str) -> str:
        """The sum that goes into all gates: the first layer's from the table, the others' from below."""
        builder, weights = self.builder, self.weights
        if below is None:
            product = self.products.multiply(h, weights.recurrent, f"{self.name}_recurrent")
            return builder.node("Add", product, share)
        assert weights.input is not None
        both = self.products.concatenate(below, h)  # (B, H), (B, H) -> (B, 2H)
        product = self.products.multiply(
            both, np.concatenate([weights.input, weights.recurrent]), f"{self.name}_weights"
        )
        return builder.node("Add", product, self.constant("bias", weights.bias))

    def constant(self, what: str, values: np.ndarray) -> str:
        return self.builder.constant(f"{self.name}_{what}", values.astype(np.float32))

    def split(self, value: str, sizes: list[int]) -> list[str]:
        parts = self.builder.constant("split", np.array(sizes, np.int64))
        return self.builder.nodes("Split", value, parts, outputs=len(sizes), axis=1)

    @property
    def hidden_size(self) -> int:
        return int(self.weights.recurrent.shape[0])


def _rnn(layer: _Layer, share: str, below: str | None, state: LayerState) -> LayerState:
    """h' = tanh(W x + U h + b)"""
    gates = layer.gates(share, below, layer.products.activation(state.h))
    return LayerState(layer.builder.node("Tanh", gates))


def _lstm(layer: _Layer, share: str, below: str | None, state: LayerState) -> LayerState:
    """c' = f c + i g, h' = o tanh(c'), with i, f, o = sigmoid and g = tanh of their sums.

    Hochreiter and Schmidhuber, "Long short-term memory", 1997; the forget gate is of Gers et al., 2000.
    """
    node = layer.builder.node
    assert state.c is not None
    gates = layer.gates(share, below, layer.products.activation(state.h))  # (B, 4H)
    i, f, g, o = layer.split(gates, [layer.hidden_size] * 4)  # (B, 4H) -> 4 x (B, H)
    kept = node("Mul", node("Sigmoid", f), state.c)
    written = node("Mul", node("Sigmoid", i), node("Tanh", g))
    c = node("Add", kept, written)
    return LayerState(node("Mul", node("Sigmoid", o), node("Tanh", c)), c)


def _gru(layer: _Layer, share: str, below: str | None, state: LayerState) -> LayerState:
    """h' = n + z (h - n), with n = tanh(input's share + r (U h + b)): torch's GRU.

    The reset gate is applied after the recurrent product (Cho et al., 2014, version 1 of the paper), so the
    candidate's recurrent product must stay apart from the input's.
    """
    builder, products, weights = layer.builder, layer.products, layer.weights
    node, size = builder.node, layer.hidden_size
    assert weights.candidate_bias is not None
    h = products.activation(state.h)
    if below is None:
        product = products.multiply(h, weights.recurrent, f"{layer.name}_recurrent")
        product_rz, recurrent = layer.split(product, [2 * size, size])  # (B, 3H) -> (B, 2H), (B, H)
        share_rz, candidate = layer.split(share, [2 * size, size])
        sums = node("Add", product_rz, share_rz)
    else:
        assert weights.input is not None
        both = products.concatenate(below, h)
        matrix = np.concatenate([weights.input, weights.recurrent])[:, : 2 * size]
        product_rz = products.multiply(both, matrix, f"{layer.name}_weights")
        sums = node("Add", product_rz, layer.constant("bias", weights.bias[: 2 * size]))
        candidate = products.multiply(below, weights.input[:, 2 * size :], f"{layer.name}_candidate_input")
        candidate = node("Add", candidate, layer.constant("candidate_input_bias", weights.bias[2 * size :]))
        recurrent = products.multiply(
            h, weights.recurrent[:, 2 * size :], f"{layer.name}_candidate_recurrent"
        )
    recurrent = node("Add", recurrent, layer.constant("candidate_bias", weights.candidate_bias))
    r, z = layer.split(node("Sigmoid", sums), [size, size])  # (B, 2H) -> 2 x (B, H)
    n = node("Tanh", node("Add", candidate, node("Mul", r, recurrent)))
    return LayerState(node("Add", n, node("Mul", z, node("Sub", state.h, n))))
