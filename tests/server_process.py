"""charrnn-serve in a separate process, and cheap clients, for load tests and leak checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class ServerProcess:
    """A running server process.

    Attributes:
        port: its port on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def megabytes(self) -> float:
        """Its resident memory (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """Its CPU time over all cores (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def files(self) -> int:
        """The number of its open files and connections (Linux)."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        """The number of its threads (Linux)."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def get(self, path: str) -> str:
        """The response to a GET request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    def streams(self) -> float:
        """The number of running and queued streams."""
        found = re.findall(
            r"^charrnn:num_requests_(?:running|waiting)\{.*?\} (\S+)$", self.get("/metrics"), re.M
        )
        return sum(map(float, found))

    def wait_until_ready(self) -> None:
        """Wait until it responds."""
        end = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "the server has ended"
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)


@contextlib.contextmanager
def started(command: list[str], port: int, *, stderr: IO[bytes] | None = None) -> Iterator[ServerProcess]:
    """A server process, which is stopped at the end of the block."""
    process = subprocess.Popen([sys.executable, *command], stderr=stderr)
    try:
        server = ServerProcess(process, port)
        server.wait_until_ready()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def charrnn_serve(*arguments: str, stderr: IO[bytes] | None = None) -> Iterator[ServerProcess]:
    """The command line, with a free port; it prints only errors."""
    port = free_port()
    command = ["-m", "charrnn_runtime.cli.serve", *arguments, "--port", str(port), "--quiet"]
    with started(command, port, stderr=stderr) as server:
        yield server


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        return port


def post(path: str, body: bytes | dict[str, Any], *headers: str) -> bytes:
    """The bytes of a POST request; the server closes the connection after its response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", "Content-Type: application/json"]
    head += [f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(head).encode() + data


class Client(asyncio.Protocol):
    """Sends one request and stores the response, which is parsed after the measurement.

    Attributes:
        ended: done when the connection is closed.
        sent, first, last: the times of the request, of the first chunk of text and of the last bytes.
    """

    def __init__(self, request: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = self.first = self.last = 0.0
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._received: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sent = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.last = time.perf_counter()
        if not self.first and b'"text":' in data:
            self.first = self.last
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    @classmethod
    async def connect(cls, port: int, request: bytes) -> Client:
        """Connect and send the request."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(request), "127.0.0.1", port)
        return client

    @property
    def raw(self) -> bytes:
        """All received bytes."""
        return b"".join(self._received)

    @property
    def status(self) -> int:
        """The status of the response; 0 if there was none."""
        found = re.match(rb"HTTP/1\.1 (\d+) ", self.raw)
        return int(found[1]) if found else 0

    @property
    def body(self) -> bytes:
        """The received body of the response."""
        head, _, body = self.raw.partition(b"\r\n\r\n")
        return _unchunked(body) if b"chunked" in head.lower() else body

    def text(self) -> str:
        """The text of the only choice of a complete stream."""
        assert self.status == 200, self.body[:500]
        events = self.body.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-2:]
        choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-2]]
        assert [each["finish_reason"] is not None for each in choices] == [False] * (len(choices) - 1) + [
            True
        ]
        return "".join(each["text"] for each in choices)

    def pieces(self) -> int:
        """The number of events with text."""
        return self.body.count(b'"text":')


def _unchunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(parts)
