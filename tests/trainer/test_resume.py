"""Exact resume: a run that is killed at any point and resumed ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import checkpoint_files
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.events import Event, Logged, Saved, Stepped, Validated
from marks import first_daily
from tiny_runs import TEXT, TINY, run_program

CORPUS = Corpus.from_text(TEXT, name="hamlet")
STEPS = TINY.optimization.steps


class Killed(BaseException):
    """Has the same effect on disk as a kill: nothing catches it."""


def kill_when(condition: Callable[[Event], bool]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if condition(event):
            raise Killed

    return listen


def content(run: Path) -> dict[str, bytes]:
    """All files of a run, with the times removed from its history."""
    files = {path.name: path.read_bytes() for path in run.iterdir() if not path.name.startswith(".")}
    lines = [json.loads(line) for line in files["history.jsonl"].splitlines()]
    files["history.jsonl"] = json.dumps([{**line, "seconds": 0} for line in lines]).encode()
    return files


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(TINY, CORPUS, out=run)
    return content(run)


@pytest.mark.parametrize("step", first_daily([1, 2, 6, 7, 11, 12, 3, 4, 5, 8, 9, 10], 6))
def test_resume_after_a_kill_at_any_step_is_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, bytes], step: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(TINY, CORPUS, kill_when(lambda e: isinstance(e, Stepped) and e.step == step), out=run)
    resume(run)
    assert content(run) == uninterrupted


@pytest.mark.parametrize("kind", [Logged, Validated, Saved])
def test_resume_after_a_kill_between_events_is_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, bytes], kind: type
) -> None:
    run = tmp_path / "run"
    seen = 0

    def second(event: Event) -> bool:
        nonlocal seen
        seen += isinstance(event, kind)
        return seen == 2

    with pytest.raises(Killed):
        train(TINY, CORPUS, kill_when(second), out=run)
    resume(run)
    assert content(run) == uninterrupted


def test_resume_after_repeated_kills_is_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(TINY, CORPUS, kill_when(lambda e: isinstance(e, Stepped) and e.step == 2), out=run)
    for step in (4, 5, 8, 11):
        with pytest.raises(Killed):
            resume(run, kill_when(lambda e, step=step: isinstance(e, Stepped) and e.step == step))  # type: ignore[misc]
    resume(run)
    assert content(run) == uninterrupted


@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_resume_after_a_stop_is_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, bytes], step: int
) -> None:
    run = tmp_path / "run"
    steps: list[int] = []
    result = train(
        TINY,
        CORPUS,
        lambda event: steps.append(event.step) if isinstance(event, Stepped) else None,
        out=run,
        should_stop=lambda: steps[-1] == step,
    )
    assert result.stopped
    assert load_checkpoint(checkpoint_files(run)[-1]).step == step
    resumed = resume(run)
    assert not resumed.stopped
    assert content(run) == uninterrupted


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_is_bit_identical_for_other_cells_and_precisions(
    tmp_path: Path, cell: str, precision: str
) -> None:
    config = TINY.replace(cell=cell, precision=precision, onednn=True, embedding_size=6)
    train(config, CORPUS, out=tmp_path / "whole")
    with pytest.raises(Killed):
        train(
            config,
            CORPUS,
            kill_when(lambda e: isinstance(e, Stepped) and e.step == 8),
            out=tmp_path / "killed",
        )
    resume(tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "spread"},
        {"split": "spread", "random_start": False},
        {"lines": True},
        {"lines": True, "val_lines": 7, "cell": "gru", "seq_length": 9},
        {"lines": True, "seq_length": 60},
    ],
    ids=str,
)
def test_resume_is_bit_identical_for_other_data_settings(tmp_path: Path, settings: dict[str, object]) -> None:
    """Long lines continue from batch to batch, so some checkpoints are saved in the middle of them."""
    corpus = Corpus.from_text("\n".join(TEXT[place : place + place % 31] for place in range(1, 90)))
    config = TINY.replace(**settings)
    train(config, corpus, out=tmp_path / "whole")
    steps: list[int] = []

    def stop() -> bool:
        return steps[-1] in (4, 5, 8)

    def note(event: Event) -> None:
        steps.extend([event.step] if isinstance(event, Stepped) else [])

    run = tmp_path / "stopped"
    train(config, corpus, note, out=run, should_stop=stop)
    while steps[-1] < STEPS:
        resume(run, note, should_stop=stop)
    assert steps == list(range(1, STEPS + 1))
    assert content(run) == content(tmp_path / "whole")
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        train(config, corpus, kill_when(lambda e: isinstance(e, Stepped) and e.step == 8), out=killed)
    resume(killed)
    assert content(killed) == content(tmp_path / "whole")


KILLS = {
    "in a step": "if step == 8: kill()",
    "while a checkpoint is written": "os.fsync = lambda handle: kill() if step == 6 else None",
    "before a checkpoint gets its name": "os.replace = lambda *paths: kill() if step == 6 else real(*paths)",
    "before what it supersedes is removed": "Run.remove_superseded = lambda *_: kill()",
}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", first_daily(KILLS, 2))
def test_resume_after_sigkill_is_bit_identical(
    tmp_path: Path, uninterrupted: dict[str, bytes], moment: str
) -> None:
    program = f"""
