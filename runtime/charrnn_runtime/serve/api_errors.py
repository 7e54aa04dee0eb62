"""Errors as OpenAI's API has them: a status, and a JSON object that says what is wrong with which field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from charrnn_runtime.errors import one_line

_KINDS: Final = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

RETRY_AFTER: Final = "1"
"""How many seconds a client should wait before it asks a busy server again."""


class ApiError(Exception):
    """What a client gets in place of an answer.

    Attributes:
        status: the HTTP status.
        param: the name of the field that is wrong; None where it is not a field.
        code: a word for programs, as OpenAI's API has them; None where there is none.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, Any]:
        """The object that says it."""
        return {
            "error": {
                "message": one_line(str(self), most=2000),
                "type": _KINDS.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The response that says it."""
        return json_response(self.as_dict(), self.status, self.headers)


def busy(message: str) -> ApiError:
    """The error of a server that has no place for a request now, and may have one later."""
    return ApiError(429, message, code="queue_full", headers={"Retry-After": RETRY_AFTER})


def unavailable(message: str, code: str) -> ApiError:
    """The error of a server that does not answer yet, or any more."""
    return ApiError(503, message, code=code, headers={"Retry-After": RETRY_AFTER})


def failed(error: BaseException) -> ApiError:
    """The error of a server that met a bug, or lacks something that it needs."""
    return ApiError(500, f"the server failed: {type(error).__name__}; see its log")


def json_bytes(value: Any) -> bytes:
    """JSON as UTF-8. Half a surrogate pair, which UTF-8 cannot have, is written as an escape of JSON's."""
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(json_bytes(value), status, dict(headers or {}), media_type="application/json")


async def on_api_error(request: Request, error: Exception) -> Response:
    """The response to a request that raised an `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """The response to a request for which there is no endpoint."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    said = {
        404: f"there is nothing at {path!r}; GET /openapi.json lists what there is",
        405: f"{request.method} is not a method of {path!r}; GET /openapi.json lists what there is",
    }.get(error.status_code, error.detail)
    return ApiError(error.status_code, said, headers=error.headers).response()


async def on_bug(request: Request, error: Exception) -> Response:
    """The response to a request that met a bug, or a lack of memory."""
    return failed(error).response()
