"""The loss of large vocabularies: equal to PyTorch's, with the same gradients, for any chunk size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.nn import network as network_module
from charrnn_trainer.nn import output_loss as output_loss_module
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.nn.output_loss import output_loss

ROWS, SIZE, SYMBOLS = 29, 6, 300


def drawn(scale: float = 1.0) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Hidden states, output weights, their bias and targets."""
    draw = torch.Generator().manual_seed(0)
    numbers = [torch.randn(shape, generator=draw) for shape in ((ROWS, SIZE), (SYMBOLS, SIZE), (SYMBOLS,))]
    hidden, weight, bias = (number.mul_(scale).requires_grad_() for number in numbers)
    return (hidden, weight, bias), torch.randint(SYMBOLS, (ROWS,), generator=draw)


def loss_and_gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 28, 29, 1_000])
def test_loss_and_gradients_match_pytorch(rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_loss_module, "_LOGITS", rows_at_a_time * SYMBOLS)
    leaves, targets = drawn()
    expected = functional.cross_entropy(functional.linear(*leaves), targets)
    found = loss_and_gradients(3.0 * output_loss(*leaves, targets), *leaves)
    for one, other in zip(found, loss_and_gradients(3.0 * expected, *leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_rows_whose_logits_exceed_the_memory_limit_are_processed_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaves, targets = drawn()
    expected = output_loss(*leaves, targets)
    monkeypatch.setattr(output_loss_module, "_LOGITS", 1)
    torch.testing.assert_close(output_loss(*leaves, targets), expected)


def test_logits_of_any_size_give_finite_results() -> None:
    leaves, targets = drawn(scale=100.0)
    found = loss_and_gradients(output_loss(*leaves, targets), *leaves)
    expected = functional.cross_entropy(functional.linear(*leaves), targets)
    for one, other in zip(found, loss_and_gradients(expected, *leaves), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_under_autocast_products_are_rounded_as_in_pytorch() -> None:
    leaves, targets = drawn()
    exact = loss_and_gradients(output_loss(*leaves, targets), *leaves)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(output_loss(*leaves, targets), *leaves)
        logits = functional.linear(*leaves)
        usual = loss_and_gradients(functional.cross_entropy(logits.float(), targets), *leaves)
    assert all(part.dtype == torch.float32 for part in found)
    for one, right, other in zip(found, exact, usual, strict=True):
        assert float((one - right).norm()) <= 1.5 * float((other - right).norm()) + 1e-3 * float(right.norm())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_network_with_many_symbols_learns_the_same_with_it(
    cell: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NetworkConfig(cell, 2, 8, 5, dropout=0.25, weight_drop=0.2, tie_weights=tied)
    tokens, targets = torch.from_numpy(np.random.RandomState(0).randint(0, 257, (2, 3, 11)))

    def learned() -> list[Tensor]:
        torch.manual_seed(0)
        network = CharNetwork(config, 257)
        loss, _ = network(tokens, network.initial_state(3), targets)
        return loss_and_gradients(loss, *network.parameters())

    by_it = learned()
    monkeypatch.setattr(network_module, "LARGE_VOCABULARY", 257)
    for one, other in zip(by_it, learned(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_it_is_used_from_257_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        asked.append(len(weight))
        return hidden.sum()

    monkeypatch.setattr(network_module, "output_loss", noted)
    for size in (255, 256, 257):
        network = CharNetwork(NetworkConfig("rnn", 1, 4, 3), size)
        tokens = torch.zeros((2, 3), dtype=torch.int64)
        network(tokens, network.initial_state(2), tokens)
    assert asked == [257]
