"""Runs the commands for real, as modules of this very Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent.parent.parent / "runtime"

Command = Callable[..., subprocess.CompletedProcess[bytes]]


def command_environment(**changes: str | None) -> dict[str, str]:
    """The environment of a command: it finds charrnn_runtime beside these tests. None removes a variable."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(RUNTIME)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def run_module(module: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a module with arguments; ``env`` changes the environment, the rest is for subprocess.run."""
    changes = options.pop("env", {})
    assert isinstance(changes, dict)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [sys.executable, "-m", module, *map(os.fspath, map(_word, arguments))],
        env=command_environment(**changes),
        check=False,
        **options,  # type: ignore[call-overload, no-any-return]
    )


def _word(argument: object) -> str | bytes | os.PathLike[str]:
    return argument if isinstance(argument, bytes | os.PathLike) else str(argument)
