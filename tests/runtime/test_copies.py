"""Copies and pickles of models and their values."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import charrnn_runtime
from charrnn_runtime import (
    CharRNN,
    CharRNNError,
    DeviceError,
    ModelFormatError,
    QueueFullError,
    Request,
    Sampling,
    SettingError,
    SkippedItems,
    State,
    TooFewItemsError,
    UnknownCharacterError,
    Vocabulary,
)
from charrnn_runtime.files import WriteError
from charrnn_runtime.format.sources import Packed
from make_models import FOLDER, SmallModel


def _pickled(thing: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {each}": partial(_pickled, protocol=each) for each in range(2, pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.fixture(params=WAYS)
def again(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Each way to copy an object."""
    return WAYS[request.param]


# --- models ------------------------------------------------------------------------------------------------


@cache
def _with_texts(path: Path) -> tuple[CharRNN, list[str]]:
    model = CharRNN.load(path, device="cpu", threads=2)
    return model, model.generate(["LORD "] * 20, 30, seed=1)


def test_a_copy_generates_the_same_and_has_the_same_info(
    again: Callable[[CharRNN], CharRNN], small: SmallModel
) -> None:
    model, texts = _with_texts(small.path)
    copied = again(model)
    assert copied.generate(["LORD "] * 20, 30, seed=1) == texts
    assert copied.info == model.info
    assert (copied.device, copied._engine.threads) == ("cpu", 2)
    assert again(copied).info == model.info


def test_a_copy_shares_no_mutable_state(again: Callable[[CharRNN], CharRNN], lstm_path: Path) -> None:
    model = CharRNN.load(lstm_path, device="cpu")
    model.generate("LORD ", 5)
    copied = again(model)
    assert copied._engine is not model._engine
    assert copied._engine._lock is not model._engine._lock
    assert not copied._engine._sessions
    copied.info.training["changed"] = True
    assert "changed" not in model.info.training
    copied.generate("LORD ", 5)
    mine, its = (set(map(id, each._engine._sessions.values())) for each in (model, copied))
    assert not mine & its


def test_options_are_copied_as_requested(again: Callable[[CharRNN], CharRNN], lstm_path: Path) -> None:
    asked = {"device": "auto", "threads": None, "cuda_graphs": True}
    copied = again(CharRNN.load(lstm_path, device="auto", cuda_graphs=True))
    assert copied._engine.options == asked
    assert again(copied)._engine.options == asked


class OfMine(CharRNN):
    """A subclass defined outside the package."""


def test_a_copy_has_the_class_of_its_model(again: Callable[[CharRNN], CharRNN], lstm_path: Path) -> None:
    assert type(again(OfMine.load(lstm_path, device="cpu"))) is OfMine


def test_a_pickle_is_as_large_as_the_file(small: SmallModel) -> None:
    model = CharRNN.load(small.path, device="cpu")
    model.generate(["LORD "] * 20, 30, seed=1)  # its buffers are not pickled
    size = small.path.stat().st_size
    assert abs(len(pickle.dumps(model)) - size) < 0.05 * size + 1_000


def test_a_pickle_needs_no_file(tmp_path: Path, lstm_path: Path, lstm: CharRNN) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_path.read_bytes())
    pickled = pickle.dumps(CharRNN.load(path, device="cpu"))
    path.unlink()
    model = pickle.loads(pickled)
    assert model.info.path == str(path)
    assert model.generate("LORD ", 30, seed=1) == lstm.generate("LORD ", 30, seed=1)


@given(data=st.data())
def test_an_altered_pickle_is_rejected_or_gives_the_same_texts(data: st.DataObject, lstm: CharRNN) -> None:
    pickled = bytearray(pickle.dumps(lstm))
    # Only our own data: the rest of a pickle is a program that can do anything.
    begin = pickled.index(lstm._engine.file.onnx_bytes)
    place = data.draw(st.integers(begin, begin + len(lstm._engine.file.onnx_bytes) - 1))
    pickled[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ModelFormatError, match="the pickled model is truncated or damaged"):
        pickle.loads(bytes(pickled))


def _anything(*values: Any) -> tuple[Any, ...]:
    return values


def _with(**changes: Any) -> Callable[[Packed], None]:
    return lambda packed: packed.__dict__.update(changes)


def _without_checks(data: bytes) -> Callable[[Packed], None]:
    import hashlib

    return _with(data=data, digest=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "change",
    [
        *(_with(data=each) for each in _anything(b"", None, "text", 5, b"x" * 100)),
        *(_with(digest=each) for each in _anything(None, "", b"")),
        *(_with(of_file=each) for each in _anything(None, {}, {"path": 1}, [])),
        _with(of_file={"path": "x", "sha256": "x", "file_bytes": "1"}),
        lambda packed: packed.__dict__.clear(),
        _without_checks(b"no model"),
        _without_checks((FOLDER / "lstm-2x12-fp32.onnx").read_bytes()[:-50]),
    ],
)
def test_a_pickle_of_other_data_is_rejected_in_one_line(
    change: Callable[[Packed], None], lstm: CharRNN
) -> None:
    make, (cls, packed, asked) = lstm.__reduce__()
    change(packed)
    with pytest.raises(ModelFormatError) as caught:
        make(cls, packed, asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, int, ModelFormatError),
        (0, None, ModelFormatError),
        (1, None, ModelFormatError),
        (1, b"", ModelFormatError),
        (2, None, ModelFormatError),
        (2, {}, ModelFormatError),
        (2, {"device": "gpu", "threads": 1, "cuda_graphs": False}, SettingError),
        (2, {"device": None, "threads": 1, "cuda_graphs": False}, SettingError),
        (2, {"device": "cpu", "threads": "many", "cuda_graphs": False}, SettingError),
        (2, {"device": "cpu", "threads": 10**9, "cuda_graphs": False}, SettingError),
    ],
)
def test_invalid_pickle_arguments_are_rejected(
    place: int, value: Any, error: type[CharRNNError], lstm: CharRNN
) -> None:
    make, arguments = lstm.__reduce__()
    changed = list(arguments)
    changed[place] = value
    with pytest.raises(error):
        make(*changed)