import os, signal, sys
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.training.events import Stepped
from charrnn_trainer.training.api import train
from charrnn_trainer.runs.folder import Run
from tiny_runs import TEXT, TINY

real = os.replace

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def listen(event):
    step = event.step if isinstance(event, Stepped) else 0
    if step:
        {KILLS[moment]}

train(TINY, Corpus.from_text(TEXT, name="hamlet"), listen, out=sys.argv[1])
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = run_program(tmp_path / "program.py", tmp_path / "run", package="charrnn_trainer")
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    for path in checkpoint_files(tmp_path / "run"):
        load_checkpoint(path)
    resume(tmp_path / "run")
    assert content(tmp_path / "run") == uninterrupted


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    events: list[Event] = []
    result = resume(tmp_path / "run", events.append)
    assert (result.step, result.stopped) == (STEPS, False)
    assert not [event for event in events if isinstance(event, Stepped | Saved)]
    assert content(tmp_path / "run") == uninterrupted


def test_a_finished_run_can_be_trained_further(tmp_path: Path) -> None:
    train(TINY.replace(schedule="constant"), CORPUS, out=tmp_path / "run")
    result = resume(tmp_path / "run", changes={"steps": 20})
    assert result.step == 20
    assert RunFile.read(tmp_path / "run" / "config.toml").config.optimization.steps == 20
    whole = train(TINY.replace(schedule="constant", steps=20), CORPUS, out=tmp_path / "whole")
    assert result.run is not None
    assert whole.run is not None
    last = "lstm-2x8-step20.safetensors"
    assert (result.run / last).read_bytes() == (whole.run / last).read_bytes()


def test_changes_persist_even_if_the_run_is_killed_before_its_next_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = TINY.replace(schedule="constant", save_every=100, eval_every=100)
    train(config, CORPUS, out=run)
    with pytest.raises(Killed):
        resume(run, kill_when(lambda e: isinstance(e, Stepped) and e.step == 15), changes={"steps": 20})
    assert load_checkpoint(checkpoint_files(run)[-1]).step == STEPS
    assert resume(run).step == 20


def test_settings_that_define_a_run_cannot_be_changed(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    before = content(tmp_path / "run")
    with pytest.raises(SettingError, match="hidden_size cannot be changed"):
        resume(tmp_path / "run", changes={"hidden_size": 9})
    with pytest.raises(SettingError, match="steps=3 is less than the 12 steps already done"):
        resume(tmp_path / "run", changes={"steps": 3})
    assert content(tmp_path / "run") == before


def test_a_run_with_a_different_text_is_rejected(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    os.remove(tmp_path / "run" / "tokens.safetensors")
    Corpus.from_text(TEXT + "!").save(tmp_path / "run" / "tokens.safetensors")
    with pytest.raises(CharRNNError, match="a different text"):
        resume(tmp_path / "run")


def test_a_run_without_its_tokens_is_rejected(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    os.remove(tmp_path / "run" / "tokens.safetensors")
    with pytest.raises(CharRNNError, match="cannot read the tokens"):
        resume(tmp_path / "run")


def test_a_broken_last_checkpoint_is_an_error_and_nothing_is_overwritten(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "run")
    last = checkpoint_files(tmp_path / "run")[-1]
    last.write_bytes(last.read_bytes()[:-1])
    before = content(tmp_path / "run")
    with pytest.raises(CharRNNError, match=f"{last.name} is truncated or damaged"):
        resume(tmp_path / "run")
    assert content(tmp_path / "run") == before
