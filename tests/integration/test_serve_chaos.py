"""A thousand clients, some of them misbehaving: the others get complete texts, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the server's extra is not installed")
pytest.importorskip("uvicorn", reason="the server's extra is not installed")

from charrnn_runtime import CharRNN
from server_process import Client, ServerProcess, charrnn_serve, post

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc"),
]

MODEL = Path(__file__).resolve().parents[1] / "models" / "lstm-2x12-fp32.onnx"
CLIENTS = 1000
AT_ONCE = 200
IDLE_SECONDS = 3
GROWTH_MB = 12.0
"""The allowed growth of memory after a first round of 300 clients."""


class Crowd:
    """Clients of a server, of different kinds.

    Attributes:
        seen: the number of clients of each kind.
    """

    def __init__(self, server: ServerProcess, model: CharRNN, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self._got: list[
            tuple[Callable[[], str], int, int]
        ] = []  # texts to come, with their lengths and seeds
        self._server = server
        self._model = model
        self._draw = random.Random(seed)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def come(self, count: int) -> None:
        """Run a number of clients, started at random moments."""
        kinds = [
            *[self.reads] * 4,
            *[self.leaves] * 4,
            *[self.reads_slowly] * 2,
            *[self.stops_halfway] * 2,
            *[self.asks_nonsense] * 3,
            *[self.sends_too_much] * 1,
            *[self.asks_twice_on_a_connection] * 1,
            *[self.shuts_its_side] * 1,
        ]

        async def one() -> None:
            kind = self._draw.choice(kinds)
            await asyncio.sleep(self._draw.uniform(0, 5))
            async with self._room:
                async with asyncio.timeout(120):
                    await kind()
            self.seen[kind.__name__] += 1

        await asyncio.gather(*(one() for _ in range(count)))

    def lost(self) -> int:
        """The number of wrong texts among the clients that waited for them."""
        return sum(
            text() != self._model.generate("LORD ", length, seed=seed, temperature=0.9, echo=False)
            for text, length, seed in self._got
        )

    def request(self, length: int, *, stream: bool = True) -> tuple[bytes, int]:
        """A request, and its seed."""
        seed = self._draw.randrange(1 << 40)
        fields = {"prompt": "LORD ", "max_tokens": length, "temperature": 0.9, "seed": seed, "stream": stream}
        return post("/v1/completions", fields), seed

    async def reads(self) -> None:
        length = self._draw.randrange(1, 2000)
        request, seed = self.request(length)
        client = await Client.connect(self._server.port, request)
        await client.ended
        self._got.append((client.text, length, seed))

    async def leaves(self) -> None:
        request, _ = self.request(20_000)
        client = await Client.connect(self._server.port, request)
        await asyncio.wait([client.ended], timeout=self._draw.uniform(0, 0.3))
        assert client.transport is not None
        self._draw.choice([client.transport.abort, client.transport.close])()

    async def reads_slowly(self) -> None:
        request, seed = self.request(3000)
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        opened.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(opened, ("127.0.0.1", self._server.port))
        client = Client(b"")
        await loop.sock_sendall(opened, request)
        with opened:
            while data := await loop.sock_recv(opened, 4096):
                client.data_received(data)
                await asyncio.sleep(0.01)
        self._got.append((client.text, 3000, seed))

    async def stops_halfway(self) -> None:
        request, _ = self.request(10)
        client = await Client.connect(self._server.port, request[: self._draw.randrange(len(request))])
        if self._draw.random() < 0.5:  # otherwise it waits until the server closes it
            await asyncio.sleep(self._draw.random())
            assert client.transport is not None
            client.transport.abort()
        else:
            await client.ended

    async def asks_nonsense(self) -> None:
        draw = self._draw
        body = draw.choice(
            [b"{", b"[]", b"null", b"[" * 100_000, b'{"prompt": 1e999}', draw.randbytes(500), b""]
        )
        request = draw.choice(
            [
                post("/v1/completions", body),
                post("/trace", body),
                post("/tokenize", body),
                post("/v1/nothing", body),
                draw.randbytes(300) + b"\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            ]
        )
        client = await Client.connect(self._server.port, request)
        await client.ended
        assert 400 <= client.status < 500, (request[:100], client.status, client.body)

    async def sends_too_much(self) -> None:
        client = await Client.connect(self._server.port, post("/v1/completions", b" " * (4 << 20)))
        await client.ended
        assert client.status in (413, 0)  # 0: the connection was closed while it was still sending

    async def asks_twice_on_a_connection(self) -> None:
        (first, one), (second, other) = self.request(50, stream=False), self.request(60, stream=False)
        client = await Client.connect(
            self._server.port, first.replace(b"Connection: close\r\n", b"") + second
        )
        await client.ended
        answer = client.raw.decode()
        assert answer.count("HTTP/1.1 200 OK") == 2
        texts = re.findall(r'"text":("(?:[^"\\]|\\.)*")', answer)
        self._got.append((lambda: json.loads(texts[0]), 50, one))
        self._got.append((lambda: json.loads(texts[1]), 60, other))

    async def shuts_its_side(self) -> None:
        request, seed = self.request(500)
        client = await Client.connect(self._server.port, request)
        assert client.transport is not None
        client.transport.write_eof()  # it sends nothing more, and may or may not get its text
        await client.ended
        if client.raw.endswith(b"0\r\n\r\n"):
            self._got.append((client.text, 500, seed))


def files_in_the_end(server: ServerProcess) -> int:
    """The server's number of open files after it has closed all connections that it closes itself."""
    time.sleep(IDLE_SECONDS + 3)
    return server.files


def test_a_thousand_short_lived_clients_leak_nothing(tmp_path: Path) -> None:
    model = CharRNN.load(MODEL, device="cpu")
    log = tmp_path / "stderr"
    options = ("--idle-seconds", str(IDLE_SECONDS))
    with log.open("wb") as stderr, charrnn_serve(str(MODEL), *options, stderr=stderr) as server:
        asyncio.run(Crowd(server, model, 2).come(300))
        files = files_in_the_end(server)
        megabytes = server.megabytes
        crowd = Crowd(server, model, 1)
        asyncio.run(crowd.come(CLIENTS))
        assert crowd.seen.total() == CLIENTS
        assert crowd.lost() == 0
        assert server.streams() == 0
        assert files_in_the_end(server) <= files
        assert server.megabytes - megabytes <= GROWTH_MB
        last = Crowd(server, model, 1)
        asyncio.run(last.reads())
        assert last.lost() == 0
        server.process.terminate()
        assert server.process.wait(15) == 0
    assert log.read_text() == ""
