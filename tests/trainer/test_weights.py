"""Folding of torch's weights into the matrices of the step graph."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn_trainer.export.graph.weights import fold_weights
from reference import random_weights

CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
HIDDEN, VOCABULARY, EMBEDDING = 6, 11, 4


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [0, EMBEDDING])
def test_the_table_holds_the_first_layers_input_product_of_each_symbol(
    cell: str, embedding_size: int
) -> None:
    weights = random_weights(cell, 2, HIDDEN, VOCABULARY, embedding_size)
    folded = fold_weights(cell, 2, weights)
    assert folded.table.shape == (VOCABULARY, GATES[cell] * HIDDEN)
    bias = weights["rnn.bias_ih_l0"].astype(np.float64)
    recurrent_bias = weights["rnn.bias_hh_l0"].astype(np.float64)
    if cell == "gru":
        recurrent_bias[2 * HIDDEN :] = 0.0
    for symbol in range(VOCABULARY):
        read = np.eye(VOCABULARY)[symbol]
        if embedding_size:
            read = weights["embedding.weight"][symbol].astype(np.float64)
        expected = weights["rnn.weight_ih_l0"].astype(np.float64) @ read + bias + recurrent_bias
        np.testing.assert_allclose(folded.table[symbol], expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("cell", CELLS)
def test_each_layer_has_its_own_matrices_transposed_and_its_biases_summed(cell: str) -> None:
    weights = random_weights(cell, 3, HIDDEN, VOCABULARY)
    folded = fold_weights(cell, 3, weights)
    assert len(folded.layers) == 3
    for index, layer in enumerate(folded.layers):
        np.testing.assert_array_equal(layer.recurrent, weights[f"rnn.weight_hh_l{index}"].T)
        if index == 0:
            assert layer.input is None
        else:
            assert layer.input is not None
            np.testing.assert_array_equal(layer.input, weights[f"rnn.weight_ih_l{index}"].T)
        from_input = weights[f"rnn.bias_ih_l{index}"].astype(np.float64)
        from_h = weights[f"rnn.bias_hh_l{index}"].astype(np.float64)
        summed = from_input + from_h
        if cell == "gru":
            summed[2 * HIDDEN :] = from_input[2 * HIDDEN :]
        np.testing.assert_array_equal(layer.bias, summed)
    np.testing.assert_array_equal(folded.output, weights["output.weight"].T)
    np.testing.assert_array_equal(folded.output_bias, weights["output.bias"])


def test_the_reset_bias_of_a_gru_is_kept_separate() -> None:
    weights = random_weights("gru", 2, HIDDEN, VOCABULARY)
    for index, layer in enumerate(fold_weights("gru", 2, weights).layers):
        assert layer.candidate_bias is not None
        np.testing.assert_array_equal(layer.candidate_bias, weights[f"rnn.bias_hh_l{index}"][2 * HIDDEN :])


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_other_cells_have_no_such_bias(cell: str) -> None:
    folded = fold_weights(cell, 2, random_weights(cell, 2, HIDDEN, VOCABULARY))
    assert [layer.candidate_bias for layer in folded.layers] == [None, None]


def test_sizes_are_read_from_the_tensors() -> None:
    folded = fold_weights("gru", 1, random_weights("gru", 1, HIDDEN, VOCABULARY, EMBEDDING))
    assert (folded.hidden_size, folded.vocabulary_size) == (HIDDEN, VOCABULARY)


def test_folding_sums_in_double_precision() -> None:
    # In float32, 1 + 2**-25 is 1: the small part would be lost before the large parts cancel.
    weights = random_weights("rnn", 1, 1, 1)
    weights |= {
        "rnn.weight_ih_l0": np.array([[1.0]], np.float32),
        "rnn.bias_ih_l0": np.array([2.0**-25], np.float32),
        "rnn.bias_hh_l0": np.array([-1.0], np.float32),
    }
    assert fold_weights("rnn", 1, weights).table[0, 0] == 2.0**-25


@pytest.mark.parametrize("cell", CELLS)
def test_folding_does_not_modify_its_input(cell: str) -> None:
    weights = random_weights(cell, 2, HIDDEN, VOCABULARY, EMBEDDING)
    before = {name: values.copy() for name, values in weights.items()}
    for values in weights.values():
        values.setflags(write=False)
    fold_weights(cell, 2, weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(values, before[name])
