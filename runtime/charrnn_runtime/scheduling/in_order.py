"""Yields the outputs of requests in the order of the requests, regardless of the order of completion."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Final

from charrnn_runtime.scheduling.request import Output, Request
from charrnn_runtime.scheduling.scheduler import Scheduler

HELD: Final = 1 << 20
"""The most characters of later requests to hold while an earlier one runs."""

READ_AT_ONCE: Final = 1 << 24
"""The most prompt characters of running requests before `in_order` stops taking new ones."""

_HELD_AT_LEAST: Final = 32
"""The fixed cost of holding an output, in characters."""


def in_order(
    scheduler: Scheduler,
    requests: Iterable[Request],
    *,
    held: int = HELD,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Output, None, None]:
    """Run requests, which are taken as rows become free, and close the scheduler at the end.

    Args:
        scheduler: a scheduler that nothing else uses.
        requests: the requests, which must not be live.
        held: take no more requests while outputs of this many characters wait for an earlier one.
        on_progress: called after each block of steps with the number of characters that it sampled.

    Yields:
        The output of each request, in order.
    """
    source = iter(requests)
    places: dict[Request, int] = {}
    waiting: dict[int, Output] = {}
    waiting_size = reading = drawn = given = told = 0
    with closing(scheduler):
        while True:
            while scheduler.room > 0 and waiting_size < held and reading < READ_AT_ONCE:
                request = next(source, None)
                if request is None:
                    held = 0  # no requests are left
                    break
                places[request] = drawn
                drawn += 1
                reading += len(request.prompt)
                scheduler.submit(request)
            if not scheduler.busy:
                return
            outputs = scheduler.run_block()
            if on_progress is not None:
                told, before = scheduler.sampled, told
                on_progress(told - before)
            for output in outputs:
                waiting[places.pop(output.request)] = output
                reading -= len(output.request.prompt)
                waiting_size += _size(output)
            while given in waiting:
                output = waiting.pop(given)
                waiting_size -= _size(output)
                given += 1
                yield output


def _size(output: Output) -> int:
    scored = 0 if output.logprobs is None else output.logprobs.values.size + len(output.logprobs)
    return len(output.tokens) + scored + _HELD_AT_LEAST
