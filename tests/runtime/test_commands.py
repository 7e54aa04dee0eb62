"""The commands charrnn-gen, charrnn-info and charrnn-score, in real processes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN, __version__
from charrnn_runtime.cli import texts
from charrnn_runtime.format.reader import read_model_file
from hostile_files import LSTM, changed, metadata
from make_models import FOLDER
from run_commands import Command, command_environment, command_line, in_shell

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
BYTES = FOLDER / "lstm-1x12-fp32-byte.onnx"
INT8 = FOLDER / "gru-2x12-int8.onnx"

Done = subprocess.CompletedProcess[bytes]

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def _ok(done: Done) -> str:
    """The stdout of a command that succeeded."""
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def _error(done: Done, code: int, stdout: str = "") -> str:
    """The last line on stderr of a command that failed."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert done.stdout.decode() == stdout
    errors = [line for line in lines if ": error: " in line]
    assert errors == lines[-1:], lines
    assert "Traceback" not in done.stderr.decode()
    assert "bug in charrnn" not in errors[0]
    return errors[0]


# --- charrnn-gen: output -----------------------------------------------------------------------------------


def test_the_text_goes_to_stdout_and_messages_to_stderr(gen: Command, lstm: CharRNN) -> None:
    done = gen(MODEL, "--prime", "LORD ", "--length", "80", "--seed", "7")
    assert _ok(done) == lstm.generate("LORD ", 80, seed=7)
    assert done.stderr.decode() == f"{MODEL}: lstm 2x12 fp32 on cpu, seed 7\n"


def test_short_options_equal_the_long_ones(gen: Command, lstm: CharRNN) -> None:
    done = gen(MODEL, "-p", "LORD ", "-n", 60, "-t", 0.5, "-s", 7, "-q")
    assert _ok(done) == lstm.generate("LORD ", 60, seed=7, temperature=0.5)
    assert done.stderr == b""


def test_the_defaults_are_1000_characters_no_prompt_and_a_drawn_seed_that_is_shown(
    gen: Command, lstm: CharRNN
) -> None:
    done = gen(MODEL)
    seed = int(done.stderr.decode().rpartition("seed ")[2])
    assert _ok(done) == lstm.generate("", 1000, seed=seed, temperature=0.8)
    assert len(done.stdout.decode()) == 1000


def test_sampling_options_reach_the_model(gen: Command, lstm: CharRNN) -> None:
    done = gen(MODEL, "-p", "L", "-n", 60, "-s", 7, "--top-k", 9, "--top-p", 0.7, "--threads", 2)
    assert _ok(done) == lstm.generate("L", 60, seed=7, top_k=9, top_p=0.7)
    done = gen(MODEL, "-p", "L", "-n", 60, "-s", 7, "--min-p", 0.3)
    assert _ok(done) == lstm.generate("L", 60, seed=7, min_p=0.3)
    assert _ok(gen(MODEL, "-n", 40, "--greedy")) == lstm.generate("", 40, top_k=1)


def test_the_prompt_can_be_omitted_and_a_text_stopped(gen: Command, lstm: CharRNN) -> None:
    free = lstm.generate("LORD ", 100, seed=7)[5:]
    done = gen(MODEL, "-p", "LORD ", "-n", 100, "-s", 7, "--no-prime", "--stop", free[40:43])
    assert _ok(done) == free[: free.index(free[40:43])]


def test_a_length_of_0_gives_only_the_prompt(gen: Command) -> None:
    assert _ok(gen(MODEL, "-p", "LORD", "-n", 0)) == "LORD"
    assert _ok(gen(MODEL, "-n", 0)) == ""


def test_many_streams_are_separated_by_numbered_headings(gen: Command, lstm: CharRNN) -> None:
    texts = lstm.generate(["LORD "] * 3, 30, seed=7)
    done = gen(MODEL, "-p", "LORD ", "-n", 30, "-s", 7, "--streams", 3, "--batch", 2)
    expected = ""
    for number, text in enumerate(texts):
        expected += f"==> stream {number} <==\n{text}" + ("" if text.endswith("\n") else "\n")
    assert _ok(done) == expected


def test_json_has_one_object_per_stream(gen: Command, lstm: CharRNN) -> None:
    done = gen(
        MODEL, "-p", "LORD ", "-n", 30, "-s", 7, "--streams", 3, "--json", "--top-k", 20, "--stop", "j"
    )
    records = [json.loads(line) for line in _ok(done).splitlines()]
    texts = lstm.generate(["LORD "] * 3, 30, seed=7, top_k=20, stop="j")
    assert [record["text"] for record in records] == texts
    assert [record["stream"] for record in records] == [0, 1, 2]
    for record in records:
        assert record["prompt"] == "LORD "
        assert record["seed"] == 7
        assert record["settings"] == {
            "length": 30,
            "temperature": 0.8,
            "top_k": 20,
            "top_p": 1.0,
            "min_p": 0.0,
            "stop": "j",
        }
        assert record["model"] == {"path": str(MODEL), "sha256": read_model_file(MODEL).info.sha256}
        assert record["device"] == "cpu"
    one = json.loads(_ok(gen(MODEL, "-p", "a", "-n", 5, "-s", 1, "--json", "--no-prime")))
    assert one["text"] == lstm.generate("a", 5, seed=1)[1:]


def test_stats_report_the_speed_the_device_and_the_load_time(gen: Command) -> None:
    done = gen(MODEL, "-n", 50, "--stats", "--device", "cpu")
    assert len(_ok(done)) == 50
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("50 characters in ")
    assert "characters per second on cpu; model loaded in " in last
    many = gen(MODEL, "-n", 50, "--stats", "--streams", 3)
    assert many.stderr.decode().splitlines()[-1].startswith("150 characters in ")


