"""The benchmark on texts: figures of a run, comparisons, and the file of figures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import texts
from benchmarks.ngram import bits_by_order
from benchmarks.texts import Figures
from charrnn_trainer import Corpus, list_checkpoints, train
from forked import forked
from tiny_runs import TEXT, TINY, TINY_FLAGS, environment

Benchmark = Callable[..., str]

LEARNED: Figures = {
    "characters": 1_700,
    "symbols": 24,
    "train_tokens": 1_530,
    "settings": TINY.flat(),
    "steps": 1_234,
    "best_step": 1_000,
    "bits": 1.5,
    "minutes_taken": 2.96,
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Benchmark:
    """Run the benchmark's main function with arguments; return its stdout."""

    def run(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["texts.py", *map(str, words)])
        texts.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the trainings instead of running them."""
    calls: list[tuple[Any, ...]] = []

    def learn(path: Path, *settings: Any) -> Figures:
        calls.append((path.name, *settings))
        return LEARNED

    monkeypatch.setattr(texts, "train", learn)
    return calls


def write_texts(folder: Path, *names: str) -> list[Path]:
    """Texts that differ in their names and first characters."""
    paths = [folder / name for name in names]
    for path in paths:
        path.write_text(path.name + TEXT, encoding="utf-8")
    return paths


def measured(text: str = "a.txt", bits: float = 1.5, **changes: Any) -> Figures:
    """The figures of one text."""
    key = {"text": text, "sha256": text, "minutes": 3.0, "busy": 0, "seed": 0, "options": []}
    models = {"kn": {"order": 6, "bits": 2.0}, "ppmd": {"order": 4, "bits": 1.2}}
    return {**LEARNED, **key, **models, "machine": {"cores": "2"}, "bits": bits, **changes}


# --- measuring ---------------------------------------------------------------------------------------------


def test_the_figures_of_a_run_come_from_its_best_checkpoint(tmp_path: Path) -> None:
    corpus = Corpus.from_text(TEXT)
    train(TINY.replace(learning_rate=0.3, steps=30), corpus, lambda event: None, out=tmp_path)
    best = next(entry for entry in list_checkpoints(tmp_path) if entry.best)
    figures = texts.read_run(tmp_path)
    assert best.validation_loss is not None
    assert figures["bits"] == best.validation_loss / math.log(2)
    assert (figures["best_step"], figures["steps"]) == (best.step, 30)
    assert (figures["characters"], figures["train_tokens"]) == (len(TEXT), corpus.train_tokens(0.1))
    assert figures["symbols"] == len(corpus.vocabulary)
    assert figures["settings"]["hidden_size"] == TINY.network.hidden_size


def test_the_benchmark_trains_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text(TEXT, encoding="utf-8")
    figures = texts.train(path, 0.002, 0, 7, TINY_FLAGS)
    assert figures["settings"] | {"minutes": 0.002, "seed": 7, "hidden_size": 8} == figures["settings"]
    assert (figures["characters"], figures["symbols"]) == (len(TEXT), len(set(TEXT)))
    assert 0.0 < figures["bits"] < 10.0
    assert figures["minutes_taken"] > 0.002


def test_a_training_that_fails_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    command = forked([sys.executable, "-m", "charrnn_trainer.cli.train"], environment())
    monkeypatch.setattr(texts, "train_command", lambda: [str(word) for word in command])
    with pytest.raises(SystemExit, match=r"exit code 1 on .*none\.txt"):
        texts.train(tmp_path / "none.txt", 0.01, 0, 0, [])


def test_busy_processes_end_with_the_block_even_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*arguments, **options))
        return begun[-1]

    def fail() -> None:
        with texts.busy_cores(2):
            assert [process.poll() for process in begun] == [None, None]
            raise RuntimeError("the training failed")

    monkeypatch.setattr(subprocess, "Popen", watched)
    with pytest.raises(RuntimeError, match="the training failed"):
        fail()
    assert len(begun) == 2
    assert all(process.returncode is not None for process in begun)


def test_other_models_are_scored_on_the_same_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    corpus = Corpus.from_text(TEXT)
    figures = texts.compare(corpus, 1_530)
    expected = bits_by_order(corpus.ids, 1_530, len(corpus.vocabulary))
    assert figures["kn"]["by_order"] == expected
    assert figures["kn"]["bits"] == expected[figures["kn"]["order"] - 1] == min(expected)
    assert figures["ppmd"] is None


def test_the_bits_of_ppmd_are_the_growth_of_the_compressed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Halves:
        def __init__(self, order: int, memory: int) -> None:
            asked.append((order, memory))

        def encode(self, data: bytes) -> bytes:
            return data[: len(data) // 2]

        def flush(self) -> bytes:
            return b"end"

    monkeypatch.setitem(sys.modules, "pyppmd", SimpleNamespace(Ppmd7Encoder=Halves))
    text = ("ab" * 50 + "щ" * 20).encode()  # the last 20 characters are 40 bytes, and 20 compressed
    assert texts.ppmd_bits(text, 100, 20) == dict.fromkeys(texts.PPMD_ORDERS, 8.0)
    assert set(asked) == {(order, texts.PPMD_MEMORY) for order in texts.PPMD_ORDERS}


def test_ppmd_learns_repeated_text() -> None:
    pytest.importorskip("pyppmd", reason="the package pyppmd is not installed")
    by_order = texts.ppmd_bits(TEXT.encode(), 1_530, 170)
    assert all(0.0 < bits < 1.0 for bits in by_order.values())


# --- from arguments to the results table -------------------------------------------------------------------


def test_arguments_after_two_dashes_are_passed_to_training(
    benchmark: Benchmark, trained: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    [path] = write_texts(tmp_path, "a.txt")
    shown = benchmark("--minutes", "2", "--busy", 1, "--seed", 3, path, "--", "--dropout", "0.4")
    assert trained == [("a.txt", 2.0, 1, 3, ["--dropout", "0.4"])]
    assert "`--dropout 0.4`" in shown
    assert "seed 3" in shown


def test_a_stopped_benchmark_keeps_the_figures_of_finished_texts(
    benchmark: Benchmark, trained: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = write_texts(tmp_path, "a.txt", "b.txt", "c.txt")
    learn = texts.train

    def stopped(path: Path, *settings: Any) -> Figures:
        if path == second:
            raise KeyboardInterrupt
        return learn(path, *settings)

    file = tmp_path / "figures.json"
    monkeypatch.setattr(texts, "train", stopped)
    with pytest.raises(SystemExit) as ended:
        benchmark("--json", file, first, second, third)
    assert ended.value.code == 130
    assert [figures["text"] for figures in texts.read_results(file)] == ["a.txt"]
    monkeypatch.setattr(texts, "train", learn)
    benchmark("--json", file, "--missing", first, second, third)
    assert [name for name, *_ in trained] == ["a.txt", "b.txt", "c.txt"]
    shown = benchmark("--json", file)
    assert [line.split(" | ")[0] for line in shown.splitlines() if ".txt" in line] == [
        "| a.txt",
        "| b.txt",
        "| c.txt",
    ]
    assert sorted(tmp_path.glob("*.part")) == []


def test_a_changed_text_is_measured_again(
    benchmark: Benchmark, trained: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    [path] = write_texts(tmp_path, "a.txt")
    file = tmp_path / "figures.json"
    for _ in range(2):
        benchmark("--json", file, "--missing", path)
        path.write_text(TEXT * 2, encoding="utf-8")
    assert len(trained) == 2


def test_later_figures_replace_those_measured_in_the_same_way() -> None:
    before = [measured("a.txt", 1.5), measured("b.txt", 1.6)]
    after = texts.merge(before, measured("a.txt", 1.4))
    assert [(figures["text"], figures["bits"]) for figures in after] == [("a.txt", 1.4), ("b.txt", 1.6)]
    for changes in ({"busy": 1}, {"minutes": 6.0}, {"seed": 1}, {"options": ["--cell", "gru"]}):
        assert len(texts.merge(before, measured("a.txt", **changes))) == 3


def test_the_table_has_the_ratio_to_other_models() -> None:
    table = texts.make_table([measured()])
    row = next(line for line in table.splitlines() if "a.txt" in line)
    assert row == (
        "| a.txt | 1,700 | 24 | 3 | 0 | LSTM 2 x 8, 1,234 steps of 8 x 16, best at 1,000, dropout 0.25, "
        "weight drop 0.2 | 1.500 | 2.96 | 2.000 (6), ratio 0.750 | 1.200 (4), ratio 1.250 |"
    )
    assert "Measured on: cores 2." in table
    assert texts.make_table([measured(ppmd=None)]).splitlines()[2].endswith("| - |")
    assert texts.against(1.5, {"order": 4, "bits": 0.0}) == "0.000 (4), ratio inf"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing to measure or show"),
        (["none.txt"], "there is no file none.txt"),
        (["a.txt", "--missing"], "give both"),
        (["a.txt", "--minutes", "0"], "--minutes must be above 0"),
        (["a.txt", "--minutes", "nan"], "--minutes must be above 0"),
        (["a.txt", "--busy", "-1"], "--busy must be 0 or more"),
        (["a.txt", "--json", "none/figures.json"], "there is no folder for none"),
        (["a.txt", "--", "--val-fraction=0.2"], "--val-fraction cannot be passed"),
        (["a.txt", "--", "--out", "run"], "--out cannot be passed"),
    ],
)
def test_invalid_arguments_are_usage_errors_before_any_training(
    words: Sequence[str],
    complaint: str,
    tmp_path: Path,
    benchmark: Benchmark,
    trained: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_texts(tmp_path, "a.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        benchmark(*words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert trained == []


@pytest.mark.parametrize(
    "content", ["", "[]", '{"texts": [{}]}', json.dumps({"texts": [1]}), '{"speed": []}']
)
def test_a_file_that_holds_no_figures_is_rejected_and_not_overwritten(
    content: str, tmp_path: Path, benchmark: Benchmark, trained: list[tuple[Any, ...]]
) -> None:
    [path] = write_texts(tmp_path, "a.txt")
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"other\.json is not a file of this benchmark's figures"):
        benchmark("--json", file, path)
    assert file.read_text(encoding="utf-8") == content
    assert trained == []
