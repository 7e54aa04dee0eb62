"""Full and read-only disks: one clear error line, exit code 1, no data lost, and work can continue."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from charrnn_runtime.cli import gen, terminal
from charrnn_runtime.format.reader import read_model_file
from charrnn_trainer.cli import export, train
from charrnn_trainer.runs.finding import checkpoint_files
from kills import content
from marks import first_daily
from tiny_runs import TEXT, TINY_FLAGS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="only root, on Linux, can make a small file system",
)

DISK = 1024 * 1024
PAGE = 4096
OTHER_FILES = 8 * PAGE
"""Space for a run's tokens, settings and history."""

TRAIN = (*TINY_FLAGS, "--steps", "6", "--eval-every", "2", "--save-every", "2", "--log-every", "1")
FULL = "No space left on device"
READ_ONLY = "Read-only file system"


class Outcome(NamedTuple):
    code: int
    error: str


Program = Callable[..., Outcome]
COMMANDS = {"train": train.app, "export": export.app, "gen": gen.app}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs a command in this process, in a folder with a text; returns its exit code and last line."""
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text(TEXT, encoding="utf-8")

    def run(command: str, *words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"charrnn-{command}", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            terminal.run(COMMANDS[command], f"charrnn-{command}", dies_of_closed_pipe=False)
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if "error:" in line]
        code = int(ended.value.code or 0)
        assert errors == (lines[-1:] if code else []), lines  # one line, and nothing after it
        return Outcome(code, "".join(errors))

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("this system lets nobody make a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Fill a disk except for some bytes (in whole pages)."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    ballast.write_bytes(b"x" * (room.f_bavail * room.f_frsize - leave))
    return ballast


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def checkpoint_bytes(program: Program) -> int:
    """The size of a checkpoint of the run in these tests; the uninterrupted run is in whole/."""
    assert program("train", "my.txt", *TRAIN, "--out", "whole").code == 0
    return max(path.stat().st_size for path in checkpoint_files(Path("whole")))


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_training_on_a_full_disk_fails_clearly_and_resumes_when_there_is_space(
    program: Program, disk: Path, checkpoints: int
) -> None:
    size = checkpoint_bytes(program)
    ballast = fill(disk, leave=OTHER_FILES + checkpoints * (size // PAGE + 1) * PAGE)
    run = disk / "run"
    code, error = program("train", "my.txt", *TRAIN, "--out", run)
    assert code == 1
    assert error.startswith(f"charrnn-train: error: cannot write {run}")
    assert error.endswith(FULL)
    saved = checkpoint_files(run)
    assert len(saved) < 3
    assert len(saved) >= min(checkpoints, 1)
    for path in saved:
        assert path.read_bytes() == (Path("whole") / path.name).read_bytes()
    assert not [name for name in names(run) if name.endswith(".part")]
    code, error = program("train", "--resume", run)  # still full
    assert (code, FULL in error) == (1, True)
    ballast.unlink()
    assert program("train", "--resume", run).code == 0
    assert content(run) == content(Path("whole"))


def test_a_disk_too_small_for_the_text_is_left_unchanged(program: Program, disk: Path) -> None:
    Path("long.txt").write_text(TEXT * 1_000, encoding="utf-8")
    code, error = program("train", "long.txt", *TRAIN, "--out", disk / "runs" / "run")
    assert code == 1
    assert error == f"charrnn-train: error: cannot write {disk / 'runs/run/tokens.safetensors'}: {FULL}"
    assert names(disk / "runs") == set()


@pytest.mark.parametrize("old", first_daily([True, False]))
def test_an_export_to_a_full_disk_leaves_the_existing_file(program: Program, disk: Path, old: bool) -> None:
    checkpoint_bytes(program)
    model = disk / "model.onnx"
    if old:
        assert program("export", "whole", model, "--checkpoint", "2").code == 0
    before = model.read_bytes() if old else b""
    ballast = fill(disk, leave=2 * PAGE)
    code, error = program("export", "whole", model, "--checkpoint", "6")
    assert (code, error) == (1, f"charrnn-export: error: cannot write {model}: {FULL}")
    assert names(disk) == {"ballast", *(["model.onnx"] if old else [])}
    assert (model.read_bytes() if old else b"") == before
    ballast.unlink()
    assert program("export", "whole", model, "--checkpoint", "6").code == 0
    assert read_model_file(model).info.training["step"] == 6


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("streams", [1, 4])
def test_generation_to_a_full_disk_leaves_the_existing_file(
    program: Program, root: Path, disk: Path, old: bool, streams: int
) -> None:
    model, out = root / "tests" / "models" / "gru-2x12-fp32.onnx", disk / "out.txt"
    if old:
        out.write_bytes(b"old")
    ballast = fill(disk, leave=2 * PAGE)
    words = (model, "-n", "9000", "--streams", streams, "--seed", "1", "--device", "cpu", "-o")
    code, error = program("gen", *words, out, *(["--force"] if old else []))
    assert (code, error) == (1, f"charrnn-gen: error: cannot write {out}: {FULL}")
    assert names(disk) == {"ballast", *(["out.txt"] if old else [])}
    assert not old or out.read_bytes() == b"old"
    ballast.unlink()
    assert program("gen", *words, out, *(["--force"] if old else [])).code == 0
    assert program("gen", *words, "out.txt").code == 0
    assert out.read_bytes() == Path("out.txt").read_bytes()


@pytest.mark.nightly
def test_nothing_is_written_to_a_read_only_disk_and_its_run_resumes_once_it_is_writable(
    program: Program, root: Path, disk: Path
) -> None:
    checkpoint_bytes(program)
    run = disk / "run"
    shutil.copytree("whole", run)
    for path in checkpoint_files(run)[-1:]:
        path.unlink()  # as if it had been ended before
    before = content(run)
    remount(disk, "ro")
    try:
        model = root / "tests" / "models" / "gru-2x12-fp32.onnx"
        told = {
            "begin": program("train", "my.txt", *TRAIN, "--out", disk / "new"),
            "go on": program("train", "--resume", run),
            "export": program("export", "whole", disk / "model.onnx"),
            "export into a new folder": program("export", "whole", disk / "models" / "model.onnx"),
            "generate": program("gen", model, "-n", "9", "--seed", "1", "-o", disk / "out.txt"),
        }
        assert {what: code for what, (code, _) in told.items()} == dict.fromkeys(told, 1)
        for what, (_, error) in told.items():
            assert str(disk) in error, what
            assert error.endswith(READ_ONLY), what
        assert names(disk) == {"run"}
        assert content(run) == before
        assert program("export", run, "model.onnx", "--checkpoint", "last").code == 0  # reading is enough
    finally:
        remount(disk, "rw")
    assert program("train", "--resume", run).code == 0
    assert content(run) == content(Path("whole"))