def test_a_pickle_calls_only_what_creates_a_model(lstm: CharRNN) -> None:
    names = [
        str(argument)
        for operation, argument, _ in pickletools.genops(pickle.dumps(lstm, 2))
        if operation.name == "GLOBAL"
    ]
    assert {name.split()[0] for name in names} <= {
        "charrnn_runtime.loaded",
        "charrnn_runtime.model",
        "charrnn_runtime.format.sources",
        "_codecs",  # bytes, before protocol 3
        "copyreg",
        "__builtin__",
    }


# --- values ------------------------------------------------------------------------------------------------


def test_values_round_trip_through_pickle(again: Callable[[Any], Any], lstm: CharRNN) -> None:
    for value in (Sampling(0.5, top_k=3, min_p=0.1), lstm.info, lstm.vocabulary, Vocabulary.of_bytes()):
        assert again(value) == value
        assert type(again(value)) is type(value)
    encoded = again(lstm.vocabulary).encode("LORD")
    assert encoded.tolist() == lstm.vocabulary.encode("LORD").tolist()


def test_a_pickled_vocabulary_has_its_symbols_and_no_tables() -> None:
    assert len(pickle.dumps(Vocabulary.from_text("a\U0001f600"))) < 1_000


def test_states_and_results_round_trip_through_pickle(again: Callable[[Any], Any], lstm: CharRNN) -> None:
    stream = next(lstm.generate_each(["LORD "], 20, seed=1, logprobs=2))
    copied = again(stream)
    assert (copied.text, copied.seed) == (stream.text, stream.seed)
    assert copied.logprobs is not None
    assert stream.logprobs is not None
    np.testing.assert_array_equal(copied.logprobs.values, stream.logprobs.values)
    assert lstm.generate(copied.state, 20, seed=1) == lstm.generate(stream.state, 20, seed=1)
    score = lstm.score("LORD ")
    assert again(score).nats == score.nats
    step = again(lstm.step(lstm.initial_state(2), seed=1))
    assert step.state.positions.tolist() == [1, 1]


def test_requests_are_unpickled_as_new_requests(again: Callable[[Any], Any], lstm: CharRNN) -> None:
    request = lstm.request("LORD ", 30, seed=3, stop=["\n", "QQ"], number=2, top_k=5, logprobs=1)
    copied = again(request)
    assert copied != request
    scheduler = lstm.scheduler()
    scheduler.submit(request, copied)
    outputs = []
    while scheduler.busy:
        outputs += scheduler.run_block()
    assert len(outputs) == 2
    assert again(outputs[0]).tokens.tolist() == outputs[0].tokens.tolist() == outputs[1].tokens.tolist()
    np.testing.assert_array_equal(again(outputs[0]).state.rows, outputs[1].state.rows)


ERRORS: list[CharRNNError] = [
    CharRNNError(),
    CharRNNError("it failed", "threads"),
    SettingError("top_k must be 1 or more", "top_k", "top_k=1"),
    ModelFormatError("no model"),
    DeviceError("no CUDA", "device"),
    QueueFullError("full", "max_waiting"),
    UnknownCharacterError(["\x00", "é"], [0, 4], 62, index=3),
    WriteError(Path("somewhere"), OSError(28, "No space left on device")),
    TooFewItemsError(3, 5, 70, SkippedItems()),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_round_trip_through_pickle(again: Callable[[Any], Any], error: CharRNNError) -> None:
    copied = again(error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.parameters == error.parameters
    assert {name: repr(value) for name, value in vars(copied).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }


def test_every_public_error_is_tried_above() -> None:
    public = [getattr(charrnn_runtime, name) for name in charrnn_runtime.__all__]
    errors = {each for each in public if isinstance(each, type) and issubclass(each, CharRNNError)}
    assert errors - {type(error) for error in ERRORS} == {charrnn_runtime.OutOfMemoryError}


@pytest.mark.parametrize(
    ("thing", "changes"),
    [
        (Sampling(), {"temperature": -1.0}),
        (Sampling(), {"temperature": "hot"}),
        (Sampling(), {"temperament": 1.0}),
        (State.start(2, 3), {"tokens": [1]}),
        (State.start(2, 3), {"rows": "rows"}),
        (State.start(2, 3), {"positions": None}),
        (Vocabulary("ab"), {"symbols": ["a", "a"]}),
        (Vocabulary("ab"), {"symbols": 5}),
        (Vocabulary("ab"), {"level": []}),
        (Request(np.zeros(1, np.int64), 1), {"prompt": []}),
        (Request(np.zeros(1, np.int64), 1), {"max_length": "long"}),
        (Request(np.zeros(1, np.int64), 1), {"seed": None}),
        (Request(np.zeros(1, np.int64), 1), {"unknown": 1}),
    ],
)
def test_a_pickle_of_invalid_values_is_rejected_in_one_line(thing: Any, changes: dict[str, Any]) -> None:
    make, (cls, fields) = thing.__reduce__()
    with pytest.raises(CharRNNError) as caught:
        make(cls, fields | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [None, int, object, "State", io.BytesIO])
def test_a_pickle_creates_no_other_class(cls: Any) -> None:
    for thing in (Sampling(), CharRNNError("x")):
        make, (_, *rest) = thing.__reduce__()
        with pytest.raises(CharRNNError):
            make(cls, *rest)
