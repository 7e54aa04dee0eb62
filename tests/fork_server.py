"""Imports the commands of a package once and forks for each start of one: see forked.py.

The child behaves like a new process: it takes its arguments, folder, environment, limits and signal
dispositions from the client's entries in /proc, and its streams from the client itself, and runs the module
or script as ``__main__``. It exits as Python does, except that it frees nothing: tearing down torch takes
longer than most starts. The server starts no threads and creates no sessions before it forks.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import resource
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from forked import read_at_start

RUNTIME: Final = (
    *(f"charrnn_runtime.cli.{name}" for name in ("gen", "score", "quality", "view", "info")),
    *("charrnn_runtime.model", "charrnn_runtime.quality", "rich.live", "rich.progress", "rich.table"),
)
TRAINER: Final = (
    *(f"charrnn_trainer.cli.{name}" for name in ("train", "export", "compare", "live")),
    *(f"charrnn_trainer.{name}" for name in ("training.api", "data.text_source", "data.vocabulary_growth")),
    *(f"charrnn_trainer.{name}" for name in ("export.api", "compare.report", "compare.output")),
    *("torch._dynamo", "safetensors.torch", "matplotlib.backends.backend_svg"),
)
IMPORTS: Final = {"charrnn_runtime": RUNTIME, "charrnn_trainer": (*RUNTIME, *TRAINER)}
"""The modules imported for the commands of a package, including those that they import lazily."""

STREAMS: Final = ("stdin", "stdout", "stderr")
SET_BY_PYTHON: Final = {signal.SIGPIPE, signal.SIGXFSZ}


class Start:
    """The request of a client: a command and its streams."""

    def __init__(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.client, *self.owner = struct.unpack("3i", credentials)
        self.proc = Path(f"/proc/{self.client}")
        message, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        self.streams = dict(zip(message[1:], descriptors, strict=True))
        self.environment = environment_of(self.proc)
        words = (self.proc / "cmdline").read_bytes().split(b"\0")[:-1]
        self.command = [os.fsdecode(word) for word in words[5:]]  # after python -I -S CLIENT ADDRESS

    def can_be_forked(self) -> bool:
        """Whether a new process would load the same modules as this one."""
        own = read_at_start(environment_of(Path("/proc/self")))
        return read_at_start(self.environment) == own and self.owner == [os.getuid(), os.getgid()]


def environment_of(proc: Path) -> dict[str, str]:
    """The initial environment of a process."""
    pairs = os.fsdecode((proc / "environ").read_bytes()).split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


class InChild(Exception):
    """Leaves the server loop in a child."""

    def __init__(self, start: Start) -> None:
        self.start = start


class Server:
    """Forks for each client that connects, forwards signals, and reports the exit code of the child."""

    def __init__(self, listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[socket.socket, int] = {}
        self._watch(listener, lambda: self._accept(listener))
        self._watch(sys.stdin.fileno(), self._end)

    def serve(self) -> None:
        """Serve until the tests end.

        Raises:
            InChild: this is a child, which must run the client's command.
        """
        while self._selector.get_map():
            for key, _ in self._selector.select():
                key.data()

    def _watch(self, file: Any, answer: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, answer)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        try:
            start = Start(connection)
        except (OSError, ValueError):  # the client was killed
            connection.close()
            return
        child = os.fork() if start.can_be_forked() else None
        if child == 0:
            connection.close()
            for key in self._selector.get_map().values():
                if key.fd != 0:  # the child replaces it
                    os.close(key.fd)
            self._selector.close()
            raise InChild(start)
        for descriptor in start.streams.values():
            os.close(descriptor)
        if child is None:  # closing the connection informs the client
            connection.close()
            return
        ended = os.pidfd_open(child)
        self._children[connection] = child
        self._watch(connection, lambda: self._pass_on(connection))
        self._watch(ended, lambda: self._report(ended, connection))
        with contextlib.suppress(OSError):
            connection.send(b".")

    def _pass_on(self, connection: socket.socket) -> None:
        """Forward the signals of a client to its child."""
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:  # empty if the client was killed
            os.kill(self._children[connection], number)
        if not numbers:
            self._selector.unregister(connection)

    def _report(self, ended: int, connection: socket.socket) -> None:
        """Send the client the exit code of the child."""
        _, status = os.waitpid(self._children.pop(connection), 0)
        self._selector.unregister(ended)
        os.close(ended)
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))
        connection.close()

    def _end(self) -> None:
        for child in self._children.values():
            os.kill(child, signal.SIGKILL)
        os._exit(0)


def become(start: Start) -> None:
    """Adopt everything that a new process inherits from its parent."""
    os.setsid()
    os.chdir(start.proc / "cwd")
    os.environ.clear()
    os.environ.update(start.environment)
    status = dict(line.split(":", 1) for line in (start.proc / "status").read_text().splitlines())
    os.umask(int(status["Umask"], 8))
    for each in signal.valid_signals() - SET_BY_PYTHON:
        if int(status["SigIgn"], 16) >> (each - 1) & 1:
            signal.signal(each, signal.SIG_IGN)
    for limit in (getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")):
        if (limits := resource.prlimit(start.client, limit)) != resource.getrlimit(limit):
            resource.setrlimit(limit, limits)
    for number, name in enumerate(STREAMS):
        stream = take_stream(number, name, start.streams.get(number))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if "numpy.random" in sys.modules:  # the random module does this itself
        sys.modules["numpy.random"].seed()


def take_stream(number: int, name: str, descriptor: int | None) -> io.TextIOWrapper | None:
    """Create the stream that Python opens for a descriptor at startup, replacing the server's."""
    before = getattr(sys, name)
    if descriptor is None:
        os.close(number)
        return None
    os.dup2(descriptor, number)
    os.close(descriptor)
    at_once = before.write_through  # PYTHONUNBUFFERED
    file: Any = open(number, "rb" if number == 0 else "wb", 0 if at_once and number else -1, closefd=False)  # noqa: SIM115
    raw = file if at_once and number else file.raw
    raw.name = f"<{name}>"
    by_line = not at_once and (number == 2 or raw.isatty())
    stream = io.TextIOWrapper(
        file, before.encoding, before.errors, "\n", line_buffering=by_line, write_through=at_once
    )
    stream.mode = "r" if number == 0 else "w"  # type: ignore[misc]
    return stream


def run(command: list[str]) -> None:
    """Run the module or script of a command line, as Python does."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    for name in IMPORTS["charrnn_trainer"]:
        if ".cli." in name:
            sys.modules.pop(name, None)  # a command may record its start time at import
    words = command[1:] if command[0] == sys.executable else command
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = os.getcwd()
        sys.modules.pop(words[1], None)
        runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.realpath(words[0]))
        main.__file__ = words[0]
        main.__dict__["__builtins__"] = __builtins__
        exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), main.__dict__)


def end(code: int) -> None:
    """Exit as Python does, without freeing memory."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except Exception:
        sys.exit(code)  # Python then raises the same error and reports it
    os._exit(code & 0xFF)


def import_all(names: tuple[str, ...]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # installed by an extra
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the memory of these objects stays shared with children


if __name__ == "__main__":
    import_all(IMPORTS[sys.argv[2]])
    try:
        Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    except InChild as child:
        request = child.start
    become(request)
    try:
        run(request.command)
        end(0)
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            end(exit_.code or 0)
        raise
