"""Folders of runs: creation, locking, cleanup and truncation of the history."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import WriteError
from charrnn_trainer.runs.folder import Run, check_can_make
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import TrainConfig
from tiny_runs import run_program

FILE = RunFile(TrainConfig())


def test_each_run_gets_a_separate_folder(tmp_path: Path) -> None:
    for expected in ("lstm", "lstm-2", "lstm-3"):
        with Run.create_in(tmp_path / "ckpt", "lstm") as run:
            run.write_config(FILE)
            assert run.folder == tmp_path / "ckpt" / expected


def test_a_folder_with_other_files_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "lstm").write_text("not a folder")
    (tmp_path / "lstm-2").mkdir()
    with Run.create_in(tmp_path, "lstm") as run:
        run.write_config(FILE)
        assert run.folder.name == "lstm-3"


def test_a_run_that_failed_to_start_leaves_no_folder(tmp_path: Path) -> None:
    with Run.create(tmp_path / "new" / "run") as run:
        run.tokens_path.write_bytes(b"half")
    assert not (tmp_path / "new" / "run").exists()
    (tmp_path / "empty").mkdir()
    with Run.create(tmp_path / "empty") as run:
        run.tokens_path.write_bytes(b"half")
    assert list((tmp_path / "empty").iterdir()) == []  # the folder was there before


def test_a_run_cannot_be_created_in_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.write_config(FILE)
    with pytest.raises(SettingError, match=r"^\S*run already contains a run; give a new folder, or"):
        Run.create(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").touch()
    with pytest.raises(SettingError, match=r"^\S*notes is not empty; give a new folder"):
        Run.create(tmp_path / "notes")
    assert [entry.name for entry in (tmp_path / "notes").iterdir()] == ["todo.txt"]
    with pytest.raises(CharRNNError, match="cannot create the folder"):
        Run.create(tmp_path / "notes" / "todo.txt" / "run")
    with pytest.raises(CharRNNError, match="cannot create the folder"):
        Run.create_in(tmp_path / "notes" / "todo.txt", "lstm")


@pytest.mark.parametrize("name", ["", "new", "new/run"])
def test_a_folder_is_reported_as_creatable_without_being_created(tmp_path: Path, name: str) -> None:
    before = tmp_path.stat().st_mtime_ns
    check_can_make(tmp_path / name)
    assert (list(tmp_path.iterdir()), tmp_path.stat().st_mtime_ns) == ([], before)


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(CharRNNError, match=rf"cannot create the folder .*run: .*{name} is not a folder"):
            check_can_make(tmp_path / name / "run")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(CharRNNError, match=r"cannot create the folder .*run: .* is not writable"):
        check_can_make(tmp_path / "new" / "run")
    with pytest.raises(CharRNNError, match=r"cannot write to .* is not writable"):
        check_can_make(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nothing can be made")
def test_some_folders_cannot_be_created_even_by_root() -> None:
    with pytest.raises(CharRNNError, match=r"cannot create the folder /proc/run: /proc is not writable"):
        check_can_make(Path("/proc/run"))


def test_leftovers_of_a_killed_start_are_replaced_by_a_new_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", "tokens.safetensors", ".tokens.safetensors.7-ab.part"):
        (folder / name).write_bytes(b"half")
    with Run.create(folder) as run:
        assert [path.name for path in folder.iterdir()] == [".lock"]
        run.write_config(FILE)
    assert run.config_path.exists()


def test_a_folder_that_is_not_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match="is not a run"):
        Run.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_rejected_while_the_first_runs_and_accepted_afterwards(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.write_config(FILE)
        with pytest.raises(CharRNNError, match=r"another process is training in .*run"):
            Run.open(tmp_path / "run")
    with Run.open(tmp_path / "run"):
        pass
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys; from charrnn_trainer.runs.folder import Run; run = Run.open(sys.argv[1]);"
        "print('locked', flush=True); os.kill(os.getpid(), 9)"
    )
    killed = run_program(program, tmp_path / "run", package="charrnn_trainer")
    assert killed.stdout.split() == [b"locked"]
    with Run.open(tmp_path / "run"):  # dead processes hold no locks
        pass


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.write_config(FILE)
    (tmp_path / "run" / ".lstm-step1.safetensors.x.part").touch()
    with Run.open(tmp_path / "run"):
        assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == [".lock", "config.toml"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    run.close()  # these tests are not about the lock
    return run


def test_history_is_written_when_it_is_flushed(run: Run) -> None:
    run.note(step=1, loss=0.5)
    path = run.folder / "history.jsonl"
    assert not path.exists()
    run.flush_history()
    run.note(step=2, loss=0.25)
    run.flush_history()
    run.flush_history()
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'


@given(
    step=st.integers(0, 12), half=st.sampled_from(["", '{"step": 3', '{"step": 3}', "\0\0", "[]\n", "3\n"])
)
def test_history_is_truncated_after_the_last_complete_valid_line(
    tmp_path_factory: pytest.TempPathFactory, step: int, half: str
) -> None:
    run = Run.create(tmp_path_factory.mktemp("run"))
    run.close()
    lines = [f'{{"step": {number}, "loss": 1.0}}\n' for number in range(1, 11)]
    lines.insert(5, '{"step": 5, "validation_loss": 2.0}\n')
    path = run.folder / "history.jsonl"
    path.write_text("".join(lines) + half)
    run.cut_history(step)
    assert path.read_text() == "".join(lines[: step + (step >= 5)])


def test_truncating_a_missing_history_does_nothing(run: Run) -> None:
    run.cut_history(3)
    assert not (run.folder / "history.jsonl").exists()


def test_a_full_disk_is_reported_and_the_lines_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run.note(step=1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*history.jsonl: No space left on device"):
        run.flush_history()
