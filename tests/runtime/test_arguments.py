"""Every invalid argument of the public API raises one SettingError that names the parameter."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charrnn_runtime
from charrnn_runtime import (
    CharRNN,
    Request,
    Sampling,
    Scheduler,
    SettingError,
    State,
    Trace,
    Vocabulary,
    draw_items,
)
from charrnn_runtime.arguments import shown
from charrnn_runtime.options import Options, SamplingOptions
from make_models import FOLDER

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
BYTES = FOLDER / "lstm-1x12-fp32-byte.onnx"

HOSTILE: list[Any] = [
    None,
    True,
    b"x",
    "x",
    ["x"],
    {"x"},
    [],
    {"x": 1},
    [b"x", None],
    float("nan"),
    float("inf"),
    0.5,
    1,
    -1,
    10**400,
    10**5000,  # more digits than Python formats
    object(),
    np.float64("nan"),
    np.float32(0.5),
    np.int64(1),
    np.bool_(True),
    np.str_("x"),
    np.array(1),
    np.array([1]),
    np.array([[1.5, 2.0]]),
    np.array(["x"]),
    np.array([None]),
]


def _whole(value: Any, least: int = 1) -> Any:
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return (integer and least <= value <= 1) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _texts(value: Any) -> Any:
    return isinstance(value, list | set | dict | np.ndarray) and _all_str(value)


def _buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except (TypeError, ValueError):
        return False
    return True


def _all_str(value: Any) -> bool:
    return (np.ndim(value) != 0 and all(isinstance(each, str) for each in value)) or isinstance(
        value, set | dict
    )


TAKES: dict[str, Callable[[Any], Any]] = {
    "whole": _whole,
    "whole or none": lambda value: value is None or _whole(value),
    "from 0": lambda value: _whole(value, 0),
    "length": lambda value: _whole(value, 0) or (isinstance(value, int) and value > 1),
    "rank": lambda value: value is None or _whole(value) or (isinstance(value, int) and value > 1),
    "share": lambda value: isinstance(value, float | int | np.floating | np.integer)
    and not isinstance(value, bool)
    and 0 < value <= 1,
    "share below 1": lambda value: isinstance(value, float | np.floating) and 0 <= value < 1,
    "switch": lambda value: isinstance(value, bool | np.bool_),
    "text": lambda value: isinstance(value, str),
    "texts": _texts,
    "text or texts": lambda value: isinstance(value, str) or _texts(value),
    "text or some texts": lambda value: isinstance(value, str) or (_texts(value) and len(value)),
    "stop": lambda value: value is None
    or isinstance(value, str)
    or (isinstance(value, list | set | np.ndarray)
    and _all_str(value)),
    "none": lambda value: value is None,
    "nothing": lambda value: False,
    "ids": lambda value: (isinstance(value, list) and not value)
    or (isinstance(value, np.ndarray)
    and value.ndim == 1
    and value.dtype.kind == "i"),
    "prompt": lambda value: isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "i",
    "empty": lambda value: isinstance(value, list | set | dict) and not value,
    "dtype": lambda value: isinstance(value, np.integer),
    "buffer": _buffer,
    "symbols": lambda value: isinstance(value, str) or (_texts(value) and len(value)),
}  # fmt: skip

SAMPLING = {"temperature": "share", "top_k": "rank", "top_p": "share", "min_p": "share below 1"}
OPTIONS = {"seed": "seed", "sampling": "none", "stop": "stop", "unknown": "nothing", **SAMPLING}
"""The values of HOSTILE that each accepts."""


@pytest.fixture(scope="module")
def model() -> CharRNN:
    return CharRNN.load(MODEL, device="cpu", threads=1)


def _calls(model: CharRNN) -> dict[Callable[..., Any], tuple[Callable[..., Any], dict[str, str]]]:
    """The public callables: how to call each with some of its parameters, and what each parameter accepts."""
    options = OPTIONS
    vocabulary = model.vocabulary
    state = model.initial_state()
    request: dict[str, Any] = {"prompt": np.array([1]), "max_length": 1}
    rows = {name: getattr(state, name) for name in ("rows", "tokens", "numbers", "positions")}
    ran = {"length": 1, "max_batch_size": 2}

    def load(path: Any = MODEL, **options: Any) -> CharRNN:
        return CharRNN.load(MODEL if isinstance(path, str) else path, **options)  # an existing one

    def from_bytes(data: Any = b"", **options: Any) -> CharRNN:
        return CharRNN.from_bytes(MODEL.read_bytes() if _buffer(data) else data, **options)

    def each(call: Callable[..., Any], **given: Any) -> Callable[..., Any]:
        def run(**values: Any) -> Any:
            result = call(**{**given, **values})
            return list(result) if inspect.isgenerator(result) or isinstance(result, map) else result

        return run

    return {
        CharRNN.load: (
            each(load),
            {"path": "path", "device": "nothing", "threads": "whole or none", "cuda_graphs": "switch"},
        ),
        CharRNN.from_bytes: (
            each(from_bytes),
            {"data": "buffer", "device": "nothing", "threads": "whole or none", "cuda_graphs": "switch"},
        ),
        CharRNN.prime: (
            each(model.prime, text="a"),
            {"text": "text or some texts", "state": "none", "unknown": "nothing"},
        ),
        CharRNN.step: (
            each(model.step, state=state),
            {"state": "nothing", **{name: options[name] for name in ("seed", "sampling", *SAMPLING)}},
        ),
        CharRNN.generate: (
            each(model.generate, prompt="a", length=1),
            {
                "prompt": "text or texts",
                "length": "length",
                "echo": "switch",
                "max_batch_size": "whole or none",
                **options,
            },
        ),
        CharRNN.generate_each: (
            each(model.generate_each, prompts=["a"], **ran),
            {
                "prompts": "texts",
                "length": "length",
                "logprobs": "whole or none",
                "max_batch_size": "whole or none",
                "on_progress": "none",
                **options,
            },
        ),
        **{
            way: (
                each(getattr(model, way.__name__), length=1),
                {"prompt": "text", "length": "length", "state": "none", "echo": "switch", **options},
            )
            for way in (CharRNN.stream, CharRNN.stream_bytes, CharRNN.stream_async)
        },
        CharRNN.score: (each(model.score, texts="a"), {"texts": "text or texts", "unknown": "nothing"}),
        CharRNN.score_each: (
            each(model.score_each, texts=["a"]),
            {"texts": "texts", "unknown": "nothing", "max_batch_size": "whole or none"},
        ),
        CharRNN.score_stream: (
            each(model.score_stream, chunks=["a"]),
            {"chunks": "texts", "unknown": "nothing"},
        ),
        CharRNN.trace: (
            each(model.trace, text="a"),
            {"text": "text", "state": "none", "unknown": "nothing"},
        ),
        CharRNN.trace_stream: (
            each(model.trace_stream, chunks=["a"]),
            {"chunks": "texts", "by_line": "switch", "unknown": "nothing"},
        ),
        Trace.unit: (each(model.trace("a").unit), {"name": "nothing"}),
        Trace.most_likely: (each(model.trace("a").most_likely), {"count": "whole"}),
        CharRNN.beam: (
            each(model.beam, length=1, beams=2),
            {
                "prompt": "text",
                "length": "length",
                "beams": "whole",
                "state": "none",
                "stop": "stop",
                "unknown": "nothing",
            },
        ),
        CharRNN.initial_state: (each(model.initial_state), {"batch": "whole"}),
        CharRNN.scheduler: (
            each(model.scheduler),
            {"max_batch_size": "whole or none", "max_waiting": "from 0"},
        ),
        CharRNN.request: (
            each(model.request),
            {
                "prompt": "text",
                "length": "length",
                "state": "none",
                "number": "from 0",
                "live": "switch",
                "logprobs": "whole or none",
                **options,
            },
        ),
        Request: (
            each(Request, **request),
            {
                "prompt": "prompt",
                "max_length": "length",
                "state": "none",
                "number": "from 0",
                "position": "from 0",
                "sampling": "nothing",
                "seed": "from 0",
                "stop": "empty",
                "live": "switch",
                "logprobs": "whole or none",
                "prompt_logprobs": "switch",
            },
        ),
        Sampling: (each(Sampling), SAMPLING),
        State: (
            each(State, **rows),
            {"rows": "rows", "tokens": "prompt", "numbers": "prompt", "positions": "prompt"},
        ),
        State.start: (
            each(State.start, batch=1, state_size=2),
            {"batch": "from 0", "state_size": "whole"},
        ),
        State.concatenate: (each(State.concatenate), {"states": "nothing"}),
        State.fork: (each(state.fork, copies=1), {"copies": "whole", "first_number": "from 0"}),
        Scheduler.cancel: (each(model.scheduler().cancel), {"request": "nothing"}),
        Vocabulary: (each(Vocabulary, symbols="a"), {"symbols": "symbols", "level": "nothing"}),
        Vocabulary.from_text: (each(Vocabulary.from_text), {"text": "symbols"}),
        Vocabulary.encode: (
            each(vocabulary.encode, text="a"),
            {"text": "text", "unknown": "nothing", "dtype": "dtype"},
        ),
        Vocabulary.normalize: (each(vocabulary.normalize), {"text": "text"}),
        Vocabulary.unknown_characters: (each(vocabulary.unknown_characters), {"text": "text"}),
        Vocabulary.decode: (each(vocabulary.decode), {"ids": "ids"}),
        Vocabulary.decode_bytes: (each(vocabulary.decode_bytes), {"ids": "ids"}),
        draw_items: (
            each(draw_items, model=model, length=1),
            {
                "model": "nothing",
                "count": "rank",
                "prompt": "text",
                "length": "rank from 1",
                "unique": "switch",
                "new": "texts",
                "on_progress": "none",
                "max_batch_size": "whole or none",
                **{name: options[name] for name in options if name != "stop"},
            },
        ),
    }


TAKES["rows"] = lambda value: isinstance(value, np.ndarray) and value.ndim == 2
TAKES["path"] = lambda value: isinstance(value, str)
TAKES["seed"] = lambda value: value is None or TAKES["from 0"](value)
TAKES["rank from 1"] = lambda value: value is not None and TAKES["rank"](value)

RESULTS = {
    *("AsyncText", "Continuation", "Generated", "Item", "Items", "SkippedItems", "LiveBytes", "LiveText"),
    *("LogProbs", "ModelInfo", "Output", "Score", "Step", "Trace", "__version__"),
}
"""Classes that only the package creates."""


def test_every_public_parameter_is_tried(model: CharRNN) -> None:
    tried = {_public_name(call): set(takes) for call, (_, takes) in _calls(model).items()}
    tried |= {
        "Scheduler.submit": {"requests"},
        "Scheduler": {"engine", "max_batch_size", "max_waiting"},  # created by CharRNN.scheduler
        "CharRNN": {"info", "engine"},  # created by CharRNN.load
        "Sampling.cuts": {"top_k_max"},  # called only by the scheduler
        "Sampling.inputs": {"top_k_max"},
    }
    for name in set(charrnn_runtime.__all__) - RESULTS:
        public = getattr(charrnn_runtime, name)
        if inspect.isclass(public) and issubclass(public, Exception):
            continue
        calls = {name: public}
        if inspect.isclass(public):
            members = inspect.getmembers(public, inspect.isroutine)
            calls |= {f"{name}.{one}": call for one, call in members if not one.startswith("_")}
        for called, call in calls.items():
            parameters = inspect.signature(call).parameters
            names = set(parameters) - {"self", "cls", "options", "fields", "values", "named"}
            if "options" in parameters:
                names |= set(Options.__annotations__) | set(SamplingOptions.__annotations__)
            if "fields" in parameters:
                names |= set(SamplingOptions.__annotations__)
            assert names <= tried.get(called, set()), (called, names)


def _public_name(call: Callable[..., Any]) -> str:
    """The public name, wherever it is defined."""
    for base in CharRNN.__mro__[:-1]:
        if call.__qualname__.startswith(f"{base.__name__}."):
            return f"CharRNN.{call.__name__}"
    return call.__qualname__


def test_an_invalid_argument_is_one_error_that_names_the_parameter(model: CharRNN) -> None:
    wrong = [
        f"{_public_name(call)}({name}={shown(value)}): {problem}"
        for call, (run, takes) in _calls(model).items()
        for name, kind in takes.items()
        for value in HOSTILE
        if not (kind == "symbols" and isinstance(value, list) and not value)  # too few
        if not (name in ("length", "count") and isinstance(value, int) and value > 1)  # it would run forever
        if (problem := _problem(run, name, kind, value))
    ]
    assert not wrong, "\n".join(wrong)


def _problem(run: Callable[..., Any], name: str, kind: str, value: Any) -> str:
    """What is wrong with the result of a value; "" if nothing."""
    try:
        run(**{name: value})
    except SettingError as error:
        said = str(error)
        if TAKES[kind](value):
            return f"refused: {said}"
        if name not in error.parameters or name not in said or "\n" in said or len(said) > 400:
            return f"badly said: {said}"
        return ""
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return "" if TAKES[kind](value) else "was taken"


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_only_requests_are_submitted(model: CharRNN, value: Any) -> None:
    scheduler = model.scheduler()
    good = model.request("a", 1)
    with pytest.raises(SettingError, match="requests must be a Request"):
        scheduler.submit(good, value)
    assert not scheduler.busy


@pytest.mark.parametrize("value", [*HOSTILE[:12], slice(None), np.array([True]), [True], (0,)], ids=repr)
def test_streams_of_a_state_are_selected_by_integers(model: CharRNN, value: Any) -> None:
    state = model.initial_state(1)
    if isinstance(value, list | tuple | slice | np.ndarray) and all(
        isinstance(each, int | np.bool_) for each in ([] if isinstance(value, slice) else value)
    ):
        assert isinstance(state[value], State)
    else:
        with pytest.raises(SettingError, match="streams must be"):
            state[value]
    with pytest.raises(IndexError):  # as for Python's sequences, which ends a loop over them
        state[1]
    assert [len(each) for each in iter(state)] == [1]


def test_bytes_are_accepted_only_by_byte_models() -> None:
    model = CharRNN.load(BYTES, device="cpu")
    assert model.generate(b"\xff", 3, seed=1) == model.generate([b"\xff"], 3, seed=1)[0]
    assert len(model.prime((b"a", "b"))) == 2
    wrong: Any
    for wrong in (bytearray(b"x"), memoryview(b"x")):
        with pytest.raises(SettingError, match="prompt must be a str, or bytes"):
            model.stream(wrong, 3)


@pytest.mark.parametrize(
    "stop", [["j", "g"], ("j", "g"), {"j", "g"}, frozenset("jg"), np.array(["g", "j"])], ids=repr
)
def test_generation_ends_at_the_first_of_several_stop_texts(model: CharRNN, stop: Any) -> None:
    whole = model.generate("LORD ", 200, seed=1, echo=False)
    cut = min(whole.index("j"), whole.index("g"))
    assert model.generate("LORD ", 200, seed=1, echo=False, stop=stop) == whole[:cut]
    with model.stream("LORD ", 200, seed=1, stop=stop) as text:
        assert "".join(text) == whole[:cut]


def test_an_invalid_element_is_named_by_its_index(model: CharRNN) -> None:
    with pytest.raises(SettingError, match=r"prompts\[1\] must be a str, not 5"):
        list(model.generate_each(["a", 5], 1))  # type: ignore[list-item]
    with pytest.raises(SettingError, match=r"texts\[0\] must be a str, since this model reads characters"):
        model.score([b"a"])


def test_a_single_text_is_named_without_an_index(model: CharRNN) -> None:
    for name, call in (
        ("prompt", lambda: model.generate(b"LORD", 5)),
        ("texts", lambda: model.score(b"LORD")),
    ):
        with pytest.raises(SettingError, match=f"^{name} must be a str, since this model reads characters"):
            call()


def test_numpy_numbers_are_converted_to_python_numbers(model: CharRNN) -> None:
    numbers: list[Any] = [np.float32(0.5), np.int64(3), np.float64(0.5), np.float16(0.25)]
    sampling = Sampling(*numbers)
    assert [type(value) for value in sampling.as_dict().values()] == [float, int, float, float]
    assert sampling == Sampling(0.5, 3, 0.5, 0.25)
    assert pickle.loads(pickle.dumps(sampling)) == sampling


def test_a_path_can_be_any_path_like_object(model: CharRNN) -> None:
    assert CharRNN.load(str(MODEL)).info.path == CharRNN.load(Path(MODEL)).info.path == model.info.path
