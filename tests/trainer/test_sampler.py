"""The sampler as graph nodes: the one in files, and cheaper ones for some settings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from charrnn_runtime.graph.sampler import Cuts
from reference import naive_kept, naive_sample, naive_uniform
from step_graphs import SamplerGraph

BELOW_ONE = 1.0 - 2.0**-24
"""The largest uniform number."""

VOCABULARIES = (1, 2, 65, 2_000)
SORTED = 1_024
"""The maximum number of symbols that the sampler sorts."""

OFF = 1 << 62
"""A top_k that removes nothing."""


@cache
def _logits(vocabulary_size: int, rows: int) -> NDArray[np.float32]:
    """Logits in steps of 1/64: many are equal, and those that are not are far apart, so that their order is
    the same however softmax rounds."""
    drawn = np.random.RandomState(vocabulary_size).normal(0.0, 2.0, (rows, vocabulary_size))
    return np.asarray(np.rint(drawn * 64) / 64, np.float32)


@cache
def _graph(vocabulary_size: int, rows: int = 400, cuts: Cuts = "any") -> SamplerGraph:
    return SamplerGraph(_logits(vocabulary_size, rows), cuts)


def _uniforms(rows: int, seed: int = 0) -> NDArray[np.float32]:
    uniforms = np.random.RandomState(seed).randint(0, 2**24, rows) * 2.0**-24
    uniforms[:2] = 0.0, BELOW_ONE
    return np.asarray(uniforms, np.float32)


def _probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max())
    p: NDArray[np.float64] = exponentials / exponentials.sum()
    return p


def _allowed(
    logits: NDArray[np.float32], u: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> set[int]:
    """The tokens of the naive sampler, allowing for rounding of the uniform number or a limit."""
    close = 1e-5
    return {
        naive_sample(logits, min(max(u + shift, 0.0), BELOW_ONE), temperature, top_k, p, m)
        for shift in (-close, 0.0, close)
        for p in (top_p * (1.0 - close), top_p, top_p * (1.0 + close))
        for m in (min_p * (1.0 - close), min_p, min_p * (1.0 + close))
    }


# --- against the naive sampler -----------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 3.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (OFF, 1.0, 0.0),
        (1, 1.0, 0.0),
        (5, 1.0, 0.0),
        (OFF, 0.9, 0.0),
        (40, 0.5, 0.0),
        (OFF, 1.0, 0.1),
        (12, 0.95, 0.02),
    ],
)
def test_a_plain_sampler_selects_the_same_token(
    vocabulary_size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    rows = 400 if vocabulary_size < 1_000 else 60
    graph = _graph(vocabulary_size, rows)
    uniforms = _uniforms(rows)
    tokens = graph.sample(uniforms, temperature, top_k, top_p, min_p)
    logits, shifted = _logits(vocabulary_size, rows), 0
    for row, (u, token) in enumerate(zip(uniforms, tokens, strict=True)):
        if token != naive_sample(logits[row], float(u), temperature, top_k, top_p, min_p):
            assert token in _allowed(logits[row], float(u), temperature, top_k, top_p, min_p)
            shifted += 1
    assert shifted <= rows * 0.02


def test_every_row_has_separate_settings() -> None:
    rows = 400
    draw = np.random.RandomState(5)
    uniforms = _uniforms(rows)
    temperature = draw.choice([0.1, 0.5, 1.0, 2.0], rows).astype(np.float32)
    top_k = draw.choice([1, 2, 10, 65, 10_000], rows)
    top_p = draw.choice([1e-6, 0.3, 0.9, 1.0], rows).astype(np.float32)
    min_p = draw.choice([0.0, 0.05, 0.5], rows).astype(np.float32)
    together = _graph(65).sample(uniforms, temperature, top_k, top_p, min_p)
    for row in range(rows):
        alone = _graph(65).sample(
            uniforms[row : row + 1], temperature[row], top_k[row], top_p[row], min_p[row], row=row
        )
        assert alone[0] == together[row]


numbers = {
    "u": st.integers(0, 2**24 - 1).map(lambda number: number * 2.0**-24),
    "temperature": st.floats(1e-4, 1e4),
    "top_k": st.one_of(st.integers(1, 70), st.integers(1, 2**63 - 1)),
    "top_p": st.one_of(st.floats(0.0, 1.0, exclude_min=True, width=32), st.just(1.0)),
    "min_p": st.one_of(st.just(0.0), st.floats(0.0, 1.0, exclude_max=True, width=32)),
    "row": st.integers(0, 399),
}


@given(**numbers)
def test_the_token_is_among_the_kept_ones(
    u: float, temperature: float, top_k: int, top_p: float, min_p: float, row: int
) -> None:
    token = int(_graph(65).sample([u], temperature, top_k, top_p, min_p, row)[0])
    p = _probabilities(_logits(65, 400)[row], temperature)
    more_likely = p > p[token] * (1.0 + 1e-5)
    assert more_likely.sum() < top_k
    assert not more_likely.any() or p[more_likely].sum() < top_p + 1e-5
    assert p[token] >= min_p * p.max() * (1.0 - 1e-5)


@given(**numbers)
def test_a_larger_uniform_number_never_selects_an_earlier_symbol(
    u: float, temperature: float, top_k: int, top_p: float, min_p: float, row: int
) -> None:
    uniforms = sorted([0.0, u / 2, u, (1.0 + u) / 2, BELOW_ONE])
    tokens = _graph(65).sample(np.array(uniforms), temperature, top_k, top_p, min_p, row)
    assert (np.diff(tokens) >= 0).all()


# --- specialized samplers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary_size", [*VOCABULARIES, 1_024])
@pytest.mark.parametrize("temperature", [1e-4, 0.8, 30.0])
@pytest.mark.parametrize("cuts", ["none", "min_p", "greedy"])
def test_a_reduced_sampler_gives_the_same_token(vocabulary_size: int, temperature: float, cuts: Cuts) -> None:
    rows = 400 if vocabulary_size < 1_000 else 60
    whole, less = _graph(vocabulary_size, rows), _graph(vocabulary_size, rows, cuts)
    for seed, min_p in enumerate([0.0] if cuts != "min_p" else [0.0, 0.003, 0.5, 1.0 - 2.0**-24]):
        settings = (temperature, 1 if cuts == "greedy" else OFF, 1.0, min_p)
        uniforms = _uniforms(rows, seed)
        np.testing.assert_array_equal(whole.sample(uniforms, *settings), less.sample(uniforms, *settings))


@pytest.mark.parametrize("symbols", [40, 1_024, 1_500])
def test_a_top_p_of_1_removes_nothing_even_if_sums_round_to_1_early(symbols: int) -> None:
    logits = np.zeros((1, symbols), np.float32)
    logits[0, : symbols - 10] = -25.0 - np.arange(symbols - 10) % 7 / 10
    p = _probabilities(logits[0], 1.0).astype(np.float32)
    assert np.cumsum(np.sort(p)[::-1], dtype=np.float32)[20] >= 1.0
    whole, less = SamplerGraph(logits), SamplerGraph(logits, "none")
    for first in range(0, 2**24, 2**20):  # those that would be cut come first
        uniforms = np.concatenate([np.arange(64), first + np.arange(64)]) * 2.0**-24
        np.testing.assert_array_equal(whole.sample(uniforms, row=0), less.sample(uniforms, row=0))


# --- edges -------------------------------------------------------------------------------------------------

edge_settings = pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, OFF, 1.0), (1.0, 3, 1.0), (1.0, OFF, 0.4), (1e-4, OFF, 1.0), (9.0, 2, 0.9)],
)


@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@edge_settings
@pytest.mark.parametrize("min_p", [0.0, 0.2])
def test_uniform_numbers_of_zero_and_near_one_select_the_first_and_last_kept_symbol(
    vocabulary_size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    rows = 400 if vocabulary_size < 1_000 else 60
    graph = _graph(vocabulary_size, rows)
    first = graph.sample(0.0, temperature, top_k, top_p, min_p)
    last = graph.sample(BELOW_ONE, temperature, top_k, top_p, min_p)
    for row, logits in enumerate(_logits(vocabulary_size, rows)):
        p = _probabilities(logits, temperature).astype(np.float32)
        kept = np.flatnonzero(naive_kept(p, top_k, top_p, min_p) & (p > 0))
        assert first[row] == kept[0]
        # After the last selected symbol, shares are too small to change the sum.
        assert last[row] in kept
        assert p[kept[kept > last[row]]].sum() < 1e-6


@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_ONE])
def test_a_top_k_of_1_selects_the_first_of_the_most_likely(vocabulary_size: int, u: float) -> None:
    tokens = _graph(vocabulary_size).sample(u, top_k=1 if vocabulary_size > 1 else OFF)
    np.testing.assert_array_equal(tokens, _logits(vocabulary_size, 400).argmax(axis=1))


@pytest.mark.parametrize("setting", [{"top_p": 1e-6}, {"top_p": 2.0**-126}, {"min_p": 1.0 - 2.0**-24}])
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_ONE])
def test_the_narrowest_settings_keep_only_the_most_likely_symbol(setting: dict[str, Any], u: float) -> None:
    tokens = _graph(2_000).sample(u, **setting)
    logits = _logits(2_000, 400)
    np.testing.assert_array_equal(logits[np.arange(400), tokens], logits.max(axis=1))


def test_each_setting_keeps_the_symbols_of_its_definition() -> None:
    graph = SamplerGraph(np.log(np.array([[0.1, 0.4, 0.2, 0.3]], np.float32)))
    spread = np.arange(4096) / 4096

    def kept(**settings: Any) -> set[int]:
        return set(graph.sample(spread, row=0, **settings).tolist())

    for top_k, symbols in [(1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})]:
        assert kept(top_k=top_k) == symbols
    for top_p, symbols in [(0.3, {1}), (0.5, {1, 3}), (0.8, {1, 2, 3}), (0.95, {0, 1, 2, 3})]:
        assert kept(top_p=top_p) == symbols
    for min_p, symbols in [(0.9, {1}), (0.7, {1, 3}), (0.45, {1, 2, 3}), (0.2, {0, 1, 2, 3})]:
        assert kept(min_p=min_p) == symbols
    assert kept(top_k=3, top_p=0.5, min_p=0.2) == {1, 3}
    assert kept(top_k=2, top_p=0.8, min_p=0.2) == {1, 3}
    assert kept(top_k=3, top_p=0.8, min_p=0.7) == {1, 3}


def test_a_symbol_as_likely_as_one_that_is_kept_is_kept_too() -> None:
    graph = SamplerGraph(np.array([[0, 1, 0, 1, 1, 0]], np.float32))
    spread = np.arange(4096) / 4096
    for settings in ({"top_k": 2}, {"top_k": 3}, {"top_p": 0.01}, {"top_p": 0.5}, {"min_p": 0.9}):
        assert set(graph.sample(spread, row=0, **settings).tolist()) == {1, 3, 4}
    for settings in ({"top_k": 4}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}):
        assert set(graph.sample(spread, row=0, **settings).tolist()) == {0, 1, 2, 3, 4, 5}
    assert set(graph.sample(spread, top_k=1, row=0).tolist()) == {1}


def test_the_symbol_that_reaches_the_mass_is_kept_and_the_next_is_not() -> None:
    # Of 16 parts: 8, 4, 2 and 2 times 1, which are exact.
    logits = np.log(np.array([[1, 8, 2, 4, 1]], np.float32))
    graph = SamplerGraph(logits)
    spread = np.arange(4096) / 4096
    for top_p, kept in [
        (0.49, {1}),
        (0.51, {1, 3}),
        (0.74, {1, 3}),
        (0.76, {1, 2, 3}),
        (0.9, {0, 1, 2, 3, 4}),
    ]:
        assert set(graph.sample(spread, top_p=top_p, row=0).tolist()) == kept


@pytest.mark.parametrize("vocabulary_size", [2, 65, SORTED, 1_500])
def test_symbols_are_selected_in_order_of_their_ids(vocabulary_size: int) -> None:
    graph = SamplerGraph(np.full((1, vocabulary_size), 2.5, np.float32))
    middles = (np.arange(vocabulary_size) + 0.5) / vocabulary_size
    np.testing.assert_array_equal(graph.sample(middles, row=0), np.arange(vocabulary_size))


@pytest.mark.nightly
def test_with_more_than_1024_symbols_truncation_keeps_fewer_than_1024_or_all() -> None:
    logits = (np.arange(2_000)[np.newaxis] % 1_999 / 100).astype(np.float32)
    graph = SamplerGraph(logits)
    spread = (np.arange(2**14) + 0.5) / 2**14

    def least(**settings: Any) -> int:
        return int(graph.sample(spread, temperature=1e4, row=0, **settings).min())

    assert least(top_k=SORTED - 1) == 1_999 - SORTED + 1
    assert least(top_k=SORTED) == least(top_k=OFF) == 0
    assert least(top_p=0.25) > 1_999 - SORTED
    assert least(top_p=0.9) == 0
    assert least(top_k=5, top_p=0.9) == 1_994


@pytest.mark.parametrize("vocabulary_size", [65, 2_000])
def test_a_top_k_above_the_sorting_limit_is_off(vocabulary_size: int) -> None:
    graph, uniforms = _graph(vocabulary_size), _uniforms(400, seed=2)
    off = graph.sample(uniforms, 2.0, min(vocabulary_size, SORTED))
    for top_k in (SORTED + 1, 2**31, 2**63 - 1):
        np.testing.assert_array_equal(graph.sample(uniforms, 2.0, top_k), off)


def test_a_vocabulary_of_one_symbol_has_no_choice() -> None:
    graph = SamplerGraph(np.array([[-3.0]], np.float32))
    for u in (0.0, 0.5, BELOW_ONE):
        assert graph.sample(u)[0] == 0
        assert graph.sample(u, temperature=1e-4, top_k=1, top_p=1e-6, min_p=0.9)[0] == 0
        assert graph.sample(u, temperature=1e4)[0] == 0


def test_extreme_temperatures_are_greedy_and_even() -> None:
    graph = _graph(65)
    untied = [row for row in range(400) if (_logits(65, 400)[row] == _logits(65, 400)[row].max()).sum() == 1]
    cold = graph.sample(BELOW_ONE, 1e-4)
    np.testing.assert_array_equal(cold[untied], _logits(65, 400)[untied].argmax(axis=1))
    hot = graph.sample((np.arange(65) + 0.5) / 65, 1e4, row=0)
    assert sorted(hot.tolist()) == list(range(65))


def test_logits_that_are_not_finite_still_give_a_symbol_of_the_vocabulary() -> None:
    logits = np.zeros((4, 65), np.float32)
    logits[0, 3], logits[1, 4], logits[2, :], logits[3, :] = np.inf, np.nan, -np.inf, np.nan
    graph = SamplerGraph(logits)
    for u in (0.0, 0.5, BELOW_ONE):
        tokens = graph.sample(u)
        assert ((tokens >= 0) & (tokens < 65)).all()


# --- kept probability mass ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("top_k", "top_p"), [(OFF, 1.0), (700, 1.0), (OFF, 0.97)])
def test_no_uniform_number_misses_the_kept_mass(top_k: int, top_p: float) -> None:
    # Two sums of the same numbers in another order differ by rounding. A target above the last running sum
    # would find no symbol, and fall back to one at the other end.
    rows = 500
    logits = np.random.RandomState(9).normal(0.0, 1.5, (rows, 2_000)).astype(np.float32)
    tokens = SamplerGraph(logits).sample(BELOW_ONE, top_k=top_k, top_p=top_p)
    for row, token in zip(logits, tokens, strict=True):
        p = _probabilities(row, 1.0).astype(np.float32)
        kept = np.flatnonzero(naive_kept(p, top_k, top_p))
        assert p[token] >= p[kept].min() * (1.0 - 1e-5)
        assert p[kept[kept > token]].sum() < 2e-5


# --- frequencies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, OFF, 1.0, 0.0),
        (0.6, OFF, 1.0, 0.0),
        (1.7, 20, 1.0, 0.0),
        (1.0, OFF, 0.85, 0.0),
        (1.0, OFF, 1.0, 0.1),
        (0.9, 30, 0.9, 0.05),
    ],
)
def test_evenly_spread_uniform_numbers_give_the_softmax(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    draws = 2**15
    uniforms = (np.arange(draws) + 0.5) / draws
    tokens = _graph(65).sample(uniforms, temperature, top_k, top_p, min_p, row=7)
    expected = _chances(_logits(65, 400)[7], temperature, top_k, top_p, min_p)
    shares = np.bincount(tokens, minlength=65) / draws
    # Each symbol has one interval of uniform numbers: the count is right to one draw, and rounding.
    np.testing.assert_allclose(shares, expected, atol=1.5 / draws + 2e-6)


def test_the_projects_own_uniform_numbers_give_the_softmax() -> None:
    draws = 20_000
    uniforms = [naive_uniform(seed=1, stream=0, position=position) for position in range(draws)]
    tokens = _graph(65).sample(np.array(uniforms), 1.0, row=11)
    expected = _chances(_logits(65, 400)[11], 1.0) * draws
    counts = np.bincount(tokens, minlength=65)
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = int(often.sum()) - 1
    # The numbers are fixed, so this cannot flake; five standard deviations of chi-square would be a bias.
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
    assert abs(counts[~often].sum() - expected[~often].sum()) <= 5 * np.sqrt(max(expected[~often].sum(), 1))


def _chances(
    logits: NDArray[np.float32], temperature: float, top_k: int = OFF, top_p: float = 1.0, min_p: float = 0.0
) -> NDArray[np.float64]:
    p = _probabilities(logits, temperature)
    kept = np.where(naive_kept(p.astype(np.float32), top_k, top_p, min_p), p, 0.0)
    chances: NDArray[np.float64] = kept / kept.sum()
    return chances
