"""Runs the commands as modules of this Python, each in a separate process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import forked

RUNTIME = Path(__file__).resolve().parent.parent / "runtime"

Command = Callable[..., subprocess.CompletedProcess[bytes]]


def command_environment(**changes: str | None) -> dict[str, str]:
    """An environment in which commands find charrnn_runtime and these tests. None removes a variable."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(RUNTIME)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def run_module(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a module with arguments; ``env`` changes the environment, the rest is for subprocess.run.

    With ``real_start=True``, a new Python process imports everything; otherwise see forked.py.
    """
    environment, real_start = command_environment(**options.pop("env", {})), options.pop("real_start", False)
    command = command_line(module, *arguments, environment=environment, real_start=real_start)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, env=environment, check=False, **options)


def command_line(
    module: str, *arguments: object, environment: dict[str, str] | None = None, real_start: bool = False
) -> list[Any]:
    """The command line of `run_module`, for `subprocess`.

    ``environment`` is the environment of the process; default: `command_environment()`.
    """
    words = [argument if isinstance(argument, bytes | Path) else str(argument) for argument in arguments]
    command = [sys.executable, "-m", module, *words]
    return command if real_start else forked(command, environment or command_environment())


def in_shell(module: str, rest: str, *, real_start: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run a module in a shell, with quoted arguments and redirections."""
    command = shlex.join(map(os.fspath, command_line(module, real_start=real_start)))
    line = f"exec {command} {rest}"
    return subprocess.run(["sh", "-c", line], env=command_environment(), capture_output=True, check=False)
