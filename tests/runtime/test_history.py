"""The sampled tokens of streams are complete and in order, however rows join, leave and move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime.scheduling import history
from charrnn_runtime.scheduling.history import History


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), live=st.floats(0, 0.5), moves=st.floats(0, 0.3))
def test_each_row_returns_its_tokens_since_it_started(seed: int, live: float, moves: float) -> None:
    draw = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "_LINES", 8)
        rows = int(draw.integers(1, 7))
        kept = History(rows)
        expected: dict[int, list[int]] = {}  # by row: pending tokens
        reading: dict[int, int] = {}
        for _ in range(60):
            idle = [row for row in range(rows) if row not in expected and draw.random() < 0.4]
            if idle:
                reads = draw.integers(0, 12, len(idle))
                kept.begin(np.array(idle), reads)
                for row, count in zip(idle, reads.tolist(), strict=True):
                    expected[row], reading[row] = [], count
            block = draw.integers(0, 100, (int(draw.integers(1, 7)), rows))
            kept.append(block)
            for line in block.tolist():
                for row in expected:
                    if reading[row]:
                        reading[row] -= 1
                    else:
                        expected[row].append(line[row])
            taking = [row for row in expected if draw.random() < live]
            assert [each.tolist() for each in kept.take(taking)] == [expected[row] for row in taking]
            for row in taking:
                expected[row] = []
            leaving = [row for row in expected if draw.random() < 0.1]
            assert [each.tolist() for each in kept.take(leaving)] == [expected[row] for row in leaving]
            kept.forget(leaving)
            for row in leaving:
                del expected[row]
            if draw.random() < moves:
                stay = list(expected)
                rows = max(1, len(stay) + int(draw.integers(0, 3)))
                kept = kept.moved(stay, rows)
                expected = {new: expected[old] for new, old in enumerate(stay)}
                reading = {new: reading[old] for new, old in enumerate(stay)}


def test_the_last_tokens_stay_available_for_stop_texts_in_a_new_array(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_LINES", 8)
    kept = History(2)
    kept.begin(np.array([0, 1]), np.array([0, 0]))
    kept.reach_back(5)
    tokens = np.arange(60).reshape(30, 2)
    for step in range(30):
        kept.append(tokens[step : step + 1])
        ending = tokens[max(0, step - 4) : step + 1, 1]
        assert kept.ends_with(1, ending)
        assert not kept.ends_with(0, ending)
    np.testing.assert_array_equal(kept.take([1])[0], tokens[:, 1])


def test_a_long_stream_among_short_ones_holds_only_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LINES", 8)
    kept = History(100)
    kept.begin(np.arange(100), np.zeros(100, np.int64))
    for _ in range(50):
        kept.append(np.ones((8, 100), np.int64))
    assert len(kept._full) == 49  # all rows need them
    kept.forget(list(range(1, 100)))
    assert not kept._full
    assert sum(each.nbytes for each in kept._aside[0]) == 49 * 8 * 8
    assert all(each.base is None for each in kept._aside[0])
    assert kept.take([0])[0].tolist() == [1] * 400
