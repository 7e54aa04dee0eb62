"""The classes for Ray without Ray: actors on batches, and a service; tests/cluster runs Ray itself."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN, CharRNNError, SettingError, UnknownCharacterError
from charrnn_runtime.ray import GenerateTexts, ScoreTexts, TextService, deployment
from make_models import FOLDER

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
TEXTS = ["LORD ", "", "To be, or not to be", "that is the question", "LORD ", "é", "Good morrow\nmy lord"]


def columns(**values: list[Any]) -> dict[str, Any]:
    """A batch as in Ray Data."""
    return {
        name: np.array(each, object if isinstance(each[0], str) else None) for name, each in values.items()
    }


def in_batches(
    actor: Callable[[dict[str, Any]], dict[str, Any]], batch: dict[str, Any], cuts: list[int]
) -> dict[str, list[Any]]:
    """The result of an actor on a batch in parts."""
    size = len(next(iter(batch.values())))
    edges = [0, *sorted(cut % (size + 1) for cut in cuts), size]
    parts = [
        actor({name: values[begin:end] for name, values in batch.items()})
        for begin, end in itertools.pairwise(edges)
    ]
    return {name: [one for part in parts for one in part[name].tolist()] for name in parts[0]}


@given(cuts=st.lists(st.integers(0, 100), max_size=4))
@settings(max_examples=10)
def test_scores_are_bit_identical_to_one_process_in_any_batches(lstm: CharRNN, cuts: list[int]) -> None:
    given = columns(text=TEXTS, id=list(range(len(TEXTS))))
    scored = in_batches(ScoreTexts(lstm), given, cuts)
    expected = [lstm.score(text) for text in TEXTS]
    assert scored["nats"] == [score.nats for score in expected]
    assert scored["characters"] == [score.characters for score in expected]
    assert scored["bits_per_character"] == [score.bits_per_character for score in expected]
    assert (scored["id"], scored["text"]) == (list(range(len(TEXTS))), TEXTS)  # the original columns


@given(cuts=st.lists(st.integers(0, 100), max_size=4))
@settings(max_examples=10)
def test_texts_depend_on_seed_prompt_and_number_but_not_on_batches(lstm: CharRNN, cuts: list[int]) -> None:
    numbered = GenerateTexts(lstm, seed=5, length=20, number_column="id", temperature=0.9, stop="e")
    numbers = list(range(len(TEXTS)))
    texts = in_batches(numbered, columns(prompt=TEXTS, id=numbers), cuts)
    expected = list(lstm.generate_each(TEXTS, 20, seed=5, temperature=0.9, stop="e"))  # the i-th has number i
    assert texts["text"] == [each.text for each in expected]
    assert texts["finish_reason"] == [each.finish_reason for each in expected]
    unnumbered = GenerateTexts(lstm, seed=5, length=20)
    texts = in_batches(unnumbered, columns(prompt=TEXTS), cuts)
    assert texts["text"] == in_batches(unnumbered, columns(prompt=TEXTS), [])["text"]
    assert texts["text"][0] == texts["text"][4]  # for equal prompts
    assert len(set(texts["text"])) == len(TEXTS) - 1


def test_bytes_are_scored_and_continued_at_the_byte_level(byte_model: CharRNN) -> None:
    batch = {"text": np.array([b"caf\xe9", b"LORD "], object)}
    expected = [byte_model.score(each).nats for each in (b"caf\xe9", b"LORD ")]
    assert ScoreTexts(byte_model)(batch)["nats"].tolist() == expected
    written = GenerateTexts(byte_model, seed=1, length=9, column="text", number_column="n")
    with pytest.raises(SettingError, match="the column 'text' already exists and would be replaced"):
        written({**batch, "n": np.array([0, 1])})
    written = GenerateTexts(byte_model, seed=1, length=9, column="bytes", number_column="n")
    done = written({"bytes": batch["text"], "n": np.array([0, 1])})
    assert done["text"].tolist() == byte_model.generate([b"caf\xe9", b"LORD "], 9, seed=1, echo=False)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"other": np.array(["a"], object)}, "there is no column 'text'; the columns are 'other'"),
        ({"text": np.array(["a"], object), "nats": np.zeros(1)}, "the column 'nats' already exists"),
        ({"text": np.array(["a", None], object)}, r"texts\[1\] must be a str, not None"),
        ({"text": np.array([1.5])}, r"texts\[0\] must be a str, not 1.5"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_error(lstm: CharRNN, batch: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ScoreTexts(lstm)(batch)


def test_unknown_characters_are_an_error_or_skipped(lstm: CharRNN) -> None:
    batch = columns(text=["LßORD", "ß"])
    with pytest.raises(UnknownCharacterError):
        ScoreTexts(lstm)(batch)
    scored = ScoreTexts(lstm, unknown="skip")(batch)
    assert scored["nats"].tolist() == [lstm.score("LORD").nats, 0.0]
    assert scored["bits_per_character"].tolist() == [lstm.score("LORD").bits_per_character, 0.0]


def test_settings_are_checked_when_an_actor_starts() -> None:
    for wrong in (
        {"temperature": 0},
        {"length": -1},
        {"unknown": "x"},
        {"seed": -1},
        {"seed": None},
        {"stop": ""},
        {"column": 1},
    ):
        with pytest.raises(SettingError):
            GenerateTexts(MODEL, **{"seed": 1, **wrong})  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        ScoreTexts(MODEL, column=None)  # type: ignore[arg-type]


async def _text_of(service: TextService, **fields: Any) -> str:
    return "".join([piece async for piece in service.generate(**fields)])


def test_a_service_gives_each_request_the_same_text_as_alone(lstm: CharRNN) -> None:
    service = TextService(MODEL)

    async def all_at_once() -> list[str]:
        return await asyncio.gather(
            *(
                _text_of(service, prompt=text, length=40, seed=seed, echo=True)
                for seed, text in enumerate(TEXTS)
            )
        )

    expected = [lstm.generate(text, 40, seed=seed) for seed, text in enumerate(TEXTS)]
    assert asyncio.run(all_at_once()) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 51}, "length must be between 0 and 50, not 51"),
        ({"length": True}, "length must be a whole number"),
        ({"prompt": "a" * 51}, "prompt has 51 characters, but this service's limit is 50"),
        ({"prompt": ["a"]}, "prompt must be a str"),
        ({"state": None}, "unknown field 'state'; the fields are prompt, length, echo, "),
        ({"temperature": -1}, "temperature must be"),
        ({"sampling": {}}, "sampling must be a Sampling"),
    ],
)
def test_an_invalid_request_is_one_error(fields: dict[str, Any], message: str) -> None:
    service = TextService(MODEL, max_length=50)
    with pytest.raises(SettingError, match=message):
        asyncio.run(_text_of(service, **fields))


def test_without_ray_a_deployment_names_the_missing_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CharRNNError) as error:
        deployment(MODEL)
    assert "the extra ray of charrnn-runtime): pip install 'ray[data,serve]'" in str(error.value)
    assert "\n" not in str(error.value)


class Body:
    """The parts of a request that the service reads."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def body(self) -> bytes:
        return self._body


