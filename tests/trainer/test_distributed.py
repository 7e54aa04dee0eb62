"""Two processes that train together: same results as one process, and joint failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn_runtime.errors import SettingError
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import checkpoint_files, find_checkpoint
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.distributed import ProcessGroup, join
from charrnn_trainer.training.events import Event, Stepped
from charrnn_trainer.training.time_budget import plan_for_minutes
from process_groups import Pair, environment_of, free_port
from tiny_runs import TEXT, TINY, TINY_FLAGS, environment

CORPUS = Corpus.from_text(TEXT, name="hamlet")
PLAIN = TINY.replace(
    dropout=0.0, input_dropout=0.0, weight_drop=0.0, reset_chance=0.0, steps=30, clip=0.3, save_every=30
)
"""Without random draws, over three passes, with gradient clipping at every step."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def alone(config: TrainConfig, folder: Path) -> list[float]:
    """The losses of one process."""
    losses: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss or 0.0)

    train(config, CORPUS, listen, out=folder)
    return losses


def assert_same_checkpoint(one: Path, other: Path, near: float) -> None:
    """Check that two runs end equal: weights, optimizer state, hidden state and all counters."""
    first, second = (load_checkpoint(find_checkpoint(run, "last")) for run in (one, other))
    assert first.step == second.step
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[name], tensor, rtol=near, atol=near, msg=name)
    assert first.validation_loss == pytest.approx(second.validation_loss, rel=near)
    assert first.config == second.config


# --- joint training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"split": "spread"}, {"lines": True, "batch_size": 6}], ids=str)
def test_two_processes_read_their_shares_of_blocks_and_lines(
    pair: Pair, tmp_path: Path, settings: dict[str, object]
) -> None:
    config = PLAIN.replace(**settings)
    expected = alone(config, tmp_path / "one")
    leader, follower = pair(config, tmp_path / "two")
    assert (leader.error, follower.error) == ("", "")
    if "lines" not in settings:  # there, the mean of the processes' means is reported
        assert leader.losses == pytest.approx(expected, rel=1e-4)
    assert leader.weights == follower.weights
    assert_same_checkpoint(tmp_path / "one", tmp_path / "two", 1e-4)


@pytest.mark.parametrize(
    ("cell", "precision", "near"), [("lstm", "fp32", 1e-4), ("gru", "fp32", 1e-4), ("lstm", "bf16", 2e-2)]
)
def test_two_processes_learn_the_same_as_one_from_the_same_batches(
    pair: Pair, tmp_path: Path, cell: str, precision: str, near: float
) -> None:
    config = PLAIN.replace(cell=cell, precision=precision, onednn=precision == "bf16")
    expected = alone(config, tmp_path / "one")
    leader, follower = pair(config, tmp_path / "two")
    assert (leader.error, follower.error) == ("", "")
    assert leader.losses == pytest.approx(expected, rel=near)
    assert (leader.step, follower.step) == (30, 30)
    assert leader.weights == follower.weights
    assert_same_checkpoint(tmp_path / "one", tmp_path / "two", near)


def test_two_processes_learn_tied_weights_as_one_does(pair: Pair, tmp_path: Path) -> None:
    config = PLAIN.replace(tie_weights=True, embedding_size=5)
    expected = alone(config, tmp_path / "one")
    leader, follower = pair(config, tmp_path / "two")
    assert (leader.error, follower.error) == ("", "")
    assert leader.losses == pytest.approx(expected, rel=1e-4)
    assert leader.weights == follower.weights
    assert_same_checkpoint(tmp_path / "one", tmp_path / "two", 1e-4)


def test_a_run_resumes_with_a_different_number_of_processes(pair: Pair, tmp_path: Path) -> None:
    """One process, then two, then one; the streams are redistributed."""
    alone(PLAIN, tmp_path / "whole")
    run = tmp_path / "run"
    stop_after = iter([False] * 6 + [True])
    assert train(PLAIN, CORPUS, out=run, should_stop=lambda: next(stop_after)).step == 7
    leader, follower = pair(None, run, stop_at=(11, 0))
    assert (leader.error, leader.step, leader.stopped) == ("", 18, True)
    assert (follower.step, follower.stopped) == (18, True)
    assert resume(run).step == 30
    assert_same_checkpoint(tmp_path / "whole", run, 1e-4)


def test_each_process_draws_its_own_random_numbers_and_all_keep_the_same_weights(
    pair: Pair, tmp_path: Path
) -> None:
    leader, follower = pair(TINY, tmp_path / "run")
    assert leader.weights == follower.weights
    assert leader.drawn != follower.drawn
    saved = load_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert saved.tensors["random.cpu"].numpy().tobytes() == leader.drawn
    assert resume(tmp_path / "run", changes={"steps": 14}).step == 14


def test_decisions_of_one_process_apply_to_all(pair: Pair, tmp_path: Path) -> None:
    config = TINY.replace(minutes=1, steps=MOST_STEPS, eval_every=1000, save_every=1000)
    leader, follower = pair(config, tmp_path / "clock", spoil=("slow clock", "fast clock"))
    assert 10 < leader.step == follower.step < 60
    assert leader.weights == follower.weights
    config = TINY.replace(eval_every=1, patience=2)
    leader, follower = pair(config, tmp_path / "patience", spoil=("worse and worse", ""))
    assert (leader.step, follower.step) == (3, 3)


