"""Streams for asyncio: a thread runs all streams of a model, and passes each event loop its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.forks import renew_after_fork
from charrnn_runtime.scheduling.request import Output, Request
from charrnn_runtime.scheduling.scheduler import Scheduler
from charrnn_runtime.state import State
from charrnn_runtime.streaming import TextStream

_Give = Callable[[Output | BaseException], None]


class Background:
    """Runs a scheduler in a thread while it has work."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._takers: dict[Request, _Give] = {}
        self._abandoned: deque[Request] = deque()
        self._thread: threading.Thread | None = None
        renew_after_fork(self)

    def _after_fork(self) -> None:
        """In a forked child, start over: the thread and its streams belong to the parent."""
        self._lock = threading.Lock()
        self._takers, self._thread = {}, None
        self._scheduler.close()  # already renewed, since it is older

    @property
    def idle(self) -> bool:
        """Whether nothing is running or queued, and no thread is left."""
        return self._thread is None

    def submit(self, give: _Give, *requests: Request) -> None:
        """Run requests; ``give`` is called in the thread with each output, or with an error for each.

        Raises:
            QueueFullError: the queue has too little room; none of the requests is accepted.
        """
        with self._lock:
            self._scheduler.submit(*requests)
            for request in requests:
                self._takers[request] = give
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="charrnn-background", daemon=True)
                self._thread.start()

    def cancel(self, *requests: Request) -> None:
        """Cancel requests; no more output follows."""
        with self._lock:
            for request in requests:
                self._takers.pop(request, None)
                self._scheduler.cancel(request)

    def abandon(self, request: Request) -> None:
        """Cancel a request soon. Takes no lock, so it is safe during garbage collection."""
        self._abandoned.append(request)
        self._scheduler.wake()

    def _work(self) -> None:
        while True:
            while self._abandoned:
                self.cancel(self._abandoned.popleft())
            try:
                news: list[tuple[Request, Output | BaseException]] = [
                    (output.request, output) for output in self._scheduler.run_block()
                ]
            except BaseException as error:  # the scheduler dropped all requests
                with self._lock:
                    news = [(request, error) for request in self._takers]
                    for request in self._takers:
                        self._scheduler.cancel(request)  # requests that arrived later
            for request, what in news:
                ends = isinstance(what, BaseException) or what.finished is not None
                with self._lock:
                    give = self._takers.pop(request, None) if ends else self._takers.get(request)
                if give is not None:
                    give(what)
            with self._lock:
                if not self._scheduler.busy:
                    self._scheduler.close()
                    self._thread = None
                    return


class AsyncText:
    """The text of one stream, for ``async for``. Closing or garbage collecting it cancels the stream.

    Attributes:
        seed: the seed.
        state: the state of the stream; until the end, its initial state.
        generated: the number of characters (bytes, at the byte level) sampled so far.
        finish_reason: see `LiveText`.
    """

    def __init__(
        self,
        background: Background,
        request: Request,
        written: TextStream,
        state: State,
        prompt: bytes = b"",
    ) -> None:
        self.seed = request.seed
        self.state = state
        self.generated = 0
        self.finish_reason: str | None = None
        self._background = background
        self._request = request
        self._written = written
        self._prompt = prompt  # to be echoed first
        self._arrived: asyncio.Queue[Output | BaseException] | None = None
        self._ended = False
        self._process = 0  # the process that started the stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._prompt:
            text, self._prompt = self._written.begin(self._prompt), b""
            if text:
                return text
        while not self._ended:
            if self._arrived is None:
                self._arrived = self._begin()
            if self._process != os.getpid():
                self._ended = True
                raise CharRNNError(
                    "this text was started before the process forked, and only the parent can continue it; "
                    "start it again in the child"
                )
            text = self._take(await self._arrived.get())
            while not self._arrived.empty():  # give slow readers everything at once
                text += self._take(self._arrived.get_nowait())
            if text:
                return text
        raise StopAsyncIteration

    def _begin(self) -> asyncio.Queue[Output | BaseException]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Output | BaseException]()
        background, request = self._background, self._request
        self._process = os.getpid()

        def give(what: Output | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, what)
            except RuntimeError:  # the loop is closed, so nobody is reading
                background.abandon(request)

        background.submit(give, request)
        return arrived

    def _take(self, what: Output | BaseException) -> str:
        if isinstance(what, BaseException):
            self._ended = True
            raise what
        self.generated += len(what.tokens)
        text = self._written.push(what.tokens)
        if what.finished:
            self._ended = True
            self.state, self.finish_reason = what.state, what.finished
            text += self._written.finish()
        return text

    async def aclose(self) -> None:
        """Cancel the stream; pending output is dropped."""
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self.finish_reason = "cancelled"
        if self._arrived is not None and not self._ended:
            self._background.abandon(self._request)
        self._ended = True
        self._prompt = b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def __del__(self) -> None:
        self._end()
