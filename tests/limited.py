"""Runs programs that may hang: after a time limit, they are killed with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from run_commands import command_environment

SECONDS = 120
"""For programs that normally take seconds, on a busy machine."""


def run_limited(program: str, folder: Path, *words: object, **environment: str | None) -> str:
    """Run a program from a file, and return its output. The test fails if it fails or hangs.

    Args:
        program: its source.
        folder: the folder for its file.
        words: the arguments.
        environment: changes to the environment; None removes a variable.
    """
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, file, *map(str, words)],
        env=command_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the program hangs; output so far:\n{process.communicate()[0]}")
    assert process.returncode == 0, said
    return said
