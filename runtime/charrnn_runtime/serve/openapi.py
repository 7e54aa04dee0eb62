"""GET /openapi.json: what the server's endpoints take and give, with its own limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from charrnn_runtime.format import spec
from charrnn_runtime.serve.api_errors import json_response
from charrnn_runtime.serve.asked import DEFAULT_TEMPERATURE, MOST_SEED, MOST_STOPS, default_length
from charrnn_runtime.serve.service import service_of
from charrnn_runtime.serve.settings import ServeSettings
from charrnn_runtime.version import __version__

_Schema = dict[str, Any]

_ERRORS: Final = {
    400: "the request is invalid: the error names the field",
    401: "the API key is missing or wrong",
    403: "a page of a foreign origin sent it, or its Host is not the server's",
    404: "there is no such model or endpoint",
    408: "the body did not come in time",
    413: "the body is too large",
    429: "too many streams wait",
    503: "the server loads its models, is about to stop, or has too little memory",
    504: "it took too long",
}


async def openapi(request: Request) -> Response:
    """The description of this server."""
    return json_response(document(service_of(request).settings, request.app.routes))


def document(settings: ServeSettings, routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """A description of endpoints in OpenAPI 3.1.

    Args:
        settings: what the server allows.
        routes: its routes; those that only a browser asks for are left out.
    """
    described = _paths(settings)
    there = {route.path.replace(":path", "") for route in routes if isinstance(route, Route)}
    paths = {path: each for path, each in described.items() if path in there}
    said: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "charrnn-serve", "version": __version__, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if settings.api_keys:
        said["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in paths.items():
            if path not in ("/health", "/metrics", "/openapi.json"):
                for each in methods.values():
                    each["security"] = [{"key": []}]
    return said


def _paths(settings: ServeSettings) -> dict[str, dict[str, Any]]:
    model_in_query = {"name": "model", "in": "query", "schema": {"type": "string"}}
    model_in_path = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/completions": {
            "post": {
                "operationId": "completions",
                "summary": "Continue texts",
                "requestBody": _body(_completion(settings)),
                "responses": {
                    "200": {
                        "description": "the texts; as server-sent events where stream is true",
                        "content": {
                            "application/json": {"schema": _reference("Completion")},
                            "text/event-stream": {"schema": {"description": "completions in pieces"}},
                        },
                    },
                    **_errors(400, 401, 403, 404, 408, 413, 429, 503, 504),
                },
            }
        },
        "/v1/chat/completions": {
            "post": {
                "operationId": "chat",
                "summary": "There is no chat: these models continue a text",
                "responses": _errors(401, 403, 404),
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "The models",
                "responses": {
                    "200": _answer("the models", _reference("Models")),
                    **_errors(401, 403, 503),
                },
            }
        },
        "/v1/models/{name}": {
            "get": {
                "operationId": "model",
                "summary": "One model",
                "parameters": [model_in_path],
                "responses": {
                    "200": _answer("the model", _reference("Model")),
                    **_errors(401, 403, 404, 503),
                },
            }
        },
        "/tokenize": {
            "post": {
                "operationId": "tokenize",
                "summary": "The ids of a text",
                "requestBody": _body(
                    {
                        **_fields(
                            model={"type": ["string", "null"]},
                            prompt={"type": "string", "maxLength": settings.max_prompt},
                            add_special_tokens={"type": ["boolean", "null"]},
                            return_token_strs={"type": ["boolean", "null"]},
                        ),
                        "required": ["prompt"],
                    }
                ),
                "responses": {
                    "200": _answer("the ids", _reference("Tokens")),
                    **_errors(400, 401, 403, 404, 408, 413, 503),
                },
            }
        },
        "/detokenize": {
            "post": {
                "operationId": "detokenize",
                "summary": "The text of ids",
                "requestBody": _body(
                    {
                        **_fields(
                            model={"type": ["string", "null"]},
                            tokens={
                                **_array({"type": "integer", "minimum": 0}),
                                "maxItems": settings.max_prompt,
                            },
                        ),
                        "required": ["tokens"],
                    }
                ),
                "responses": {
                    "200": _answer("the text", _reference("Text")),
                    **_errors(400, 401, 403, 404, 408, 413, 503),
                },
            }
        },
        "/tokenizer_info": {
            "get": {
                "operationId": "tokenizer_info",
                "summary": "What a client needs to know of a model's vocabulary",
                "parameters": [model_in_query],
                "responses": {
                    "200": _answer("the vocabulary", {"type": "object"}),
                    **_errors(401, 403, 404, 503),
                },
            }
        },
        "/trace": {
            "post": {
                "operationId": "trace",
                "summary": "What a model computes while it reads a text",
                "requestBody": _body(
                    {
                        **_fields(
                            model={"type": ["string", "null"]},
                            text=_text_or_ids(settings),
                            top={"type": ["integer", "null"], "minimum": 0, "maximum": settings.max_logprobs},
                            units=_or_null(_array({"type": "string"})),
                        ),
                        "required": ["text"],
                    }
                ),
                "responses": {
                    "200": _answer("an array for each kind of fact", {"type": "object"}),
                    **_errors(400, 401, 403, 404, 408, 413, 429, 503, 504),
                },
            }
        },
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Whether the server takes requests",
                "responses": {"200": _answer("it does", {"type": "object"}), **_errors(503)},
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "What was counted, for Prometheus",
                "responses": {
                    "200": {
                        "description": "Prometheus' text format",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    }
                },
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This description",
                "responses": {"200": _answer("it", {"type": "object"})},
            }
        },
    }


def _completion(settings: ServeSettings) -> _Schema:
    """What a request for completions may have."""
    number, switch = {"type": ["number", "null"]}, {"type": ["boolean", "null"]}
    stop = {"type": "string", "minLength": 1}
    return _fields(
        model={"type": ["string", "null"]},
        prompt=_or_null(_prompt(settings)),
        max_tokens={**_whole(0, settings.max_length), "default": default_length(settings)},
        n={**_whole(1, settings.max_choices), "default": 1},
        temperature={**number, "minimum": 0, "maximum": 1e4, "default": DEFAULT_TEMPERATURE},
        top_p={**number, "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        top_k={**_whole(-1, spec.MAX_NUMBER), "description": "0 and -1 are off"},
        min_p={**number, "minimum": 0, "exclusiveMaximum": 1, "default": 0},
        seed=_whole(0, MOST_SEED),
        stop=_or_null({"anyOf": [stop, {**_array(stop), "maxItems": MOST_STOPS}]}),
        stream=switch,
        stream_options=_or_null(_fields(include_usage=switch)),
        logprobs=_whole(0, settings.max_logprobs),
        echo=switch,
        suffix={"enum": ["", None]},
        best_of=_whole(1, settings.max_choices),
        presence_penalty={"enum": [0, None]},
        frequency_penalty={"enum": [0, None]},
        repetition_penalty={"enum": [1, None]},
        logit_bias={"type": ["object", "null"], "maxProperties": 0},
        user={"type": ["string", "null"]},
    )


def _prompt(settings: ServeSettings) -> _Schema:
    """A text, several texts, the ids of one, or those of several."""
    text, ids = _text_or_ids(settings)["anyOf"]
    ids = {**ids, "minItems": 1}
    several = {"minItems": 1, "maxItems": settings.max_choices}
    return {"anyOf": [text, {**_array(text), **several}, ids, {**_array(ids), **several}]}


def _text_or_ids(settings: ServeSettings) -> _Schema:
    """A text, or the ids of one."""
    text = {"type": "string", "maxLength": settings.max_prompt}
    ids = {**_array({"type": "integer", "minimum": 0}), "maxItems": settings.max_prompt}
    return {"anyOf": [text, ids]}


def _schemas() -> dict[str, _Schema]:
    whole, text = {"type": "integer"}, {"type": "string"}
    nullable = {"type": ["number", "null"]}
    return {
        "Error": _object(
            error=_object(
                message=text,
                type=text,
                param={"type": ["string", "null"]},
                code={"type": ["string", "null"]},
            )
        ),
        "Model": _object(id=text, object={"const": "model"}, created=whole, owned_by=text),
        "Models": _object(object={"const": "list"}, data=_array(_reference("Model"))),
        "Tokens": _object(count=whole, max_model_len=whole, tokens=_array(whole)),
        "Text": _object(prompt=text),
        "Completion": _object(
            id=text,
            object={"const": "text_completion"},
            created=whole,
            model=text,
            seed={"type": "integer", "description": "the seed that was used"},
            choices=_array(
                _object(
                    index=whole,
                    text=text,
                    logprobs=_or_null(
                        _object(
                            tokens=_array(text),
                            token_logprobs=_array(nullable),
                            top_logprobs=_array({"type": ["object", "null"]}),
                            text_offset=_array(whole),
                        )
                    ),
                    finish_reason={"enum": ["stop", "length"]},
                )
            ),
            usage=_object(prompt_tokens=whole, completion_tokens=whole, total_tokens=whole),
        ),
    }


def _reference(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(said: str, schema: _Schema) -> _Schema:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, _Schema]:
    return {str(status): _answer(_ERRORS[status], _reference("Error")) for status in statuses}


def _body(schema: _Schema) -> _Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _fields(**properties: _Schema) -> _Schema:
    """An object with none but these fields; others may be there if they are null."""
    return {"type": "object", "properties": properties, "additionalProperties": {"type": "null"}}


def _object(**properties: _Schema) -> _Schema:
    """An object with all of these fields."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _whole(least: int, most: int) -> _Schema:
    return {"type": ["integer", "null"], "minimum": least, "maximum": most}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}
