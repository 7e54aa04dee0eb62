"""POST /v1/completions: texts, whole or as they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from charrnn_runtime.errors import QueueFullError
from charrnn_runtime.serve.api_errors import ApiError, busy, json_bytes, json_response
from charrnn_runtime.serve.asked import Asked
from charrnn_runtime.serve.bodies import read_object
from charrnn_runtime.serve.choices import Choice
from charrnn_runtime.serve.service import Service, service_of
from charrnn_runtime.serve.streams import Inbox

_EVENTS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # proxies pass each event on
]


class _Gone(Exception):
    """The client has closed its connection."""


async def completions(request: Request) -> Response:
    """Texts for prompts."""
    service = service_of(request)
    service.check_open()
    asked = Asked.of(await read_object(request, service.settings.max_body), service)
    answer = _Answer(asked, service)
    if asked.stream:
        return _EventStream(answer)
    return await answer.whole(request.receive)


class _Answer:
    """The answer to a request for completions, from the first stream to the last."""

    def __init__(self, asked: Asked, service: Service) -> None:
        """Submit the streams.

        Raises:
            ApiError: too many streams wait.
        """
        self._asked = asked
        self._service = service
        self._requests = asked.requests()
        self._choices = {each: Choice(asked, index) for index, each in enumerate(self._requests)}
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.served.name,
            "seed": asked.seed,
        }
        try:
            self._inbox = asked.served.streams.open(self._requests)
        except QueueFullError:
            raise busy(
                f"the server is busy: {asked.served.streams.waiting:,} streams wait, and at most "
                f"{service.settings.max_waiting:,} may; ask again in a moment"
            ) from None

    @contextmanager
    def _watched(self, receive: Receive) -> Generator[Inbox]:
        """The inbox, which fails where the client goes away or the time is up, and is closed in the end."""
        seconds = self._service.settings.max_seconds
        late = ApiError(
            504,
            f"the request took longer than {seconds:g} seconds, the most that this server allows; ask for less",
            code="timeout",
            headers={"x-should-retry": "false"},
        )
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._inbox.fail, late)
        watch = loop.create_task(_until_gone(receive, self._inbox))
        try:
            with self._inbox:
                yield self._inbox
        finally:
            timer.cancel()
            watch.cancel()

    async def whole(self, receive: Receive) -> Response:
        """The answer in one piece."""
        pieces: dict[int, dict[str, Any]] = {}
        try:
            with self._watched(receive) as inbox:
                while len(pieces) < len(self._choices):
                    for output in await inbox.get():
                        piece = self._choices[output.request].take(output)
                        assert piece is not None
                        pieces[piece["index"]] = piece
        except _Gone:
            return Response(status_code=499)  # no one reads it
        choices = [pieces[index] for index in range(len(pieces))]
        return json_response({**self._head, "choices": choices, "usage": self._usage()})

    async def events(self, receive: Receive) -> Any:
        """The answer as server-sent events: bytes, of one or more of them, as they come."""
        before = json_bytes(self._head)[:-1] + b',"choices":['
        after = b'],"usage":null}\n\n' if self._asked.include_usage else b"]}\n\n"
        unfinished = len(self._choices)
        with self._watched(receive) as inbox:
            while unfinished:
                events = []
                for output in await inbox.get():
                    piece = self._choices[output.request].take(output)
                    unfinished -= output.finished is not None
                    if piece is not None:
                        events += [b"data: ", before, json_bytes(piece), after]
                if events:
                    yield b"".join(events)
        if self._asked.include_usage:
            yield b"data: " + json_bytes({**self._head, "choices": [], "usage": self._usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        read = sum(map(len, self._asked.prompts))
        written = sum(each.sampled for each in self._choices.values())
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class _EventStream(Response):
    """A response that sends the events of an answer, and stops the streams where the client goes away."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        async with contextlib.aclosing(self._answer.events(receive)) as events:
            try:
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except _Gone:
                return
            except Exception as error:
                if not isinstance(error, ApiError):
                    error = ApiError(500, f"the server failed: {type(error).__name__}; see its log")
                data = b"data: " + json_bytes(error.as_dict()) + b"\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, inbox: Inbox) -> None:
    """Let an inbox fail once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.fail(_Gone())
