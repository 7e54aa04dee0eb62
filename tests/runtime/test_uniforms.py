"""The random numbers of generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn_runtime import SettingError
from charrnn_runtime.uniforms import (
    advance,
    check_seed,
    counters_at,
    draw_seed,
    stream_keys,
    uniforms_at,
    uniforms_from,
)
from reference import naive_uniform

seeds = st.integers(0, 2**64 - 1)
streams = st.integers(0, 2**63 - 1)
positions = st.integers(0, 2**63 - 1)

# (seed, stream, position) and the number times 2**24, as any language must compute it.
VECTORS = [
    (0, 0, 0, 10_946_269),
    (0, 0, 1, 11_764_387),
    (0, 1, 0, 4_634_430),
    (1, 0, 0, 6_177_195),
    (42, 7, 1000, 6_330_149),
    (2**64 - 1, 0, 0, 6_144_522),
    (2**64 - 1, 2**40, 2**50, 10_301_469),
]


@pytest.mark.parametrize(("seed", "stream", "position", "expected"), VECTORS)
def test_numbers_match_the_reference_values(seed: int, stream: int, position: int, expected: int) -> None:
    found = uniforms_at(stream_keys(seed, [stream]), [position])
    assert found.dtype == np.float32
    assert float(found[0]) * 2**24 == expected
    assert naive_uniform(seed, stream, position) * 2**24 == expected


@given(seeds, st.lists(streams, min_size=1, max_size=5), st.lists(positions, min_size=1, max_size=5))
def test_all_numbers_match_plain_integer_arithmetic(
    seed: int, numbers: list[int], positions: list[int]
) -> None:
    keys = stream_keys(seed, numbers)
    found = uniforms_at(keys, np.array(positions)[:, None])  # (B), (T, 1) -> (T, B)
    assert found.shape == (len(positions), len(numbers))
    for row, position in zip(found, positions, strict=True):
        for u, number in zip(row, numbers, strict=True):
            assert float(u) == naive_uniform(seed, number, position)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["one", "list", "array", "object array", "NumPy's integer"])
@given(seeds, st.integers(-(2**66), 2**66), st.integers(-(2**66), 2**66))
@example(2**64 - 1, 2**64 - 1, 2**64 - 1)
@example(0, -1, -1)
@example(5, 2**63, -(2**63))
def test_any_integers_count_modulo_2_to_the_64(form: str, seed: int, number: int, position: int) -> None:
    if form in ("array", "NumPy's integer"):  # of the types that hold it
        number, position = number % 2**64, position % 2**64 - 2**63
    forms: dict[str, tuple[Any, Any]] = {
        "one": (number, position),
        "list": ([number], [position]),
        "object array": (np.array([number], object), np.array([position], object)),
    }
    if form not in forms:
        one = np.uint64(number), np.int64(position)
        forms = {"NumPy's integer": one, "array": (np.array([one[0]]), np.array([one[1]]))}
    given_number, given_position = forms[form]
    keys = stream_keys(seed, given_number)
    expected = naive_uniform(seed, number % 2**64, position % 2**64)
    assert uniforms_at(keys, given_position).tolist() == [expected]
    counters = counters_at(keys, given_position)
    drawn = np.empty((3, 1), np.float32)
    uniforms_from(counters, drawn)
    after = [naive_uniform(seed, number % 2**64, (position + step) % 2**64) for step in range(3)]
    assert drawn[:, 0].tolist() == after
    advance(counters, 2)
    uniforms_from(counters, drawn[:1])
    assert drawn[0, 0] == after[2]


def test_integers_without_a_common_numpy_dtype_are_exact() -> None:
    many = [[2**64 - 1, -1], [2**63 + 1, 0]]
    found = uniforms_at(stream_keys(3, [0, 1]), many)
    for row, positions in zip(found, many, strict=True):
        expected = [naive_uniform(3, stream, each % 2**64) for stream, each in enumerate(positions)]
        assert row.tolist() == expected
    assert uniforms_at(stream_keys(3, []), []).shape == (0,)


@pytest.mark.parametrize("wrong", [1.5, 1.0, "1", None, [0, 0.5], [True], np.array([1.0])], ids=repr)
def test_streams_and_positions_must_be_integers(wrong: object) -> None:
    with pytest.raises(SettingError, match="streams must be a whole number"):
        stream_keys(1, wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="positions must be a whole number"):
        uniforms_at(stream_keys(1, [0]), wrong)  # type: ignore[arg-type]


@given(seeds, streams, positions)
def test_numbers_are_in_range_and_have_24_bits(seed: int, stream: int, position: int) -> None:
    u = float(uniforms_at(stream_keys(seed, [stream]), [position])[0])
    assert 0.0 <= u <= 1.0 - 2.0**-24
    assert (u * 2**24).is_integer()


def test_numbers_are_spread_evenly() -> None:
    u = uniforms_at(stream_keys(3, np.arange(100)), np.arange(1000)[:, None])
    counts, _ = np.histogram(u, bins=10, range=(0.0, 1.0))
    # 100,000 draws: ten bins of 10,000 with a standard deviation of 95.
    assert np.abs(counts - 10_000).max() < 500
    assert abs(float(u.mean()) - 0.5) < 0.005


def test_streams_positions_and_seeds_have_different_numbers() -> None:
    base = uniforms_at(stream_keys(1, [0]), np.arange(50))
    assert not np.array_equal(base, uniforms_at(stream_keys(1, [1]), np.arange(50)))
    assert not np.array_equal(base, uniforms_at(stream_keys(2, [0]), np.arange(50)))
    assert len(set(base.tolist())) > 45


@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-5), 10**30])
def test_seeds_out_of_range_are_rejected(seed: int) -> None:
    with pytest.raises(SettingError, match=r"seed must be between 0 and 2\*\*64 - 1"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [1.5, "1", None, float("nan"), 1e3])
def test_seeds_that_are_not_integers_are_rejected(seed: object) -> None:
    with pytest.raises(SettingError, match="seed must be a whole number"):
        check_seed(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.uint64(2**64 - 1), np.int32(7)])
def test_seeds_can_be_integers_of_any_type(seed: int) -> None:
    found = check_seed(seed)
    assert found == int(seed)
    assert type(found) is int


def test_drawn_seeds_are_valid_and_differ() -> None:
    drawn = [draw_seed() for _ in range(8)]
    assert [check_seed(seed) for seed in drawn] == drawn
    assert len(set(drawn)) > 1
