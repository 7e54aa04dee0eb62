"""The GRU layers used for training on a CPU, against those of torch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from charrnn_trainer.nn.gru import gru


def _case(
    layers: int, hidden: int, batch: int, steps: int, inputs: int, dtype: torch.dtype, seed: int = 0
) -> tuple[nn.GRU, Tensor, Tensor, Tensor]:
    """Layers, inputs, an initial state, and output gradients."""
    torch.manual_seed(seed)
    rnn = nn.GRU(inputs, hidden, layers, batch_first=True).to(dtype)
    given = torch.randn(batch, steps, inputs, dtype=dtype, requires_grad=True)
    state = torch.randn(layers, batch, hidden, dtype=dtype)
    return rnn, given, state, torch.randn(batch, steps, hidden, dtype=dtype)


def _gradients(hidden: Tensor, grad: Tensor, given: Tensor, rnn: nn.GRU) -> Sequence[Tensor]:
    return torch.autograd.grad((hidden * grad).sum(), [given, *rnn.parameters()])


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(1, 3),
    hidden=st.integers(1, 9),
    batch=st.integers(1, 5),
    steps=st.integers(1, 23),
    inputs=st.integers(1, 6),
)
def test_outputs_state_and_gradients_match_torch(
    layers: int, hidden: int, batch: int, steps: int, inputs: int
) -> None:
    rnn, given, state, grad = _case(layers, hidden, batch, steps, inputs, torch.float64)
    expected, expected_state = rnn(given, state)
    ours, ours_state = gru(given, state, list(rnn.parameters()), drop=0.0)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(ours_state, expected_state)
    for one, other in zip(
        _gradients(ours, grad, given, rnn), _gradients(expected, grad, given, rnn), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_gradients_match_finite_differences() -> None:
    rnn, given, state, _ = _case(2, 3, 2, 12, 2, torch.float64)
    weights = [weight.detach().requires_grad_() for weight in rnn.parameters()]

    def hidden_of(given: Tensor, *weights: Tensor) -> Tensor:
        return gru(given, state, weights, drop=0.0)[0]

    assert torch.autograd.gradcheck(hidden_of, (given, *weights))


def test_the_state_carries_no_gradient_and_is_not_changed() -> None:
    rnn, given, state, _ = _case(2, 4, 3, 5, 2, torch.float32)
    before = state.clone()
    after = gru(given, state, list(rnn.parameters()), drop=0.0)[1]
    assert not after.requires_grad
    assert torch.equal(state, before)
    whole = rnn(given, state)[1]
    half = gru(given[:, :2], state, list(rnn.parameters()), drop=0.0)[1]
    torch.testing.assert_close(gru(given[:, 2:], half, list(rnn.parameters()), drop=0.0)[1], whole)


@pytest.mark.parametrize("layers", [1, 2])
def test_under_autocast_it_computes_in_bf16_within_tolerance(layers: int) -> None:
    rnn, given, state, grad = _case(layers, 16, 8, 20, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, after = gru(given, state, list(rnn.parameters()), drop=0.0)
    assert (hidden.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    expected, expected_after = rnn(given, state)
    torch.testing.assert_close(hidden.float(), expected, atol=0.03, rtol=0.03)
    torch.testing.assert_close(after, expected_after, atol=0.03, rtol=0.03)
    for one, other in zip(
        _gradients(hidden, grad, given, rnn), _gradients(expected, grad, given, rnn), strict=True
    ):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.03


def test_dropout_is_applied_only_between_layers() -> None:
    rnn, given, state, _ = _case(2, 8, 4, 6, 3, torch.float32)
    weights = list(rnn.parameters())
    plain = gru(given, state, weights, drop=0.0)[0]
    one_layer = gru(given, state[:1], weights[:4], drop=0.5)[0]
    torch.testing.assert_close(one_layer, gru(given, state[:1], weights[:4], drop=0.0)[0])
    torch.manual_seed(1)
    dropped = gru(given, state, weights, drop=0.5)[0]
    assert not torch.allclose(dropped, plain)
    torch.manual_seed(1)
    assert torch.equal(gru(given, state, weights, drop=0.5)[0], dropped)


def test_repeated_computations_are_bit_identical() -> None:
    rnn, given, state, grad = _case(2, 12, 6, 9, 4, torch.float32)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            first, second = (
                _gradients(gru(given, state, list(rnn.parameters()), 0.0)[0], grad, given, rnn)
                for _ in range(2)
            )
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
