"""The command charrnn-export: output, files and exit codes."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny_runs
from charrnn_runtime.format.reader import read_model_file
from charrnn_trainer.cli.export import main
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import train
from forked import forked

TEXT = "to be, or not to be, that is the question:\n" * 80
TEXT += TEXT[: len(TEXT) // 9 : -1]  # its end is reversed, so training soon raises the loss there

TINY = TrainConfig().replace(
    cell="gru",
    layers=1,
    hidden_size=12,
    steps=30,
    batch_size=4,
    seq_length=16,
    learning_rate=0.03,
    val_fraction=0.4,
    eval_every=10,
    save_every=10,
    log_every=10,
    precision="fp32",
    onednn=False,
    threads=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, ``ckpt``, with one run in it whose best checkpoint is not its last."""
    folder = tmp_path_factory.mktemp("work")
    train(TINY, Corpus.from_text(TEXT, name="hamlet"), out=folder / "ckpt" / "gru")
    entries = list_checkpoints(folder / "ckpt")
    assert [entry.step for entry in entries] == [10, 20, 30]
    assert [entry.best for entry in entries] == [True, False, False]
    return folder


@pytest.fixture
def work(folder: Path, tmp_path: Path) -> Path:
    """A writable copy of it."""
    shutil.copytree(folder / "ckpt", tmp_path / "ckpt")
    return tmp_path


@dataclass(frozen=True)
class Done:
    """The exit code and output of the command."""

    returncode: int
    stdout: str
    stderr: str


