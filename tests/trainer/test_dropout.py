"""Dropout: kept elements, probabilities and gradients."""

from __future__ import annotations

import pytest
import torch

from charrnn_trainer.nn.dropout import dropout


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_a_share_of_the_elements_is_zero_and_the_others_keep_the_mean(share: float) -> None:
    torch.manual_seed(0)
    left = dropout(torch.ones(400, 1001), share)
    values = left.unique()
    assert values[0] == 0.0
    assert values[1] == pytest.approx(1.0 / (1.0 - share), rel=1e-3)
    assert len(values) == 2
    count = left.numel()
    # Five standard deviations of the same number of independent draws.
    assert float((left == 0.0).sum()) / count == pytest.approx(
        share, abs=5 * (share * (1 - share) / count) ** 0.5
    )


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(100_000, 8), 0.5) > 0).double()
    together = torch.corrcoef(kept.t()) - torch.eye(8)  # the four of a draw, and those of the next
    assert float(together.abs().max()) < 5 / 100_000**0.5
    neighbours = torch.corrcoef(torch.stack([kept[:-1, 0], kept[1:, 0]]))[0, 1]
    assert abs(float(neighbours)) < 5 / 100_000**0.5


def test_each_call_draws_a_new_mask_and_a_seed_repeats_it() -> None:
    values = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(values, 0.5))
    assert not torch.equal(first, second)


def test_gradients_pass_through_kept_elements() -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 9, requires_grad=True)
    left = dropout(values, 0.3)
    left.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), left.detach())


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (2, 0, 3)])
def test_shape_and_dtype_are_preserved(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        left = dropout(torch.ones(shape, dtype=dtype), 0.5)
        assert (tuple(left.shape), left.dtype) == (shape, dtype)


def test_nothing_is_dropped_or_drawn_at_zero() -> None:
    values = torch.randn(5)
    before = torch.get_rng_state()
    assert dropout(values, 0.0) is values
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rate_just_below_one_keeps_some_elements() -> None:
    torch.manual_seed(0)
    left = dropout(torch.ones(1_000_000), 0.999999)
    assert 0 < int((left > 0).sum()) < 100
