"""POST /trace matches `CharRNN.trace` and rejects invalid texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the server's extra is not installed")
pytest.importorskip("uvicorn", reason="the server's extra is not installed")

from charrnn_runtime import CharRNN
from charrnn_runtime.serve import trace as endpoint
from charrnn_runtime.serve.service import Service
from charrnn_runtime.serve.settings import ServeSettings
from served import Served

Ask = Callable[..., tuple[int, dict[str, Any]]]


def asking(served: Served) -> Ask:
    def ask(**body: Any) -> tuple[int, dict[str, Any]]:
        reply = served.ask("/trace", body)
        return reply.status, reply.json

    return ask


@pytest.fixture(scope="module")
def ask(load: Callable[[str], CharRNN]) -> Iterator[Ask]:
    models = {"chars": load("lstm-2x12-fp32"), "bytes": load("lstm-1x12-fp32-byte")}
    with Served(models, ServeSettings(max_prompt=5_000)) as served:
        yield asking(served)


def test_the_endpoint_matches_the_model(ask: Ask, lstm: CharRNN) -> None:
    text = "To be, or not to be:\nthat is " * 60  # more than one chunk
    status, answer = ask(model="chars", text=text, top=3, units=["h1:3", "0:11"])
    assert status == 200
    trace = lstm.trace(text)
    assert "".join(answer["tokens"]) == text
    assert answer["text_offset"] == list(range(len(text)))
    np.testing.assert_allclose(answer["token_logprobs"], -trace.bits * np.log(2), atol=1e-4)
    ids, probabilities = trace.most_likely(3)
    for index in (0, 1, len(text) - 1):
        best = answer["top_logprobs"][index]
        assert list(best) == [lstm.vocabulary.symbols[each] for each in ids[index]]
        np.testing.assert_allclose(list(best.values()), np.log(probabilities[index]), atol=1e-4)
    assert answer["unit_names"] == list(trace.units)
    assert list(answer["units"]) == ["h1:3", "0:11"]
    for name, values in answer["units"].items():
        np.testing.assert_allclose(values, trace.unit(name), atol=1e-4)


def test_an_output_gate_that_the_state_does_not_determine_is_null(ask: Ask, lstm: CharRNN) -> None:
    text = "To be, or not to be" * 20
    values = ask(text=text, units=["o0:3"])[1]["units"]["o0:3"]
    expected = lstm.trace(text).unit("o0:3")
    np.testing.assert_allclose(np.array(values, np.float32), expected, atol=1e-4)  # None becomes NaN


def test_bytes_of_one_character_share_its_offset(ask: Ask, byte_model: CharRNN) -> None:
    _, answer = ask(model="bytes", text="aé中b")
    assert answer["text_offset"] == [0, 1, 1, 2, 2, 2, 3]
    assert answer["tokens"][0:3] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    np.testing.assert_allclose(
        answer["token_logprobs"], -byte_model.trace("aé中b").bits * np.log(2), atol=1e-4
    )


def test_skipped_characters_keep_the_offsets_of_the_others(load: Callable[[str], CharRNN]) -> None:
    with Served({"m": load("lstm-2x12-fp32")}, ServeSettings(unknown="skip")) as served:
        _, answer = asking(served)(text="aΩb")
    assert (answer["tokens"], answer["text_offset"]) == (["a", "b"], [0, 2])


def test_an_empty_text_gives_the_names_of_the_units(ask: Ask, lstm: CharRNN) -> None:
    status, answer = ask(text="")
    assert (status, answer["model"], answer["tokens"]) == (200, "chars", [])
    assert len(answer["unit_names"]) == lstm.info.state_size


def test_a_text_can_be_given_as_ids(ask: Ask, lstm: CharRNN) -> None:
    ids = lstm.vocabulary.encode("To be").tolist()
    assert ask(text=ids)[1]["tokens"] == list("To be")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": 5}, "text"),
        ({"text": "Ω"}, "text"),
        ({"text": "a" * 5_001}, "text"),
        ({"text": [1, 10_000]}, "text"),
        ({"text": "a", "top": -1}, "top"),
        ({"text": "a", "top": 10**30}, "top"),
        ({"text": "a", "units": "h0:1"}, "units"),
        ({"text": "a", "units": ["h9:1"]}, "units"),
        ({"text": "a", "units": ["h0:1"] * 65}, "units"),
        ({"text": "a", "units": [None]}, "units"),
        ({"text": "a", "color": "red"}, "color"),
        ({"text": "a", "model": "none"}, "model"),
    ],
)
def test_invalid_fields_are_named(ask: Ask, body: dict[str, Any], param: str) -> None:
    status, answer = ask(**body)
    assert status == (404 if param == "model" else 400)
    assert answer["error"]["param"] == param
    assert param in answer["error"]["message"]


def test_a_trace_is_cancelled_when_the_client_disconnects(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread checks before each chunk; here it is cancelled while the first one runs."""
    service = Service({"m": lstm}, ServeSettings())
    asyncio.run(service.load())
    request = endpoint._TraceRequest({"text": "ab" * 2_000}, service)
    job = endpoint._Job(request, 60)
    added = job._add

    def add(trace: Any) -> None:
        added(trace)
        job.cancelled.set()

    monkeypatch.setattr(job, "_add", add)
    assert len(job.run()["tokens"]) == endpoint._CHUNK
    late = endpoint._Job(request, -1)
    with pytest.raises(TimeoutError):
        late.run()