Export = Callable[..., Done]
"""Runs the command in a folder with arguments."""


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Export:
    """The command in this process, without importing torch again."""

    def run(work: Path, *arguments: str | Path) -> Done:
        monkeypatch.chdir(work)
        monkeypatch.setattr(sys, "argv", ["charrnn-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capfd.readouterr())

    return run


def _program(work: Path, *arguments: str | Path, environment: dict[str, str] | None = None) -> Done:
    """The command in a separate process."""
    in_environment = tiny_runs.environment() | (environment or {})
    done = subprocess.run(
        forked(_command(arguments), in_environment),
        cwd=work,
        env=in_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "charrnn_trainer.cli.export", *map(str, arguments)]


def _fails(done: Done, code: int, *words: str) -> None:
    """Check the exit code, a one-line error with these words, and an empty stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("charrnn-export: error: ")
    assert "Traceback" not in done.stderr
    assert "a bug in charrnn" not in last
    for word in words:
        assert word in last


# --- exports -----------------------------------------------------------------------------------------------


def test_the_best_checkpoint_of_the_newest_run_is_exported(work: Path) -> None:
    done = _program(work, "ckpt", "models/gru.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    info = read_model_file(work / "models" / "gru.onnx").info
    assert info.training["step"] == 10
    path = Path("ckpt", "gru", "gru-1x12-step10.safetensors")
    loss = info.training["validation_loss"]
    told = done.stderr.splitlines()
    assert (
        told[0]
        == f"{path}: step 10, validation loss {loss:.4f} ({loss / math.log(2):.4f} bits per character)"
    )
    assert told[1].startswith("verified against torch: 256 steps of 4 streams, largest logit difference ")
    assert told[2:] == [f"wrote models/gru.onnx: gru 1x12 fp32, {info.file_bytes:,} bytes"]


@pytest.mark.parametrize(
    ("source", "options", "step"),
    [
        ("ckpt/gru", ("--checkpoint", "last"), 30),
        ("ckpt/gru", ("--checkpoint", "20"), 20),
        ("ckpt/gru/gru-1x12-step30.safetensors", (), 30),
    ],
)
def test_a_requested_checkpoint_is_exported(
    export: Export, work: Path, source: str, options: tuple[str, ...], step: int
) -> None:
    done = export(work, source, "m.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert read_model_file(work / "m.onnx").info.training["step"] == step
    assert f"-step{step}.safetensors: step {step}," in done.stderr


def test_int8_reports_its_loss_and_size(export: Export, work: Path) -> None:
    done = export(work, "ckpt", "m.onnx", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert read_model_file(work / "m.onnx").info.precision == "int8"
    assert "bits per character on the run's validation text, fp32 " in done.stderr
    assert done.stderr.splitlines()[-1].endswith("% of fp32)")


def test_a_replaced_model_is_named(export: Export, work: Path) -> None:
    assert export(work, "ckpt", "m.onnx", "--checkpoint", "last").returncode == 0
    done = export(work, "ckpt", "m.onnx")
    assert done.returncode == 0, done.stderr
    assert "replaced m.onnx, previously a charrnn model (gru 1x12 fp32, step 30)" in done.stderr
    assert read_model_file(work / "m.onnx").info.training["step"] == 10


def test_another_file_is_replaced_only_with_force(export: Export, work: Path) -> None:
    (work / "notes").write_text("mine")
    _fails(export(work, "ckpt", "notes"), 1, "notes exists and is not a charrnn model", "--force")
    assert (work / "notes").read_text() == "mine"
    done = export(work, "ckpt", "notes", "--force", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    read_model_file(work / "notes")


def test_list_shows_all_checkpoints_on_stdout(export: Export, work: Path) -> None:
    entries = list_checkpoints(work / "ckpt")
    done = export(work, "ckpt", "--list")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["step", "training", "validation", "bits/char", "file"]
    assert len(lines) == len(entries)
    for line, entry in zip(lines, entries, strict=True):
        assert entry.train_loss is not None
        assert entry.validation_loss is not None
        losses = [entry.train_loss, entry.validation_loss, entry.validation_loss / math.log(2)]
        path = Path("ckpt", "gru", entry.path.name)
        assert line.split()[:5] == [str(entry.step), *(f"{loss:.4f}" for loss in losses), str(path)]
    assert [line.rpartition("  ")[2] for line in lines][::2] == ["(best)", "(last)"]
    assert list(work.iterdir()) == [work / "ckpt"]


def test_list_of_one_file_is_one_line(export: Export, work: Path) -> None:
    done = export(work, find_checkpoint(work / "ckpt"), "--list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].endswith("(best, last)")


def test_a_run_without_validation_shows_dashes(export: Export, tmp_path: Path) -> None:
    train(TINY.replace(steps=2, val_fraction=0.0), Corpus.from_text(TEXT), out=tmp_path / "run")
    listed = export(tmp_path, "run", "--list")
    assert listed.stdout.splitlines()[1].split()[2:4] == ["-", "-"]
    done = export(tmp_path, "run", "m.onnx")
    assert "step 2, validation loss not measured" in done.stderr


@pytest.mark.parametrize("environment", [{"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"COLUMNS": "20"}])
def test_any_locale_and_a_narrow_window_work(work: Path, environment: dict[str, str]) -> None:
    run = work / "ckpt" / "gru"
    run.rename(work / "ckpt" / "grü 中")
    done = _program(work, "ckpt", "--list", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "grü 中" in done.stdout


def test_help_and_version_need_no_torch(work: Path) -> None:
    started = _program(work, "--help")
    assert started.returncode == 0
    for word in ("charrnn-export ckpt my.onnx", "--checkpoint", "--precision", "--list", "--force"):
        assert word in started.stdout
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from charrnn_trainer.cli.export import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("charrnn-trainer 0.")


def test_a_dash_is_stdout_and_dot_slash_dash_a_file(work: Path) -> None:
    done = subprocess.run(_command(["ckpt", "-"]), cwd=work, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"wrote stdout: gru 1x12 fp32" in done.stderr
    assert os.listdir(work) == ["ckpt"]
    assert _program(work, "ckpt", "./-").returncode == 0
    assert (work / "-").read_bytes() == done.stdout


def test_the_checkpoint_is_never_replaced_by_its_model(export: Export, work: Path) -> None:
    path = find_checkpoint(work / "ckpt")
    before = path.read_bytes()
    _fails(export(work, "ckpt", path, "--force"), 2, "would replace an input file; choose another name")
    assert path.read_bytes() == before


# --- invalid command lines: exit code 2 ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ckpt",), ("give the file to write",)),
        (("ckpt", "m.onnx", "--checkpoint", "first"), ("best, last or a step number", "'first'")),
        (("ckpt", "m.onnx", "--checkpoint", "-1"), ("best, last or a step number",)),
        (("ckpt", "m.onnx", "--checkpoint", "1.5"), ("best, last or a step number",)),
        (("ckpt", "m.onnx", "--checkpoint", "٣"), ("best, last or a step number",)),
        (("ckpt", "m.onnx", "--checkpoint", "9" * 5_000), ("best, last or a step number",)),
        (("ckpt", "m.onnx", "--checkpoint", ""), ("best, last or a step number",)),
        (("ckpt", "m.onnx", "--precision", "int4"), ("--precision must be fp32, fp16 or int8", "int4")),
        (("nowhere", "m.onnx", "--precision", "int4"), ("--precision must be fp32, fp16 or int8",)),
        (("ckpt", "m.onnx", "more"), ("more", "--help")),
        (("ckpt", "m.onnx", "--best"), ("--best", "--help")),
        ((), ("--help",)),
    ],
)
def test_an_invalid_option_is_reported_with_exit_code_2(
    export: Export, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    _fails(export(folder, *arguments), 2, *words)
    assert list(folder.iterdir()) == [folder / "ckpt"]


# --- errors: exit code 1 -----------------------------------------------------------------------------------


def test_a_missing_step_is_reported_with_the_existing_ones(export: Export, folder: Path) -> None:
    _fails(
        export(folder, "ckpt", "m.onnx", "--checkpoint", "15"), 1, "no checkpoint at step 15", "10, 20, 30"
    )


def test_invalid_sources_are_errors(export: Export, work: Path) -> None:
    (work / "empty").mkdir()
    (work / "notes.txt").write_text("x" * 100)
    whole = find_checkpoint(work / "ckpt").read_bytes()
    (work / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (work / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    for source, *words in [
        ("nowhere", "nowhere does not exist", "train first"),
        ("empty", "contains no run", "train first"),
        ("notes.txt", "is not a charrnn checkpoint"),
        ("cut.safetensors", "is truncated or damaged"),
        ("pickle.safetensors", "pickle"),
        ("", "run"),
    ]:
        _fails(export(work, source, "m.onnx"), 1, *words)
    assert not (work / "m.onnx").exists()


def test_an_unwritable_destination_is_an_error(export: Export, work: Path) -> None:
    (work / "file").write_text("x")
    _fails(export(work, "ckpt", "ckpt"), 1, "ckpt is a folder")
    _fails(export(work, "ckpt", "file/m.onnx"), 1, "file")
    _fails(export(work, "ckpt", "n" * 300), 1, "name too long")
    assert sorted(path.name for path in work.iterdir()) == ["ckpt", "file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_an_error(work: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            forked(_command(["ckpt", "--list"]), tiny_runs.environment()),
            cwd=work,
            env=tiny_runs.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes stdout as a shell does")
def test_export_works_with_a_closed_stdout(export: Export, work: Path) -> None:
    line = 'exec "$@" >&-'
    environment = tiny_runs.environment()
    command = forked(_command(["ckpt", "m.onnx"]), environment)
    closed = subprocess.run(
        ["sh", "-c", line, "sh", *command], cwd=work, env=environment, capture_output=True, check=False
    )
    assert closed.returncode == 0, closed.stderr
    read_model_file(work / "m.onnx")
    listed = subprocess.run(
        ["sh", "-c", line, "sh", *forked(_command(["ckpt", "--list"]), environment)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 1
    assert "stdout is closed" in listed.stderr


def test_ctrl_c_exits_with_130_and_leaves_the_existing_file(
    export: Export, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(work, "ckpt", "m.onnx").returncode == 0
    before = (work / "m.onnx").read_bytes()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    done = export(work, "ckpt", "m.onnx", "--checkpoint", "last")
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert (work / "m.onnx").read_bytes() == before
    assert sorted(path.name for path in work.iterdir()) == ["ckpt", "m.onnx"]


def test_debug_shows_the_traceback_of_an_error(export: Export, folder: Path) -> None:
    done = export(folder, "nowhere", "m.onnx", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "CheckpointError" in done.stderr
