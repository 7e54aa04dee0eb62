"""Runs the commands as modules of this Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNTIME = Path(__file__).resolve().parent.parent / "runtime"

Command = Callable[..., subprocess.CompletedProcess[bytes]]


def command_environment(**changes: str | None) -> dict[str, str]:
    """The environment of a command that finds charrnn_runtime and these tests. None removes a variable."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(RUNTIME)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def run_module(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a module with arguments; ``env`` changes the environment, the rest is for subprocess.run."""
    changes = options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    words = [argument if isinstance(argument, bytes | Path) else str(argument) for argument in arguments]
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, env=command_environment(**changes), check=False, **options)
