"""The outputs of requests in the order in which they are given, whatever the order in which they end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Final

from charrnn_runtime.scheduling.request import Output, Request
from charrnn_runtime.scheduling.scheduler import Scheduler

HELD: Final = 1 << 20
"""How many characters of later requests `in_order` holds while an earlier one runs."""

READ_AT_ONCE: Final = 1 << 24
"""How many characters the prompts of running requests may have together for `in_order` to draw another."""

_HELD_AT_LEAST: Final = 32
"""What holding an output takes in any case, in characters."""


def in_order(
    scheduler: Scheduler,
    requests: Iterable[Request],
    *,
    held: int = HELD,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Output, None, None]:
    """Run requests that are drawn as rows become free, and close the scheduler in the end.

    Args:
        scheduler: one that nothing else uses.
        requests: which are not live.
        held: no more are drawn while outputs of this many characters wait for that of an earlier request.
        on_progress: called after every block of steps with the number of characters that it sampled.

    Yields:
        The output of each request, in their order.
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
                    held = 0  # there are no more
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
