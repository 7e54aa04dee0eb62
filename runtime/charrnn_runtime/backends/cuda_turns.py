"""Coordinates the threads that use a GPU.

There are two reasons. If the host does not wait for the steps of a thread, another thread that runs the same
session could be given memory that is still in use: onnxruntime reclaims it as soon as a step has started. And
CUDA forbids many operations, such as allocation, while any thread captures a graph. Moreover, onnxruntime
binds a captured graph to the thread that captured it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Turns:
    """A readers-writer lock: many threads share the GPU, or one uses it exclusively."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sharing = 0
        self._taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the GPU together with others. Not reentrant."""
        with self._condition:
            self._condition.wait_for(lambda: not self._taken)
            self._sharing += 1
        try:
            yield
        finally:
            with self._condition:
                self._sharing -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Use the GPU exclusively; others wait."""
        with self._condition:
            self._condition.wait_for(lambda: not self._taken)
            self._taken = True
        try:
            with self._condition:
                self._condition.wait_for(lambda: not self._sharing)
            yield
        finally:
            with self._condition:
                self._taken = False
                self._condition.notify_all()


turns: Final = _Turns()

_session_locks: Final[weakref.WeakKeyDictionary[Any, threading.Lock]] = weakref.WeakKeyDictionary()
_making: Final = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def session_lock(session: Any) -> threading.Lock:
    """The lock of a session, shared by all its users."""
    with _making:
        return _session_locks.setdefault(session, threading.Lock())


def in_graph_thread(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Run a function in the thread of the process that captures and replays CUDA graphs; returns its result.

    It returns, or raises, only once the function has ended, even if this thread is interrupted: the data that
    the function uses must not change before.
    """
    global _pool
    with _making:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(1, "charrnn-cuda-graphs")
        future = _pool.submit(work, *args, **kwargs)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            from concurrent.futures import wait

            wait([future])
        raise
