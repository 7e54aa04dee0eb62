"""The C++ host (examples/cpp) generates the same texts as the Python runtime; `noxfile.py cpp` builds it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = os.environ.get("CHARRNN_CPP_HOST", "")
MODELS = ("lstm", "gru", "best")
BYTES = ROOT / "tests" / "models" / "lstm-1x12-fp32-byte.onnx"

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs the program that `noxfile.py cpp` builds")


def run(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, check=False)


def written(*words: str | Path) -> bytes:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.fixture(scope="session", params=MODELS)
def path(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / f"{request.param}.onnx"


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_a_thousand_characters_of_a_seed_match_python(path: Path, seed: int) -> None:
    text = CharRNN.load(path, device="cpu").generate("LORD ", 1000, seed=seed)
    assert written(path, "--prime", "LORD ", "--length", "1000", "--seed", str(seed)) == text.encode()


def test_greedy_text_matches_python(path: Path) -> None:
    text = CharRNN.load(path, device="cpu").generate("KING ", 1000, top_k=1)
    assert written(path, "--prime", "KING ", "--greedy", "--length", "1000") == text.encode()


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.5},
        {"temperature": 1.3, "top_k": 7},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
        {"temperature": 1.0, "top_k": 10**9},
    ],
    ids=str,
)
def test_sampling_settings_match_python(path: Path, sampling: dict[str, Any]) -> None:
    text = CharRNN.load(path, device="cpu").generate("LORD ", 300, seed=5, **sampling)
    options = [
        word for name, value in sampling.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert written(path, "--prime", "LORD ", "--length", "300", "--seed", "5", *options) == text.encode()


def test_a_stream_without_a_prompt_starts_as_in_python(path: Path) -> None:
    text = CharRNN.load(path, device="cpu").generate("", 200, seed=3)
    assert written(path, "--length", "200", "--seed", "3") == text.encode()


@pytest.mark.parametrize("options", [("--seed", "4"), ("--greedy",)], ids=str)
def test_bytes_match_python(options: tuple[str, ...]) -> None:
    model = CharRNN.load(BYTES, device="cpu")
    text = model.stream_bytes("é!", 1000, seed=4, top_k=1 if options == ("--greedy",) else None, echo=True)
    assert written(BYTES, "--prime", "é!", "--length", "1000", *options) == b"".join(text)


def test_characters_of_several_bytes_are_read_and_written() -> None:
    path = ROOT / "tests" / "models" / "gru-2x12-fp32.onnx"
    text = CharRNN.load(path, device="cpu").generate("é", 1000, seed=2, temperature=2.0)
    assert any(len(character.encode()) > 1 for character in text[1:])
    assert written(path, "--prime", "é", "--seed", "2", "--temperature", "2") == text.encode()


def test_a_length_of_zero_gives_the_prompt() -> None:
    assert written(ROOT / "models" / "gru.onnx", "--prime", "LORD ", "--length", "0") == b"LORD "


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "give a model"),
        (["models/gru.onnx", "--temperature", "0"], 2, "--temperature takes a number from 0.0001 to 10000"),
        (["models/gru.onnx", "--top-k", "0"], 2, "--top-k takes a number from 1 to"),
        (["models/gru.onnx", "--seed", "1x"], 2, "not '1x'"),
        (["models/gru.onnx", "--seed"], 2, "--seed is unknown or has no value"),
        (["models/gru.onnx", "--what", "1"], 2, "there is no option --what"),
        (["models/gru.onnx", "models/lstm.onnx"], 2, "give one model"),
        (["models/gru.onnx", "--prime", "Lß"], 1, "the model does not know 'ß'"),
        (["models/none.onnx"], 1, "models/none.onnx"),
        (["README.md"], 1, "README.md"),
    ],
    ids=str,
)
def test_errors_are_one_line(words: list[str], code: int, said: str) -> None:
    done = subprocess.run([PROGRAM, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("charrnn: error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
