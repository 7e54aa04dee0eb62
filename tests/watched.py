"""Runs programs in an isolated environment and records everything that Python code does outside of it.

A `World` has an empty home, an empty folder for temporary files and an empty current folder; the environment
contains only the variables that name them. In each Python process, an audit hook denies and records every
socket, every new process, and every change to files outside the allowed folders. Files left by native code
are found in the folders, and `confined` denies it access to the internet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import confined

ROOT = Path(__file__).resolve().parent.parent
CONFINED = Path(confined.__file__)

HOOK = """
import os, sys

log = os.open(os.environ["WATCHED_LOG"], os.O_WRONLY | os.O_APPEND)
allowed = [os.path.realpath(folder) for folder in os.environ["WATCHED_ALLOWED"].split(os.pathsep)]
CHANGES = {
    "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
    "os.utime": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "sqlite3.connect": 1,
}
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def is_outside(path):
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False  # an open file
    path = os.path.realpath(os.fsdecode(path))
    return path != os.devnull and not any(path == one or path.startswith(one + os.sep) for one in allowed)

def look(event, arguments):
    if event == "open":
        wrong = arguments[2] & WRITES and is_outside(arguments[0])
    elif event in CHANGES:
        wrong = any(is_outside(path) for path in arguments[: CHANGES[event]])
    else:
        wrong = event.startswith("socket.") or event in PROCESSES
    if wrong:
        os.write(log, (event + " " + repr(arguments)[:200] + chr(10)).encode(errors="replace"))
        raise PermissionError("refused to a watched process: " + event)

sys.addaudithook(look)
"""


class World:
    """An isolated environment. ``here`` is the current folder, which is writable.

    With ``temporary_files``, the folder for temporary files is writable too, but must be empty at the end.
    """

    def __init__(self, folder: Path, *packages: Path, temporary_files: bool = False) -> None:
        self.here, self.home, self.temporary = (folder / name for name in ("here", "home", "tmp"))
        self._hook, self._log = folder / "hook", folder / "log"
        for each in (self.here, self.home, self.temporary, self._hook):
            each.mkdir(parents=True)
        self._log.touch()
        (self._hook / "sitecustomize.py").write_text(HOOK)
        allowed = [self.here, *([self.temporary] if temporary_files else [])]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "SQLITE_TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(map(str, [self._hook, *packages])),
            "PYTHONDONTWRITEBYTECODE": "1",  # otherwise Python would write bytecode next to its modules
            "OMP_NUM_THREADS": "1",
            "WATCHED_LOG": str(self._log),
            "WATCHED_ALLOWED": os.pathsep.join(map(str, allowed)),
        }

    def run(
        self, *words: str | bytes | Path, kernel: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run Python with arguments; with ``kernel``, run a module that is also confined (see `confined`)."""
        changed = {**self.environment, **options.pop("env", {})}
        environment = {name: value for name, value in changed.items() if value is not None}
        command: list[str | bytes | Path] = [sys.executable, *words]
        if kernel:
            command[1:1] = ["-E", "-S", CONFINED]
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        options = {"cwd": self.here, "env": environment, "timeout": 300, **options}
        return subprocess.run(command, capture_output=True, check=False, **options)

    @property
    def refused(self) -> list[str]:
        """The operations denied to the processes so far."""
        return self._log.read_text().splitlines()

    @property
    def left_behind(self) -> list[str]:
        """The files in places where none should have been written."""
        return [str(path) for folder in (self.home, self.temporary) for path in folder.rglob("*")]