def test_an_int8_model_runs(gen: Command) -> None:
    done = gen(INT8, "-n", 20, "-s", 1)
    assert len(_ok(done)) == 20
    assert "gru 2x12 int8 on cpu" in done.stderr.decode()


def test_a_byte_model_always_writes_valid_utf_8(gen: Command, byte_model: CharRNN) -> None:
    done = gen(BYTES, "-p", "é中", "-n", 200, "-s", 1)
    assert _ok(done) == byte_model.generate("é中", 200, seed=1)


# --- charrnn-gen: bytes ------------------------------------------------------------------------------------

NOT_TEXT = b"\xff\x00\r\n\xe4\xb8"
"""Not UTF-8; the last two bytes start a sequence that the model may complete."""


def test_raw_writes_the_raw_bytes(gen: Command, byte_model: CharRNN, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(NOT_TEXT)
    expected = b"".join(byte_model.stream_bytes(NOT_TEXT, 500, seed=1, temperature=3))
    with pytest.raises(UnicodeDecodeError):
        expected.decode()
    arguments = [BYTES, "--prime-file", tmp_path / "prompt", "-n", 500, "-s", 1, "-t", 3]
    assert gen(*arguments, "--raw").stdout == NOT_TEXT + expected
    assert gen(*arguments, "--raw", "--no-prime").stdout == expected
    assert _ok(gen(*arguments, "--raw", "-o", tmp_path / "out")) == ""
    assert (tmp_path / "out").read_bytes() == NOT_TEXT + expected
    # As text, it has replacement characters.
    assert _ok(gen(*arguments)) == (NOT_TEXT + expected).decode(errors="replace")
    letter = next(bytes([byte]) for byte in expected[200:] if chr(byte).isascii() and chr(byte).isalpha())
    stopped = gen(*arguments, "--raw", "--no-prime", "--stop", letter.decode()).stdout
    assert stopped == expected[: expected.index(letter)]


def test_raw_is_utf_8_for_character_models(gen: Command, lstm: CharRNN) -> None:
    done = gen(MODEL, "-p", "é中", "-n", 60, "-s", 1, "--raw")
    assert done.stdout == lstm.generate("é中", 60, seed=1).encode()


@posix
def test_raw_adds_no_newline_at_a_terminal(byte_model: CharRNN) -> None:
    import pty
    import tty

    master, slave = pty.openpty()
    tty.setraw(slave)  # otherwise the terminal would change line endings
    command = command_line("charrnn_runtime.cli.gen", BYTES, "-n", 40, "-s", 1, "--raw")
    subprocess.run(command, stdout=slave, stderr=subprocess.DEVNULL, env=command_environment(), check=True)
    os.close(slave)
    data = b""
    with contextlib.suppress(OSError):  # Linux raises it at the end
        while piece := os.read(master, 4096):
            data += piece
    os.close(master)
    assert data == b"".join(byte_model.stream_bytes(b"", 40, seed=1))


def test_a_byte_model_accepts_a_prompt_of_any_bytes(
    gen: Command, byte_model: CharRNN, tmp_path: Path
) -> None:
    done = gen(BYTES, "-i", "-n", 60, "-s", 1, input=b"\xff\n")
    assert _ok(done) == "\ufffd" + "".join(byte_model.stream(b"\xff", 60, seed=1)) + "\n"
    whole = byte_model.generate(NOT_TEXT, 60, seed=1)
    assert _ok(gen(BYTES, "--prime-file", "-", "-n", 60, "-s", 1, input=NOT_TEXT)) == whole
    (tmp_path / "prompts").write_bytes(b"\xff\r\n\xe4\xb8\n")
    done = gen(BYTES, "--primes-file", tmp_path / "prompts", "-n", 60, "-s", 1, "--json")
    records = [json.loads(line) for line in _ok(done).splitlines()]
    assert [record["text"] for record in records] == byte_model.generate([b"\xff", b"\xe4\xb8"], 60, seed=1)
    assert [record["prompt"] for record in records] == ["\ufffd", "\ufffd"]


@posix
def test_a_byte_model_accepts_any_bytes_on_the_command_line(gen: Command, byte_model: CharRNN) -> None:
    done = gen(BYTES, "-p", b"a\xff\xe4", "-n", 60, "-s", 1)
    assert _ok(done) == byte_model.generate(b"a\xff\xe4", 60, seed=1)


@posix
@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C", "PYTHONUTF8": "1"}],
)
def test_the_command_line_is_utf_8_even_in_an_ascii_locale(
    gen: Command, lstm: CharRNN, environment: dict[str, str]
) -> None:
    free = lstm.generate("é中", 200, seed=1)
    stop = next(character for character in free[20:] if not character.isascii())
    done = gen(MODEL, "-p", "é中".encode(), "-n", 200, "-s", 1, "--stop", stop.encode(), env=environment)
    assert _ok(done) == lstm.generate("é中", 200, seed=1, stop=stop)


def test_a_byte_order_mark_is_not_part_of_a_prompt(gen: Command, lstm: CharRNN) -> None:
    data = "\ufeffLORD \r\na\r\n".encode()
    done = gen(MODEL, "--primes-file", "-", "-n", 5, "-s", 1, "--json", input=data)
    assert [json.loads(line)["prompt"] for line in _ok(done).splitlines()] == ["LORD ", "a"]
    done = gen(MODEL, "--prime-file", "-", "-n", 5, "-s", 1, input="\ufeffLORD ".encode())
    assert _ok(done) == lstm.generate("LORD ", 5, seed=1)


