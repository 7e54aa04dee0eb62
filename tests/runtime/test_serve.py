"""The server's completions, models and tokens match the model without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from served import Served

LSTM, BYTES = "lstm", "bytes"


@pytest.fixture(scope="module")
def server(lstm: CharRNN, byte_model: CharRNN) -> Iterator[Served]:
    with Served({LSTM: lstm, BYTES: byte_model}) as running:
        yield running


# --- texts -------------------------------------------------------------------------------------------------


def test_the_text_is_determined_by_the_seed(server: Served, lstm: CharRNN) -> None:
    reply = server.complete(model=LSTM, prompt="LORD ", max_tokens=50, seed=3, temperature=0.8, n=3)
    assert reply.texts == lstm.generate(["LORD "] * 3, 50, seed=3, echo=False)
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in reply.json["choices"]] == ["length"] * 3
    assert reply.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 150, "total_tokens": 155}
    assert (reply.json["model"], reply.json["seed"], reply.json["object"]) == (LSTM, 3, "text_completion")


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"temperature": 0.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01},
        {"stop": "e"},
        {"stop": ["zzzz", "th", "a"]},
    ],
)
def test_each_setting_matches_generate(server: Served, lstm: CharRNN, settings: dict[str, Any]) -> None:
    asked = {"temperature": 1.0, **settings}
    reply = server.complete(model=LSTM, prompt="KING ", max_tokens=60, seed=8, **asked)
    assert reply.texts == [lstm.generate("KING ", 60, seed=8, echo=False, **asked)]


def test_a_temperature_of_0_selects_the_most_likely(server: Served, lstm: CharRNN) -> None:
    texts = [
        server.complete(model=LSTM, prompt="KING ", max_tokens=30, temperature=cold).texts
        for cold in (0, 0.0, 1e-9)
    ]
    assert texts == [[lstm.generate("KING ", 30, top_k=1, echo=False)]] * 3


def test_defaults_match_the_openai_api(server: Served, lstm: CharRNN) -> None:
    reply = server.complete()
    assert (reply.json["model"], len(reply.texts[0])) == (LSTM, 16)
    seed = reply.json["seed"]
    assert reply.texts == [lstm.generate("", 16, seed=seed, temperature=1.0)]
    assert server.complete().json["seed"] != seed
    assert server.complete(seed=seed, prompt=None, stop=None, n=None, model=None).texts == reply.texts


def test_prompts_can_be_a_text_texts_ids_or_rows_of_ids(server: Served, lstm: CharRNN) -> None:
    def texts(prompt: Any) -> list[str]:
        return server.complete(prompt=prompt, max_tokens=20, seed=4, temperature=0.8).texts

    ids = [lstm.vocabulary.encode(text).tolist() for text in ("LORD ", "KING")]
    both = lstm.generate(["LORD ", "KING"], 20, seed=4, echo=False)
    assert texts("LORD ") == texts(ids[0]) == texts(["LORD "]) == texts([ids[0]]) == both[:1]
    assert texts(["LORD ", "KING"]) == texts(ids) == texts([ids[0], "KING"]) == both
    reply = server.complete(prompt=["LORD ", "KING"], n=2, max_tokens=9, seed=4, temperature=0.8)
    assert reply.texts == lstm.generate(["LORD ", "LORD ", "KING", "KING"], 9, seed=4, echo=False)


def test_a_prompt_of_invalid_utf8_can_be_given_as_ids(server: Served, byte_model: CharRNN) -> None:
    reply = server.complete(
        model=BYTES, prompt=[0xC3, 0xFF], max_tokens=5, seed=1, temperature=0.8, echo=True
    )
    assert reply.texts == [byte_model.generate(b"\xc3\xff", 5, seed=1)]


def test_echo_gives_the_prompt_before_the_text(server: Served, lstm: CharRNN) -> None:
    reply = server.complete(prompt=["LORD ", ""], max_tokens=9, seed=4, temperature=0.8, echo=True)
    assert reply.texts == lstm.generate(["LORD ", ""], 9, seed=4)
    assert server.complete(prompt="LORD ", max_tokens=0, echo=True).texts == ["LORD "]
    assert server.complete(prompt="LORD ", max_tokens=0).texts == [""]


def test_a_stop_text_is_not_part_of_the_text_and_is_the_finish_reason(server: Served, lstm: CharRNN) -> None:
    whole = lstm.generate("LORD ", 200, seed=1, temperature=1.0, echo=False)
    stop = whole[20:22]
    choice = server.complete(prompt="LORD ", max_tokens=200, seed=1, stop=stop).json["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_a_stop_text_that_the_model_cannot_write_changes_nothing(server: Served) -> None:
    asked = {"prompt": "LORD ", "max_tokens": 30, "seed": 1}
    assert server.complete(**asked, stop=["<|endoftext|>☃"]).texts == server.complete(**asked).texts


# --- streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [{}, {"stop": "th"}, {"echo": True}, {"logprobs": 2, "echo": True, "stop": "e"}]
)
@pytest.mark.parametrize("model", [LSTM, BYTES])
def test_streamed_chunks_concatenate_to_the_complete_response(
    server: Served, model: str, extra: dict[str, Any]
) -> None:
    asked = {"model": model, "prompt": ["LORD ", "K"], "n": 2, "max_tokens": 300, "seed": 5, **extra}
    whole = server.complete(**asked).json
    reply = server.complete(**asked, stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *pieces, usage, done = reply.events
    assert (done, usage["choices"], usage["usage"]) == ("[DONE]", [], whole["usage"])
    assert len({piece["id"] for piece in pieces}) == 1
    assert all(piece["usage"] is None and piece["seed"] == 5 for piece in pieces)
    for choice in whole["choices"]:
        own = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert [piece["finish_reason"] for piece in own] == [None] * (len(own) - 1) + [
            choice["finish_reason"]
        ]
        if "logprobs" in extra:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                joined = [each for piece in own for each in piece["logprobs"][name]]
                assert _close(joined, choice["logprobs"][name])


def _close(one: Any, other: Any) -> bool:
    """Whether two lists have the same numbers, up to rounding that depends on the batch size."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)
    return bool(abs(one - other) < 1e-4) if isinstance(one, float) else bool(one == other)


