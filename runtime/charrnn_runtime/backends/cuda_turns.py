"""Whose turn it is on a GPU, of the threads that use it.

Two things need it. While the host does not wait for the steps of a thread, another one that ran the same
session would be given memory that they still use: onnxruntime takes it back as soon as a step has begun. And
CUDA forbids much, such as to allocate, while any thread captures a graph. onnxruntime, moreover, keeps a
captured graph for the thread that captured it.
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
    """How many threads use the GPU, and whether one of them wants it for itself."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sharing = 0
        self._taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the GPU beside others. This must not be asked for again within."""
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
        """Use it while no one else does; whoever comes meanwhile waits."""
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
    """The lock of a session, whoever uses it."""
    with _making:
        return _session_locks.setdefault(session, threading.Lock())


def in_graph_thread(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Do some work in the one thread of the process that captures and replays CUDA graphs; gives its result.

    It returns, or raises, once the work has ended, also where this thread is interrupted meanwhile: what the
    work reads and writes must not change before.
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
