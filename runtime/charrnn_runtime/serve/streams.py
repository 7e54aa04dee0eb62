"""The streams of a model for an event loop: they share one thread, whose news come in one call a block."""

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
    """A request that remembers when it came and when it got its row, as `time.perf_counter` has it."""

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
        """No streams yet; the arguments are those of `ServeSettings`."""
        self._scheduler = model.scheduler(max_batch_size=max_running, max_waiting=max_waiting)
        self._scheduler.on_start = _note_start
        self._background = Background(self._scheduler)
        self._news: deque[tuple[Inbox, Output | BaseException]] = deque()
        self._told = False  # whether the event loop will look at the news
        self._open: set[Inbox] = set()

    @property
    def busy(self) -> bool:
        """Whether any inbox is open."""
        return bool(self._open)

    @property
    def unfinished(self) -> int:
        """How many streams the open inboxes have."""
        return sum(len(each.requests) for each in self._open)

    @property
    def idle(self) -> bool:
        """Whether no thread runs any more."""
        return self._background.idle

    @property
    def running(self) -> int:
        """How many streams run."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """How many streams wait for a row."""
        return self._scheduler.waiting

    def open(self, requests: Sequence[Request]) -> Inbox:
        """Run the streams of one HTTP request; must be called in the event loop.

        Raises:
            QueueFullError: too many would wait; none of these is taken.
        """
        inbox = Inbox(self, requests)
        self._background.submit(inbox.give, *requests)
        self._open.add(inbox)
        return inbox

    def fail(self, error: Exception) -> None:
        """Let all that wait for something get an error in its place."""
        for inbox in list(self._open):
            inbox.fail(error)

    def _tell(self, loop: asyncio.AbstractEventLoop, inbox: Inbox, what: Output | BaseException) -> None:
        """Pass something on to the event loop; called in the thread that runs the streams."""
        self._news.append((inbox, what))
        if not self._told:
            self._told = True
            try:
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: no one waits any more
                for request in inbox.requests:
                    self._background.abandon(request)

    def _deliver(self) -> None:
        self._told = False  # before the news are taken, so that none is overlooked
        while self._news:
            inbox, what = self._news.popleft()
            inbox.put(what)


class Inbox:
    """What the streams of one HTTP request give, in the order in which it came. Close it in the end.

    Attributes:
        requests: those of the streams.
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
        """Take something from the thread that runs the streams."""
        self._streams._tell(self._loop, self, what)

    def put(self, what: Output | BaseException) -> None:
        """Take something in the event loop."""
        if isinstance(what, BaseException):
            self._error = what
        else:
            self._arrived.append(what)
            if what.finished is not None:
                self._unfinished.pop(what.request, None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Let whoever waits get an error, unless all is finished."""
        if self._unfinished:
            self.put(error)

    async def get(self) -> list[Output]:
        """All that came since the last call, or the first that comes.

        Raises:
            BaseException: what `fail` was given, or what the streams failed with, at once: where more and
                more comes, there is no end to wait for.
        """
        while not self._arrived and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
            self._waiter = None
        self.check()
        arrived, self._arrived = self._arrived, []
        return arrived

    def check(self) -> None:
        """Raise what `get` would raise, if there is something, for whoever is busy with what it gave."""
        if self._error is not None:
            raise self._error.with_traceback(None)  # several inboxes may have been given the same

    def close(self) -> None:
        """Stop the streams that have not finished."""
        self._streams._open.discard(self)
        if self._unfinished:
            self._streams._background.cancel(*self._unfinished)
            self._unfinished = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
