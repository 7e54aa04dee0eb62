"""Common clients of the OpenAI API against the server: the package openai, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from charrnn_runtime import CharRNN

pytest.importorskip("openai", reason="the package openai is not installed")
pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import openai

from charrnn_runtime.serve.settings import ServeSettings
from served import Served, until

KEY = "sesame"


@pytest.fixture(scope="module")
def server(lstm: CharRNN) -> Iterator[Served]:
    with Served({"lstm": lstm}, ServeSettings(api_keys=(KEY,), max_running=8, max_waiting=8)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as its:
        yield its


def test_openai_completions(client: openai.OpenAI, lstm: CharRNN) -> None:
    completion = client.completions.create(
        model="lstm", prompt="LORD ", max_tokens=40, seed=3, temperature=0.8, n=2, logprobs=2
    )
    texts = [choice.text for choice in completion.choices]
    assert texts == lstm.generate(["LORD "] * 2, 40, seed=3, echo=False)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 80)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == texts[0]
    assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]


def test_an_openai_stream(client: openai.OpenAI, lstm: CharRNN) -> None:
    stream = client.completions.create(
        model="lstm",
        prompt=["LORD ", "KING"],
        max_tokens=200,
        seed=3,
        temperature=0.8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"top_k": 20, "min_p": 0.01},
    )
    texts, last = {0: "", 1: ""}, None
    for last in stream:
        for choice in last.choices:
            texts[choice.index] += choice.text
    wanted = lstm.generate(["LORD ", "KING"], 200, seed=3, top_k=20, min_p=0.01, echo=False)
    assert list(texts.values()) == wanted
    assert last is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == 400


def test_closing_an_openai_stream_stops_generation_on_the_server(
    client: openai.OpenAI, server: Served
) -> None:
    with client.completions.create(model="lstm", prompt="", max_tokens=100_000, stream=True) as stream:
        next(iter(stream))
        assert server.service.busy
    until(lambda: not server.service.busy)


def test_concurrent_openai_clients_get_the_same_as_alone(server: Served, lstm: CharRNN) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=20) as client:
            asked = [
                client.completions.create(
                    model="lstm", prompt="LORD ", max_tokens=20 + seed, seed=seed, temperature=0.8
                )
                for seed in range(12)
            ]
            return [completion.choices[0].text for completion in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == [
        lstm.generate("LORD ", 20 + seed, seed=seed, echo=False) for seed in range(12)
    ]


def test_openai_errors(client: openai.OpenAI, server: Served) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="lstm", prompt="\u2603")
    assert (bad.value.param, bad.value.code) == ("prompt", "unknown_characters")
    assert "U+2603" in bad.value.message
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4", prompt="")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as chat:
        client.chat.completions.create(model="lstm", messages=[{"role": "user", "content": "Hello"}])
    assert "/v1/completions" in chat.value.message
    with pytest.raises(openai.RateLimitError) as full:
        client.completions.create(model="lstm", prompt="", n=17)
    assert full.value.code == "queue_full"
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_an_openai_timeout_stops_generation_on_the_server(client: openai.OpenAI, server: Served) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model="lstm", prompt="", max_tokens=100_000, timeout=0.3)
    until(lambda: not server.service.busy)


def test_an_error_within_an_openai_stream_is_raised(lstm: CharRNN) -> None:
    with (
        Served({"lstm": lstm}, ServeSettings(max_seconds=0.2)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIError, match="exceeded"),
    ):
        for _ in client.completions.create(model="lstm", prompt="", max_tokens=100_000, stream=True):
            pass


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["lstm"]
    assert client.models.retrieve("lstm").owned_by == "charrnn"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Served, lstm: CharRNN) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--no-buffer", *arguments]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return done.stdout.decode()

    key, url = ("--header", f"Authorization: Bearer {KEY}"), f"{server.url}/v1/completions"
    body = {"prompt": "LORD ", "max_tokens": 30, "seed": 3, "temperature": 0.8}
    wanted = lstm.generate("LORD ", 30, seed=3, echo=False)
    reply = json.loads(curl(*key, url, "--data", json.dumps(body)))
    assert reply["choices"][0]["text"] == wanted
    lines = curl(*key, url, "--json", json.dumps({**body, "stream": True})).splitlines()
    assert lines[-2] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == wanted
    assert json.loads(curl(url, "--data", "{}"))["error"]["code"] == "invalid_api_key"
