"""Runs requests that arrive, end and are cancelled at any character, in batches and on all cores.

Requests wait in a queue until a row is free, first come, first served. Rows are divided evenly among as many
lanes as there are threads; a lane is a batch that runs in one thread. The output of a stream depends neither
on other streams nor on where it runs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from charrnn_runtime.arguments import instance, whole_number_from
from charrnn_runtime.backends.device import error_of
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.errors import CharRNNError, QueueFullError
from charrnn_runtime.forks import renew_after_fork
from charrnn_runtime.format import spec
from charrnn_runtime.logprobs import LogProbs
from charrnn_runtime.scheduling.lane import Lane
from charrnn_runtime.scheduling.request import Output, Request

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

CPU_ROWS: Final = 64
GPU_ROWS: Final = 8192
"""The default number of concurrent streams per CPU thread, or on a GPU. On CPUs, more than 64 bring no
speedup (measured): the batch no longer fits in the caches."""

MAX_WAITING: Final = 16_384
"""The default limit on queued requests."""

_MOST_WAITING: Final = 1 << 40

WORTH_A_LANE: Final = 8
"""The minimum number of streams per lane that pays for another thread."""

_ROUND_SECONDS: Final = 0.05
"""The maximum time that concurrent lanes run without returning to Python, if there is no output or input.
They share the interpreter, so work between the blocks of one lane delays the others."""

_NO_TOKENS: Final = np.empty(0, np.int64)


class Scheduler:
    """Runs requests. Any thread may submit and cancel at any time; only one at a time may call `run_block`.

    Attributes:
        max_batch_size: the number of streams to run at once.
        max_waiting: the maximum number of queued requests.
        on_start: called with each request when it starts, in the thread that runs the block; it must not
            call the scheduler. None by default.

    Examples:
        >>> scheduler = model.scheduler()  # doctest: +SKIP
        >>> scheduler.submit(model.request("LORD ", 200, seed=1))  # doctest: +SKIP
        >>> while scheduler.busy:  # doctest: +SKIP
        ...     for output in scheduler.run_block():
        ...         print(model.vocabulary.decode(output.tokens), output.finished)
    """

    def __init__(
        self, engine: Engine, *, max_batch_size: int | None = None, max_waiting: int = MAX_WAITING
    ) -> None:
        """Create a scheduler without requests, which allocates no buffers.

        Args:
            engine: the model on its device.
            max_batch_size: see the attributes; None for the best number for the device.
            max_waiting: see the attributes.

        Raises:
            SettingError: a number is invalid.
        """
        on_cpu = engine.device == "cpu"
        self._lane_count = engine.threads if on_cpu else 1
        if max_batch_size is None:
            max_batch_size = CPU_ROWS * self._lane_count if on_cpu else GPU_ROWS
        self.max_batch_size = whole_number_from("max_batch_size", max_batch_size, 1, spec.MAX_STREAMS)
        self.max_waiting = whole_number_from("max_waiting", max_waiting, 0, _MOST_WAITING)
        self.on_start: Callable[[Request], None] | None = None
        self._engine = engine
        self._lock = threading.Lock()  # protects the next four, which any thread may change
        self._waiting: deque[Request] = deque()
        self._running: set[Request] = set()
        self._cancelled: set[Request] = set()
        self._news = 0  # counts submissions and cancellations
        self._taken_in = 0  # the value of _news when lanes were last filled
        self._sampled_before = 0
        self._one_at_a_time = threading.Lock()
        self._lanes: list[Lane] = []
        self._pool: ThreadPoolExecutor | None = None
        self._blocks: dict[Future[None], Lane] = {}  # running in the pool
        self._seen: dict[Lane, int] = {}  # the _news that each lane has seen; none once streams ended
        self._lost = False  # whether other threads were running requests when the process was forked
        renew_after_fork(self)

    def _after_fork(self) -> None:
        """In a forked child, keep the streams if all were idle; streams run by other threads are lost."""
        at_rest = not (self._blocks or self._lock.locked() or self._one_at_a_time.locked())
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._pool, self._blocks = None, {}
        self._lost = self._lost or (self.busy and (not at_rest or self._engine.device != "cpu"))
        if not at_rest:
            self._lanes, self._seen = [], {}

    @property
    def busy(self) -> bool:
        """Whether any request is running or queued."""
        return bool(self._waiting or self._running or self._lost)

    @property
    def running(self) -> int:
        """The number of running requests."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """The number of queued requests."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """The number of requests that could be submitted and start immediately."""
        return self.max_batch_size - len(self._waiting) - len(self._running)

    @property
    def sampled(self) -> int:
        """The number of tokens sampled so far by all streams."""
        return self._sampled_before + sum(lane.sampled for lane in self._lanes)

    def submit(self, *requests: Request) -> None:
        """Add requests to the end of the queue, in this order.

        Raises:
            QueueFullError: the queue has too little room; none of the requests is accepted.
            SettingError: a value is not a request; none of the requests is accepted.
        """
        for each in requests:
            instance("requests", each, Request)
        with self._lock:
            if len(self._waiting) + len(requests) > self.max_waiting:
                raise QueueFullError(
                    f"the queue is full: {len(self._waiting):,} of at most {self.max_waiting:,} requests "
                    "are queued; submit again when some have finished, or raise max_waiting",
                    "max_waiting",
                )
            self._waiting.extend(requests)
            self._news += 1

    def cancel(self, request: Request) -> None:
        """Stop a request without further output; its row is free after the current block at the latest.

        Requests that have finished, or were never submitted, are ignored.
        """
        instance("request", request, Request)
        with self._lock:
            if request in self._running:
                self._cancelled.add(request)
                self._news += 1
            elif request in self._waiting:
                self._waiting.remove(request)

    def wake(self) -> None:
        """Make a `run_block` in another thread return after the current block. Takes no lock."""
        self._news += 1

    def run_block(self) -> list[Output]:
        """Run a block of steps; returns the outputs of finished and of live requests.

        With several lanes, it returns as soon as one of them has output, or after 50 ms.

        Raises:
            OutOfMemoryError: the device has too little memory for this many streams. All requests are lost.
            CharRNNError: onnxruntime cannot run the model.
        """
        with self._one_at_a_time:
            try:
                return self._run_block()
            except MemoryError as error:
                self._close()
                raise error_of(error, "", self._engine.device, self.max_batch_size) from error
            except BaseException:
                self._close()
                raise

    def _run_block(self) -> list[Output]:
        if self._lost:
            raise CharRNNError(
                "these streams were running when the process was forked, and only the parent can continue "
                "them; start them again in the child"
            )
        outputs = self._admit()
        ready = [lane for lane in self._lanes if lane.running and lane not in self._blocks.values()]
        if len(ready) == 1 and not self._blocks:
            ready[0].run()
            return outputs + self._collect(ready[0])
        for lane in ready:
            self._blocks[self._start(self._run_round, lane, self._taken_in)] = lane
        if self._blocks:
            from concurrent.futures import FIRST_COMPLETED, wait

            for block in wait(self._blocks, return_when=FIRST_COMPLETED).done:
                lane = self._blocks.pop(block)
                block.result()
                outputs += self._collect(lane)
        return outputs

    def _run_round(self, lane: Lane, taken_in: int) -> None:
        """Run blocks of a lane until it has output, or there are new requests or cancellations."""
        end = time.perf_counter() + _ROUND_SECONDS
        lane.run_on(lambda: self._news != taken_in or time.perf_counter() > end)

    def _start(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._lane_count, "charrnn-lane")
        return self._pool.submit(work, *arguments)

    def _collect(self, lane: Lane) -> list[Output]:
        outputs = lane.collect()
        with self._lock:
            outputs = [each for each in outputs if each.request not in self._cancelled]
            ended = [each.request for each in outputs if each.finished]
            self._running.difference_update(ended)
        if ended:
            self._seen.pop(lane, None)
        return outputs

    def _admit(self) -> list[Output]:
        """Start queued requests in idle lanes; returns the outputs of requests that need no steps."""
        news = self._news
        at_rest = [lane for lane in self._lanes if lane not in self._blocks.values()]
        if news == self._taken_in and all(self._seen.get(lane) == news for lane in at_rest):
            return []
        outputs: list[Output] = []
        with self._lock:
            for lane in at_rest:
                lane.drop(self._cancelled)
            still = {each for lane in self._blocks.values() for each in lane.requests if each is not None}
            self._running -= self._cancelled - still
            self._cancelled &= still
            total = min(len(self._running) + len(self._waiting), self.max_batch_size)
            wanted = max(1, min(self._lane_count, total // WORTH_A_LANE))
            while len(self._lanes) < wanted:
                self._lanes.append(Lane(self._engine))
                at_rest.append(self._lanes[-1])
            share = -(-total // wanted)
            joining = []
            for lane in at_rest:
                taken = self._take(min(share - lane.running, self.max_batch_size - len(self._running)))
                outputs += [_unrun(each, self._engine) for each in taken if not each.steps]
                joining.append([each for each in taken if each.steps])
                self._running.update(joining[-1])
        self._taken_in = news
        self._seen.update(dict.fromkeys(at_rest, news))
        for lane, requests in zip(at_rest, joining, strict=True):
            if requests or (lane.running and not self._waiting):
                lane.join(requests, share)
            elif not lane.running:
                lane.release()
        return outputs

    def _take(self, count: int) -> list[Request]:
        """The next queued requests, ``count`` of which need a row."""
        taken: list[Request] = []
        while self._waiting and (count > 0 or not self._waiting[0].steps):
            taken.append(self._waiting.popleft())
            count -= taken[-1].steps > 0
        if self.on_start is not None:
            for request in taken:
                self.on_start(request)
        return taken

    def close(self) -> None:
        """Drop all requests and release the buffers; waits for running blocks."""
        with self._one_at_a_time:
            self._close()

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._blocks.clear()
        self._sampled_before = self.sampled
        for lane in self._lanes:
            lane.release()
        self._lanes.clear()
        self._seen.clear()
        with self._lock:
            self._waiting.clear()
            self._running.clear()
            self._cancelled.clear()
            self._lost = False


def _unrun(request: Request, engine: Engine) -> Output:
    """The output of a request without steps: its state is unchanged, with its prompt pending."""
    state = request.state
    row = np.zeros(engine.info.state_size, np.float32) if state is None else state
    logprobs = LogProbs.nothing(request.logprobs or 0) if request.wants_logprobs else None
    return Output(
        request,
        _NO_TOKENS,
        logprobs=logprobs,
        finished="length",
        row=row,
        next_token=request.first_token,
        position=request.position,
    )