def test_a_stream_without_options_has_no_usage(server: Served) -> None:
    *pieces, done = server.complete(max_tokens=5, stream=True).events
    assert done == "[DONE]"
    assert not any("usage" in piece for piece in pieces)


# --- log-probabilities -------------------------------------------------------------------------------------


def test_log_probabilities_match_the_model(server: Served, lstm: CharRNN) -> None:
    reply = server.complete(prompt="LORD ", max_tokens=12, seed=2, temperature=0.8, logprobs=3)
    said, text = reply.json["choices"][0]["logprobs"], reply.texts[0]
    assert said["tokens"] == list(text)
    assert said["text_offset"] == list(range(12))
    state = lstm.prime("LORD ")
    for character, logprob, best in zip(text, said["token_logprobs"], said["top_logprobs"], strict=True):
        step = lstm.step(state)
        logs = step.logits[0] - np.log(np.exp(step.logits[0]).sum())
        assert logprob == pytest.approx(logs[lstm.vocabulary.symbols.index(character)], abs=1e-4)
        most_likely = [lstm.vocabulary.symbols[each] for each in np.argsort(-logs)[:3]]
        assert [name for name in best if name in most_likely] == most_likely
        assert set(best) == {*most_likely, character}
        for name, value in best.items():
            assert value == pytest.approx(logs[lstm.vocabulary.symbols.index(name)], abs=1e-4)
        state = lstm.prime(character, state)


def test_echo_gives_the_log_probabilities_of_the_prompt(server: Served, lstm: CharRNN) -> None:
    text = "LORD: what noise is this?"
    reply = server.complete(prompt=text, max_tokens=0, echo=True, logprobs=0)
    said = reply.json["choices"][0]["logprobs"]
    assert said["tokens"] == list(text)
    assert said["token_logprobs"][0] is said["top_logprobs"][0] is None
    assert said["top_logprobs"][1:] == [
        {name: value} for name, value in zip(text[1:], said["token_logprobs"][1:], strict=True)
    ]
    with_one = server.complete(prompt=text, max_tokens=1, echo=True, logprobs=0).json["choices"][0][
        "logprobs"
    ]
    assert with_one["token_logprobs"][1:-1] == pytest.approx(said["token_logprobs"][1:], abs=1e-4)
    assert len(with_one["tokens"]) == len(text) + 1


