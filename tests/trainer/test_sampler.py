"""The sampler as graph nodes, in both forms: for the CPU alone, and with nothing that lacks a CUDA kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import naive_sample, naive_uniform
from step_graphs import SamplerGraph

BELOW_ONE = 1.0 - 2.0**-24
"""The largest uniform number."""

VOCABULARIES = (1, 2, 65, 2_000)
SORTED = 1_024
"""How many symbols the sampler sorts at most."""

both_forms = pytest.mark.parametrize("cpu_only", [True, False], ids=["cpu", "everywhere"])


@cache
def _logits(vocabulary_size: int, rows: int) -> NDArray[np.float32]:
    """Logits in steps of 1/64: many are equal, and those that are not are far apart, so that their order is
    the same however softmax rounds."""
    drawn = np.random.RandomState(vocabulary_size).normal(0.0, 2.0, (rows, vocabulary_size))
    return np.asarray(np.rint(drawn * 64) / 64, np.float32)


@cache
def _graph(vocabulary_size: int, cpu_only: bool, rows: int = 400) -> SamplerGraph:
    return SamplerGraph(_logits(vocabulary_size, rows), cpu_only=cpu_only)


def _uniforms(rows: int, seed: int = 0) -> NDArray[np.float32]:
    uniforms = np.random.RandomState(seed).randint(0, 2**24, rows) * 2.0**-24
    uniforms[:2] = 0.0, BELOW_ONE
    return np.asarray(uniforms, np.float32)


def _allowed(logits: NDArray[np.float32], u: float, temperature: float, top_k: int, top_p: float) -> set[int]:
    """What the naive sampler takes, also where rounding moves the uniform number or the mass a little."""
    close = 1e-5
    return {
        naive_sample(logits, min(max(u + shift, 0.0), BELOW_ONE), temperature, top_k, top_p * factor)
        for shift in (-close, 0.0, close)
        for factor in (1.0 - close, 1.0, 1.0 + close)
    }


# --- against the naive sampler -----------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 3.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(1 << 62, 1.0), (5, 1.0), (1 << 62, 0.9), (40, 0.5)])
def test_a_plain_sampler_takes_the_same_token(
    cpu_only: bool, vocabulary_size: int, temperature: float, top_k: int, top_p: float
) -> None:
    rows = 400 if vocabulary_size < 1_000 else 60
    graph = _graph(vocabulary_size, cpu_only, rows)
    uniforms = _uniforms(rows)
    tokens = graph.sample(uniforms, temperature, top_k, top_p)
    logits, shifted = _logits(vocabulary_size, rows), 0
    for row, (u, token) in enumerate(zip(uniforms, tokens, strict=True)):
        if token != naive_sample(logits[row], float(u), temperature, top_k, top_p):
            assert token in _allowed(logits[row], float(u), temperature, top_k, top_p)
            shifted += 1
    assert shifted <= rows * 0.01


def test_every_row_has_its_own_settings() -> None:
    rows = 400
    draw = np.random.RandomState(5)
    uniforms = _uniforms(rows)
    temperature = draw.choice([0.1, 0.5, 1.0, 2.0], rows).astype(np.float32)
    top_k = draw.choice([1, 2, 10, 65, 10_000], rows)
    top_p = draw.choice([1e-6, 0.3, 0.9, 1.0], rows).astype(np.float32)
    together = _graph(65, True).sample(uniforms, temperature, top_k, top_p)
    for row in range(rows):
        alone = _graph(65, True).sample(
            uniforms[row : row + 1], temperature[row], top_k[row], top_p[row], row=row
        )
        assert alone[0] == together[row]


numbers = {
    "u": st.integers(0, 2**24 - 1).map(lambda number: number * 2.0**-24),
    "temperature": st.floats(1e-4, 1e4),
    "top_k": st.one_of(st.integers(1, 70), st.integers(1, 2**63 - 1)),
    "top_p": st.one_of(st.floats(0.0, 1.0, exclude_min=True, width=32), st.just(1.0)),
    "row": st.integers(0, 399),
}


@given(**numbers)
def test_both_forms_take_the_same_token(
    u: float, temperature: float, top_k: int, top_p: float, row: int
) -> None:
    cpu, everywhere = (
        _graph(65, cpu_only).sample([u], temperature, top_k, top_p, row) for cpu_only in (True, False)
    )
    np.testing.assert_array_equal(cpu, everywhere)


@both_forms
@given(**numbers)
def test_the_token_is_one_of_those_that_are_kept(
    cpu_only: bool, u: float, temperature: float, top_k: int, top_p: float, row: int
) -> None:
    token = int(_graph(65, cpu_only).sample([u], temperature, top_k, top_p, row=row)[0])
    scaled = _logits(65, 400)[row].astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-scaled, kind="stable")
    rank = int(np.flatnonzero(order == token)[0])
    mass_before = p[order][:rank].sum()
    assert rank < top_k
    assert rank == 0 or mass_before < top_p + 1e-5


@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
def test_both_forms_are_equal_on_many_rows(vocabulary_size: int) -> None:
    uniforms = _uniforms(400, seed=1)
    for temperature, top_k, top_p in [(0.8, 1 << 62, 1.0), (1.0, 7, 0.8), (30.0, 1 << 62, 0.999)]:
        cpu, everywhere = (
            _graph(vocabulary_size, cpu_only).sample(uniforms, temperature, top_k, top_p)
            for cpu_only in (True, False)
        )
        np.testing.assert_array_equal(cpu, everywhere)


# --- edges -------------------------------------------------------------------------------------------------

edge_settings = pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 1 << 62, 1.0), (1.0, 3, 1.0), (1.0, 1 << 62, 0.4), (1e-4, 1 << 62, 1.0), (1e4, 2, 0.9)],
)


@both_forms
@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@edge_settings
def test_a_uniform_number_of_zero_takes_the_likeliest(
    cpu_only: bool, vocabulary_size: int, temperature: float, top_k: int, top_p: float
) -> None:
    tokens = _graph(vocabulary_size, cpu_only).sample(0.0, temperature, top_k, top_p)
    np.testing.assert_array_equal(tokens, _logits(vocabulary_size, 400).argmax(axis=1))


@both_forms
@pytest.mark.parametrize("vocabulary_size", VOCABULARIES)
@pytest.mark.parametrize("setting", [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 2.0**-126}])
@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_ONE])
def test_keeping_one_symbol_is_greedy(
    cpu_only: bool, vocabulary_size: int, setting: dict[str, Any], u: float
) -> None:
    tokens = _graph(vocabulary_size, cpu_only).sample(u, **setting)
    np.testing.assert_array_equal(tokens, _logits(vocabulary_size, 400).argmax(axis=1))


@both_forms
def test_the_largest_uniform_number_takes_the_last_that_is_kept(cpu_only: bool) -> None:
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3]], np.float32))
    graph = SamplerGraph(logits, cpu_only=cpu_only)
    for top_k, last in [(1, 1), (2, 3), (3, 2), (4, 0), (9, 0)]:
        assert graph.sample(BELOW_ONE, top_k=top_k)[0] == last
    for top_p, last in [(0.3, 1), (0.5, 3), (0.8, 2), (0.95, 0), (1.0, 0)]:
        assert graph.sample(BELOW_ONE, top_p=top_p)[0] == last


@both_forms
def test_the_symbol_that_reaches_the_mass_is_kept_and_the_next_is_not(cpu_only: bool) -> None:
    graph = SamplerGraph(np.zeros((1, 4), np.float32), cpu_only=cpu_only)  # four times exactly 1/4
    for top_p, kept in [(0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4), (1.0, 4)]:
        tokens = graph.sample(np.arange(4096) / 4096, top_p=top_p, row=0)
        assert set(tokens.tolist()) == set(range(kept))


@both_forms
@pytest.mark.parametrize("vocabulary_size", [2, 65, SORTED])
def test_of_equal_symbols_the_first_come_first(cpu_only: bool, vocabulary_size: int) -> None:
    graph = SamplerGraph(np.full((1, vocabulary_size), 2.5, np.float32), cpu_only=cpu_only)
    middles = (np.arange(vocabulary_size) + 0.5) / vocabulary_size
    np.testing.assert_array_equal(graph.sample(middles, row=0), np.arange(vocabulary_size))
    assert set(graph.sample(middles, top_k=2, row=0).tolist()) == {0, 1}


@both_forms
def test_more_than_1024_symbols_are_cut_to_the_likeliest(cpu_only: bool) -> None:
    logits = np.zeros((1, 2_000), np.float32)
    logits[0, 500:] = 1.0
    graph = SamplerGraph(logits, cpu_only=cpu_only)
    tokens = graph.sample((np.arange(SORTED) + 0.5) / SORTED, row=0)
    np.testing.assert_array_equal(tokens, np.arange(500, 500 + SORTED))
    assert graph.sample([BELOW_ONE], top_k=1 << 62, row=0)[0] == 500 + SORTED - 1


@both_forms
@pytest.mark.parametrize("vocabulary_size", [65, 2_000])
def test_a_top_k_beyond_what_is_sorted_is_off(cpu_only: bool, vocabulary_size: int) -> None:
    graph, uniforms = _graph(vocabulary_size, cpu_only), _uniforms(400, seed=2)
    off = graph.sample(uniforms, 2.0, min(vocabulary_size, SORTED))
    for top_k in (SORTED + 1, 2**31, 2**63 - 1):
        np.testing.assert_array_equal(graph.sample(uniforms, 2.0, top_k), off)


@both_forms
def test_a_vocabulary_of_one_symbol_has_no_choice(cpu_only: bool) -> None:
    graph = SamplerGraph(np.array([[-3.0]], np.float32), cpu_only=cpu_only)
    for u in (0.0, 0.5, BELOW_ONE):
        assert graph.sample(u)[0] == 0
        assert graph.sample(u, temperature=1e-4, top_k=1, top_p=1e-6)[0] == 0
        assert graph.sample(u, temperature=1e4)[0] == 0


@both_forms
def test_extreme_temperatures_are_greedy_and_even(cpu_only: bool) -> None:
    graph = _graph(65, cpu_only)
    untied = [row for row in range(400) if (_logits(65, 400)[row] == _logits(65, 400)[row].max()).sum() == 1]
    cold = graph.sample(BELOW_ONE, 1e-4)
    np.testing.assert_array_equal(cold[untied], _logits(65, 400)[untied].argmax(axis=1))
    hot = graph.sample((np.arange(65) + 0.5) / 65, 1e4, row=0)
    assert sorted(hot.tolist()) == list(range(65))


@both_forms
def test_logits_that_are_not_finite_still_give_a_symbol_of_the_vocabulary(cpu_only: bool) -> None:
    logits = np.zeros((4, 65), np.float32)
    logits[0, 3], logits[1, 4], logits[2, :], logits[3, :] = np.inf, np.nan, -np.inf, np.nan
    graph = SamplerGraph(logits, cpu_only=cpu_only)
    for u in (0.0, 0.5, BELOW_ONE):
        tokens = graph.sample(u)
        assert ((tokens >= 0) & (tokens < 65)).all()


# --- the mass that is kept ---------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(("top_k", "top_p"), [(1 << 62, 1.0), (700, 1.0), (1 << 62, 0.97)])
def test_no_uniform_number_misses_the_kept_mass(cpu_only: bool, top_k: int, top_p: float) -> None:
    # Two sums of the same numbers in another order differ by rounding. A target above the last running sum
    # would find no symbol, and fall back to one at the other end.
    rows = 2_000
    logits = np.random.RandomState(9).normal(0.0, 1.5, (rows, 2_000)).astype(np.float32)
    tokens = SamplerGraph(logits, cpu_only=cpu_only).sample(BELOW_ONE, top_k=top_k, top_p=top_p)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    ranked = -np.sort(-p, axis=1)[:, :SORTED]
    before = np.cumsum(ranked, axis=1) - ranked
    kept = (np.arange(SORTED) < top_k) & (before < top_p)
    mass = (ranked * kept).sum(axis=1)
    chosen = np.take_along_axis(p, tokens[:, np.newaxis], axis=1)
    likelier, at_least_as_likely = (p * (p > chosen)).sum(axis=1), (p * (p >= chosen)).sum(axis=1)
    assert (likelier < mass + 2e-5).all()
    assert (at_least_as_likely > mass - 2e-5).all()


# --- frequencies -------------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 1 << 62, 1.0), (0.6, 1 << 62, 1.0), (1.7, 20, 1.0), (1.0, 1 << 62, 0.85), (0.9, 30, 0.9)],
)
def test_evenly_spread_uniform_numbers_give_the_softmax(
    cpu_only: bool, temperature: float, top_k: int, top_p: float
) -> None:
    draws = 2**15
    uniforms = (np.arange(draws) + 0.5) / draws
    tokens = _graph(65, cpu_only).sample(uniforms, temperature, top_k, top_p, row=7)
    expected = _chances(_logits(65, 400)[7], temperature, top_k, top_p)
    shares = np.bincount(tokens, minlength=65) / draws
    # Each symbol has one interval of uniform numbers: the count is right to one draw, and rounding.
    np.testing.assert_allclose(shares, expected, atol=1.5 / draws + 2e-6)


def test_the_projects_own_uniform_numbers_give_the_softmax() -> None:
    draws = 20_000
    uniforms = [naive_uniform(seed=1, stream=0, position=position) for position in range(draws)]
    tokens = _graph(65, True).sample(np.array(uniforms), 1.0, row=11)
    expected = _chances(_logits(65, 400)[11], 1.0, 1 << 62, 1.0) * draws
    counts = np.bincount(tokens, minlength=65)
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = int(often.sum()) - 1
    # The numbers are fixed, so this cannot flake; five standard deviations of chi-square would be a bias.
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
    assert abs(counts[~often].sum() - expected[~often].sum()) <= 5 * np.sqrt(max(expected[~often].sum(), 1))


def _chances(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = order[(np.arange(len(p)) < top_k) & (before < top_p)]
    chances = np.zeros(len(p))
    chances[kept] = p[kept] / p[kept].sum()
    return chances
