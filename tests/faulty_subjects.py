"""Subjects for the tests of `mutation_workers` itself: each fails in a different way at some seeds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def well(path: Path, seed: int) -> str:
    path.write_bytes(b"x")
    return "works" if seed % 2 else "refused"


def raises_at_3(path: Path, seed: int) -> str:
    if seed == 3:
        raise KeyError("a\nname")
    return "works"


def crashes_at_3_and_4(path: Path, seed: int) -> str:
    if seed in (3, 4):
        os.write(2, b"last words")
        os.kill(os.getpid(), signal.SIGSEGV)
    return "works"


def hangs_at_3(path: Path, seed: int) -> str:
    if seed == 3:
        time.sleep(1_000)
    return "works"


def prints_at_3_and_4(path: Path, seed: int) -> str:
    if seed == 3:
        print("hello")
    if seed == 4:
        os.write(1, b"from C, as it were")
    return "works"


def takes_memory_at_3(path: Path, seed: int) -> str:
    if seed == 3:
        return "works" if b"x" * (11 * 2**30 // 10) else ""
    return "works"


def says_nonsense_at_3(path: Path, seed: int) -> str:
    return "" if seed == 3 else "refused"
