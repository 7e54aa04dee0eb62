"""The recurrences of the step graph against a naive loop, and against torch's own layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from reference import naive_step
from step_graphs import Network, Stepper

CELLS = ("lstm", "gru", "rnn")
STEPS = 220
LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

networks = pytest.mark.parametrize(
    "network",
    [
        pytest.param(Network(cell, layers, embedding_size=size), id=f"{cell}-{layers}-{size or 'one-hot'}")
        for cell in CELLS
        for layers in (1, 2, 3)
        for size in (0, 5)
    ],
)


def _random_tokens(network: Network, rows: int, steps: int) -> NDArray[np.int64]:
    return np.random.RandomState(rows).randint(0, len(network.symbols), (rows, steps))


@networks
def test_a_naive_loop_gives_the_same_logits_and_states_over_many_steps(network: Network) -> None:
    tokens = _random_tokens(network, 2, STEPS)
    states = network.random_states(2)
    logits, after = Stepper(network.model()).read(tokens, states)
    for row in range(2):
        state = states[row].astype(np.float64)
        for step, token in enumerate(tokens[row]):
            expected, state = naive_step(network.cell, network.layers, network.weights, token, state)
            np.testing.assert_allclose(logits[row, step], expected, atol=2e-5)
        np.testing.assert_allclose(after[row], state, atol=1e-5)


@networks
@pytest.mark.parametrize("rows", [1, 7])
def test_torch_gives_the_same_logits_and_states_over_many_steps(network: Network, rows: int) -> None:
    tokens = _random_tokens(network, rows, STEPS)
    states = network.random_states(rows)
    logits, after = Stepper(network.model()).read(tokens, states)
    expected, expected_after = _torch_reads(network, tokens, states)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    np.testing.assert_allclose(after, expected_after, atol=1e-5)


def _torch_reads(
    network: Network, tokens: NDArray[np.int64], states: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    weights = {name: torch.from_numpy(values) for name, values in network.weights.items()}
    one_hot = torch.eye(len(network.symbols))
    read = weights.get("embedding.weight", one_hot)[torch.from_numpy(tokens)]  # (B, T) -> (B, T, I)
    layers = LAYERS[network.cell](read.shape[2], network.hidden_size, network.layers, batch_first=True)
    layers.load_state_dict(
        {name.removeprefix("rnn."): values for name, values in weights.items() if name.startswith("rnn.")}
    )
    # (B, S) -> the h (and the c) of all layers, (L, B, H) each
    blocks = torch.from_numpy(states).unflatten(1, (-1, network.layers, network.hidden_size))
    parts = [part.transpose(0, 1).contiguous() for part in blocks.unbind(1)]
    with torch.inference_mode():
        hidden, after = layers(read, tuple(parts) if len(parts) == 2 else parts[0])
        logits = hidden @ weights["output.weight"].T + weights["output.bias"]
    after = torch.stack(after if isinstance(after, tuple) else (after,)).permute(2, 0, 1, 3)
    return logits.numpy(), after.flatten(1).numpy()


@pytest.mark.parametrize("cell", CELLS)
def test_carrying_the_state_equals_reading_in_one_piece(cell: str) -> None:
    network = Network(cell)
    stepper = Stepper(network.model())
    tokens, states = _random_tokens(network, 3, 40), network.random_states(3)
    whole, after = stepper.read(tokens, states)
    first, between = stepper.read(tokens[:, :17], states)
    second, after_both = stepper.read(tokens[:, 17:], between)
    np.testing.assert_array_equal(whole, np.concatenate([first, second], axis=1))
    np.testing.assert_array_equal(after, after_both)


@pytest.mark.parametrize("cell", CELLS)
def test_a_zero_state_discards_earlier_input(cell: str) -> None:
    network = Network(cell)
    stepper = Stepper(network.model())
    zeros = np.zeros((1, network.state_size), np.float32)
    fresh, _, _ = stepper.step([3], zeros)
    _, _, read_before = stepper.step([8], zeros)
    again, _, _ = stepper.step([3], zeros)
    carried, _, _ = stepper.step([3], read_before)
    np.testing.assert_array_equal(fresh, again)
    assert np.abs(carried - fresh).max() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_does_not_modify_the_given_state(cell: str) -> None:
    network = Network(cell)
    states = network.random_states(4)
    before = states.copy()
    Stepper(network.model()).step([0, 1, 2, 3], states)
    np.testing.assert_array_equal(states, before)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rows_are_independent_streams_in_any_order(cell: str, precision: str) -> None:
    network = Network(cell)
    stepper = Stepper(network.model(precision))
    tokens, states = np.arange(9), network.random_states(9)
    order = np.random.RandomState(1).permutation(9)
    straight: tuple[NDArray[Any], ...] = stepper.step(tokens, states)
    shuffled: tuple[NDArray[Any], ...] = stepper.step(tokens[order], states[order])
    for one, other in zip(straight, shuffled, strict=True):
        np.testing.assert_array_equal(one[order], other)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_stay_close_to_fp32(cell: str, precision: str) -> None:
    # One step from many states: over many steps a network with random weights makes any difference large.
    network = Network(cell, 2, hidden_size=32)
    rows = 20 * len(network.symbols)
    tokens, states = np.arange(rows) % len(network.symbols), network.random_states(rows)
    exact, _, exact_after = Stepper(network.model("fp32")).step(tokens, states)
    found, _, found_after = Stepper(network.model(precision)).step(tokens, states)
    bound = {"fp16": 0.001, "int8": 0.03}[precision]
    assert 0 < np.abs(found - exact).mean() / exact.std() < bound
    assert 0 < np.abs(found_after - exact_after).mean() / exact_after.std() < bound
