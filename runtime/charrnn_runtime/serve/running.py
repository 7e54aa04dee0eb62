"""Runs the application on a socket: it starts, stops in good order, and lets no connection linger."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.serve.api_errors import unavailable
from charrnn_runtime.serve.completions import ABORT
from charrnn_runtime.serve.service import Service

KEEP_ALIVE: Final = 5.0
"""How many seconds a connection is kept that has brought a request, and brings no other."""

CLOSING: Final = 2
"""How many seconds connections have to close once all streams have ended."""

_BACKLOG: Final = 2048

_SWITCH_SECONDS: Final = 2e-4
"""How long a thread that runs streams waits at most while the event loop's thread runs Python."""


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        CharRNNError: it cannot be opened.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise CharRNNError(f"cannot listen on {shown}: {_reason(error)}; give another --host") from None
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # of Unix; Windows would let two servers have one port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise CharRNNError(
            f"cannot listen on {shown}: {_reason(error)}; give another --port or --host"
        ) from None
    return opened


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def address_of(opened: socket.socket) -> str:
    """The address of a socket that listens, as a URL."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Starlette,
    opened: socket.socket,
    on_ready: Callable[[], None],
    on_stop: Callable[[int, float], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and for as long afterwards as what runs may take.

    Args:
        app: from `create_app`.
        opened: a socket that listens, which is closed in the end.
        on_ready: called when the server takes requests.
        on_stop: called once the server is told to stop, where streams are left, with how many these are, and
            how many seconds they have.

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
    """A server for an application from `create_app`; see `run`."""
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
        timeout_graceful_shutdown=CLOSING + 1,  # never, as connections are closed before
        backlog=_BACKLOG,
    )
    return Server(config, service, on_ready, on_stop)


class Server(uvicorn.Server):
    """A server that takes nothing new once it is told to stop, and lets what runs come to its end."""

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
        self._until = 0.0  # when what runs is ended, once the server is told to stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second time, end what runs at once, as the end of the grace does."""
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
                service.fail(unavailable("the server stopped before this request was answered", "draining"))
                await asyncio.sleep(0)  # the answers that this ends are written
                return True
            if not service.busy:
                return True
            if self._on_stop is not None:  # here, not in the signal's handler, which may not wait for locks
                self._on_stop(service.unfinished, service.settings.grace)
                self._on_stop = None
        return await super().on_tick(counter) or service.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let connections end, and then close those that are left, whose clients neither read nor send.

        Without a connection, what answers a request ends by itself; uvicorn would cancel it, and log where.
        """
        timer = asyncio.get_running_loop().call_later(CLOSING, self._close_connections)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _close_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Connection(HttpToolsProtocol):
    """A connection that is closed where no request comes on it, or where an answer is not read."""

    idle_seconds = 60.0
    _timer: asyncio.TimerHandle | None = None
    _cycles: deque[RequestResponseCycle]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cycles = deque()
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for cycle in self._cycles:  # of several requests at once, uvicorn tells the last one alone
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        if self.cycle is not None:
            self._cycles.append(self.cycle)

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
        """End the connection, unless a request is being answered, which has a time limit of its own."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()  # close() would wait until all is read that was written
