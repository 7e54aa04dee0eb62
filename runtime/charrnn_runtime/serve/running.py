"""Runs the application on a socket: startup, graceful shutdown, and timeouts of connections."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.serve.api_errors import unavailable
from charrnn_runtime.serve.completions import ABORT
from charrnn_runtime.serve.service import Service

KEEP_ALIVE: Final = 5.0
"""The keep-alive time in seconds of a connection that has completed a request."""

CLOSING: Final = 2
"""The time in seconds that connections have to close after all streams have ended."""

_BACKLOG: Final = 2048

_SWITCH_SECONDS: Final = 2e-4
"""The longest time in seconds that a thread running streams waits while the event loop runs Python."""


def listening(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: a host name or an address of this machine.
        port: the port; 0 for any free one.

    Raises:
        CharRNNError: the address is invalid or in use.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise CharRNNError(f"cannot listen on {shown}: {_reason(error)}; choose another --host") from None
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # Unix; on Windows, it would let two servers share a port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise CharRNNError(
            f"cannot listen on {shown}: {_reason(error)}; choose another --port or --host"
        ) from None
    return opened


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def address_of(opened: socket.socket) -> str:
    """The address of a listening socket, as a URL."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Starlette,
    opened: socket.socket,
    on_ready: Callable[[], None],
    on_stop: Callable[[int, float], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running requests finish within the grace period.

    Args:
        app: an application from `create_app`.
        opened: a listening socket, which is closed at the end.
        on_ready: called when the server accepts requests.
        on_stop: called on shutdown if streams are still running, with their number and the number of
            seconds they have to finish.

    Raises:
        CharRNNError: a model cannot be loaded.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        server_of(app, on_ready, on_stop).run(sockets=[opened])
    finally:
        opened.close()
    failure = app.state.service.failure
    if failure is not None:
        raise failure


def server_of(
    app: Starlette,
    on_ready: Callable[[], None],
    on_stop: Callable[[int, float], None] | None = None,
) -> Server:
    """Create a server for an application from `create_app`; see `run`."""
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=type("_Connection", (_Connection,), {"idle_seconds": service.settings.idle_seconds}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(KEEP_ALIVE),
        timeout_graceful_shutdown=CLOSING,
        backlog=_BACKLOG,
    )
    return Server(config, service, on_ready, on_stop)


class Server(uvicorn.Server):
    """A server that, on shutdown, rejects new requests and lets running ones finish."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_ready: Callable[[], None],
        on_stop: Callable[[int, float], None] | None,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_ready: Callable[[], None] | None = on_ready
        self._on_stop = on_stop
        self._until = 0.0  # the end of the grace period during shutdown

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start shutdown; the second time, abort running requests, as the end of the grace period does."""
        if self._service.draining:
            self._until = time.monotonic()
            return
        self._until = time.monotonic() + self._service.settings.grace
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        service = self._service
        if self._on_ready is not None and service.ready:
            self._on_ready()
            self._on_ready = None
        if service.draining:
            if time.monotonic() >= self._until:
                service.fail(unavailable("the server stopped before the request was complete", "draining"))
                await asyncio.sleep(0)  # lets the aborted requests write their responses
                return True
            if not service.busy:
                return True
            if self._on_stop is not None:  # not in the signal handler, which must not wait for locks
                self._on_stop(service.unfinished, service.settings.grace)
                self._on_stop = None
        return await super().on_tick(counter) or service.failure is not None


class _Connection(HttpToolsProtocol):
    """A connection with timeouts for idle clients and for clients that do not read."""

    idle_seconds = 60.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        self._restart_timer()
        super().on_response_complete()

    def _restart_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.idle_seconds, self._give_up)

    def _give_up(self) -> None:
        """Close the connection, unless a request is in progress, which has its own time limit."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()  # close() would wait until all written data is read
