"""The network: recurrences against a plain loop, state, and initialization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from charrnn_runtime.format import spec
from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.nn.dropout import dropout
from charrnn_trainer.nn.network import CharNetwork, next_token_loss, write_sample
from reference import naive_step, random_weights

CELLS = ("lstm", "gru", "rnn")
VOCABULARY = 7
HIDDEN = 5


def network_with(
    cell: str, layers: int, embedding_size: int = 0, dropout: float = 0.0
) -> tuple[CharNetwork, dict[str, np.ndarray]]:
    """A network and its weights as arrays."""
    weights = random_weights(cell, layers, HIDDEN, VOCABULARY, embedding_size)
    network = CharNetwork(NetworkConfig(cell, layers, HIDDEN, embedding_size, dropout), VOCABULARY)
    network.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    return network, weights


@pytest.mark.parametrize("embedding_size", [0, 3])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_the_recurrence_matches_a_plain_loop(cell: str, layers: int, embedding_size: int) -> None:
    network, weights = network_with(cell, layers, embedding_size)
    tokens = np.random.RandomState(1).randint(0, VOCABULARY, (3, 20))
    with torch.no_grad():
        logits, state = network(torch.from_numpy(tokens), network.initial_state(3))
    assert logits.dtype == torch.float32
    assert tuple(logits.shape) == (3, 20, VOCABULARY)
    for stream in range(3):
        row = np.zeros(spec.state_size(cell, layers, HIDDEN))
        for step in range(20):
            expected, row = naive_step(cell, layers, weights, int(tokens[stream, step]), row)
            np.testing.assert_allclose(logits[stream, step].numpy(), expected, atol=2e-5)
        after = np.concatenate([part[:, stream].reshape(-1).numpy() for part in state])  # h of all layers, c
        np.testing.assert_allclose(after, row, atol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_the_state_carried_equal_the_whole(cell: str) -> None:
    network, _ = network_with(cell, 2)
    tokens = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, end = network(tokens, network.initial_state(2))
        first, middle = network(tokens[:, :5], network.initial_state(2))
        second, carried_end = network(tokens[:, 5:], middle)
        reset, _ = network(tokens[:, 5:], network.initial_state(2))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    for part, carried_part in zip(end, carried_end, strict=True):
        torch.testing.assert_close(carried_part, part)
    assert not torch.allclose(reset, second)


@pytest.mark.parametrize("cell", CELLS)
def test_streams_do_not_affect_each_other(cell: str) -> None:
    network, _ = network_with(cell, 2)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        together, _ = network(tokens, network.initial_state(2))
        alone, _ = network(tokens[1:], network.initial_state(1))
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_layers_are_initialized_as_in_torch(cell: str) -> None:
    torch.manual_seed(0)
    network = CharNetwork(NetworkConfig(cell, 2, HIDDEN, 0), VOCABULARY)
    torch.manual_seed(0)
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
    for name, weight in kind(VOCABULARY, HIDDEN, 2).state_dict().items():
        assert torch.equal(network.rnn.state_dict()[name], weight), name


def test_a_wide_embedding_is_initialized_to_match_one_hot_input() -> None:
    torch.manual_seed(0)
    one_hot = CharNetwork(NetworkConfig("gru", 1, HIDDEN, 0), VOCABULARY)
    torch.manual_seed(0)
    embedded = CharNetwork(NetworkConfig("gru", 1, HIDDEN, VOCABULARY), VOCABULARY)
    embedded.load_state_dict({**embedded.state_dict(), **one_hot.state_dict()})
    tokens = torch.arange(VOCABULARY).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(
            embedded(tokens, embedded.initial_state(1))[0], one_hot(tokens, one_hot.initial_state(1))[0]
        )


def test_parameters_are_counted() -> None:
    lstm = CharNetwork(NetworkConfig("lstm", 2, 256), 65)
    assert lstm.parameter_count() == 4 * 256 * (65 + 256 + 2) + 4 * 256 * (512 + 2) + 65 * 257
    gru = CharNetwork(NetworkConfig("gru", 1, 4, 3), 10)
    assert gru.parameter_count() == 10 * 3 + 3 * 4 * (3 + 4 + 2) + 10 * 5


def test_dropout_is_applied_in_training_only() -> None:
    network, _ = network_with("lstm", 2, dropout=0.5)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert not torch.equal(*(network(tokens, network.initial_state(1))[0] for _ in range(2)))
        network.eval()
        torch.testing.assert_close(*(network(tokens, network.initial_state(1))[0] for _ in range(2)))


def test_dropout_before_the_output_applies_to_a_single_layer_too() -> None:
    network, _ = network_with("lstm", 1, dropout=0.5)
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert not torch.equal(*(network(tokens, network.initial_state(1))[0] for _ in range(2)))


def test_the_loss_of_a_uniform_guess_is_the_logarithm_of_the_vocabulary_size() -> None:
    loss = next_token_loss(torch.zeros(2, 3, 10), torch.ones(2, 3, dtype=torch.int64))
    assert float(loss) == pytest.approx(np.log(10))


def test_a_sample_depends_on_its_seed_only_and_has_no_side_effects() -> None:
    network, _ = network_with("lstm", 2, dropout=0.5)
    before = torch.get_rng_state()
    samples = [write_sample(network, 0, 50, temperature=0.8, seed=seed) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert all(0 <= token < VOCABULARY for token in samples[0])
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sample_of_lines_starts_every_line_from_a_zero_state() -> None:
    network, _ = network_with("lstm", 1)
    seen: list[tuple[int, bool]] = []

    def note(_: object, given: tuple[torch.Tensor, tuple[torch.Tensor, ...]]) -> None:
        tokens, state = given
        seen.append((int(tokens), any(bool(part.any()) for part in state)))

    network.register_forward_pre_hook(note)
    written = write_sample(network, 2, 60, temperature=1.0, seed=0, lines=True)
    assert 2 in written[:-1]
    assert [token for token, _ in seen] == [2, *written[:-1]]
    assert all(remembers == (token != 2) for token, remembers in seen)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_dropped_weights_are_zero_for_all_time_steps_of_a_training_batch(cell: str, layers: int) -> None:
    network = CharNetwork(NetworkConfig(cell, layers, HIDDEN, 3, weight_drop=0.5), VOCABULARY)
    tokens = torch.randint(VOCABULARY, (2, 9))
    torch.manual_seed(3)
    dropped, state = network(tokens, network.initial_state(2))
    plain = CharNetwork(NetworkConfig(cell, layers, HIDDEN, 3), VOCABULARY)
    weights = network.state_dict()
    torch.manual_seed(3)
    for name in weights:
        if "weight_hh" in name:
            weights[name] = dropout(weights[name], 0.5)
            assert 0 < (weights[name] == 0).sum() < weights[name].numel()
    plain.load_state_dict(weights)
    expected, expected_state = plain(tokens, plain.initial_state(2))
    torch.testing.assert_close(dropped, expected)
    torch.testing.assert_close(state, expected_state)
    dropped.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_dropped_outside_of_training(cell: str) -> None:
    config = NetworkConfig(cell, 2, HIDDEN, 0, dropout=0.5, input_dropout=0.5, weight_drop=0.5)
    network = CharNetwork(config, VOCABULARY).eval()
    plain = CharNetwork(NetworkConfig(cell, 2, HIDDEN, 0), VOCABULARY)
    plain.load_state_dict(network.state_dict())
    tokens = torch.randint(VOCABULARY, (2, 9))
    torch.testing.assert_close(
        network(tokens, network.initial_state(2)), plain(tokens, plain.initial_state(2))
    )


@pytest.mark.parametrize("embedding_size", [0, 4])
def test_input_dropout_reads_dropped_symbols_as_zeros(embedding_size: int) -> None:
    config = NetworkConfig("lstm", 1, HIDDEN, embedding_size, input_dropout=0.25)
    network = CharNetwork(config, VOCABULARY)
    read: list[torch.Tensor] = []
    network.rnn.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    tokens = torch.randint(VOCABULARY, (40, 50))
    network(tokens, network.initial_state(40))
    network.eval()(tokens, network.initial_state(40))
    some, all_of_them = read
    gone = (some == 0).all(dim=2)
    assert 0.2 < gone.float().mean() < 0.3
    torch.testing.assert_close(some[~gone], all_of_them[~gone])
    assert not (all_of_them == 0).all(dim=2).any()
