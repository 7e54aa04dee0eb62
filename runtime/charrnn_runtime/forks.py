"""Fork safety: recreates locks and onnxruntime sessions in forked children.

Only the forking thread survives in the child. A lock held by another thread stays locked forever, and
onnxruntime's thread pools are gone: an inherited session can neither run nor be destroyed (onnxruntime's pull
request 31961). Therefore objects with locks or sessions register here, and are notified in the child before
anything else runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

_PATIENCE: Final = 10.0
"""How long a fork waits for sessions that other threads are creating, in seconds."""


if TYPE_CHECKING:
    from typing import Protocol

    class _Renewable(Protocol):
        def _after_fork(self) -> None:
            """Recreate, in a child, what did not survive the fork."""


_renewables: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
_numbers: Final = itertools.count()


class _Making:
    """The number of threads that are creating a session, and the lock on forking."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.threads = 0


_making = _Making()
_children_end_early = threading.Event()


def renew_after_fork(thing: _Renewable) -> None:
    """Call an object's ``_after_fork`` in every child forked during its lifetime; older objects first."""
    _renewables[next(_numbers)] = thing


def keep_forever(thing: object) -> None:
    """Prevent an object, and everything it refers to, from ever being destroyed, even at interpreter exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@contextlib.contextmanager
def making() -> Iterator[None]:
    """Delay forks by other threads while this thread creates a session or imports onnxruntime.

    Both hold process-wide locks, in onnxruntime and in Python's import system, which nobody could release in
    the child.
    """
    making = _making  # a child has another one
    with making.condition:
        making.threads += 1
    try:
        yield
    finally:
        with making.condition:
            making.threads -= 1
            making.condition.notify_all()


def skip_exit_handlers_in_children() -> None:
    """Make children forked from now on skip inherited C exit handlers.

    If onnxruntime's telemetry runs, its exit handler waits for a thread that exists only in the parent, so
    the child would never exit, even if it does not use this package. Python's own exit handlers still run.
    """
    _children_end_early.set()


def _end_early() -> None:
    # The handler registered last runs first: flush buffers, then exit the process.
    with contextlib.suppress(OSError, AttributeError):  # C libraries other than glibc
        library = ctypes.CDLL(None)
        library.on_exit(library._exit, None)
        library.__cxa_atexit(library.fcloseall, None, None)


def _before_fork() -> None:
    _making.condition.acquire()
    _making.condition.wait_for(lambda: not _making.threads, _PATIENCE)


def _after_fork_in_parent() -> None:
    _making.condition.release()


def _after_fork_in_child() -> None:
    global _making
    _making = _Making()
    if _children_end_early.is_set():
        _end_early()
    for thing in list(_renewables.values()):
        thing._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
