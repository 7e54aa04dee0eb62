"""Middleware: the access log and access control."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charrnn_runtime.errors import one_line
from charrnn_runtime.serve.api_errors import ApiError
from charrnn_runtime.serve.settings import ORIGIN

access = logging.getLogger("charrnn_runtime.serve.access")

_GUARDED: Final = ("/v1/", "/tokenize", "/detokenize", "/tokenizer_info", "/trace")
"""Prefixes of the paths that use a model and therefore require the key."""

_NOTES: Final = "charrnn.notes"

_PORT: Final = re.compile(r":\d*$")


class AccessLog:
    """Logs each request: client, method, path, status, seconds, and notes of the endpoint."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not access.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        status = 0
        notes: dict[str, Any] = {}
        scope[_NOTES] = notes
        begin = time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = time.perf_counter() - begin
            client = (scope.get("client") or ("-",))[0]
            line = f"{client} {scope['method']} {one_line(scope['path'], most=200)} {status} {seconds:.3f}s"
            access.info("%s", line + "".join(f" {name}={value}" for name, value in notes.items()))


def note(scope: Scope, **notes: Any) -> None:
    """Add notes to the access log line of a request."""
    if _NOTES in scope:
        scope[_NOTES].update(notes)


class Guard:
    """Rejects requests without the key, and requests that a foreign page makes a browser send."""

    def __init__(
        self, app: ASGIApp, keys: tuple[str, ...], origins: tuple[str, ...], hosts: tuple[str, ...]
    ) -> None:
        """Wrap an application.

        Args:
            app: the application to protect.
            keys: the accepted keys; if empty, no key is required.
            origins: the allowed origins of pages, besides the server's own.
            hosts: the accepted host names; if empty, any.
        """
        self._app = app
        self._keys = [_digest(key.encode()) for key in keys]
        self._origins = set(origins)
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
        if scope["type"] == "http":
            error = self._wrong(scope)
            if error is not None:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _wrong(self, scope: Scope) -> ApiError | None:
        # If the app is mounted in another one, or behind a prefix, the path starts with that.
        if not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_GUARDED):
            return None
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host and self._hosts and _PORT.sub("", host) not in self._hosts:
            # DNS rebinding: a foreign name that resolves to this server makes the page same-origin.
            return ApiError(
                403,
                f"this server accepts the host names {', '.join(self._hosts)}, not {one_line(host, 200)!r}; "
                "use one of these, or start the server with --api-key-file FILE",
                code="host_not_allowed",
            )
        origin = headers.get("origin", "").lower()
        if origin and not ({origin, "*"} & self._origins or origin.partition("://")[2] == host):
            named = origin if ORIGIN.fullmatch(origin) else "ORIGIN"
            return ApiError(
                403,
                f"pages from {one_line(origin, 200)!r} may not use this server; start it with --cors {named} "
                "to allow an origin",
                code="origin_not_allowed",
            )
        if self._keys and not self._has_key(headers.get("authorization", "")):
            return ApiError(
                401,
                "this server requires an API key, in the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None

    def _has_key(self, said: str) -> bool:
        scheme, _, key = said.partition(" ")
        given = _digest(key.strip().encode("latin-1", "replace"))
        # All keys are compared, each in constant time, so that timing reveals nothing about them.
        right = [hmac.compare_digest(given, each) for each in self._keys]
        return any(right) and scheme.lower() == "bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
