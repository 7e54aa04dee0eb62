"""The server answers any input with a documented status and keeps running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn_runtime import CharRNN

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from charrnn_runtime.serve.settings import ServeSettings
from served import Served

POSTS = ("/v1/completions", "/tokenize", "/detokenize", "/v1/chat/completions")

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["LORD ", "lstm", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(
        [
            *("model", "prompt", "max_tokens", "n", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
            *("stream", "stream_options", "logprobs", "echo", "suffix", "best_of", "presence_penalty"),
            *("frequency_penalty", "logit_bias", "user", "tokens", "return_token_strs", "x"),
        ]
    ),
    anything,
    max_size=5,
)


@pytest.fixture(scope="module")
def server(lstm: CharRNN) -> Iterator[Served]:
    limits = ServeSettings(max_length=50, max_choices=4, max_prompt=200, max_body=20_000, max_seconds=20)
    with Served({"lstm": lstm}, limits) as running:
        yield running
        assert not running.service.busy
        assert running.complete(prompt="LORD ", max_tokens=3, seed=1).status == 200


@pytest.fixture(scope="module")
def described(server: Served) -> dict[str, Any]:
    """The documented statuses of each path's POST."""
    paths = server.ask("/openapi.json").json["paths"]
    return {path: set(paths[path]["post"]["responses"]) for path in POSTS}


_SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@_SETTINGS
@given(path=st.sampled_from(POSTS), body=fields)
def test_any_object_gets_a_documented_response(
    server: Served, described: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    reply = server.ask(path, data)
    assert str(reply.status) in described[path], (body, reply.body)
    if reply.status != 200:
        assert reply.error["message"]
    elif body.get("stream"):
        assert reply.events[-1] == "[DONE]"
    else:
        assert reply.json


@_SETTINGS
@given(
    path=st.sampled_from(POSTS),
    body=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()),
)
def test_any_bytes_get_a_documented_response(
    server: Served, described: dict[str, Any], path: str, body: bytes
) -> None:
    reply = server.ask(path, body)
    assert str(reply.status) in described[path]
    assert reply.status == 200 or reply.error["message"]


@_SETTINGS
@given(data=st.binary(max_size=200), path=st.binary(max_size=20))
def test_any_bytes_on_the_connection_are_harmless(server: Served, data: bytes, path: bytes) -> None:
    for sent in (data, b"GET /" + path + b" HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        with server.open(sent) as connection:
            connection.shutdown(1)
            reply = connection.recv(1000)
            assert not reply or reply.startswith(b"HTTP/1.1 "), reply
            assert not reply.startswith(b"HTTP/1.1 5"), (sent, reply)
