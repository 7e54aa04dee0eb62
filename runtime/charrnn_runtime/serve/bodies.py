"""Request bodies: read within limits, and validated field by field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from charrnn_runtime.arguments import real_number, shown, whole_number_from
from charrnn_runtime.errors import SettingError
from charrnn_runtime.serve.api_errors import ApiError

_BODY_SECONDS: Final = 30.0
"""The time limit in seconds for a client to send the body of a request."""

_Value = TypeVar("_Value")


async def read_object(request: Request, most: int) -> dict[str, Any]:
    """Read the JSON object in the body of a request.

    Args:
        request: the request.
        most: the largest body, in bytes.

    Raises:
        ApiError: the body is invalid, too large, or does not arrive in time.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said[:20]) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not arrive within {_BODY_SECONDS:g} seconds", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "the connection was closed before the whole body arrived") from None
    try:
        value = json.loads(bytes(body), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, not {shown(value)}")
    return value


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than this server's limit of {most:,} bytes",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """The fields of a JSON object, taken one by one. A null field counts as absent."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._left = {name: value for name, value in values.items() if value is not None}

    def take(self, name: str) -> Any:
        """Take any value, or None if absent."""
        return self._left.pop(name, None)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """Take an integer between ``least`` and ``most``, inclusive."""
        return self._checked(name, default, lambda value: whole_number_from(name, value, least, most))

    def number(self, name: str, default: float) -> float:
        """Take a number."""
        return self._checked(name, default, lambda value: real_number(name, value))

    def switch(self, name: str, default: bool = False) -> bool:
        """Take a boolean."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise ApiError(400, f"{name} must be true or false, not {shown(value)}", name)
        return default if value is None else value

    def text(self, name: str) -> str | None:
        """Take a text, or None if absent."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise ApiError(400, f"{name} must be a text, not {shown(value)}", name)
        return value

    def object(self, name: str) -> Fields:
        """Take a JSON object; an empty one if absent."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise ApiError(400, f"{name} must be an object, not {shown(value)}", name)
        return Fields(value or {})

    def neutral(self, name: str, *values: Any) -> None:
        """Accept a field only with these values, which have no effect.

        Raises:
            ApiError: it has another value.
        """
        value = self.take(name)
        accepted = [each for each in values if isinstance(value, bool) == isinstance(each, bool)]
        if value is not None and value not in accepted:
            allowed = " or ".join(json.dumps(each) for each in values)
            raise ApiError(
                400,
                f"{name} is not supported by this server; omit it, or set it to {allowed}",
                name,
                "unsupported_parameter",
            )

    def end(self, inside: str = "") -> None:
        """Check that all fields were taken.

        Raises:
            ApiError: an unknown field is left.
        """
        for name in self._left:
            name = f"{inside}.{name}" if inside else name
            said = name if len(name) <= 60 else name[:60] + "..."
            raise ApiError(400, f"unknown parameter {said!r}: remove it", said, "unknown_parameter")

    def _checked(self, name: str, default: _Value, check: Callable[[Any], _Value]) -> _Value:
        value = self.take(name)
        if value is None:
            return default
        try:
            return check(value)
        except SettingError as error:
            raise ApiError(400, str(error), name) from None
