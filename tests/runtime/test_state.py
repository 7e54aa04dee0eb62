"""The state of streams as a value."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from charrnn_runtime import CharRNN, SettingError, State
from charrnn_runtime.state import UNSTARTED


def _state(streams: int = 3) -> State:
    return State(
        rows=np.arange(streams * 2, dtype=np.float32).reshape(streams, 2),
        tokens=np.arange(streams),
        numbers=np.arange(streams) + 10,
        positions=np.arange(streams) * 5,
    )


def _values(state: State) -> list[list[float]]:
    return [state.rows.tolist(), state.tokens.tolist(), state.numbers.tolist(), state.positions.tolist()]


def test_a_fresh_state_has_read_nothing() -> None:
    state = State.start(batch=2, state_size=4)
    assert state.rows.tolist() == [[0.0] * 4] * 2
    assert state.tokens.tolist() == [UNSTARTED] * 2
    assert state.numbers.tolist() == [0, 1]
    assert state.positions.tolist() == [0, 0]
    assert len(state) == 2


@pytest.mark.parametrize("name", ["rows", "tokens", "numbers", "positions"])
def test_its_arrays_are_read_only(name: str) -> None:
    array = getattr(_state(), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(AttributeError):
        setattr(_state(), name, array)


def test_it_copies_its_arguments() -> None:
    rows = np.zeros((1, 2), np.float32)
    state = State(rows, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    rows[:] = 7
    assert state.rows.tolist() == [[0.0, 0.0]]


def test_copies_and_pickles_are_equal_and_read_only() -> None:
    state = _state()
    for again in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert _values(again) == _values(state)
        assert not again.rows.flags.writeable


def test_selecting_keeps_the_numbers() -> None:
    state = _state()
    assert _values(state[1]) == [[[2.0, 3.0]], [1], [11], [5]]
    assert _values(state[np.int64(1)]) == _values(state[1])  # type: ignore[index]
    assert _values(state[-1]) == _values(state[2])
    assert _values(state[1:]) == _values(state[[1, 2]])
    assert _values(state[np.array([True, False, True])]) == _values(state[[0, 2]])
    with pytest.raises(IndexError):
        state[3]


def test_concatenating_parts_restores_the_whole() -> None:
    state = _state()
    assert _values(State.concatenate([state[0], state[1:]])) == _values(state)


def test_forks_are_numbered_again_in_order() -> None:
    forked = _state(2).fork(3, first_number=100)
    assert forked.numbers.tolist() == [100, 101, 102, 103, 104, 105]
    assert forked.tokens.tolist() == [0, 0, 0, 1, 1, 1]
    assert forked.positions.tolist() == [0, 0, 0, 5, 5, 5]
    assert forked.rows.tolist() == [[0.0, 1.0]] * 3 + [[2.0, 3.0]] * 3


@pytest.mark.parametrize(("copies", "first"), [(0, 0), (-1, 0), (1, -1)])
def test_invalid_forks_are_rejected(copies: int, first: int) -> None:
    with pytest.raises(SettingError, match="copies must be between 1 and"):
        _state().fork(copies, first)


def test_parts_of_different_lengths_are_rejected() -> None:
    with pytest.raises(SettingError, match="must each have one entry per stream"):
        State(np.zeros((2, 3), np.float32), np.zeros(1), np.zeros(2), np.zeros(2))  # type: ignore[arg-type]


def test_numbers_and_positions_count_from_zero() -> None:
    for numbers, positions in (([-1], [0]), ([0], [-1])):
        with pytest.raises(SettingError, match="must be 0 or more"):
            State(np.zeros((1, 2)), np.zeros(1), np.array(numbers), np.array(positions))  # type: ignore[arg-type]


def test_no_call_changes_a_state(lstm: CharRNN) -> None:
    state = lstm.prime("LORD", lstm.initial_state(2))
    before = _values(state)
    lstm.step(state, seed=1)
    lstm.generate(state, 40, seed=1)
    lstm.prime(["a", "bc"], state)
    "".join(lstm.stream("x", 40, state=state[0], seed=1))
    state.fork(4)
    assert _values(state) == before


def test_returning_to_a_saved_state_repeats_the_text(lstm: CharRNN) -> None:
    state = lstm.prime("LORD ")
    first = lstm.generate(state, 50, seed=3)
    lstm.generate(state, 20, seed=9)
    assert lstm.generate(state, 50, seed=3) == first