def answer(service: TextService, body: bytes) -> tuple[int, bytes]:
    """The status and text of the response to a request."""

    async def run() -> tuple[int, bytes]:
        response = await service(Body(body))
        if not hasattr(response, "body_iterator"):
            return response.status_code, response.body
        return response.status_code, b"".join([piece async for piece in response.body_iterator])

    return asyncio.run(run())


def test_http_responds_with_the_text_or_an_error(lstm: CharRNN) -> None:
    pytest.importorskip("starlette", reason="needs the extra ray")
    service = TextService(MODEL, max_length=50)
    expected = lstm.generate("LORD ", 30, seed=4, temperature=0.5, echo=False)
    asked = b'{"prompt": "LORD ", "length": 30, "seed": 4, "temperature": 0.5, "top_k": null}'
    assert answer(service, asked) == (200, expected.encode())
    assert answer(service, b'{"length": 0}') == (200, b"")
    code, text = answer(service, b"")
    assert (code, len(text.decode())) == (200, 50)
    for body in (
        b"[1]",
        b"{",
        b"\xff",
        b'{"length": "x"}',
        b'{"prompt": "\xc3\x9f"}',
        b"[" * 100_000,
        b'{"a": 1}',
    ):
        code, text = answer(service, body)
        assert (code, text[:10]) == (400, b'{"error":"'), body
