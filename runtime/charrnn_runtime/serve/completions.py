"""POST /v1/completions: texts, whole or as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Final

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from charrnn_runtime.errors import OutOfMemoryError, QueueFullError
from charrnn_runtime.scheduling.request import Request
from charrnn_runtime.serve.api_errors import (
    ApiError,
    busy,
    failed,
    json_bytes,
    unavailable,
)
from charrnn_runtime.serve.asked import Asked
from charrnn_runtime.serve.bodies import read_object
from charrnn_runtime.serve.choices import Choice, Piece, WholeChoice
from charrnn_runtime.serve.middleware import note
from charrnn_runtime.serve.service import Service, service_of
from charrnn_runtime.serve.streams import Inbox

ABORT: Final = "charrnn.abort"
"""The key of an ASGI scope under which a server has a function that ends the connection at once."""

_EVENTS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # proxies pass each event on
]

_TURN: Final = 0.002
"""For how many seconds one answer works before the others have their turn."""

_LAST_SECONDS: Final = 1.0
"""How long a client that was too slow may take to read why its stream ends."""


class _Gone(Exception):
    """The client has closed its connection."""


async def completions(request: HttpRequest) -> Response:
    """Texts for prompts."""
    service = service_of(request)
    service.check_open()
    body = await read_object(request, service.settings.max_body)
    if service.settings.log_prompts:
        note(request.scope, prompt=repr(body.get("prompt")))
    answer = _Answer(Asked.of(body, service), service, request.scope)
    if answer.asked.stream:
        return _EventStream(answer)
    return await answer.whole(request.receive)


class _Answer:
    """The answer to a request for completions, from the first stream to the last.

    Attributes:
        asked: what it answers.
        seconds: how long it may take.
    """

    def __init__(self, asked: Asked, service: Service, scope: Scope) -> None:
        """An answer of which nothing runs yet."""
        self.asked = asked
        self.seconds = service.settings.max_seconds
        self._max_waiting = service.settings.max_waiting
        self._scope = scope
        self._metrics = asked.served.metrics
        self._requests = asked.requests()
        self._choices: dict[Request, Choice] = {
            each: Choice(asked, index) for index, each in enumerate(self._requests)
        }
        self._unfinished = len(self._requests)
        self._came = self._requests[0].came
        self._first = 0.0  # when the first piece came
        self._head = {
            "id": service.new_id(),
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.served.name,
            "seed": asked.seed,
        }

    def late(self) -> ApiError:
        """The error of an answer that takes too long."""
        return ApiError(
            504,
            f"the request took longer than the {self.seconds:g} seconds that this server allows",
            code="timeout",
            headers={"x-should-retry": "false"},
        )

    @contextmanager
    def _running(self, receive: Receive) -> Generator[Inbox]:
        """The streams: they end where the client goes away or the time is up.

        Raises:
            ApiError: too many streams wait.
        """
        try:
            inbox = self.asked.served.streams.open(self._requests)
        except QueueFullError:
            raise busy(
                f"the server is busy: {self.asked.served.streams.waiting:,} streams wait, and at most "
                f"{self._max_waiting:,} may; ask again in a moment"
            ) from None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.seconds, inbox.fail, self.late())
        watch = loop.create_task(_until_gone(receive, inbox))
        try:
            with inbox:
                yield inbox
        except OutOfMemoryError as error:
            raise unavailable(str(error), "out_of_memory") from error
        finally:
            timer.cancel()
            watch.cancel()
            self._count()

    async def _take(self, inbox: Inbox, give: Callable[[Piece], object]) -> None:
        """Wait for what comes, and give all pieces of it; much of it does not hold the event loop up."""
        outputs = await inbox.get()
        begin = time.perf_counter()
        for output in outputs:
            for piece in self._choices[output.request].take(output):
                give(piece)
                if time.perf_counter() - begin > _TURN:
                    await asyncio.sleep(0)
                    inbox.check()
                    begin = time.perf_counter()
            if output.finished is not None:
                self._unfinished -= 1
                self._metrics.success[output.finished].inc()

    async def whole(self, receive: Receive) -> Response:
        """The answer in one piece."""
        choices = [WholeChoice() for _ in self._requests]
        try:
            with self._running(receive) as inbox:
                while self._unfinished:
                    await self._take(inbox, lambda piece: choices[piece.index].add(piece))
        except _Gone:
            return Response(status_code=499)  # no one reads it
        said = [json_bytes(self._head)[:-1], b',"choices":[', b",".join(each.json() for each in choices)]
        said += [b'],"usage":', json_bytes(self._usage()), b"}"]
        return Response(b"".join(said), media_type="application/json")

    async def events(self, receive: Receive) -> AsyncGenerator[bytes]:
        """The answer as server-sent events, one or more at a time, as they come; the first are none."""
        before = b"data: " + json_bytes(self._head)[:-1] + b',"choices":['
        after = b'],"usage":null}\n\n' if self.asked.include_usage else b"]}\n\n"
        with self._running(receive) as inbox:
            yield b""
            while self._unfinished:
                events: list[bytes] = []
                await self._take(inbox, lambda piece: events.extend((before, piece.json(), after)))  # noqa: B023
                if events:
                    self._first = self._first or time.perf_counter()
                    yield b"".join(events)
        if self.asked.include_usage:
            yield b"data: " + json_bytes({**self._head, "choices": [], "usage": self._usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        read = sum(map(len, self.asked.prompts))
        written = sum(each.sampled for each in self._choices.values())
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _count(self) -> None:
        """Note what is counted, and what the access log says of it."""
        now, usage = time.perf_counter(), self._usage()
        self._metrics.prompt_tokens.inc(usage["prompt_tokens"])
        self._metrics.generation_tokens.inc(usage["completion_tokens"])
        for each in self._requests:
            if each.started is not None:
                self._metrics.queue_time.observe(each.started - each.came)
        if self._first:
            self._metrics.first_token.observe(self._first - self._came)
        if not self._unfinished:
            self._metrics.latency.observe(now - self._came)
            if self._first and usage["completion_tokens"] > 1:
                steps = max(each.sampled for each in self._choices.values())
                self._metrics.per_token.observe((now - self._first) / steps)
        note(
            self._scope,
            model=self.asked.served.name,
            choices=len(self._requests),
            read=usage["prompt_tokens"],
            sampled=usage["completion_tokens"],
        )


class _EventStream(Response):
    """A response that sends the events of an answer, and stops the streams where the client goes away."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that does not read them in time loses its connection."""
        try:
            # Sending waits for a slow client, so that the time of the streams alone is no limit.
            async with asyncio.timeout(self._answer.seconds + _LAST_SECONDS):
                await self._send_events(receive, send)
        except TimeoutError:
            if ABORT in scope:
                scope[ABORT]()
                await asyncio.sleep(0)

    async def _send_events(self, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with aclosing(self._answer.events(receive)) as events:
                async for data in events:
                    if not begun:
                        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                        begun = True
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except _Gone:
            return
        except Exception as error:
            if not begun:
                raise
            said = error if isinstance(error, ApiError) else failed(error)
            data = b"data: " + json_bytes(said.as_dict()) + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
            if said is not error:
                raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, inbox: Inbox) -> None:
    """Let an inbox fail once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.put(_Gone())  # also where all streams have finished, and their answer is being written