# --- joint exit --------------------------------------------------------------------------------------------


def test_all_processes_stop_after_the_same_step_whichever_is_asked_to(pair: Pair, tmp_path: Path) -> None:
    leader, follower = pair(TINY, tmp_path / "run", stop_at=(0, 5))
    assert (leader.step, leader.stopped) == (follower.step, follower.stopped) == (5, True)
    saved = load_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert (saved.step, saved.kind) == (5, "interrupted")
    assert saved.tensors["state.h"].shape == (2, 8, 8)


ENDED = "WorkerLostError: another process of this run has ended"


@pytest.mark.parametrize(
    ("spoil", "leaders", "followers"),
    [
        (("full disk", ""), "WriteError: cannot write", ENDED),
        (("interrupted validation", ""), "KeyboardInterrupt", ENDED),
        (("no memory", ""), "CharRNNError: out of memory", ENDED),
        (("", "no memory"), ENDED, "CharRNNError: out of memory"),
        (("", "unreadable text"), ENDED, "CharRNNError: cannot read the tokens"),
        (("", "no number"), "DivergedError: training diverged at step 5", "DivergedError: training diverged"),
    ],
)
def test_if_one_process_fails_all_end(
    pair: Pair, tmp_path: Path, spoil: tuple[str, str], leaders: str, followers: str
) -> None:
    leader, follower = pair(TINY, tmp_path / "run", spoil=spoil)
    assert leader.error.startswith(leaders)
    assert follower.error.startswith(followers)
    for path in checkpoint_files(tmp_path / "run"):
        load_checkpoint(path)
    if "unreadable text" in spoil:
        return  # nothing had started
    assert resume(tmp_path / "run").step == 12


def test_a_batch_that_cannot_be_divided_equally_is_rejected_and_creates_no_run(
    pair: Pair, tmp_path: Path
) -> None:
    leader, follower = pair(TINY.replace(batch_size=7), tmp_path / "run")
    assert leader.error.startswith(
        "SettingError: batches of 7 rows cannot be shared equally by 2 processes; give batch_size=6 or 8"
    )
    assert follower.error.startswith(ENDED)
    assert not (tmp_path / "run").exists()


# --- a single process --------------------------------------------------------------------------------------


def test_a_single_process_is_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as group:
        assert (group.rank, group.size, group.is_main) == (0, 1, True)
        assert group.rows(7) == slice(0, 7)
        assert group.agree(True)
        assert not group.agree(False)
        assert group.broadcast(lambda: 5) == 5


def test_rows_are_divided_without_gap_or_overlap() -> None:
    shares = []
    for rank in range(3):
        group = ProcessGroup()
        group.rank, group.size = rank, 3
        shares += list(np.arange(12)[group.rows(12)])
        with pytest.raises(SettingError, match="give batch_size=3, or start"):
            group.rows(2)
    assert shares == list(range(12))


def test_several_processes_need_a_folder() -> None:
    group = ProcessGroup()
    group.size = 2
    with pytest.raises(SettingError, match="training in several processes needs a folder"):
        train(TINY, CORPUS, group=group)


def test_a_plan_for_several_processes_has_rows_for_all() -> None:
    config = TrainConfig().replace(
        minutes=0.001, device="cpu", precision="fp32", onednn=False, threads=1, hidden_size=64
    )
    plan = plan_for_minutes(config, {"hidden_size"}, 1_000_000, 65, processes=3).config
    assert plan.data.batch_size == 18


# --- the command -------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_torchrun_trains_with_the_same_command_and_ctrl_c_saves_once(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT)
    words = ("my.txt", "--steps", "1000000", "--log-every", "20", "--eval-every", "1000000", *TINY_FLAGS)
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    program += "from torch.distributed.run import main; main()"
    launcher = ("--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "charrnn_trainer.cli.train")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *launcher, *words],
        cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "s/batch" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=240)
    said += err.splitlines(keepends=True)
    assert out == "ckpt/lstm\n"
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["lstm"]
    for once in (
        "text: my.txt, ",
        "training: ",
        "checkpoint saved; to resume: charrnn-train --resume ckpt/lstm",
    ):
        assert sum(once in line for line in said) == 1, once
    saved = load_checkpoint(find_checkpoint(tmp_path / "ckpt", "last"))
    assert saved.kind == "interrupted"
    assert resume(tmp_path / "ckpt" / "lstm", changes={"steps": saved.step + 1}).step == saved.step + 1


@pytest.mark.nightly
def test_a_usage_error_is_reported_by_the_main_process_only(tmp_path: Path) -> None:
    outcomes = []
    for rank in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "charrnn_trainer.cli.train", "--sleeps", "3"],
            cwd=tmp_path,
            env={**environment(), **environment_of(rank, free_port())},
            capture_output=True,
            check=False,
            timeout=240,
        )
        outcomes.append((done.returncode, done.stdout, b"--sleeps" in done.stderr, len(done.stderr) > 0))
    assert outcomes == [(2, b"", True, True), (2, b"", False, False)]
