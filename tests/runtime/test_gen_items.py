"""charrnn-gen with items: --lines, --unique, --new."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN, draw_items
from charrnn_runtime.format import spec
from hostile_files import changed, metadata
from list_models import list_model
from make_models import FOLDER
from run_commands import Command, command_environment, command_line

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")

Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small model that writes items but was not trained on lines."""
    path = tmp_path_factory.mktemp("models") / "names.onnx"
    path.write_bytes(list_model(FOLDER / "lstm-2x12-fp32.onnx"))
    return path


@pytest.fixture(scope="module")
def names(path: Path) -> CharRNN:
    return CharRNN.load(path, device="cpu")


def _lines(done: Done, code: int = 0) -> list[str]:
    assert done.returncode == code, done.stderr.decode()
    assert done.stdout == b"" or done.stdout.endswith(b"\n")
    return done.stdout.decode().split("\n")[:-1]


def _error(done: Done, code: int) -> str:
    said = done.stderr.decode().splitlines()
    assert done.returncode == code, said
    assert "Traceback" not in done.stderr.decode()
    assert said[-1].startswith("charrnn-gen: error: ")
    return said[-1]


def test_output_is_one_item_per_line(gen: Command, path: Path, names: CharRNN) -> None:
    done = gen(path, "--lines", 30, "-s", 7)
    with draw_items(names, 30, seed=7) as items:
        assert _lines(done) == [item.text for item in items]
    said = done.stderr.decode().splitlines()
    assert said == [f"{path}: lstm 2x12 fp32 on cpu, seed 7", f"skipped: {items.skipped.empty} empty"]
    assert gen(path, "--lines", 30, "-s", 7, "--batch", 3, "-q").stdout == done.stdout


def test_unique_and_new_skip_known_items(gen: Command, path: Path, names: CharRNN, tmp_path: Path) -> None:
    known = {item.text for item in draw_items(names, 3, length=2, seed=7)}
    file = tmp_path / "known.txt"
    file.write_bytes("\ufeff".encode() + "\r\n".join(sorted(known)).encode())
    with draw_items(names, 20, length=2, seed=7, unique=True, new=known) as items:
        expected = [item.text for item in items]
    done = gen(path, "-n", 2, "-s", 7, "--unique", "--new", file)  # 20 items without --lines
    found = _lines(done)
    assert found == expected
    assert len(set(found) - known) == 20
    skipped = items.skipped
    said = done.stderr.decode()
    assert f"skipped: {skipped.repeated} repeated, {skipped.known} that are in {file}, " in said
    assert f"{skipped.too_long} longer than 2 characters (--length)" in said
    typed = gen(path, "-n", 2, "-s", 7, "--unique", "--new", "-", input=file.read_bytes())
    assert typed.stdout == done.stdout


def test_items_of_bytes_are_compared_as_text(gen: Command, tmp_path: Path) -> None:
    path = tmp_path / "bytes.onnx"
    path.write_bytes(list_model(FOLDER / "lstm-1x12-fp32-byte.onnx"))
    settings = ("-n", 2, "-s", 7, "-p", b"\xff\xc3\xa9", "-q")
    plain = _lines(gen(path, "--lines", 40, *settings))
    assert all(line.startswith("\ufffdé") for line in plain)
    (tmp_path / "known").write_bytes(b"\xff\xc3\xa9" + plain[0][2:].encode() + b"\n")
    left = _lines(gen(path, "--lines", 20, *settings, "--new", tmp_path / "known"))
    assert left == [line for line in plain if line != plain[0]][:20]


def test_items_begin_with_the_prompt_unless_omitted(gen: Command, path: Path, names: CharRNN) -> None:
    items = list(draw_items(names, 9, prompt="Em", seed=7))
    options = ("-p", "Em", "--lines", 9, "-s", 7, "-q")
    assert _lines(gen(path, *options)) == [item.text for item in items]
    assert _lines(gen(path, *options, "--no-prime")) == [item.continuation for item in items]
    skipped = gen(path, "-p", "Eßm", *options[2:-1], "--unknown", "skip")
    assert _lines(skipped) == [item.text for item in items]
    assert "skipped unknown characters in the prompt: 'ß'" in skipped.stderr.decode()
    assert "'ß' (U+00DF) at position 1" in _error(gen(path, "-p", "Eß", "--lines", 3), 1)


