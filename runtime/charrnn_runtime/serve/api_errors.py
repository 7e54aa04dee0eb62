"""Errors in the format of OpenAI's API: a status, and a JSON object with a message and the invalid field."""

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
"""The number of seconds a client should wait before it retries a busy server."""


class ApiError(Exception):
    """An error response.

    Attributes:
        status: the HTTP status.
        param: the name of the invalid field; None if the error is not about a field.
        code: a machine-readable code, as in OpenAI's API; None if there is none.
        headers: the response headers.
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
        """The error as a JSON object."""
        return {
            "error": {
                "message": one_line(str(self), most=2000),
                "type": _KINDS.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The error as a response."""
        return json_response(self.as_dict(), self.status, self.headers)


def busy(message: str) -> ApiError:
    """The error for a request that the server has no capacity for at the moment."""
    return ApiError(429, message, code="queue_full", headers={"Retry-After": RETRY_AFTER})


def unavailable(message: str, code: str) -> ApiError:
    """The error of a server that is starting, stopping or out of memory."""
    return ApiError(503, message, code=code, headers={"Retry-After": RETRY_AFTER})


def failed(error: BaseException) -> ApiError:
    """The error for a request that hit a bug or a lack of resources."""
    return ApiError(500, f"internal server error: {type(error).__name__}; see the server's log")


def json_bytes(value: Any) -> bytes:
    """JSON as UTF-8. Lone surrogates, which UTF-8 cannot encode, become JSON escapes."""
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(json_bytes(value), status, dict(headers or {}), media_type="application/json")


async def on_api_error(request: Request, error: Exception) -> Response:
    """Handle an `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Handle a request for an unknown path or method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    said = {
        404: f"there is nothing at {path!r}; GET /openapi.json lists the endpoints",
        405: f"{path!r} does not accept {request.method}; GET /openapi.json lists the endpoints",
    }.get(error.status_code, error.detail)
    return ApiError(error.status_code, said, headers=error.headers).response()


async def on_bug(request: Request, error: Exception) -> Response:
    """Handle a request that hit a bug or ran out of memory."""
    return failed(error).response()