def test_ids_with_the_start_token_score_a_text_like_score(server: Served, lstm: CharRNN) -> None:
    text = "LORD: what noise is this?"
    ids = [lstm.info.start_token, *lstm.vocabulary.encode(text).tolist()]
    reply = server.complete(prompt=ids, max_tokens=0, echo=True, logprobs=1)
    values = reply.json["choices"][0]["logprobs"]["token_logprobs"][1:]
    assert -sum(values) == pytest.approx(lstm.score(text).nats, abs=1e-4)


@pytest.mark.parametrize("prompt", ["", "L"])
def test_a_prompt_of_one_character_or_none_has_no_log_probability(server: Served, prompt: str) -> None:
    said = server.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=2).json["choices"][0]["logprobs"]
    empty = [None] * len(prompt)
    assert said == {
        "tokens": list(prompt),
        "token_logprobs": empty,
        "top_logprobs": empty,
        "text_offset": list(range(len(prompt))),
    }


def test_a_byte_that_is_not_a_character_has_a_separate_name(server: Served) -> None:
    said = server.complete(model=BYTES, prompt="né", max_tokens=0, echo=True, logprobs=0)
    assert said.json["choices"][0]["logprobs"]["tokens"] == ["n", "bytes:\\xc3", "bytes:\\xa9"]
    assert said.json["choices"][0]["logprobs"]["text_offset"] == [0, 1, 1]


def test_more_log_probabilities_than_there_are_symbols_are_all_of_them(server: Served, lstm: CharRNN) -> None:
    said = server.complete(prompt="LO", max_tokens=1, logprobs=20).json["choices"][0]["logprobs"]
    assert len(said["top_logprobs"][0]) in (20, 21)


# --- rejected requests -------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [None]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [[1], [True]]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [9999]}, "prompt"),
    ({"prompt": "☃"}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "L" * 100_001}, "prompt"),
    ({"prompt": ["L"] * 129}, "prompt"),
    ({"prompt": ["L"] * 65, "n": 2}, "n"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 1.5}, "n"),
    ({"n": True}, "n"),
    ({"n": "1"}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 100_001}, "max_tokens"),
    ({"max_tokens": 10**400}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 1e5}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1}, "min_p"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stream": 1}, "stream"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 20, "max_tokens": 100_000}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"user": 5}, "user"),
    ({"model": 5}, "model"),
    ({"suffix": "and so on"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"tools": []}, "tools"),
    ({"x" * 1000: 1}, "x" * 60 + "..."),
]


@pytest.mark.parametrize(("body", "param"), REFUSED, ids=[json.dumps(body)[:40] for body, _ in REFUSED])
def test_unsupported_fields_are_rejected_by_name(server: Served, body: dict[str, Any], param: str) -> None:
    reply = server.complete(**body)
    assert reply.status == 400
    assert (reply.error["param"], reply.error["type"]) == (param, "invalid_request_error")
    assert param.removesuffix("...") in reply.error["message"]


def test_unknown_characters_are_named(server: Served) -> None:
    error = server.complete(prompt=["LORD", "caf☂ ☃"]).error
    assert error["code"] == "unknown_characters"
    for part in ("prompt[1]", "'☂' (U+2602) at position 3", "U+2603", "--unknown skip"):
        assert part in error["message"]


def test_neutral_values_of_unsupported_fields_are_accepted(server: Served) -> None:
    asked = {"prompt": "LORD ", "max_tokens": 9, "seed": 1, "n": 2}
    neutral = {
        "suffix": "", "best_of": 2, "presence_penalty": 0, "frequency_penalty": 0.0,
        "repetition_penalty": 1.0, "logit_bias": {}, "user": "me",
        "top_k": -1, "min_p": 0, "top_p": 1, "stop": [], "tools": None,
    }  # fmt: skip
    assert server.complete(**asked, **neutral).texts == server.complete(**asked).texts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"n": NaN}',
        b'{"n": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_an_object_is_rejected(server: Served, body: bytes) -> None:
    reply = server.ask("/v1/completions", body)
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_is_a_404_that_lists_the_available_ones(server: Served) -> None:
    reply = server.complete(model="gpt-4")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert LSTM in reply.error["message"]
    assert BYTES in reply.error["message"]