def test_json_has_one_object_per_item(gen: Command, path: Path, names: CharRNN) -> None:
    options = ("-p", "Em", "-n", 5, "-s", 7, "--top-k", 20, "--lines", 6, "--unique", "--json")
    records = [json.loads(line) for line in _lines(gen(path, *options))]
    items = list(draw_items(names, 6, prompt="Em", length=5, seed=7, top_k=20, unique=True))
    assert [record["text"] for record in records] == [item.text for item in items]
    assert [record["stream"] for record in records] == [item.stream for item in items]
    assert [record["item"] for record in records] == list(range(6))
    for record in records:
        assert (record["prompt"], record["seed"], record["device"]) == ("Em", 7, "cpu")
        assert record["model"] == {"path": str(path), "sha256": names.info.sha256}
        assert record["settings"] == {
            "lines": 6,
            "unique": True,
            "new": None,
            "length": 5,
            "temperature": 0.8,
            "top_k": 20,
            "top_p": 1.0,
            "min_p": 0.0,
        }


def test_a_greedy_model_has_one_item(gen: Command, tmp_path: Path) -> None:
    path = tmp_path / "gru.onnx"
    path.write_bytes(list_model(FOLDER / "gru-2x12-fp32.onnx"))
    (item,) = draw_items(CharRNN.load(path, device="cpu"), 1, prompt="Em", top_k=1)
    assert _lines(gen(path, "-p", "Em", "--greedy", "--unique")) == [item.text]


def test_stats_count_sampled_characters(gen: Command, path: Path) -> None:
    done = gen(path, "--lines", 3, "--stats", "-s", 7, "-n", 8)
    sampled = int(done.stderr.decode().splitlines()[-1].split(" ")[0])
    assert sampled >= sum(len(line) + 1 for line in _lines(done))


# --- models that were trained on lines ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, with metadata that states that it was trained on lines."""
    path = tmp_path_factory.mktemp("models") / "of-lines.onnx"
    path.write_bytes(list_model(FOLDER / "lstm-2x12-fp32.onnx", lines=True))
    return path


def test_models_of_lines_generate_20_items_by_default(gen: Command, path: Path, of_lines: Path) -> None:
    for options in ((), ("--json",), ("-p", "Em", "--batch", 3), ("-n", 3)):
        done = gen(of_lines, "-s", 7, "-q", *options)
        found = _lines(done)
        assert len(found) == 20
        if "--json" not in options:
            assert found == _lines(gen(path, "-s", 7, "-q", "--lines", 20, *options))
    assert "--prime has a newline" in _error(gen(of_lines, "-p", "a\nb"), 2)


@pytest.mark.parametrize(
    "options", [["--streams", 1], ["--streams", 2], ["--stop", "d"], ["--raw"], ["--prime-file", "-"]]
)
def test_models_of_lines_generate_running_text_on_request(
    gen: Command, path: Path, of_lines: Path, options: list[object]
) -> None:
    settings = ("-n", 50, "-s", 7, "-q", *options)
    done = gen(of_lines, *settings, input=b"Em")
    assert done.returncode == 0
    assert done.stdout == gen(path, *settings, input=b"Em").stdout


def test_other_models_generate_running_text_by_default(gen: Command, path: Path, names: CharRNN) -> None:
    assert gen(path, "-s", 7, "-n", 90).stdout.decode() == names.generate("", 90, seed=7)
    assert "--batch requires several streams" in _error(gen(path, "--batch", 4), 2)


# --- too few -----------------------------------------------------------------------------------------------

FEWER = ("-n", "1", "-s", "7", "--top-k", "3", "--unique", "--lines", "50")
"""With three symbols and one character, there are at most two non-empty items."""


