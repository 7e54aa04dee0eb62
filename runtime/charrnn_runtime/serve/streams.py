"""Runs the streams of a model for an event loop: in one thread, with one notification per block of steps."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from charrnn_runtime.background import Background
from charrnn_runtime.scheduling.request import Output, Request

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN


class Timed(Request):
    """A request that records when it arrived and when it started, in `time.perf_counter` seconds."""

    __slots__ = ("came", "started")

    def __init__(self, prompt: NDArray[Any], max_length: int, **options: Any) -> None:
        """See `Request`."""
        super().__init__(prompt, max_length, **options)
        self.came = time.perf_counter()
        self.started: float | None = None


def _note_start(request: Request) -> None:
    if isinstance(request, Timed):
        request.started = time.perf_counter()


class Streams:
    """Runs the streams of one model for one event loop."""

    def __init__(self, model: CharRNN, max_running: int | None, max_waiting: int) -> None:
        """Start without streams; see `ServeSettings` for the arguments."""
        self._scheduler = model.scheduler(max_batch_size=max_running, max_waiting=max_waiting)
        self._scheduler.on_start = _note_start
        self._background = Background(self._scheduler)
        self._news: deque[tuple[Inbox, Output | BaseException]] = deque()
        self._notified = False  # whether the event loop has been notified
        self._open: set[Inbox] = set()

    @property
    def busy(self) -> bool:
        """Whether any inbox is open."""
        return bool(self._open)

    @property
    def unfinished(self) -> int:
        """The number of streams of the open inboxes."""
        return sum(len(each.requests) for each in self._open)

    @property
    def idle(self) -> bool:
        """Whether no thread is running."""
        return self._background.idle

    @property
    def running(self) -> int:
        """The number of running streams."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """The number of queued streams."""
        return self._scheduler.waiting

    def open(self, requests: Sequence[Request]) -> Inbox:
        """Run the streams of one HTTP request; call this in the event loop.

        Raises:
            QueueFullError: the queue has too little room; none of the streams is accepted.
        """
        inbox = Inbox(self, requests)
        self._background.submit(inbox.give, *requests)
        self._open.add(inbox)
        return inbox

    def fail(self, error: Exception) -> None:
        """Make all open inboxes fail with an error."""
        for inbox in list(self._open):
            inbox.fail(error)

    def _notify(self, loop: asyncio.AbstractEventLoop, inbox: Inbox, what: Output | BaseException) -> None:
        """Pass output to the event loop; called in the thread that runs the streams."""
        self._news.append((inbox, what))
        if not self._notified:
            self._notified = True
            try:
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed, so nobody is waiting
                for request in inbox.requests:
                    self._background.abandon(request)

    def _deliver(self) -> None:
        self._notified = False  # before taking the output, so that none is missed
        while self._news:
            inbox, what = self._news.popleft()
            inbox.put(what)


class Inbox:
    """The output of the streams of one HTTP request, in order of arrival. Must be closed.

    Attributes:
        requests: the requests of the streams.
    """

    def __init__(self, streams: Streams, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Output] = []
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unfinished = dict.fromkeys(requests)

    def give(self, what: Output | BaseException) -> None:
        """Receive output, in the thread that runs the streams."""
        self._streams._notify(self._loop, self, what)

    def put(self, what: Output | BaseException) -> None:
        """Receive output, in the event loop."""
        if isinstance(what, BaseException):
            self._error = what
        else:
            self._arrived.append(what)
            if what.finished is not None:
                self._unfinished.pop(what.request, None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Make pending and later calls of `get` fail, unless all streams have finished."""
        if self._unfinished:
            self.put(error)

    async def get(self) -> list[Output]:
        """All output since the last call, or the next output.

        Raises:
            BaseException: the error given to `fail`, or of the streams. It is raised immediately, even if
                more output keeps arriving.
        """
        while not self._arrived and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
            self._waiter = None
        if self._error is not None:
            raise self._error.with_traceback(None)  # several inboxes may share the error
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        """Cancel the unfinished streams."""
        self._streams._open.discard(self)
        if self._unfinished:
            self._streams._background.cancel(*self._unfinished)
            self._unfinished = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