def test_chat_is_a_404_with_an_explanation(server: Served) -> None:
    reply = server.ask("/v1/chat/completions", {"model": LSTM, "messages": []})
    assert (reply.status, reply.error["code"]) == (404, "chat_not_supported")
    assert "/v1/completions" in reply.error["message"]


def test_unknown_paths_and_methods_are_errors_of_the_same_format(server: Served) -> None:
    assert server.ask("/v2").status == 404
    assert server.ask("/v1/completions/", {}).error["message"]
    reply = server.ask("/v1/completions")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert "GET" in reply.error["message"]


# --- models, tokens, health --------------------------------------------------------------------------------


def test_models_are_listed_with_their_properties(server: Served, lstm: CharRNN) -> None:
    listed = server.ask("/v1/models").json
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [LSTM, BYTES]
    one = server.ask(f"/v1/models/{LSTM}").json
    assert one in listed["data"]
    assert (one["object"], one["parameters"]) == ("model", lstm.info.parameters)
    assert server.ask("/v1/models/other").status == 404


@pytest.mark.parametrize("model", [LSTM, BYTES])
def test_tokenize_and_detokenize_round_trip(
    server: Served, model: str, load: Callable[[str], CharRNN]
) -> None:
    vocabulary = server.service.models[model].model.vocabulary
    text = "LORD" if model == LSTM else "né"
    reply = server.ask("/tokenize", {"model": model, "prompt": text, "return_token_strs": True}).json
    assert reply["tokens"] == vocabulary.encode(text).tolist()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert server.ask("/detokenize", {"model": model, "tokens": reply["tokens"]}).json == {"prompt": text}
    assert server.ask("/detokenize", {"model": model, "tokens": []}).json == {"prompt": ""}
    info = server.ask(f"/tokenizer_info?model={model}").json
    assert info["bos_token_id"] == vocabulary.start_token
    assert info["bos_token"] == "\n"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "☃"}, "prompt"),
        ("/tokenize", {"prompt": "a", "x": 1}, "x"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "ab"}, "tokens"),
        ("/detokenize", {"tokens": [1, None]}, "tokens"),
        ("/detokenize", {"tokens": [10**20]}, "tokens"),
    ],
)
def test_invalid_tokens_are_rejected(server: Served, path: str, body: Any, param: str) -> None:
    reply = server.ask(path, body)
    assert (reply.status, reply.error["param"]) == (400, param)


def test_metrics_count_requests_and_characters(server: Served) -> None:
    def value(name: str) -> float:
        lines = server.ask("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"charrnn:{name}")).split()[-1])

    own = f'{{model_name="{LSTM}"}}'
    names = [f"prompt_tokens_total{own}", f"generation_tokens_total{own}"]
    names += [f'request_success_total{{finished_reason="length",model_name="{LSTM}"}}']
    names += [
        f"{name}_count{own}"
        for name in (
            "request_queue_time_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds",
            "e2e_request_latency_seconds",
        )
    ]  # fmt: skip
    before = [value(name) for name in names]
    server.complete(prompt="LORD ", n=2, max_tokens=10)
    server.complete(prompt="LORD ", max_tokens=10, stream=True)
    after = [value(name) for name in names]
    assert [new - old for old, new in zip(before, after, strict=True)] == [10, 30, 3, 3, 1, 1, 2]
    assert value(f"num_requests_running{own}") == value(f"num_requests_waiting{own}") == 0


def test_the_description_names_every_endpoint(server: Served) -> None:
    said = server.ask("/openapi.json").json
    assert said["openapi"].startswith("3.1")
    assert {"/v1/completions", "/v1/models", "/v1/models/{name}", "/tokenize", "/health"} <= set(
        said["paths"]
    )
    fields = said["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "seed", "echo"} <= set(fields["properties"])
