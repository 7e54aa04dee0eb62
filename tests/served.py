"""A charrnn-serve server in a thread of the test process, on a free port, and a simple client."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from charrnn_runtime.serve.app import create_app
from charrnn_runtime.serve.running import address_of, listening, server_of
from charrnn_runtime.serve.service import Models, Service
from charrnn_runtime.serve.settings import ServeSettings


class Reply:
    """The response of a server.

    Attributes:
        status: the HTTP status.
        headers: the headers, with names in lower case.
        body: the complete body.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def texts(self) -> list[str]:
        """The texts of the choices."""
        assert self.status == 200, self.body
        return [choice["text"] for choice in self.json["choices"]]

    @property
    def error(self) -> dict[str, Any]:
        """The error, in the format of OpenAI."""
        assert self.status >= 400, self.body
        error: dict[str, Any] = self.json["error"]
        assert set(self.json) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return error

    @property
    def events(self) -> list[Any]:
        """The server-sent events: JSON, then "[DONE]"."""
        return list(events_of(self.body.decode().splitlines(keepends=True)))


def events_of(lines: Iterator[str] | list[str]) -> Iterator[Any]:
    """Parse server-sent events; each is a line of data and an empty line."""
    lines = iter(lines)
    for line in lines:
        assert line.startswith("data: "), line
        assert next(lines) == "\n"
        data = line.removeprefix("data: ").strip()
        yield data if data == "[DONE]" else json.loads(data)


class Served:
    """A running server, for a ``with`` statement.

    Attributes:
        url: its URL.
        port: its port.
        service: its service.
    """

    def __init__(self, models: Models, settings: ServeSettings | None = None, *, wait: bool = True) -> None:
        app = create_app(models, settings)
        self.service: Service = app.state.service
        self._socket = listening("127.0.0.1", 0)
        self.url = address_of(self._socket)
        self.port: int = self._socket.getsockname()[1]
        self._wait = wait
        self._ready = threading.Event()
        self._server = server_of(app, self._ready.set)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if self._wait:
            assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """Stop the server as SIGTERM does."""
        self._server.handle_exit(signal.SIGTERM, None)

    def join(self) -> None:
        """Wait until the server has stopped."""
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(
        self, path: str, body: Any = None, *, method: str = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request: a POST if there is a body (JSON or raw bytes), else a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, data, dict(headers or {}))
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, names, reply.read())
        finally:
            connection.close()

    def complete(self, **fields: Any) -> Reply:
        """Request completions."""
        return self.ask("/v1/completions", fields)

    def open(self, data: bytes = b"") -> socket.socket:
        """Open a connection and send some bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data)
        return connection


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def request_bytes(path: str, body: Any, *headers: str) -> bytes:
    """The bytes of a POST request with JSON."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data
