"""Batches: rows, the shift by one, passes, and short texts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import SettingError
from charrnn_trainer.data.batches import Streams, fit_batch, get_batches
from charrnn_trainer.data.corpus import Corpus

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(2, 6), st.integers(0, 40))


@given(SIZES)
def test_batches_match_a_plain_loop(sizes: tuple[int, int, int, int]) -> None:
    n_seqs, n_steps, full, rest = sizes
    rest %= n_seqs * n_steps
    tokens = np.arange(full * n_seqs * n_steps + rest)
    rows = tokens[: full * n_seqs * n_steps].reshape(n_seqs, -1)
    expected = [
        (rows[:, start : start + n_steps], rows[:, start + 1 : start + n_steps + 1])
        for start in range(0, rows.shape[1] - n_steps, n_steps)
    ]
    assert len(expected) == full - 1  # one batch short of the end
    got = list(islice(get_batches(tokens, n_seqs, n_steps), 2 * len(expected)))
    for (x, y), (wanted_x, wanted_y) in zip(got, expected * 2, strict=True):
        np.testing.assert_array_equal(x, wanted_x)
        np.testing.assert_array_equal(y, wanted_y)


def test_the_first_batch_of_tinyshakespeare_is_the_known_one(tinyshakespeare: Path) -> None:
    corpus = Corpus.from_text(tinyshakespeare.read_text(encoding="utf-8"))
    x, y = next(get_batches(corpus, 10, 10))
    assert x[0].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58, 47]
    assert y[0].tolist() == [47, 56, 57, 58, 1, 15, 47, 58, 47, 64]
    assert x.shape == y.shape == (10, 10)


@pytest.mark.parametrize(
    ("tokens", "n_seqs", "n_steps"), [(range(11), 2, 3), ([], 1, 1), (range(20), 0, 3), (range(20), 3, -1)]
)
def test_a_text_that_does_not_fill_two_batches_is_rejected_immediately(
    tokens: list[int], n_seqs: int, n_steps: int
) -> None:
    with pytest.raises(SettingError):
        get_batches(tokens, n_seqs, n_steps)  # before the first batch


def test_tokens_have_one_axis() -> None:
    with pytest.raises(SettingError, match="one axis"):
        get_batches(np.zeros((10, 10), dtype=np.int64), 1, 2)


def test_batches_keep_the_type_of_the_tokens() -> None:
    x, y = next(get_batches(np.arange(100, dtype=np.uint16), 2, 3))
    assert x.dtype == y.dtype == np.uint16


def test_a_batch_continues_where_the_last_one_stopped_until_the_pass_ends() -> None:
    streams = Streams(np.arange(100), 4, 5)
    assert streams.batches_per_pass == 4
    for index in range(8):
        x, _ = streams.batch(index)
        if streams.starts_anew(index):
            assert index in (0, 4)
            assert x[:, 0].tolist() == [0, 25, 50, 75]
        else:
            before, _ = streams.batch(index - 1)
            np.testing.assert_array_equal(x[:, 0], before[:, -1] + 1)


@given(st.integers(0, 2**63 - 1), st.integers(0, 40))
def test_random_starts_shift_whole_passes_reproducibly(seed: int, index: int) -> None:
    streams = Streams(np.arange(100), 4, 5, seed=seed)
    x, y = streams.batch(index)
    np.testing.assert_array_equal(y, (x + 1) % 100)
    if not streams.starts_anew(index):
        np.testing.assert_array_equal(x[:, 0], (streams.batch(index - 1)[0][:, -1] + 1) % 100)
    np.testing.assert_array_equal(Streams(np.arange(100), 4, 5, seed=seed).batch(index)[0], x)


def test_passes_with_random_starts_differ() -> None:
    streams = Streams(np.arange(1_000), 2, 5, seed=0)
    firsts = {int(streams.batch(number * streams.batches_per_pass)[0][0, 0]) for number in range(10)}
    assert len(firsts) > 5


@given(st.integers(2, 100_000), st.integers(1, 300), st.integers(1, 300))
def test_a_batch_is_shrunk_only_until_the_text_fills_it_twice(
    tokens: int, batch_size: int, seq_length: int
) -> None:
    rows, steps = fit_batch(tokens, batch_size, seq_length)
    assert 2 * rows * steps <= tokens
    assert 1 <= rows <= batch_size
    assert 1 <= steps <= seq_length
    if 2 * batch_size * seq_length <= tokens:
        assert (rows, steps) == (batch_size, seq_length)
    else:  # one halving less would not suffice: 2n + 1 halves to n
        assert 2 * (2 * rows + 1) * steps > tokens or 2 * rows * (2 * steps + 1) > tokens
