"""Folds torch's weights into the matrices of the step graph.

Everything is folded in float64 and rounded once. The embedding and the first layer's input weights become one
table, so the first layer's input product is a lookup: ``table[token]`` is its contribution to all gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.nn.cells import CELLS

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class LayerWeights:
    """One layer, with columns in torch's order of its G gates: i f g o, r z n, or a single one.

    Attributes:
        recurrent: ``[H, G*H]``, the recurrent weights.
        input: ``[H, G*H]``, the weights for the layer below; None for the first layer, whose input is a
            lookup.
        bias: ``[G*H]``, the bias of the input product; for the first layer, it is part of the table.
        candidate_bias: ``[H]``, for a GRU the bias of the recurrent product of its n gate, which is kept
            separate because the reset gate multiplies it; else None.
    """

    recurrent: Matrix
    input: Matrix | None
    bias: Matrix
    candidate_bias: Matrix | None


@dataclass(frozen=True)
class StepWeights:
    """All weights of a step model.

    Attributes:
        cell: "lstm", "gru" or "rnn".
        table: ``[V, G*H]``, each symbol's contribution to the first layer's gates.
        layers: the layers from the input up.
        output: ``[H, V]``.
        output_bias: ``[V]``.
    """

    cell: str
    table: Matrix
    layers: tuple[LayerWeights, ...]
    output: Matrix
    output_bias: Matrix

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.layers[0].recurrent.shape[0])

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self.table.shape[0])

    @property
    def largest_factor(self) -> float:
        """The largest magnitude in the matrices that the graph multiplies with."""
        matrices = [self.output, *(layer.recurrent for layer in self.layers)]
        matrices += [layer.input for layer in self.layers if layer.input is not None]
        return max(float(np.abs(matrix).max()) for matrix in matrices)


def step_model_bytes(network: NetworkConfig, vocabulary_size: int) -> int:
    """The size of the weights of a network's step model in fp32, which make up nearly all of its file.

    The table grows with the vocabulary times the gates: 82 MB for 20,000 symbols and an LSTM of 256. It has
    the same size in the other precisions.
    """
    hidden = network.hidden_size
    cell = CELLS[network.cell]
    gates = cell.gates
    looked_up = gates + cell.candidate_apart  # a separate candidate has its own bias there
    table = vocabulary_size * looked_up * hidden
    recurrent = network.layers * hidden * gates * hidden
    above = (network.layers - 1) * (hidden + 1) * looked_up * hidden
    return 4 * (table + recurrent + above + (hidden + 1) * vocabulary_size)


def check_step_model_fits(network: NetworkConfig, vocabulary_size: int) -> None:
    """Check that a network can be exported; training checks it before it starts.

    Raises:
        CharRNNError: its step model would exceed the size limit of the loader.
    """
    size = step_model_bytes(network, vocabulary_size)
    if size > spec.MAX_FILE_BYTES:
        raise CharRNNError(
            f"the model of {network.label} with {vocabulary_size:,} symbols would have {size:,} bytes, but "
            f"at most {spec.MAX_FILE_BYTES:,} can be loaded; give a smaller hidden_size, or train on "
            "bytes (level=byte)",
            "hidden_size",
            "level",
        )


def fold_weights(
    cell: str, layers: int, tensors: Mapping[str, NDArray[np.float32]], tied: bool = False
) -> StepWeights:
    """Fold a network's weights, given under torch's names without the prefix ``model.``.

    Args:
        cell: "lstm", "gru" or "rnn".
        layers: the number of layers.
        tensors: ``rnn.weight_ih_l0 [G*H, I]`` and so on, ``output.weight [V, H]``, ``output.bias [V]``, and
            ``embedding.weight [V, E]`` unless the input is one-hot or tied; ``projection.weight [E, H]`` if
            there is one before a tied output.
        tied: whether ``output.weight [V, E]`` is also the embedding.
    """

    def tensor(name: str) -> Matrix:
        return np.asarray(tensors[name], dtype=np.float64)

    folded = []
    for layer in range(layers):
        hidden = tensor(f"rnn.weight_hh_l{layer}").shape[1]
        input_bias = tensor(f"rnn.bias_ih_l{layer}")
        recurrent_bias = tensor(f"rnn.bias_hh_l{layer}").copy()
        candidate_bias = None
        if CELLS[cell].candidate_apart:
            candidate_bias = recurrent_bias[-hidden:].copy()
            recurrent_bias[-hidden:] = 0.0
        folded.append(
            LayerWeights(
                recurrent=tensor(f"rnn.weight_hh_l{layer}").T,
                input=tensor(f"rnn.weight_ih_l{layer}").T if layer else None,
                bias=input_bias + recurrent_bias,
                candidate_bias=candidate_bias,
            )
        )
    first_input = tensor("rnn.weight_ih_l0").T  # (I, G*H), I = V if one-hot, else E
    output = tensor("output.weight")
    if tied or "embedding.weight" in tensors:
        # Tied weights are scaled to the usual size of embeddings (see `CharNetwork`).
        embedding = output * math.sqrt(output.shape[1]) if tied else tensor("embedding.weight")
        first_input = embedding @ first_input  # (V, E) x (E, G*H) -> (V, G*H)
    if "projection.weight" in tensors:
        output = output @ tensor("projection.weight")  # (V, E) x (E, H) -> (V, H)
    return StepWeights(
        cell=cell,
        table=first_input + folded[0].bias,
        layers=tuple(folded),
        output=output.T,
        output_bias=tensor("output.bias"),
    )
