"""POST /v1/completions: texts, whole or streamed."""

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
from charrnn_runtime.serve.bodies import read_object
from charrnn_runtime.serve.choices import Choice, Piece, WholeChoice
from charrnn_runtime.serve.completion_request import CompletionRequest
from charrnn_runtime.serve.middleware import note
from charrnn_runtime.serve.service import Service, service_of
from charrnn_runtime.serve.streams import Inbox

ABORT: Final = "charrnn.abort"
"""The key of an ASGI scope under which a server stores a function that aborts the connection."""

_EVENTS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # makes proxies forward each event
]

_TURN: Final = 0.002
"""The longest time in seconds that one response works before it yields to the others."""

_LAST_SECONDS: Final = 1.0
"""The time in seconds that a client that was too slow has to read the error."""


class _Gone(Exception):
    """The client closed its connection."""


async def completions(request: HttpRequest) -> Response:
    """Generate completions."""
    service = service_of(request)
    service.check_open()
    body = await read_object(request, service.settings.max_body)
    if service.settings.log_prompts:
        note(request.scope, prompt=repr(body.get("prompt")))
    answer = _Answer(CompletionRequest.of(body, service), service, request.scope)
    if answer.request.stream:
        return _EventStream(answer)
    return await answer.whole(request.receive)


class _Answer:
    """The response to a request for completions.

    Attributes:
        request: the request.
        seconds: the time limit.
    """

    def __init__(self, request: CompletionRequest, service: Service, scope: Scope) -> None:
        """A response that has not started."""
        self.request = request
        self.seconds = service.settings.max_seconds
        self._max_waiting = service.settings.max_waiting
        self._scope = scope
        self._metrics = request.served.metrics
        self._requests = request.requests()
        self._choices: dict[Request, Choice] = {
            each: Choice(request, index) for index, each in enumerate(self._requests)
        }
        self._unfinished = len(self._requests)
        self._came = self._requests[0].came
        self._first = 0.0  # the time of the first piece
        self._head = {
            "id": service.new_id(),
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.served.name,
            "seed": request.seed,
        }

    def late(self) -> ApiError:
        """The error for a request that exceeds the time limit."""
        return ApiError(
            504,
            f"the request exceeded this server's limit of {self.seconds:g} seconds",
            code="timeout",
            headers={"x-should-retry": "false"},
        )

    @contextmanager
    def _running(self, receive: Receive) -> Generator[Inbox]:
        """Run the streams; they stop when the client disconnects or the time is up.

        Raises:
            ApiError: the queue is full.
        """
        try:
            inbox = self.request.served.streams.open(self._requests)
        except QueueFullError:
            raise busy(
                f"the server is busy: {self.request.served.streams.waiting:,} streams are queued; at most "
                f"{self._max_waiting:,} may be; try again in a moment"
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
        """Wait for output and pass on its pieces, without blocking the event loop for long."""
        outputs = await inbox.get()
        begin = time.perf_counter()
        for output in outputs:
            for piece in self._choices[output.request].take(output):
                give(piece)
                if time.perf_counter() - begin > _TURN:
                    await asyncio.sleep(0)
                    begin = time.perf_counter()
            if output.finished is not None:
                self._unfinished -= 1
                self._metrics.success[output.finished].inc()

    async def whole(self, receive: Receive) -> Response:
        """The complete response."""
        choices = [WholeChoice() for _ in self._requests]
        try:
            with self._running(receive) as inbox:
                while self._unfinished:
                    await self._take(inbox, lambda piece: choices[piece.index].add(piece))
        except _Gone:
            return Response(status_code=499)  # the client is gone
        said = [json_bytes(self._head)[:-1], b',"choices":[', b",".join(each.json() for each in choices)]
        said += [b'],"usage":', json_bytes(self._usage()), b"}"]
        return Response(b"".join(said), media_type="application/json")

    async def events(self, receive: Receive) -> AsyncGenerator[bytes]:
        """The response as server-sent events, which may be batched; the first chunks are empty."""
        before = b"data: " + json_bytes(self._head)[:-1] + b',"choices":['
        after = b'],"usage":null}\n\n' if self.request.include_usage else b"]}\n\n"
        with self._running(receive) as inbox:
            yield b""
            while self._unfinished:
                events: list[bytes] = []
                await self._take(inbox, lambda piece: events.extend((before, piece.json(), after)))  # noqa: B023
                if events:
                    self._first = self._first or time.perf_counter()
                    yield b"".join(events)
        if self.request.include_usage:
            yield b"data: " + json_bytes({**self._head, "choices": [], "usage": self._usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        read = sum(map(len, self.request.prompts))
        written = sum(each.sampled for each in self._choices.values())
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _count(self) -> None:
        """Update the metrics and the access log."""
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
            model=self.request.served.name,
            choices=len(self._requests),
            read=usage["prompt_tokens"],
            sampled=usage["completion_tokens"],
        )


class _EventStream(Response):
    """A response that streams events, and stops generating when the client disconnects."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that reads too slowly is disconnected."""
        try:
            # Sending waits for slow clients, so a time limit on the streams alone is not enough.
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
    """Make an inbox fail when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.fail(_Gone())
