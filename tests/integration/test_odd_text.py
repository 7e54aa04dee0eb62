"""Unusual texts, and files that are not texts, from training to scoring, with the installed commands."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from marks import first_daily

Shell = Callable[..., subprocess.CompletedProcess[str]]

ODD = (
    "a\u0301e\u0300\u0323 क्षि שלום \u202eabc\u202c مرحبا 👨\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪 "
    "\0\0 lone\rcarriage\rreturns\r\n\x0b\x0c\x1b[31mred\x85\u2028\u2029\ufeff\ufffe\uffff\U0010ffff\ue000"
    "\u200b\u00ad ﷽ Ǆ ß İ ı ſ K Å ẞ \x7f\x9b\n"
)
LINE = "no end of a line in all of this text "
RANDOM = random.Random(1).randbytes(3_000)
ONE_VALUE = b"\n" * 1_000


def model_of(shell: Shell, folder: Path, data: bytes, *options: str) -> None:
    """Write a text, train on it, and export the model, all with the commands."""
    (folder / "data").write_bytes(data)
    for line in (f"charrnn-train data {' '.join(options)}", "charrnn-export ckpt model.onnx"):
        done = shell(line, folder)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower()
        # The displayed lines of a text neither move the cursor nor change colours.
        assert all(character.isprintable() for character in done.stderr.replace("\n", "")), done.stderr


def written(shell: Shell, folder: Path, options: str) -> bytes:
    """The raw output of charrnn-gen; the shell fixture would translate line endings."""
    done = shell(f"charrnn-gen model.onnx --seed 1 -o out --force {options}", folder)
    assert done.returncode == 0, done.stderr
    return (folder / "out").read_bytes()


def characters_scored(shell: Shell, folder: Path) -> int:
    done = shell("charrnn-score model.onnx data --json", folder)
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout)["characters"]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("text", first_daily([ODD * 20, LINE * 30]), ids=["odd", "one line"])
def test_any_text_trains_generates_and_scores_exact_to_the_character(
    tmp_path: Path, shell: Shell, text: str
) -> None:
    model_of(shell, tmp_path, text.encode())
    out = written(shell, tmp_path, "-n 400 -t 5 --prime-file data").decode()
    assert out.startswith(text)
    assert len(out) == len(text) + 400
    assert set(out) <= set(text)
    assert characters_scored(shell, tmp_path) == len(text)
    done = shell("charrnn-score model.onnx data --by-line --json", tmp_path)
    lines = [json.loads(line)["text"] for line in done.stdout.split("\n")[:-1]]
    assert lines == [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    done = shell("charrnn-gen model.onnx --primes-file data -n 3 --json --seed 1", tmp_path)
    prompts = [json.loads(line)["prompt"] for line in done.stdout.split("\n")[:-1]]
    assert prompts == lines


@pytest.mark.parametrize("data", first_daily([RANDOM, ONE_VALUE]), ids=["random", "one value"])
def test_any_file_trains_generates_and_scores_exact_to_the_byte(
    tmp_path: Path, shell: Shell, data: bytes
) -> None:
    model_of(shell, tmp_path, data, "--level", "byte")
    raw = written(shell, tmp_path, "-n 400 -t 5 --prime-file data --raw")
    assert raw.startswith(data)
    assert len(raw) == len(data) + 400
    text = written(shell, tmp_path, "-n 400 -t 5 --prime-file data")
    assert text == raw.decode(errors="replace").encode()
    assert characters_scored(shell, tmp_path) == len(data)


def test_windows_line_endings_are_preserved(tmp_path: Path, shell: Shell) -> None:
    text = "First line\r\nSecond line\r\n\r\n" * 30
    model_of(shell, tmp_path, b"\xef\xbb\xbf" + text.encode())  # as Windows programs mark UTF-8
    assert set(written(shell, tmp_path, "-n 400 -t 5").decode()) == set(text)
    (tmp_path / "prompts").write_bytes(b"\xef\xbb\xbfFirst\r\nSecond\r\n")
    out = written(shell, tmp_path, "-n 0 --primes-file prompts").decode()
    assert out == "==> stream 0 <==\nFirst\n==> stream 1 <==\nSecond\n"
    assert characters_scored(shell, tmp_path) == len(text)
