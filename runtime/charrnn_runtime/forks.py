"""What a process makes again after a fork: locks, and the sessions of onnxruntime.

Only the thread that forks lives on in the child. A lock that another one held stays locked there forever,
and what onnxruntime keeps of its threads is of no use: a session that came from the parent may neither run
nor be destroyed (onnxruntime's pull request 31961). So whatever has locks or sessions is told in the child,
before anything else runs there.
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
"""How many seconds a fork waits for sessions that other threads are making just now."""


if TYPE_CHECKING:
    from typing import Protocol

    class _Renewable(Protocol):
        def _after_fork(self) -> None:
            """Make again, in a child, what did not survive the fork."""


_renewables: Final[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
_numbers: Final = itertools.count()


class _Making:
    """How many threads make a session, and the right to fork."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.threads = 0


_making = _Making()
_children_end_early = threading.Event()


def renew_after_fork(thing: _Renewable) -> None:
    """Let a thing's ``_after_fork`` be called in every child forked while it lives; older things first."""
    _renewables[next(_numbers)] = thing


def keep_for_ever(thing: object) -> None:
    """Let a thing, and all that it refers to, never be destroyed, at the interpreter's end neither."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@contextlib.contextmanager
def making() -> Iterator[None]:
    """While this thread makes a session or imports onnxruntime, let others fork only when it is through.

    Both hold locks of the whole process, inside onnxruntime and in Python's import system, which no one could
    release in the child.
    """
    making = _making  # in a child there is another
    with making.condition:
        making.threads += 1
    try:
        yield
    finally:
        with making.condition:
            making.threads -= 1
            making.condition.notify_all()


def let_children_end_early() -> None:
    """Let children that are forked from now on skip the exit handlers of C that they inherit.

    Where onnxruntime's telemetry runs, its handler waits for a thread that only the parent has, and the child
    would never end, whether it uses this package or not. Python's own handlers run, as ever.
    """
    _children_end_early.set()


def _end_early() -> None:
    # The last that is registered runs first: what is buffered is written, and then the process ends.
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc
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
