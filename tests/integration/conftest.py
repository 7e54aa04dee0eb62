"""The installed commands, and a folder like a fresh clone to run them in."""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import forked

PROGRAMS = Path(sys.executable).parent
TINY = (
    *("--layers", "1", "--hidden-size", "8", "--batch-size", "4", "--seq-length", "16"),
    *("--steps", "6", "--eval-every", "3", "--save-every", "3", "--log-every", "3"),
    *("--precision", "fp32", "--no-onednn", "--threads", "1"),
)
"""Settings that make any training very short."""

TINY_RESUME = ("--steps", "9", "--threads", "1")
"""Settings that extend a finished run slightly."""

NOT_A_USERS = {"PYTHONPATH", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"}
"""Environment variables of a test run that users do not have."""

Shell = Callable[..., subprocess.CompletedProcess[str]]
"""Runs a line of bash in a folder, with a given stdin."""


SHIM = """\
#!{python} -IS
import os, sys
words, own = sys.argv[1:], {resumed} if "--resume" in sys.argv else {tiny}
same = {{"--hidden": "--hidden-size", "--batch": "--batch-size", "--seq-len": "--seq-length"}}
kept = []
while words:
    word = words.pop(0)
    if same.get(word, word) in own and word.startswith("--"):
        words = words[1:]  # an option counts once
    else:
        kept.append(word)
real = {real}
os.execv(real[0], [*real, *kept, *own])
"""


SERVE_SHIM = """\
#!{python} -I
import os, subprocess, sys
words, real = sys.argv[1:], {real}
if not any(word.endswith(".onnx") for word in words):
    os.execv(real[0], [*real, *words])
if "--port" in words:
    del words[words.index("--port") : words.index("--port") + 2]
with subprocess.Popen([*real, *words, "--port", "0"], stderr=subprocess.PIPE, text=True) as server:
    for line in server.stderr:
        sys.stderr.write(line)
        if line.startswith("serving "):
            server.terminate()
sys.exit(server.returncode)
"""


SCRIPT = """\
#!/bin/sh
exec {real} "$@"
"""


PYTHON = """\
#!/bin/sh
case "$1" in
  *.py) exec {forked} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


def environment() -> dict[str, str]:
    """The shell environment of a user."""
    kept = {key: value for key, value in os.environ.items() if key not in NOT_A_USERS}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def make_programs(folder: Path, start: Callable[[list[Any]], list[Any]]) -> Path:
    """Fill a folder with the project's commands, as described at `programs`; ``start`` starts one."""

    def make(name: str, text: str) -> None:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    for command in sorted(PROGRAMS.glob("charrnn-*")):
        real = [str(word) for word in start([str(command)])]
        if command.name == "charrnn-train":
            make(command.name, SHIM.format(python=sys.executable, real=real, tiny=TINY, resumed=TINY_RESUME))
        elif command.name == "charrnn-serve":
            make(command.name, SERVE_SHIM.format(python=sys.executable, real=real))
        else:
            make(command.name, SCRIPT.format(real=shlex.join(real)))
    return folder


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ``charrnn-train`` is the real one, with the settings of TINY appended.

    Examples thus run unchanged, even in pipes, with a tiny network. ``charrnn-serve`` uses a free port and
    is stopped as soon as it is ready.
    """
    if not (PROGRAMS / "charrnn-train").exists():
        pytest.skip("needs the installed commands: python3 noxfile.py tests")
    return make_programs(tmp_path_factory.mktemp("programs"), list)


@pytest.fixture(scope="session")
def forking_programs(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same commands without their imports, and a ``python`` for scripts; see forked.py."""
    folder = make_programs(tmp_path_factory.mktemp("forking"), lambda command: forked(command, environment()))
    real = [sys.executable, "script.py"]
    words = [str(word) for word in forked(real, environment(), package="charrnn_trainer")]
    python = PYTHON.format(forked=shlex.join(words[:-1]), python=shlex.quote(sys.executable))
    (folder / "python").write_text(python)
    (folder / "python").chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def shell(programs: Path, forking_programs: Path) -> Shell:
    """Runs a line of bash in a folder, with the project's commands on PATH and tiny trainings.

    With ``real_start=True``, commands are started as by a user; otherwise see forked.py.
    """

    def run(
        line: str, folder: Path, standard_input: str = "", *, real_start: bool = False
    ) -> subprocess.CompletedProcess[str]:
        own = programs if real_start else forking_programs
        path = os.pathsep.join([str(own), str(PROGRAMS), os.environ["PATH"]])
        return subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=environment() | {"PATH": path},
            input=standard_input,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def trained(shell: Shell, tinyshakespeare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a run in ckpt/ and a model in models/, created by the project's commands."""
    folder = tmp_path_factory.mktemp("trained")
    fill_clone(folder, tinyshakespeare)
    for line in ("charrnn-train --cell lstm", "charrnn-export ckpt models/lstm.onnx"):
        done = shell(line, folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def clone(trained: Path, root: Path, tinyshakespeare: Path, tmp_path: Path) -> Path:
    """A folder like a fresh clone: data/, models/, and some texts of the user."""
    folder = tmp_path / "clone"
    folder.mkdir()
    fill_clone(folder, tinyshakespeare)
    for page in ("README.md", "data/README.md"):
        text = (root / page).read_text(encoding="utf-8")
        (folder / page).write_text(text[:2_500], encoding="utf-8")  # only its text is used here
    shipped = sorted((root / "models").glob("*.onnx")) or [trained / "models" / "lstm.onnx"]
    for model in shipped:
        shutil.copy(model, folder / "models" / model.name)
    return folder


@pytest.fixture
def used_clone(trained: Path, clone: Path) -> Path:
    """The same after training: with ckpt/lstm, and the tiny model of that run in place of all models."""
    shutil.copytree(trained / "ckpt", clone / "ckpt")
    for model in (clone / "models").glob("*.onnx"):
        shutil.copy(trained / "models" / "lstm.onnx", model)
    return clone


def fill_clone(folder: Path, tinyshakespeare: Path) -> None:
    (folder / "data").mkdir()
    (folder / "models").mkdir()
    shutil.copy(tinyshakespeare, folder / "data" / "tinyshakespeare.txt")
    text = tinyshakespeare.read_text(encoding="utf-8")
    (folder / "my.txt").write_text(text[:2_000], encoding="utf-8")
    (folder / "more.txt").write_text(text[20_000:40_000], encoding="utf-8")
    (folder / "keys.txt").write_text("open-sesame\n", encoding="utf-8")
    (folder / "more.txt.gz").write_bytes(gzip.compress(text[40_000:60_000].encode()))
    (folder / "letters.txt").write_bytes("déjà vu, et à bientôt\n".encode("latin-1") * 500)
    (folder / "letters" / "old").mkdir(parents=True)
    (folder / "letters" / "one.txt").write_text(text[60_000:70_000], encoding="utf-8")
    (folder / "letters" / "old" / "two.txt").write_text(text[70_000:80_000], encoding="utf-8")
    names = (
        "anna",
        "bea",
        "carl",
        "dora",
        "emil",
        "fritz",
        "gina",
        "hans",
        "ida",
        "jan",
        "kim",
        "lea",
        "max",
    )
    (folder / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "my.bin").write_bytes(bytes(range(256)) * 16)
    (folder / "my.log").write_text("started at 10:02\nzzz {#!} 0xdeadbeef\n", encoding="utf-8")
    (folder / "prime.txt").write_text("LORD ", encoding="utf-8")
    (folder / "primes.txt").write_text("LORD \nKING\n", encoding="utf-8")
