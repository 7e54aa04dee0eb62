"""The command charrnn-train: arguments, output and exit codes."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import lzma
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from charrnn_runtime.cli import terminal
from charrnn_trainer.cli import display as display_module
from charrnn_trainer.cli import torch_installed
from charrnn_trainer.cli import train as train_module
from charrnn_trainer.cli.live import printable
from charrnn_trainer.cli.train import app
from charrnn_trainer.data import default_corpus as default_corpus_module
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.nn import network as network_module
from charrnn_trainer.recipes import recipe
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.training.api import resume
from forked import forked
from tiny_runs import TEXT, TINY_FLAGS, environment, run_program


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Program = Callable[..., Outcome]
TRAIN = ("--steps", "6", "--eval-every", "3", "--save-every", "3", "--log-every", "2")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """charrnn-train in this process, in an empty folder with a text in it."""
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text(TEXT, encoding="utf-8")

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["charrnn-train", *words])
        with pytest.raises(SystemExit) as ended:
            terminal.run(app, "charrnn-train", dies_of_closed_pipe=False)
        out, err = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), out, err)

    return run


def test_a_run_reports_its_progress_and_prints_its_folder(program: Program) -> None:
    done = program("my.txt", "--cell", "gru", *TRAIN, *TINY_FLAGS)
    assert (done.code, done.out) == (0, "ckpt/gru\n")
    lines = done.err.splitlines()
    assert lines[0] == "text: my.txt, 1,700 characters, 22 distinct"
    assert lines[1] == "  | to be, or not to be, that is the question:"
    assert any(line.startswith(r"ids: '\n' 0, ' ' 1, ") for line in lines)
    assert any("GRU, 1 x 8" in line and "parameters, on cpu in fp32" in line for line in lines)
    assert "split: the first 1,530 characters for training, the last 170 for validation" in lines
    steps = [line for line in lines if line.startswith("step ") and "s/batch" in line]
    assert [line.split("  ")[0] for line in steps] == ["step 2/6", "step 4/6", "step 6/6"]
    assert all("loss " in line for line in steps)
    assert sum("validation loss" in line and "bits per character" in line for line in lines) >= 2
    assert lines[-1] == "next: charrnn-export ckpt/gru my.onnx"
    assert sorted(path.name for path in Path("ckpt/gru").iterdir() if not path.name.startswith(".")) == [
        "config.toml",
        "gru-1x8-step3.safetensors",
        "gru-1x8-step6.safetensors",
        "history.jsonl",
        "tokens.safetensors",
    ]


def test_runs_never_overwrite_one_another(program: Program) -> None:
    folders = [program("my.txt", *TRAIN, *TINY_FLAGS, "--quiet") for _ in range(3)]
    assert [done.out for done in folders] == ["ckpt/lstm\n", "ckpt/lstm-2\n", "ckpt/lstm-3\n"]
    assert {done.err for done in folders} == {""}
    again = program("my.txt", *TRAIN, *TINY_FLAGS, "--out", "ckpt/lstm")
    assert again.code == 2
    assert again.err.splitlines()[-1].startswith(
        "charrnn-train: error: --out ckpt/lstm already contains a run"
    )


def test_every_flag_reaches_its_setting(program: Program) -> None:
    flags = {
        "cell": "rnn", "layers": 2, "hidden_size": 9, "embedding_size": 4, "dropout": 0.125,
        "input_dropout": 0.25, "weight_drop": 0.5, "reset_chance": 0.75,
        "level": "char", "encoding": "latin-1", "separator": "|",
        "val_fraction": 0.25, "val_sample": 9, "split": "spread",
        "batch_size": 3, "seq_length": 7,
        "steps": 4, "minutes": 50.0, "keep": 3, "patience": 4,
        "learning_rate": 0.25, "schedule": "linear", "warmup_steps": 2,
        "weight_decay": 0.5, "clip": 2.0,
        "eval_every": 2, "save_every": 3, "log_every": 1, "seed": 11, "device": "cpu",
        "precision": "fp32", "threads": 1,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]
    switches = ("--tie-weights", "--random-start", "--no-onednn", "--no-tensorboard", "--no-deterministic")
    done = program("my.txt", *words, *switches, "--out", "run")
    assert done.code == 0, done.err
    values = load_checkpoint(find_checkpoint("run", "last")).config.to_dict()
    flat = {name: value for section in values.values() for name, value in section.items()}
    assert flat == {
        **flags, "tie_weights": True, "random_start": True, "lines": False,
        "onednn": False, "tensorboard": False, "deterministic": False,
    }  # fmt: skip


def test_a_list_is_learned_line_by_line(program: Program) -> None:
    names = ["anna", "bert", "carl", "dora", "emil", "fred", "gina", "hans", "ida", "jan", "kim", "lea"]
    Path("names.txt").write_bytes("\r\n".join([*names, "", "anna"]).encode())
    done = program("names.txt", "--lines", "--val-lines", "3", *TRAIN, *TINY_FLAGS)
    assert done.code == 0, done.err
    assert "  (Windows line endings are read as newlines)\n" in done.err
    assert "lines: 13, 12 distinct; 3 held out for validation" in done.err
    assert "; 1 empty line skipped\n" in done.err
    assert "in held-out lines for validation\n" in done.err
    assert "in batches of whole lines, up to 64 characters; saving to ckpt/lstm\n" in done.err
    checkpoint = load_checkpoint(find_checkpoint("ckpt/lstm", "last"))
    assert (checkpoint.config.data.lines, checkpoint.config.data.val_lines) == (True, 3)
    assert "\r" not in checkpoint.vocabulary.symbols


def test_displayed_lines_are_split_only_at_newlines(program: Program) -> None:
    Path("old.txt").write_bytes(b"one\rtwo\x0cthree\r\n" * 20)
    done = program("old.txt", *TRAIN, *TINY_FLAGS)
    assert done.code == 0
    assert done.err.count("  | one·two·three\n") == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--val-lines", "3"], "--val-lines 3 requires --lines; give both"),
        (["--lines", "--split", "spread"], "with --lines, which already holds out lines from all over"),
        (["--lines", "--val-lines", "0", "--patience", "2"], "--val-lines 0 holds out no text"),
        (["--deterministic", "--minutes", "1"], "--deterministic cannot be given with --minutes"),
    ],
)
def test_contradictory_settings_are_rejected(program: Program, flags: list[str], message: str) -> None:
    done = program("my.txt", *flags)
    assert done.code == 2
    assert message in done.err


def test_a_time_budget_plans_settings_that_are_not_given_and_reports_them(program: Program) -> None:
    done = program("my.txt", "--minutes", "50", "--cell", "lstm", *TRAIN, *TINY_FLAGS)
    assert (done.code, done.out) == (0, "ckpt/lstm\n")
    assert "measuring the training speed of this machine\n" in done.err
    assert "\nthe 6 requested steps take about " in done.err
    assert " of the 50 minutes: LSTM, 1 x 8, " in done.err
    config = load_checkpoint(find_checkpoint("ckpt/lstm", "last")).config
    assert (config.optimization.schedule, config.data.random_start) == ("cosine", True)
    assert config.network.embedding_size == 22


def test_a_time_budget_with_initial_weights_plans_dropout_again(program: Program) -> None:
    program("my.txt", *TRAIN, *TINY_FLAGS)
    done = program("my.txt", "--minutes", "50", "--init-from", "ckpt", "--steps", "60", *TINY_FLAGS[4:])
    assert done.code == 0, done.err
    assert "\nthe 60 requested steps take about " in done.err
    assert " of the 50 minutes: LSTM, 1 x 8, 2.5 passes over the text, dropout 0" in done.err
    assert "learning rate 0.002" in done.err  # a third of the usual learning rate
    config = load_checkpoint(find_checkpoint("ckpt/lstm-2", "last")).config
    assert config.network.hidden_size == 8
    assert 0.0 < config.network.dropout < 0.2


def test_other_flags_override_a_recipe(program: Program) -> None:
    assert program("my.txt", "--recipe", "best", *TRAIN, *TINY_FLAGS).code == 0
    config = load_checkpoint(find_checkpoint("ckpt/lstm", "last")).config
    assert config == recipe("best").replace(
        layers=1,
        hidden_size=8,
        batch_size=4,
        seq_length=16,
        encoding="utf-8",
        precision="fp32",
        onednn=False,
        threads=1,
        device="cpu",
        steps=6,
        eval_every=3,
        save_every=3,
        log_every=2,
    )


def test_an_unknown_recipe_or_one_combined_with_a_config_is_rejected(program: Program) -> None:
    unknown = program("my.txt", "--recipe", "bets")
    assert (unknown.code, unknown.err) == (
        2,
        "charrnn-train: error: --recipe must be one of course, best, not 'bets'\n",
    )
    assert program("--config", "x.toml", "--recipe", "best").code == 2


def test_a_config_repeats_a_run_and_flags_override_it(program: Program) -> None:
    program("my.txt", *TRAIN, *TINY_FLAGS, "--out", "first")
    assert program("--config", "first/config.toml", "--out", "second").out == "second\n"
    for path in Path("first").glob("*.safetensors"):
        assert path.read_bytes() == (Path("second") / path.name).read_bytes()
    assert program("--config", "first/config.toml", "--steps", "2", "--out", "third").code == 0
    config = RunFile.read(Path("third/config.toml")).config
    assert config.optimization.steps == 2
    assert config.network.hidden_size == 8


def test_a_run_is_resumed_from_a_folder_of_runs_and_can_be_extended(program: Program) -> None:
    program("my.txt", *TRAIN, *TINY_FLAGS)
    os.remove("my.txt")  # the run keeps its text
    done = program("--resume", "ckpt", "--steps", "9", "--log-every", "3")
    assert (done.code, done.out) == (0, "ckpt/lstm\n")
    assert done.err.startswith("resuming ckpt/lstm\n")
    assert "training from step 6: 9 steps in total" in done.err
    assert [entry.step for entry in list_checkpoints("ckpt")][-1] == 9
    again = program("--resume", "ckpt/lstm")
    assert (again.code, again.out) == (0, "ckpt/lstm\n")
    assert "\nckpt/lstm is already finished: it has trained for 9 steps\n" in again.err
    assert f"\nbest checkpoint: {find_checkpoint('ckpt/lstm')}\n" in again.err
    assert "\nto train further: charrnn-train --resume ckpt/lstm --steps 18\n" in again.err
    assert program("--resume", "ckpt/lstm", "--steps", "18").code == 0
    assert [entry.step for entry in list_checkpoints("ckpt")][-1] == 18


def test_a_run_out_of_time_prints_its_best_checkpoint_and_how_to_train_further(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = program("my.txt", "--minutes", "0.001", *TINY_FLAGS)
    assert first.code == 0, first.err
    assert re.search(
        r"\nstartup and measuring took \d+ s and left no time of the 0.001 minutes; the run takes one step",
        first.err,
    )
    last = list_checkpoints("ckpt")[-1]
    again = program("--resume", "ckpt")
    assert again.code == 0
    run = last.path.parent
    assert f"\n{run} is already finished: it has trained for 0.001 minutes\n" in again.err
    assert f"\nbest checkpoint: {last.path}\n" in again.err
    advice = re.search(rf"\nto train further: charrnn-train (--resume {run} --minutes [\d.]+)\n", again.err)
    assert advice is not None, again.err
    # For a minute, which soon ends by this clock.
    monkeypatch.setattr(train_module, "_BEGAN", time.perf_counter() - 59.0)
    more = program(*shlex.split(advice[1]))
    assert more.code == 0, more.err
    assert list_checkpoints("ckpt")[-1].step > last.step


def test_bytes_are_not_called_characters(program: Program) -> None:
    done = program("my.txt", "--level", "byte", *TRAIN, *TINY_FLAGS)
    assert done.code == 0
    assert "bits per byte" in done.err
    assert "character" not in done.err


def test_a_tf32_run_resumed_on_a_cpu_reports_that_it_computes_in_fp32(program: Program) -> None:
    assert program("my.txt", *TRAIN, *TINY_FLAGS).code == 0
    # As a run on a GPU that was killed before its first checkpoint.
    for checkpoint in list_checkpoints("ckpt"):
        checkpoint.path.unlink()
    settings = Path("ckpt/lstm/config.toml")
    settings.write_text(settings.read_text().replace('precision = "fp32"', 'precision = "tf32"'))
    done = program("--resume", "ckpt")
    assert done.code == 0, done.err
    assert "tf32 needs a GPU; using fp32 on this CPU\n" in done.err
    assert load_checkpoint(find_checkpoint("ckpt")).config.run.precision == "fp32"


@pytest.mark.parametrize(
    "words",
    [
        ("my.txt",),
        ("--out", "x"),
        ("--init-from", "ckpt"),
        ("--config", "x.toml"),
        ("--layers", "2"),
        ("--recipe", "best"),
        ("--val-lines", "3"),  # of a run that is not on a list
        ("--split", "spread", "--lines"),
    ],
)
def test_settings_fixed_on_resume_are_rejected(program: Program, words: tuple[str, ...]) -> None:
    program("my.txt", *TRAIN, *TINY_FLAGS)
    done = program("--resume", "ckpt", *words)
    assert done.code == 2
    assert "cannot be" in done.err.splitlines()[-1]


def test_settings_fixed_on_resume_can_change_in_a_run_from_the_weights(program: Program) -> None:
    assert program("my.txt", *TRAIN, *TINY_FLAGS).code == 0
    done = program("--resume", "ckpt/lstm", "--learning-rate", "0.001")
    assert (done.code, done.out) == (2, "")
    assert (
        "to continue training its network with another --learning-rate, start a new run with --init-from"
        in done.err
    )
    done = program("my.txt", "--init-from", "ckpt/lstm", "--learning-rate", "0.001", *TRAIN, *TINY_FLAGS)
    assert done.code == 0, done.err


def test_deterministic_runs_measure_nothing_and_give_the_same_model(program: Program) -> None:
    for _ in range(2):
        done = program("my.txt", "--deterministic", "--cell", "gru", "--steps", "6", "--layers", "1")
        assert done.code == 0, done.err
        assert "measur" not in done.err
    assert RunFile.read(Path("ckpt/gru/config.toml")).config.run.threads == 1
    first, again = (load_checkpoint(find_checkpoint(Path(f"ckpt/gru{end}"))) for end in ("", "-2"))
    for name, tensor in first.tensors.items():
        assert tensor.equal(again.tensors[name]), name


def test_measured_choices_are_reported_with_the_options_that_repeat_them(program: Program) -> None:
    done = program("my.txt", "--cell", "gru", "--steps", "6", "--layers", "1")
    found = re.search(r"to repeat this run exactly, use the same seed and (.*), or its config.toml", done.err)
    assert found, done.err
    again = program("my.txt", "--cell", "gru", "--steps", "6", "--layers", "1", *found[1].split())
    assert "measur" not in again.err
    first, second = (load_checkpoint(find_checkpoint(Path(f"ckpt/gru{end}"))) for end in ("", "-2"))
    for name, tensor in first.tensors.items():
        assert tensor.equal(second.tensors[name]), name


def test_training_starts_from_the_weights_of_another_run(program: Program) -> None:
    program("my.txt", *TRAIN, *TINY_FLAGS, "--level", "byte")
    Path("more.txt").write_text(TEXT.upper(), encoding="utf-8")
    flags = ("--steps", "2", "--precision", "fp32", "--no-onednn", "--batch-size", "4", "--seq-length", "16")
    done = program("more.txt", "--init-from", "ckpt", *flags)
    assert (done.code, done.out) == (0, "ckpt/lstm-2\n")
    assert "starting from ckpt/lstm/lstm-1x8-step" in done.err
    assert load_checkpoint(find_checkpoint("ckpt/lstm-2")).config.network.hidden_size == 8
    file = RunFile.read(Path("ckpt/lstm-2/config.toml"))
    assert file.init_from is not None
    assert program("--config", "ckpt/lstm-2/config.toml", "--out", "again").code == 0
    for path in Path("again").glob("*.safetensors"):
        assert path.read_bytes() == (Path("ckpt/lstm-2") / path.name).read_bytes()
    refused = program("more.txt", "--init-from", "ckpt/lstm", "--hidden-size", "9")
    assert refused.code == 2
    assert "--hidden-size 9 does not match --init-from" in refused.err
    refused = program("more.txt", "--init-from", "ckpt/lstm", "--tie-weights")
    assert refused.code == 2
    assert "--tie-weights does not match --init-from ckpt/lstm" in refused.err
    assert "which was trained with --no-tie-weights; omit it" in refused.err


GROWN = [(), ("--tie-weights", "--embedding-size", "3"), ("--embedding-size", "3"), ("--tie-weights",)]


@pytest.mark.parametrize(
    ("planned", "network"),
    [
        *((False, network) for network in GROWN),
        *(pytest.param(True, each, marks=[pytest.mark.nightly] * (each in GROWN[2:])) for each in GROWN),
    ],
)
def test_characters_new_to_the_network_are_added_and_reported(
    program: Program, network: tuple[str, ...], planned: bool
) -> None:
    minutes = ("--minutes", "50") if planned else ()
    program("my.txt", "--cell", "lstm", *minutes, *TRAIN, *TINY_FLAGS, *network)
    Path("more.txt").write_text(TEXT.lower().replace("o", "ö") + "!", encoding="utf-8")
    done = program("more.txt", "--init-from", "ckpt", *minutes, *TRAIN, *TINY_FLAGS[4:])
    assert done.code == 0, done.err
    assert "more.txt has 2 new characters, added to the vocabulary: '!', 'ö'\n" in done.err
    first, second = (load_checkpoint(find_checkpoint(f"ckpt/{run}")) for run in ("lstm", "lstm-2"))
    assert second.vocabulary.symbols == tuple(sorted({*first.vocabulary.symbols, "!", "ö"}))
    assert second.config.network.embedding_size == first.config.network.embedding_size
    assert second.config.network.tie_weights == ("--tie-weights" in network)
    again = program("my.txt", "--init-from", "ckpt/lstm-2", *TRAIN, *TINY_FLAGS[4:])
    assert "does not know" not in again.err
    assert load_checkpoint(find_checkpoint("ckpt/lstm-3")).vocabulary == second.vocabulary


def test_standard_input_trains(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    done = program("-", *TRAIN, *TINY_FLAGS)
    assert done.out == "ckpt/lstm\n"
    assert RunFile.read(Path("ckpt/lstm/config.toml")).text == "-"
    assert program("--resume", "ckpt", "--steps", "7").code == 0


def test_a_compressed_text_is_read_from_standard_input(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compress in (gzip.compress, lzma.compress):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(compress(TEXT.encode()))))
        done = program("-", *TRAIN, *TINY_FLAGS)
        assert done.code == 0, done.err
        assert f"text: standard input, {len(TEXT):,} characters" in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' paths are Unicode")
def test_paths_that_are_not_unicode_are_printed_as_they_are_and_read_back(program: Program) -> None:
    text, out = Path(os.fsdecode(b"t\xe9.txt")), os.fsdecode(b"r\xe9")
    text.write_text(TEXT, encoding="utf-8")
    done = run_program("-m", "charrnn_trainer.cli.train", text, "--out", out, *TRAIN, *TINY_FLAGS)
    assert done.stdout == b"r\xe9\n", done.stderr
    assert program("--config", f"{out}/config.toml", "--out", "again").code == 0
    assert RunFile.read(Path("again/config.toml")).text == str(text.absolute())


def test_settings_given_as_a_text_are_named_and_the_advice_works(program: Program) -> None:
    assert program("my.txt", *TRAIN, *TINY_FLAGS).code == 0
    done = program("ckpt/lstm/config.toml")
    assert done.code == 2
    assert "ckpt/lstm/config.toml contains the settings of a run, not a text" in done.err
    assert program(*done.err.partition(": --config")[1][2:].split(), "ckpt/lstm/config.toml").code == 0
    Path("other.toml").write_text("[words]\n" + "a = 1\n" * 2000, encoding="utf-8")
    assert program("other.toml", *TRAIN, *TINY_FLAGS).code == 0


def test_an_empty_text_among_others_is_reported(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty.txt").touch()
    done = program("my.txt", "empty.txt", *TRAIN, *TINY_FLAGS)
    assert done.code == 0
    assert "warning: empty.txt is empty and is skipped" in done.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    done = program("my.txt", "-", *TRAIN, *TINY_FLAGS)
    assert (done.code, done.out) == (1, "")
    assert "standard input is empty; pipe a text into it, or omit -" in done.err


def test_several_texts_and_folders_are_read_as_one(program: Program) -> None:
    Path("more/deep").mkdir(parents=True)
    Path("more/b.txt").write_text("be that as it may " * 20, encoding="utf-8")
    Path("more/deep/a.txt.gz").write_bytes(gzip.compress(b"question after question " * 20))
    Path("more/c.log").write_text("not read", encoding="utf-8")
    begin = ("my.txt", "more", "--glob", "**/*.txt*", "--separator", "|", *TRAIN, *TINY_FLAGS)
    done = program(*begin)
    assert done.code == 0, done.err
    assert 'texts: 3, joined with "|" between them, the last 10 % of each held out' in done.err
    assert "text: my.txt, b.txt, a.txt.gz, " in done.err
    assert re.search(r"split: [\d,]+ characters for training, [\d,]+ at the ends of the texts for", done.err)
    file = RunFile.read(Path("ckpt/lstm/config.toml"))
    paths = [Path(path) for path in ("my.txt", "more/b.txt", "more/deep/a.txt.gz")]
    assert file.text == tuple(str(path.absolute()) for path in paths)
    assert program("--config", "ckpt/lstm/config.toml").code == 0
    first, again = (load_checkpoint(find_checkpoint(Path(f"ckpt/lstm{end}"))) for end in ("", "-2"))
    assert first.corpus == again.corpus
    for name, tensor in first.tensors.items():
        assert tensor.equal(again.tensors[name]), name
    corpus = Corpus.open(Path("ckpt/lstm/tokens.safetensors"))
    assert first.corpus.train_tokens == corpus.train_length != int(0.9 * len(corpus))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["more"], r"more is a folder; choose the files to read, such as --glob '\*\.txt'"),
        (["more", "--glob", "*.md"], r"more has no file that matches --glob '\*\.md'"),
        (["my.txt", "--glob", "*.txt"], "--glob selects files in a folder; give a folder as TEXT"),
        (["--glob", "*.txt"], "--glob selects files in a folder; give a folder as TEXT"),
        (["my.txt", "./my.txt"], "my.txt is given twice"),
        (["my.txt", "--lines", "--separator", "|"], "--separator cannot be given with --lines"),
        (["--resume", "ckpt", "--glob", "*"], "--glob cannot be given with --resume"),
    ],
)
def test_missing_texts_are_reported_and_create_no_run(
    program: Program, words: list[str], message: str
) -> None:
    Path("more").mkdir()
    Path("more/a.txt").write_text(TEXT, encoding="utf-8")
    done = program(*words)
    assert done.code == 2
    assert re.search(message, done.err), done.err
    assert not Path("ckpt").exists()


def test_without_a_text_the_default_one_is_read(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    found = default_corpus_module.DefaultCorpus(Path("my.txt"), "tinyshakespeare", "0" * 64)

    def find(report: Callable[[str], None], progress: object) -> default_corpus_module.DefaultCorpus:
        report("default text: found")
        return found

    monkeypatch.setattr(default_corpus_module, "default_corpus", find)
    done = program(*TRAIN, *TINY_FLAGS)
    assert done.code == 0
    assert done.err.startswith("default text: found\ntext: tinyshakespeare, 1,700 characters")
    assert RunFile.read(Path("ckpt/lstm/config.toml")).text is None
    assert load_checkpoint(find_checkpoint("ckpt")).corpus.name == "tinyshakespeare"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.txt is empty; at least 32 characters are needed"),
        (b"too short", "only 9 characters"),
        (b"x" * 1_000, "nothing to learn"),
        (b"caf\xe9 " * 20, "bad.txt is not UTF-8: byte 3 is 0xe9"),
        (b"PK\x03\x04" + bytes(60), "bad.txt is not a text file but a zip archive"),
    ],
)
def test_an_unusable_text_is_a_one_line_error_and_creates_no_run(
    program: Program, content: bytes, message: str
) -> None:
    Path("bad.txt").write_bytes(content)
    done = program("bad.txt", *TRAIN, *TINY_FLAGS)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("charrnn-train: error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["bad.txt", "my.txt"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("missing.txt",), 1, "missing.txt does not exist"),
        ((".",), 2, ". is a folder"),
        (("my.txt", "--layers", "0"), 2, "--layers must be a whole number from 1 to 32, not 0"),
        (("my.txt", "--cell", "cnn"), 2, "--cell must be one of lstm, gru, rnn, not 'cnn'"),
        (
            ("my.txt", "--steps", "many"),
            2,
            "from 1 to 2,147,483,647, not 'many'",
        ),
        (
            ("my.txt", "--steps", "1.5"),
            2,
            "--steps must be a whole number from 1 to ",
        ),
        (("my.txt", "--lr", "abc"), 2, "must be a number above 0 and at most 1000, not 'abc'"),
        (("my.txt", "--learning-rate", "nan"), 2, "--learning-rate"),
        (("my.txt", "--val-fraction", "1"), 2, "--val-fraction"),
        (("my.txt", "--sleeps", "3"), 2, "--sleeps"),
        (("my.txt", "your.txt"), 1, "your.txt does not exist"),
        (("my.txt", "--config", "missing.toml"), 1, "cannot read the settings in missing.toml"),
        (("my.txt", "--config", "my.txt"), 1, "my.txt is not a TOML file"),
        (("my.txt", "--init-from", "missing"), 1, "missing does not exist"),
        (("my.txt", "--init-from", "my.txt"), 1, "my.txt is not a charrnn checkpoint"),
        (("--resume", "missing"), 1, "missing does not exist"),
        (("--resume", "."), 1, "contains no run"),
        (("my.txt", "--out", "my.txt/run"), 1, "cannot create the folder"),
        (("my.txt", "--out", "."), 2, "--out . is not empty"),
    ],
)
def test_a_mistake_is_a_one_line_error_with_its_exit_code_and_creates_no_run(
    program: Program, words: tuple[str, ...], code: int, message: str
) -> None:
    done = program(*words)
    assert (done.code, done.out) == (code, "")
    errors = [line for line in done.err.splitlines() if line.startswith("charrnn-train: error: ")]
    assert errors == [done.err.splitlines()[-1]]
    assert message in errors[0]
    assert [path.name for path in Path().iterdir()] == ["my.txt"]


def test_a_byte_order_mark_and_a_short_text_are_reported(program: Program) -> None:
    Path("short.txt").write_text("\ufeffto be, or not to be, that is the question\x1b[2J")
    done = program("short.txt", *TRAIN, "--precision", "fp32", "--no-onednn", "--hidden-size", "8")
    assert done.code == 0
    assert "(skipped a byte-order mark at the start)" in done.err
    assert "do not fill two batches of 100 x 100" in done.err
    assert "\x1b" not in done.err  # characters that move the cursor are not sent to a terminal


@pytest.mark.parametrize("saved", [False, True], ids=["before any checkpoint", "after one"])
def test_the_advice_after_divergence_works(
    program: Program, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    real, calls = network_module.next_token_loss, 0

    def exploding(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(logits, targets) * (math.inf if calls == 5 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(network_module, "next_token_loss", exploding)
        words = ("--steps", "6", "--learning-rate", "0.9", "--val-fraction", "0")
        done = program("my.txt", *words, "--save-every", "4" if saved else "6", *TINY_FLAGS)
    assert done.code == 1
    advice = re.search(r": (charrnn-train --config .*) \(a lower --clip", done.err)
    assert advice is not None, done.err
    assert "--resume" not in done.err
    command = shlex.split(advice[1])
    assert command[-2:] == ["--learning-rate", "0.005"]
    assert ("--init-from" in command) == saved
    again = program(*command[1:])
    assert (again.code, again.out) == (0, "ckpt/lstm-2\n")
    file = RunFile.read(Path("ckpt/lstm-2/config.toml"))
    assert file.config.optimization.learning_rate == 0.005

    # The same folder cannot be reused, and resuming is suggested only if it can help.
    refused = program("my.txt", "--out", "ckpt/lstm", *TINY_FLAGS)
    assert refused.code == 2
    assert ("--resume" in refused.err) == saved


def test_a_text_from_standard_input_is_not_named_in_the_advice_after_divergence(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    words = (
        "--cell",
        "rnn",
        "--steps",
        "500",
        "--learning-rate",
        "900",
        "--clip",
        "0",
        "--val-fraction",
        "0",
    )
    done = program("-", *words, *TINY_FLAGS)
    assert done.code == 1
    assert "try a lower learning rate (--learning-rate 0.005), --clip 1, or --warmup-steps" in done.err
    assert "--config" not in done.err


def test_a_full_disk_is_reported_with_the_command_to_resume(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: str, target: Path) -> None:
        if target.name.endswith("step6.safetensors"):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = program("my.txt", *TRAIN, *TINY_FLAGS, "--out", "my run")
    assert (done.code, done.out) == (1, "")
    *_, hint, error = done.err.splitlines()
    assert "after freeing disk space" in hint
    assert error.endswith("step6.safetensors: No space left on device")
    assert program(*shlex.split(hint.partition("charrnn-train ")[2])).code == 0


# --- in a separate process ---------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_prints_how_to_resume(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "my.txt").write_text(TEXT)
    words = ("my.txt", "--steps", "1000000", "--log-every", "20", "--eval-every", "1000000", *TINY_FLAGS)
    process = subprocess.Popen(
        forked([sys.executable, "-m", "charrnn_trainer.cli.train", *words], environment()),
        cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "s/batch" in line:
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert out == "ckpt/lstm\n"
    again = {signal.SIGINT: "press Ctrl-C again", signal.SIGTERM: "send SIGTERM again"}[number]
    assert f"stopping after this step to save a checkpoint; {again} to quit without saving\n" in err
    assert err.splitlines()[-1].endswith("checkpoint saved; to resume: charrnn-train --resume ckpt/lstm")
    step = load_checkpoint(find_checkpoint(tmp_path / "ckpt", "last")).step
    lines = (tmp_path / "ckpt" / "lstm" / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == step
    assert resume(tmp_path / "ckpt" / "lstm", changes={"steps": step + 1}).step == step + 1


@pytest.mark.parametrize("command", ["train", "export", "compare"])
def test_without_torch_a_command_prints_the_install_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(torch_installed, "find_spec", lambda name: None)
    module = importlib.import_module(f"charrnn_trainer.cli.{command}")
    monkeypatch.setattr(
        sys, "argv", [f"charrnn-{command}", "a", *(["b.onnx"] if command == "export" else [])]
    )
    with pytest.raises(SystemExit) as ended:
        terminal.run(module.app, f"charrnn-{command}", dies_of_closed_pipe=False)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    first = "PyTorch is not installed; for a CPU: pip install torch --index-url https://download.pytorch.org/whl/cpu;"
    assert said.startswith(f"charrnn-{command}: error: {first}")


def test_help_does_not_import_torch() -> None:
    done = run_program(
        "-c",
        "import sys\nfrom charrnn_trainer.cli.train import app\n"
        "from charrnn_runtime.cli import terminal\n"
        "sys.argv[1:] = ['--help']\n"
        "try: terminal.run(app, 'charrnn-train')\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)",
    )
    assert done.returncode == 0
    assert done.stderr == b"False\n"
    assert b"  charrnn-train --resume ckpt/lstm\n" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
@pytest.mark.parametrize("columns", [20, 110])
def test_a_terminal_of_any_width_shows_a_progress_bar_figures_and_a_sample(
    tmp_path: Path, columns: int
) -> None:
    import pty

    (tmp_path / "my.txt").write_text(TEXT)
    ours, theirs = pty.openpty()
    in_terminal = {**environment(), "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    command = [sys.executable, "-m", "charrnn_trainer.cli.train", "my.txt", *TRAIN, *TINY_FLAGS]
    process = subprocess.Popen(
        forked(command, in_terminal),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL, env=in_terminal,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, b"ckpt/lstm\n")
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode())
    words = " ".join(plain.split())  # lines break where the terminal ends
    for expected in (
        "6/6",
        "100%",
        "s/batch",
        "characters/s",
        "validation",
        "rate 0.005",
        "sample at step 6:",
    ):
        assert expected in words, expected
    assert "next: charrnn-export ckpt/lstm" in words


def test_control_characters_are_replaced_at_a_terminal() -> None:
    assert printable("a\tb\x1b[1m\x07é\u202e") == "a   b·[1m·é·"


def test_the_list_of_ids_is_abbreviated() -> None:
    assert display_module._mapping(("\n", "a"), 100) == r"'\n' 0, 'a' 1"
    alphabet = tuple("abcdefghijklmnopqrstuvwxyz")
    assert display_module._mapping(alphabet, 100) == (
        "'a' 0, 'b' 1, 'c' 2, 'd' 3, 'e' 4, 'f' 5, 'g' 6, 'h' 7, 'i' 8, ..., 'y' 24, 'z' 25"
    )
    assert display_module._mapping(alphabet, 30) == "'a' 0, ..., 'y' 24, 'z' 25"
    assert display_module._mapping(alphabet, 1) == "'a' 0, ..., 'y' 24, 'z' 25"