# --- charrnn-gen: prompts -----------------------------------------------------------------------------------


def test_a_prompt_from_a_file_is_read_verbatim(gen: Command, lstm: CharRNN, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"LORD \n")
    expected = lstm.generate("LORD \n", 20, seed=1)
    assert _ok(gen(MODEL, "--prime-file", tmp_path / "prompt", "-n", 20, "-s", 1)) == expected
    assert _ok(gen(MODEL, "--prime-file", "-", "-n", 20, "-s", 1, input=b"LORD \n")) == expected


@pytest.mark.parametrize("text", ["a\nLORD \n\nb", "a\r\nLORD \r\n\r\nb\r\n", "a\nLORD \n\nb\n"])
def test_a_prompts_file_has_one_prompt_per_line(
    gen: Command, lstm: CharRNN, tmp_path: Path, text: str
) -> None:
    (tmp_path / "prompts").write_bytes(text.encode())
    done = gen(MODEL, "--primes-file", tmp_path / "prompts", "-n", 20, "-s", 1, "--json")
    records = [json.loads(line) for line in _ok(done).splitlines()]
    assert [record["prompt"] for record in records] == ["a", "LORD ", "", "b"]
    assert [record["text"] for record in records] == lstm.generate(["a", "LORD ", "", "b"], 20, seed=1)


def test_prompts_are_split_only_at_line_endings(gen: Command) -> None:
    prompts = "a\x0cb\u2028c\x1dd\x85e\n\x0b"
    done = gen(BYTES, "--primes-file", "-", "-n", 1, "-s", 1, "--json", input=prompts.encode())
    assert [json.loads(line)["prompt"] for line in _ok(done).split("\n")[:-1]] == prompts.split("\n")


def test_an_empty_prompts_file_gives_no_output(gen: Command) -> None:
    assert _ok(gen(MODEL, "--primes-file", "-", input=b"")) == ""


@pytest.mark.parametrize("option", ["--prime-file", "--primes-file"])
def test_unreadable_prompts_files_are_named(gen: Command, tmp_path: Path, option: str) -> None:
    assert "none cannot be read: No such file" in _error(gen(MODEL, option, tmp_path / "none"), 1)
    assert "cannot be read: Is a directory" in _error(gen(MODEL, option, tmp_path), 1)
    message = _error(gen(MODEL, option, "-", input=b"ab\xffc"), 1)
    assert "stdin is not UTF-8: byte 2 is 0xff" in message


def test_unknown_characters_are_an_error_or_dropped_with_a_warning(gen: Command, lstm: CharRNN) -> None:
    message = _error(gen(MODEL, "-p", "aßb", "-n", 5), 1)
    assert "'ß' (U+00DF) at position 1" in message
    assert "--unknown skip" in message
    done = gen(MODEL, "-p", "aßb", "-n", 20, "-s", 1, "--unknown", "skip")
    assert _ok(done) == lstm.generate("ab", 20, seed=1)
    assert "skipped unknown characters in the prompt: 'ß'" in done.stderr.decode()
    many = gen(
        MODEL, "--primes-file", "-", "-n", 5, "-s", 1, "--unknown", "skip", "--json", input="ß\nab\n".encode()
    )
    assert [json.loads(line)["prompt"] for line in _ok(many).splitlines()] == ["", "ab"]


def test_an_unknown_character_in_the_last_prompt_writes_no_output_file(gen: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _error(gen(MODEL, "--primes-file", "-", "-n", 5, "-o", out, input="a\nb\nß\n".encode()), 1)
    assert os.listdir(tmp_path) == []


@posix
def test_a_prompt_that_is_not_utf_8_is_an_error(gen: Command) -> None:
    assert "'\\udcff'" in _error(gen(MODEL, "-p", b"a\xff", "-n", 5), 1)


# --- charrnn-gen: interactive ------------------------------------------------------------------------------


def test_interactive_continues_from_the_same_state(gen: Command, lstm: CharRNN) -> None:
    state = lstm.initial_state()
    expected = ""
    for line in ["LORD ", "a", ""]:
        live = lstm.stream(line, 20, state=state, seed=1)
        expected += line + "".join(live) + "\n"
        state = live.state
    assert _ok(gen(MODEL, "-i", "-n", 20, "-s", 1, input=b"LORD \na\r\n\n")) == expected
    done = gen(MODEL, "-i", "-n", 20, "-s", 1, "-p", "LORD ", "--stats", input=b"a\n")
    assert _ok(done) == expected[: expected.rindex("\n", 0, -1) + 1]
    assert "40 characters in " in done.stderr.decode()


def test_interactive_reads_utf_8_and_rejects_invalid_bytes(gen: Command) -> None:
    assert _ok(gen(MODEL, "-i", "-n", 1, "-s", 1, input="é\n".encode())).startswith("é")
    assert "not UTF-8" in _error(gen(MODEL, "-i", "-n", 1, "-s", 1, input=b"\xff\n"), 1)
    assert _ok(gen(MODEL, "-i", "-n", 1, input=b"")) == ""


@posix
def test_interactive_prompts_at_a_terminal_and_continues_after_an_unknown_character(lstm: CharRNN) -> None:
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "charrnn_runtime.cli.gen", MODEL, "-i", "-n", "20", "-s", "1"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_environment(),
    )
    os.write(master, "ß\nLORD \n\x04".encode())
    out, err = process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    assert process.returncode == 0
    assert out.decode() == lstm.generate("LORD ", 20, seed=1)[5:] + "\n"
    assert err.decode().count("prompt (empty line: continue; Ctrl-D: quit):") == 3
    assert "'ß' (U+00DF)" in err.decode()