def test_found_items_are_kept_if_there_are_too_few(gen: Command, path: Path, tmp_path: Path) -> None:
    done = gen(path, *FEWER)
    found = _lines(done, 1)
    assert 1 <= len(found) == len(set(found)) < 50
    message = _error(done, 1)
    assert f"the model generated {len(found)} of 50 items, and then none in 10,000 streams" in message
    assert gen(path, *FEWER, "-o", tmp_path / "out").returncode == 1
    assert (tmp_path / "out").read_bytes() == done.stdout
    assert os.listdir(tmp_path) == ["out"]


# --- pipes, interrupts, files ------------------------------------------------------------------------------


def _start(path: Path, *arguments: str, real_start: bool = False) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_line("charrnn_runtime.cli.gen", path, *arguments, real_start=real_start),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_environment(),
    )


@posix
@pytest.mark.parametrize("option", [[], ["--json"], ["--unique"]])
def test_a_closed_pipe_ends_item_generation_silently(path: Path, option: list[str]) -> None:
    process = _start(path, "--lines", "100000000", "-s", "1", "-q", *option)
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(3):
        assert process.stdout.readline().endswith(b"\n")
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=60) == -signal.SIGPIPE


@posix
def test_ctrl_c_exits_with_130_after_complete_lines(path: Path) -> None:
    process = _start(path, "--lines", "100000000", "-s", "1", real_start=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b"" or out.endswith(b"\n")
    assert "Traceback" not in err.decode()


def test_items_are_written_to_a_file_atomically(gen: Command, path: Path, tmp_path: Path) -> None:
    expected = gen(path, "--lines", 5, "-s", 1).stdout
    done = gen(path, "--lines", 5, "-s", 1, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out").read_bytes() == expected
    assert "already exists" in _error(gen(path, "--lines", 5, "-o", tmp_path / "out"), 1)


# --- invalid command lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lines", "0"], "--lines must be 1 or more, not 0; for running text, give --streams 1 instead"),
        (["--lines", "3", "--streams", "2"], "it cannot be combined with --streams"),
        (["--unique", "--stop", "x"], "--unique writes items"),
        (["--new", "-", "--primes-file", "-"], "it cannot be combined with --primes-file"),
        (["--lines", "3", "--prime-file", "x"], "it cannot be combined with --prime-file"),
        (["--lines", "3", "--raw"], "it cannot be combined with --raw"),
        (["--lines", "3", "--interactive"], "it cannot be combined with --interactive"),
        (["--lines", "3", "--greedy"], "--greedy writes the same item every time: give --lines 1"),
        (["--lines", "3", "--length", "0"], "--length must be 1 or more for items, not 0"),
    ],
)
def test_options_of_items_and_of_running_text_are_mutually_exclusive(
    gen: Command, options: list[str], message: str
) -> None:
    done = gen("none.onnx", *options)  # detected before a model is read
    assert message in _error(done, 2)
    assert done.stdout == b""


def test_invalid_items_are_explained(gen: Command, path: Path, tmp_path: Path) -> None:
    assert "--prime has a newline" in _error(gen(path, "-p", "a\nb", "--lines", 2), 2)
    assert "none cannot be read: No such file" in _error(gen(path, "--new", tmp_path / "none"), 1)
    (tmp_path / "latin").write_bytes(b"ab\xff")
    assert "latin is not UTF-8: byte 2 is 0xff" in _error(gen(path, "--new", tmp_path / "latin"), 1)


def test_a_model_trained_on_lines_writes_items_by_default(gen: Command, path: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained.onnx"
    trained.write_bytes(changed(metadata("lines", "true"), path.read_bytes()))
    assert _lines(gen(trained, "-s", 7)) == _lines(gen(path, "--lines", spec.DEFAULT_ITEMS, "-s", 7))
    assert gen(trained, "-s", 7, "--streams", 1, "-q").stdout == gen(path, "-s", 7, "-q").stdout
    record = json.loads(gen(trained, "-s", 7, "-n", 5, "--json", "--logprobs", 1, "-q").stdout)
    assert len(record["logprobs"]) == 5
