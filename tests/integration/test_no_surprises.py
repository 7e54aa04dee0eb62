"""Training and export use no network, start no processes, and write only to their own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from confined import CANNOT
from forked import forked
from tiny_runs import ROOT, TEXT, TINY_FLAGS, environment
from watched import World

TRAIN = "charrnn_trainer.cli.train"
EXPORT = "charrnn_trainer.cli.export"
FLAGS = (*TINY_FLAGS, "--steps", "2", "--eval-every", "1", "--save-every", "1")

ONE_AFTER_THE_OTHER = """
import importlib, json, os, sys
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *(os.fsdecode(word.encode("latin-1")) for word in words)]
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""Commands in one process, which imports torch once, until one fails."""

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


@pytest.fixture
def world(tmp_path: Path) -> World:
    # Importing torch checks whether it can create files there.
    world = World(tmp_path / "world", ROOT / "runtime", ROOT / "trainer", temporary_files=True)
    (world.here / "my.txt").write_bytes(TEXT.encode())
    return world


def of_ours(world: World) -> list[str]:
    """The files left behind, except the empty folder that torch creates for an optimizer."""
    return [path for path in world.left_behind if not Path(path).name.startswith("torchinductor_")]


def run_all(world: World, *commands: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run commands in one process of a world; each is a module and its arguments."""
    lines = [
        [module, *(os.fsencode(word).decode("latin-1") for word in words)] for module, *words in commands
    ]
    return world.run("-c", ONE_AFTER_THE_OTHER, json.dumps(lines), **options)


def test_a_users_text_is_trained_and_exported_without_network_or_traces(world: World) -> None:
    done = run_all(
        world,
        (TRAIN, "my.txt", *FLAGS),
        (TRAIN, "--resume", "ckpt/lstm", "--steps", "3"),
        (EXPORT, "ckpt", "model.onnx"),
        (EXPORT, "ckpt", "--list"),
    )
    assert (done.returncode, world.refused, of_ours(world)) == (0, [], []), done.stderr.decode()
    assert b"-step3.safetensors" in done.stdout.splitlines()[-1]
    assert sorted(path.name for path in world.here.iterdir()) == ["ckpt", "model.onnx", "my.txt"]


@posix
def test_training_works_with_network_access_blocked_by_the_kernel(world: World) -> None:
    done = world.run(TRAIN, "my.txt", *FLAGS, kernel=True)
    if done.returncode == CANNOT:
        pytest.skip("this kernel does not confine processes")
    assert (done.returncode, world.refused, of_ours(world)) == (0, [], []), done.stderr.decode()


def test_the_network_is_used_only_for_the_default_text_and_this_is_announced(world: World) -> None:
    done = world.run("-m", TRAIN, *FLAGS)
    assert done.returncode == 1
    assert "downloading tinyshakespeare from https://" in done.stderr.decode()
    assert world.refused[0].startswith("socket.")
    assert "Traceback" not in done.stderr.decode()


@posix
def test_training_works_without_home_or_terminal_and_in_an_ascii_locale(world: World) -> None:
    (world.here / "é中.txt").write_text(TEXT + "é中λ\r\n" * 30, encoding="utf-8", newline="")
    plain = {
        "HOME": None,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "latin-1",
        "TERM": None,
        "COLUMNS": "20",
    }
    train = (TRAIN, "é中.txt", *FLAGS, "--out", "r\u00fcn")
    done = run_all(world, train, (EXPORT, "r\u00fcn", "mödel.onnx"), env=plain, start_new_session=True)
    assert (done.returncode, world.refused) == (0, []), done.stderr.decode("latin-1")
    assert {path.name for path in world.here.iterdir()} >= {"rün", "mödel.onnx"}


@posix
@pytest.mark.parametrize(
    ("redirection", "out"), [(">&-", b""), ("2>&- <&-", b"ckpt/lstm\n"), (">&- 2>&- <&-", b"")]
)
def test_training_works_with_closed_streams(redirection: str, out: bytes, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT)
    command = forked([sys.executable, "-m", TRAIN, "my.txt", *FLAGS], environment())
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        cwd=tmp_path, env=environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, out), done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert list((tmp_path / "ckpt" / "lstm").glob("*.safetensors"))