# --- charrnn-gen: files ------------------------------------------------------------------------------------


def test_output_is_written_atomically_and_overwrites_only_with_force(
    gen: Command, lstm: CharRNN, tmp_path: Path
) -> None:
    out = tmp_path / "out.txt"
    done = gen(MODEL, "-p", "é ", "-n", 30, "-s", 1, "--output", out)
    assert _ok(done) == ""
    assert out.read_bytes() == lstm.generate("é ", 30, seed=1).encode()
    message = _error(gen(MODEL, "-n", 5, "-s", 1, "-o", out), 1)
    assert f"{out} already exists; choose another name, or use --force to replace it" in message
    assert out.read_bytes() == lstm.generate("é ", 30, seed=1).encode()
    _ok(gen(MODEL, "-n", 5, "-s", 2, "-o", out, "--force", "--streams", 2))
    assert out.read_text().startswith("==> stream 0 <==\n")
    assert os.listdir(tmp_path) == ["out.txt"]


def test_output_never_replaces_an_input(gen: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for option, content in (("--prime-file", b"LORD "), ("--primes-file", b"L\nO\n"), ("--new", b"L\nO\n")):
        out.write_bytes(content)
        with out.open("rb") as file:
            for name, options in ((out, {}), ("-", {"stdin": file})):
                done = gen(MODEL, option, name, "-n", 5, "--output", out, "--force", **options)
                assert f"--output {out} would replace an input file" in _error(done, 2)
        assert out.read_bytes() == content
    out.write_bytes(MODEL.read_bytes())
    assert "would replace an input file" in _error(gen(out, "-n", 5, "--output", out, "--force"), 2)
    assert out.read_bytes() == MODEL.read_bytes()


def test_a_dash_is_stdin_or_stdout_and_dot_slash_dash_a_file(
    gen: Command, score: Command, lstm: CharRNN, tmp_path: Path
) -> None:
    text = lstm.generate("", 20, seed=1)
    assert _ok(gen(MODEL, "-n", 20, "-s", 1, "--output", "-", cwd=tmp_path)) == text
    assert os.listdir(tmp_path) == []
    assert _ok(gen(MODEL, "-n", 20, "-s", 1, "--output=./-", cwd=tmp_path)) == ""
    assert os.listdir(tmp_path) == ["-"]
    assert (tmp_path / "-").read_bytes() == text.encode()
    rows = [_ok(score(MODEL, name, input=text.encode(), cwd=tmp_path)) for name in ("-", "./-")]
    assert rows[0].split()[:-1] == rows[1].split()[:-1]
    (tmp_path / "-").write_bytes(b"LORD")
    assert " 4  " in _ok(score(MODEL, "./-", input=text.encode(), cwd=tmp_path))


def test_scoring_a_text_that_stdout_appends_to_is_rejected(score: Command, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"LORD\n")
    with (tmp_path / "text").open("ab") as out:
        done = score(MODEL, tmp_path / "text", "--by-line", stdout=out)
    assert done.returncode == 1
    assert b"is both the input and the output; write to another file" in done.stderr
    assert (tmp_path / "text").read_bytes() == b"LORD\n"


def test_unwritable_outputs_are_named(gen: Command, tmp_path: Path) -> None:
    assert "is a folder; give the name of a file" in _error(gen(MODEL, "-n", 5, "-o", tmp_path), 1)
    assert "cannot write" in _error(gen(MODEL, "-n", 5, "-o", tmp_path / "no" / "out"), 1)


@posix
def test_devices_are_not_replaced_by_files(gen: Command) -> None:
    message = _error(gen(MODEL, "-n", 5, "-o", "/dev/null", "--force"), 1)
    assert "/dev/null is not a regular file" in message
    assert Path("/dev/null").is_char_device()


@posix
def test_a_symlink_is_kept_and_its_target_is_written(gen: Command, lstm: CharRNN, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    _error(gen(MODEL, "-n", 5, "-o", tmp_path / "link"), 1)
    _ok(gen(MODEL, "-n", 5, "-s", 1, "-o", tmp_path / "link", "--force"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == lstm.generate("", 5, seed=1)


@posix
@pytest.mark.parametrize("way", ["--streams", "--output"])
def test_ctrl_c_exits_with_130_and_leaves_no_file(tmp_path: Path, way: str) -> None:
    arguments = ["-n", "100000000", "-s", "1"]
    arguments += ["--streams", "3"] if way == "--streams" else []
    process = _start(*arguments, "-o", str(tmp_path / "out"), real_start=way == "--output")
    _wait_until(lambda: any(name.endswith(".part") for name in os.listdir(tmp_path)))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert "Traceback" not in err.decode()
    assert os.listdir(tmp_path) == []


@posix
@pytest.mark.parametrize("option", [[], ["--debug"]])
def test_ctrl_c_during_generation_exits_with_130(option: list[str]) -> None:
    process = _start("-n", "100000000", "-s", "1", *option, real_start=not option)
    assert process.stdout is not None
    assert len(process.stdout.read(100)) == 100
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def _start(*arguments: str, real_start: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_line("charrnn_runtime.cli.gen", MODEL, *arguments, real_start=real_start),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_environment(),
    )


def _wait_until(happened: Any) -> None:
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


# --- charrnn-gen: destinations of stdout -------------------------------------------------------------------


@posix
def test_a_closed_pipe_ends_the_command_silently() -> None:
    process = _start("-n", "100000000", "-s", "1", "-q", real_start=True)
    assert process.stdout is not None
    process.stdout.read(1000)
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=60) == -signal.SIGPIPE


@posix
@pytest.mark.parametrize("length", [5, 20_000])
@pytest.mark.parametrize("options", [[], ["--json"], ["--streams", "2"]])
def test_a_full_disk_behind_stdout_is_an_error(gen: Command, length: int, options: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = gen(MODEL, "-n", length, *options, stdout=full)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert lines[-1] == "charrnn-gen: error: No space left on device"
    assert len(lines) == 2


@posix
@pytest.mark.parametrize("arguments", [[], ["--streams", "2"], ["--json"]])
def test_a_closed_stdout_is_an_error_with_advice(arguments: list[str]) -> None:
    line = f'"{MODEL}" -n 5 {" ".join(arguments)} >&-'
    done = in_shell("charrnn_runtime.cli.gen", line, real_start=not arguments)
    assert done.returncode == 1
    assert b"stdout is closed; the output cannot be written; give --output FILE" in done.stderr


@posix
def test_a_closed_stdout_is_harmless_with_an_output_file(lstm: CharRNN, tmp_path: Path) -> None:
    line = f'"{MODEL}" -n 5 -s 1 -o "{tmp_path}/out" >&- 2>&-'
    assert in_shell("charrnn_runtime.cli.gen", line).returncode == 0
    assert (tmp_path / "out").read_text() == lstm.generate("", 5, seed=1)


@posix
@pytest.mark.parametrize("option", ["--prime-file -", "--primes-file -", "-i"])
def test_a_closed_stdin_is_an_error(option: str) -> None:
    done = in_shell("charrnn_runtime.cli.gen", f'"{MODEL}" {option} <&-', real_start=option == "-i")
    assert "stdin is closed; there is nothing to read" in _error(done, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
        {"LC_ALL": "POSIX", "HOME": None, "TERM": "dumb", "COLUMNS": "20"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
)
def test_no_locale_or_terminal_changes_the_text(
    gen: Command, lstm: CharRNN, environment: dict[str, str | None]
) -> None:
    expected = lstm.generate("é中λ", 60, seed=1)
    done = gen(MODEL, "--prime-file", "-", "-n", 60, "-s", 1, env=environment, input="é中λ".encode())
    assert _ok(done) == expected
    done = gen(MODEL, "-i", "-n", 60, "-s", 1, env=environment, input="é中λ\n".encode())
    assert _ok(done) == expected + "\n"


@posix
def test_line_endings_are_written_unchanged(gen: Command) -> None:
    # The byte model samples both carriage returns and line feeds.
    text = _ok(gen(BYTES, "-n", 2000, "-s", 1, "-t", 5))
    assert "\r" in text
    assert "\n" in text


def test_log_probabilities_are_given_for_each_character(gen: Command, lstm: CharRNN) -> None:
    (each,) = lstm.generate_each(["LORD "], 20, seed=1, stop="j", logprobs=2)
    assert each.logprobs is not None
    record = json.loads(
        _ok(gen(MODEL, "-p", "LORD ", "-n", 20, "-s", 1, "--stop", "j", "--json", "--logprobs", 2))
    )
    assert [place["character"] for place in record["logprobs"]] == list(each.text)
    for place, chosen, ids, values in zip(
        record["logprobs"], each.logprobs.chosen, each.logprobs.most_likely, each.logprobs.values, strict=True
    ):
        assert place["logprob"] == pytest.approx(float(chosen), abs=1e-5)
        assert [symbol for symbol, _ in place["most_likely"]] == [lstm.vocabulary.symbols[i] for i in ids]
        assert [value for _, value in place["most_likely"]] == pytest.approx(values.tolist(), abs=1e-5)


def test_log_probabilities_of_bytes_name_bytes(gen: Command, byte_model: CharRNN) -> None:
    record = json.loads(_ok(gen(BYTES, "-n", 30, "-s", 1, "-t", 3, "--json", "--logprobs", 1)))
    (each,) = byte_model.generate_each([b""], 30, seed=1, temperature=3)
    assert bytes(place["character"] for place in record["logprobs"]) == each.data
    assert all(0 <= place["most_likely"][0][0] < 256 for place in record["logprobs"])


def test_the_first_of_several_stop_texts_ends_the_text(gen: Command, lstm: CharRNN) -> None:
    text = lstm.generate("LORD ", 60, seed=1, stop=["j", "g"])
    assert _ok(gen(MODEL, "-p", "LORD ", "-n", 60, "-s", 1, "--stop", "j", "--stop", "g")) == text
    done = gen(MODEL, "-p", "LORD ", "-n", 60, "-s", 1, "--stop", "j", "--stop", "g", "--json")
    record = json.loads(_ok(done))
    assert (record["text"], record["settings"]["stop"]) == (text, ["j", "g"])


# --- charrnn-gen: invalid command lines --------------------------------------------------------------------


NONSENSE = [
    ("--temperature 0", "--temperature must be at least 0.0001"),
    ("--temperature 0", "for greedy sampling, use --top-k 1"),
    ("--temperature nan", "--temperature must be at least 0.0001"),
    ("--top-p 2", "--top-p must be above 0 and at most 1"),
    ("--top-p 0", "--top-p must be above 0 and at most 1"),
    ("--min-p 1", "--min-p must be at least 0 and below 1"),
    ("--top-k 0", "--top-k must be 1 or more"),
    ("--logprobs 2", "--logprobs requires --json"),
    ("--json --logprobs 66", "--logprobs must be between 0 and 65"),
    ("--length -1", "--length must be 0 or more, not -1"),
    ("--length many", "--length must be a whole number from 0, not 'many'"),
    ("-t warm", "--temperature must be a number from 0.0001 to 10000, not 'warm'"),
    ("-s 1.5", "--seed must be a whole number from 0 to 2**64 - 1, not '1.5'"),
    ("--seed -1", "--seed must be between 0 and 2**64 - 1"),
    ("--seed 18446744073709551616", "seed must be between 0 and 2**64 - 1"),
    ("--streams 0", "--streams must be between 1 and 1,048,576"),
    ("--batch 0", "--batch must be between 1 and 1,048,576"),
    ("--threads 0", "--threads must be between 1 and 1024"),
    ("--device tpu", "--device must be auto, cpu, cuda or webgpu"),
    ("--temperature inf", "--temperature must be at least 0.0001 and at most 10000, not inf"),
    ("--unknown drop", "--unknown must be error, skip or normalize, not 'drop'"),
    ("-p KING -p LORD", "--prime or -p is given twice; give it once"),
    ("-p a --prime b --prime c", "--prime or -p is given 3 times; give it once"),
    ("-t 1 --temp 2", "--temperature or --temp or -t is given twice"),
    ("--length 3 -n 3", "--length or -n is given twice"),
    ("--tempp 1", "unknown option --tempp; did you mean --temp? (charrnn-gen --help lists all)"),
    ("--prompt a", "did you mean --prime? ("),
    ("--max-tokens 3", "did you mean --length? ("),
    ("-temperature 3", "unknown option -temperature; did you mean --temperature? ("),
    ("--length", "--length needs a value"),
    ("--greedy=3", "--greedy takes no value; give it alone"),
    ("--encoding latin-1", "--encoding requires --prime-file, --primes-file or --new"),
    ("--prime-file x --encoding latin-8", "--encoding must be one that Python supports"),
    ("--prime-file x --encoding hex", "--encoding must be one that Python supports"),
    ("--beam 0", "--beam must be between 1 and 1,048,576, not 0"),
    (
        "--beam 3 -t 0.5",
        "searches for the most likely text instead of sampling, so it cannot be combined with --temperature",
    ),
    ("--beam 3 --seed 3", "so it cannot be combined with --seed"),
    ("--beam 3 --lines 3", "--lines writes items"),
    ("--stop ''", "--stop must be a non-empty text"),
    ("--greedy --top-k 3", "--greedy and --top-k are mutually exclusive"),
    ("--greedy -t 0.5", "--greedy and --temperature are mutually exclusive"),
    ("--greedy --top-p 0.9", "--greedy and --top-p are mutually exclusive"),
    ("--greedy --min-p 0.1", "--greedy and --min-p are mutually exclusive"),
    ("KING", "unexpected argument 'KING'; to continue a text, give --prime KING (see"),
    ("KING RICHARD -n 5", "to continue a text, give --prime 'KING RICHARD' (see"),
    ("--prime a --prime-file b", "--prime, --prime-file and --primes-file are mutually exclusive"),
    ("--primes-file b --streams 2", "cannot be combined with --streams"),
    ("--interactive --json", "--interactive streams one text"),
    ("--force", "--force requires --output"),
    ("--raw --json", "--raw writes only the bytes of one stream"),
    ("--raw --streams 2", "--raw writes only the bytes of one stream"),
    ("--raw --primes-file b", "--raw writes only the bytes of one stream"),
    ("--raw --interactive", "--raw writes only the bytes of one stream"),
    ("--nonsense", "unknown option --nonsense (charrnn-gen --help lists all)"),
    ("one more", "unexpected argument 'one more'"),
]

RUN_ALL = """
import contextlib, io, json, sys
from charrnn_runtime.cli import gen
results = []
for arguments in json.load(sys.stdin):
    sys.argv = ["charrnn-gen", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as talk:
        try:
            gen.main()
        except SystemExit as end:
            results.append([end.code, talk.getvalue()])
json.dump(results, sys.stdout)
"""


def test_invalid_command_lines_exit_with_2() -> None:
    lines = [[str(MODEL), *shlex.split(words)] for words, _ in NONSENSE]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(lines).encode(),
        env=command_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    results = json.loads(done.stdout)  # nothing else may be printed
    assert len(results) == len(NONSENSE)
    for (words, message), (code, talk) in zip(NONSENSE, results, strict=True):
        assert code == 2, words
        assert message in talk.splitlines()[-1], words
        assert talk.splitlines()[-1].startswith("charrnn-gen: error: "), words
        assert "bug in charrnn" not in talk, words


def test_a_missing_argument_exits_with_2(gen: Command) -> None:
    assert "MODEL" in _error(gen(), 2)


def test_settings_are_checked_before_the_model_is_read(gen: Command) -> None:
    assert "top-p must be" in _error(gen("none.onnx", "--top-p", 2), 2)


def test_unusable_models_exit_with_1(gen: Command, tmp_path: Path) -> None:
    assert "no such file; charrnn-export creates model files" in _error(gen(tmp_path / "none.onnx"), 1)
    assert "is a folder; give a model file" in _error(gen(tmp_path), 1)
    (tmp_path / "cut.onnx").write_bytes(MODEL.read_bytes()[:5000])
    assert "is not a valid charrnn model" in _error(gen(tmp_path / "cut.onnx"), 1)
    assert "--device cpu" in _error(gen(INT8, "--device", "cuda"), 1)


@pytest.mark.parametrize(("arguments", "code"), [(["--top-p", "2"], 2), (["-p", "ß"], 1)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(
    gen: Command, arguments: list[str], code: int
) -> None:
    done = gen(MODEL, *arguments, "--debug")
    assert done.returncode == code
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].startswith("charrnn-gen: error: ")


# --- all commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["gen", "info", "score", "triton", "view"])
def test_help_and_version_go_to_stdout(command: str, request: pytest.FixtureRequest) -> None:
    run: Command = request.getfixturevalue(command)
    assert _ok(run("--version")) == f"charrnn-runtime {__version__}\n"
    text = _ok(run("--help", env={"HOME": None, "COLUMNS": "20", "LC_ALL": "C"}))
    assert f"Usage: charrnn-{command}" in text
    assert "Examples:" in text
    assert f"\n  charrnn-{command} models/lstm.onnx" in text.replace("\n    ", "\n  ")
    assert _ok(run("-h", env={"COLUMNS": "200"})).isascii()


@pytest.mark.parametrize("command", ["gen", "quality", "score", "serve"])
def test_help_imports_neither_numpy_nor_onnxruntime(command: str) -> None:
    program = (
        f"import sys, charrnn_runtime.cli.{command}; print({{'numpy', 'onnxruntime'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], env=command_environment(), capture_output=True)
    assert done.stdout.decode().strip() == "set()", done


def test_help_takes_precedence_over_other_arguments(gen: Command, info: Command) -> None:
    for run in (gen, info):
        assert "Usage: " in _ok(run("one", "two", "three", "--help"))
        assert "Usage: " in _ok(run("--help"))


@posix
@pytest.mark.parametrize("command", ["gen", "info", "score", "triton", "view"])
def test_a_full_disk_behind_help_is_an_error(command: str, request: pytest.FixtureRequest) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = request.getfixturevalue(command)("--help", stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode() == f"charrnn-{command}: error: No space left on device\n"


# --- charrnn-info ------------------------------------------------------------------------------------------


def test_info_shows_all_metadata_of_a_file(info: Command) -> None:
    text = _ok(info(MODEL))
    for line in (
        f"size                   {MODEL.stat().st_size:,} bytes",
        "format                 charrnn step model, version 1",
        "cell                   lstm",
        "hidden size            12",
        "precision              fp32",
        "start token            0 ('\\n')",
        "trained on             running text",
        "state                  48 numbers per stream: h0[0:12], h1[12:24], c0[24:36], c1[36:48]",
        "training: corpus name  none: random weights for tests",
        "training: step         0",
    ):
        assert line in text.splitlines()
    assert read_model_file(MODEL).info.sha256 in text
    assert "65 characters: " in text
    assert "256 bytes" in _ok(info(BYTES))


def test_info_prints_all_metadata_as_json(info: Command) -> None:
    for path in (MODEL, BYTES, INT8):
        assert json.loads(_ok(info(path, "--json"))) == json.loads(
            json.dumps(read_model_file(path).info.as_dict())
        )


def test_info_of_a_file_that_is_not_a_model_exits_with_1(info: Command, tmp_path: Path) -> None:
    assert "no such file" in _error(info(tmp_path / "none"), 1)
    (tmp_path / "x.onnx").write_bytes(b"text")
    assert "is not a valid charrnn model" in _error(info(tmp_path / "x.onnx", "--json"), 1)


def test_info_escapes_control_characters_of_a_file(info: Command, tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    training = {"name\x1b[31m": "first\nsecond\x1b[2J\u2028", "deep": deep, "long": "x" * 10_000}
    path = tmp_path / "x.onnx"
    path.write_bytes(changed(metadata("training", json.dumps(training)), LSTM))
    text = _ok(info(path))
    assert all(line.isprintable() for line in text.splitlines())
    assert "first\\nsecond\\x1b[2J\\u2028" in text
    assert json.loads(_ok(info(path, "--json")))["training"] == training


@posix
def test_file_names_can_contain_any_characters(info: Command, gen: Command, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff \xc3\xa9.onnx"
    Path(os.fsdecode(path)).write_bytes(LSTM)
    assert json.loads(_ok(info(path, "--json")))["path"] == os.fsdecode(path)
    assert "\\udcff é.onnx" in _ok(info(path))
    assert json.loads(_ok(gen(path, "--json", "-n", 3)))["model"]["path"] == os.fsdecode(path)
    _ok(gen(path, "--json", "-n", 3, "-o", tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_bytes())["model"]["path"] == os.fsdecode(path)


# --- charrnn-score -----------------------------------------------------------------------------------------


def test_score_measures_how_well_a_text_is_predicted(score: Command, lstm: CharRNN, tmp_path: Path) -> None:
    text = "LORD of the text,\nwho reads"
    (tmp_path / "text").write_text(text)
    record = json.loads(_ok(score(MODEL, tmp_path / "text", "--json")))
    assert record["characters"] == len(text)
    assert record["bits_per_character"] == pytest.approx(lstm.score(text).bits_per_character, abs=1e-5)
    lines = [
        json.loads(line)
        for line in _ok(score(MODEL, "-", "--by-line", "--json", input=text.encode())).splitlines()
    ]
    assert [line["text"] for line in lines] == text.split("\n")
    assert [line["bits_per_character"] for line in lines] == [
        pytest.approx(each.bits_per_character, abs=1e-5) for each in lstm.score(text.split("\n"))
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "text", ["", "\n", "a", "a\n", "a\r\n\r\nb\r", "\n\nlong line that goes over many pieces\né中\x0c\u2028x"]
)
def test_score_reads_lines_across_block_boundaries(
    monkeypatch: pytest.MonkeyPatch, size: int, text: str
) -> None:
    monkeypatch.setattr(texts, "_CHUNK", size)
    expected = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    assert list(texts.lines(io.BytesIO(text.encode()), Path("text"))) == expected


def test_score_accepts_any_file_for_byte_level_models(
    score: Command, byte_model: CharRNN, tmp_path: Path
) -> None:
    lines = [b"\xff\x00", b"", b"caf\xe9"]
    (tmp_path / "data").write_bytes(b"\r\n".join(lines))
    record = json.loads(_ok(score(BYTES, tmp_path / "data", "--json", "--compare", BYTES)))
    assert record["characters"] == len(b"\r\n".join(lines))
    done = score(BYTES, tmp_path / "data", "--json", "--by-line")
    records = [json.loads(line) for line in _ok(done).splitlines()]
    assert [each["text"] for each in records] == [line.decode(errors="replace") for line in lines]
    for each, expected in zip(records, byte_model.score(lines), strict=True):
        assert each["bits_per_character"] == pytest.approx(expected.bits_per_character, abs=1e-5)
    assert "0xff\n" in _ok(score(BYTES, tmp_path / "data", "--per-char")).replace("'", "")
    assert "not UTF-8" in _error(score(BYTES, tmp_path / "data", "--compare", MODEL), 1)


def test_the_better_model_gives_the_text_a_higher_probability(
    score: Command, lstm: CharRNN, byte_model: CharRNN
) -> None:
    text = "naïve"  # five characters to one model, if it knew ï; six bytes to the other
    known = "LORD of all"
    done = score(MODEL, "-", "--by-line", "--json", "--compare", BYTES, input=f"{known}\n\n".encode())
    first, empty = [json.loads(line) for line in _ok(done).splitlines()]
    nats = [model.score(known).nats for model in (lstm, byte_model)]
    assert first["better_model"] == str(MODEL if nats[0] < nats[1] else BYTES)
    assert first["other_characters"] == len(known)
    assert empty["better_model"] is None  # neither model is certain
    done = score(MODEL, "-", "--json", "--unknown", "skip", "--compare", BYTES, input=text.encode())
    record = json.loads(_ok(done))
    assert (record["characters"], record["other_characters"]) == (4, 6)
    assert record["better_model"] is None  # the models skipped different characters
    done = score(MODEL, "-", "--json", "--unknown", "skip", "--compare", MODEL, input=text.encode())
    assert json.loads(_ok(done))["better_model"] is None  # equal
    assert "  neither  -" in _ok(score(MODEL, "-", "--compare", MODEL, input=b"LORD"))


def test_bits_are_shown_next_to_their_characters(score: Command, lstm: CharRNN, byte_model: CharRNN) -> None:
    text = "aïb"
    options = ("--by-line", "--per-char", "--unknown", "skip", "--compare", BYTES)
    record = json.loads(_ok(score(MODEL, "-", "--json", *options, input=text.encode())))
    in_bits = [loss / math.log(2) for loss in lstm.score("ab").per_character.tolist()]
    bytes_in_bits = [loss / math.log(2) for loss in byte_model.score(text).per_character.tolist()]
    assert record["bits"][1] is None
    assert record["bits"][::2] == pytest.approx(in_bits, abs=1e-4)
    expected = [bytes_in_bits[0], bytes_in_bits[1] + bytes_in_bits[2], bytes_in_bits[3]]
    assert record["other_bits"] == pytest.approx(expected, abs=1e-4)
    lines = _ok(score(MODEL, "-", *options, input=text.encode())).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["'a'", "'ï'", "'b'"]
    assert lines[3].split()[0] == "-"
    assert float(lines[3].split()[1]) == pytest.approx(expected[1], abs=1e-4)


def test_an_unknown_character_is_reported_with_its_line(score: Command, gen: Command, tmp_path: Path) -> None:
    lines = "LORD\n\nxyß\n".encode()
    message = "error: line 3 has characters that the model does not know: 'ß' (U+00DF) at position 2"
    assert message in _error(score(MODEL, "-", "--by-line", input=lines), 1)
    (tmp_path / "prompts").write_bytes(lines)
    assert message in _error(gen(MODEL, "--primes-file", tmp_path / "prompts", "-n", 3), 1)
    assert "error: the text has characters" in _error(gen(MODEL, "-p", "ß", "--json"), 1)
    assert "error: the text has characters" in _error(gen(MODEL, "-p", "ß"), 1)


def test_batch_requires_several_streams(gen: Command) -> None:
    assert "--batch requires several streams" in _error(gen(MODEL, "--batch", 4), 2)
    assert "--batch requires several streams" in _error(gen(MODEL, "-i", "--batch", 4), 2)


def test_score_ignores_a_byte_order_mark_like_training(score: Command, lstm: CharRNN) -> None:
    record = json.loads(_ok(score(MODEL, "-", "--json", input="\ufeffLORD".encode())))
    assert record["characters"] == 4
    assert record["bits_per_character"] == pytest.approx(lstm.score("LORD").bits_per_character, abs=1e-5)


def test_score_rejects_unreadable_files(score: Command, tmp_path: Path) -> None:
    assert "cannot be read: No such file" in _error(score(MODEL, tmp_path / "none"), 1)
    assert "not UTF-8: byte 2 is 0xff" in _error(score(MODEL, "-", input=b"ab\xff"), 1)
    assert "'ß' (U+00DF) at position 1" in _error(score(MODEL, "-", input="aß".encode()), 1)
    assert "--unknown must be" in _error(score(MODEL, "-", "--unknown", "x"), 2)
