"""Starts the project's commands without importing everything each time, since tests start hundreds.

Importing torch takes longer than most of the trainings in tests. `forked` turns the command line of a command
into that of a client (fork_client.py), which asks a server (fork_server.py) that has already imported
everything to fork.

Anything that might behave differently in a fork is started as usual: other programs, ``-c``, environments
that differ in a variable that Python or a library may read while loading, and all commands on systems other
than Linux. Tests of imports, of tracebacks, of memory limits and of kills during start-up do not use this.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

CLIENT: Final = Path(__file__).with_name("fork_client.py")
SERVER: Final = Path(__file__).with_name("fork_server.py")

PACKAGES: Final = ("charrnn_runtime", "charrnn_trainer")
TRAINER: Final = ("charrnn-train", "charrnn-export", "charrnn-compare")

REAL_START: Final = "CHARRNN_TESTS_REAL_START"
"""The variable that disables forking if it is 1: every command is started as usual."""

READ_LATER: Final = {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES", "TERM", "NO_COLOR", "TMPDIR"}
READ_LATER_PREFIXES: Final = ("CHARRNN_", "_CHARRNN_", "PYTEST_", "PIP_")
"""Variables that are not read at startup."""

SET_FOR_ALL: Final = {"PYTHONPATH", "OMP_NUM_THREADS"}
"""Variables that tests set for all processes; there is one server per value."""


def forked(
    command: Sequence[Any], environment: Mapping[str, str], *, package: str | None = None
) -> list[Any]:
    """An equivalent of a command line in an environment, which forks if possible.

    ``package`` names the package whose server runs a script that is not one of the commands.
    """
    package = package or package_of([os.fsdecode(word) for word in command[:3]])
    start, own = read_at_start(environment), read_at_start(os.environ)
    unlike = {name for name in {*start, *own} if start.get(name) != own.get(name)}
    if package is None or sys.platform != "linux" or not unlike <= SET_FOR_ALL:
        return list(command)
    if os.environ.get(REAL_START) == "1":
        return list(command)
    if package == "charrnn_trainer" and find_spec("torch") is None:
        return list(command)
    address = server_address(package, tuple(sorted(start.items())))
    return [sys.executable, "-I", "-S", CLIENT, address, *command]


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that can affect the startup of a process."""
    return {
        name: value
        for name, value in environment.items()
        if name not in READ_LATER and not name.startswith(READ_LATER_PREFIXES)
    }


def package_of(command: list[str]) -> str | None:
    """The package of the command of a command line, started as a module or as an installed script."""
    program = Path(command[0])
    if command[:2] == [sys.executable, "-m"]:
        return next((each for each in PACKAGES if command[2].startswith(f"{each}.cli.")), None)
    if program.parent != Path(sys.executable).parent or not program.name.startswith("charrnn-"):
        return None
    return "charrnn_trainer" if program.name in TRAINER else "charrnn_runtime"


@functools.cache
def server_address(package: str, environment: tuple[tuple[str, str], ...]) -> str:
    """Start a server, which ends with this process; return its address."""
    folder = tempfile.mkdtemp(prefix="charrnn-forks-")
    address = f"{folder}/{package}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)  # clients can connect while it still imports
        server = subprocess.Popen(
            [sys.executable, SERVER, str(listener.fileno()), package],
            env=dict(environment),
            stdin=subprocess.PIPE,  # closed when this process ends, which stops the server
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # only the clients handle Ctrl-C
        )
    atexit.register(end_server, server, folder, os.getpid())
    return address


def end_server(server: subprocess.Popen[bytes], folder: str, owner: int) -> None:
    """Stop a server, unless this is a fork of the process that owns it."""
    if os.getpid() == owner:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)
