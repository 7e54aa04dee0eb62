"""GET /openapi.json: the OpenAPI description of the endpoints, with the server's limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from charrnn_runtime.format import spec
from charrnn_runtime.serve.api_errors import json_response
from charrnn_runtime.serve.completion_request import (
    DEFAULT_TEMPERATURE,
    MOST_SEED,
    MOST_STOPS,
    default_length,
)
from charrnn_runtime.serve.service import service_of
from charrnn_runtime.serve.settings import ServeSettings
from charrnn_runtime.version import __version__

_Schema = dict[str, Any]

_ERRORS: Final = {
    400: "The request is invalid; the error names the field.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a page of another origin, or its Host is not accepted.",
    404: "There is no such model or endpoint.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The queue is full.",
    503: "The server is loading its models, shutting down, or out of memory.",
    504: "The request exceeded the time limit.",
}


async def openapi(request: Request) -> Response:
    """Return the description of this server."""
    return json_response(document(service_of(request).settings, request.app.routes))


def document(settings: ServeSettings, routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """Describe the endpoints in OpenAPI 3.1.

    Args:
        settings: the settings and limits of the server.
        routes: its routes; those for browsers only are omitted.
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
                        "description": "The texts, as server-sent events if stream is true.",
                        "content": {
                            "application/json": {"schema": _reference("Completion")},
                            "text/event-stream": {"schema": {"description": "Completions in pieces."}},
                        },
                    },
                    **_errors(400, 401, 403, 404, 408, 413, 429, 503, 504),
                },
            }
        },
        "/v1/chat/completions": {
            "post": {
                "operationId": "chat",
                "summary": "Not supported: these models continue text",
                "responses": _errors(401, 403, 404),
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "List the models",
                "responses": {
                    "200": _answer("The models.", _reference("Models")),
                    **_errors(401, 403, 503),
                },
            }
        },
        "/v1/models/{name}": {
            "get": {
                "operationId": "model",
                "summary": "Describe a model",
                "parameters": [model_in_path],
                "responses": {
                    "200": _answer("The model.", _reference("Model")),
                    **_errors(401, 403, 404, 503),
                },
            }
        },
        "/tokenize": {
            "post": {
                "operationId": "tokenize",
                "summary": "Convert text to ids",
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
                    "200": _answer("The ids.", _reference("Tokens")),
                    **_errors(400, 401, 403, 404, 408, 413, 503),
                },
            }
        },
        "/detokenize": {
            "post": {
                "operationId": "detokenize",
                "summary": "Convert ids to text",
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
                    "200": _answer("The text.", _reference("Text")),
                    **_errors(400, 401, 403, 404, 408, 413, 503),
                },
            }
        },
        "/tokenizer_info": {
            "get": {
                "operationId": "tokenizer_info",
                "summary": "Describe a model's vocabulary",
                "parameters": [model_in_query],
                "responses": {
                    "200": _answer("The vocabulary.", {"type": "object"}),
                    **_errors(401, 403, 404, 503),
                },
            }
        },
        "/trace": {
            "post": {
                "operationId": "trace",
                "summary": "Trace what a model computes for each character of a text",
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
                    "200": _answer("Arrays with one value per character.", {"type": "object"}),
                    **_errors(400, 401, 403, 404, 408, 413, 429, 503, 504),
                },
            }
        },
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Report whether the server accepts requests",
                "responses": {"200": _answer("The server is ready.", {"type": "object"}), **_errors(503)},
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Metrics for Prometheus",
                "responses": {
                    "200": {
                        "description": "Metrics in Prometheus' text format.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    }
                },
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "Return this description",
                "responses": {"200": _answer("The description.", {"type": "object"})},
            }
        },
    }


def _completion(settings: ServeSettings) -> _Schema:
    """The schema of a request for completions."""
    number, switch = {"type": ["number", "null"]}, {"type": ["boolean", "null"]}
    stop = {"type": "string", "minLength": 1}
    return _fields(
        model={"type": ["string", "null"]},
        prompt=_or_null(_prompt(settings)),
        max_tokens={**_whole(0, settings.max_length), "default": default_length(settings)},
        n={**_whole(1, settings.max_choices), "default": 1},
        temperature={**number, "minimum": 0, "maximum": 1e4, "default": DEFAULT_TEMPERATURE},
        top_p={**number, "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        top_k={**_whole(-1, spec.MAX_NUMBER), "description": "0 and -1 disable it"},
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
    """One or several prompts, as text or ids."""
    text, ids = _text_or_ids(settings)["anyOf"]
    ids = {**ids, "minItems": 1}
    several = {"minItems": 1, "maxItems": settings.max_choices}
    return {"anyOf": [text, {**_array(text), **several}, ids, {**_array(ids), **several}]}


def _text_or_ids(settings: ServeSettings) -> _Schema:
    """A text, or a list of ids."""
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
            seed={"type": "integer", "description": "The seed."},
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
    """An object with only these fields; other fields are allowed if they are null."""
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
