"""The runtime has no unexpected side effects in any environment: no network, no files, no telemetry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from charrnn_runtime import CharRNN
from confined import CANNOT
from make_models import FOLDER
from run_commands import RUNTIME, command_environment, in_shell
from watched import World

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
README = Path(__file__).resolve().parents[2] / "README.md"
BYTES = FOLDER / "lstm-1x12-fp32-byte.onnx"
COMMANDS = ("gen", "info", "score", "triton", "view")

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", RUNTIME)


def _module(command: str) -> tuple[str, str]:
    return "-m", f"charrnn_runtime.cli.{command}"


LINES: list[tuple[str, list[str | Path], bytes]] = [
    ("gen", [MODEL, "-n", "50"], b""),
    ("gen", [MODEL, "-n", "9", "--streams", "70", "--json", "--stats"], b""),
    ("gen", [MODEL, "-n", "9", "--primes-file", "-", "--device", "auto"], b"LORD \na\n"),
    ("gen", [MODEL, "-n", "9", "-i"], b"LORD \na\n"),
    ("gen", [BYTES, "-n", "50", "--raw"], b""),
    ("score", [MODEL, "-", "--per-char"], b"LORD of all"),
    ("score", [MODEL, "-", "--by-line", "--json", "--compare", BYTES], b"LORD\nof\nall"),
    ("info", [MODEL], b""),
    ("view", [MODEL, "-", "--top", "3", "--unit", "0:1"], b"LORD of all"),
    ("gen", ["--help"], b""),
]


SEVERAL = """
import importlib, os, sys

names = ("stdin", "stdout", "stderr")
STREAMS = [(name, getattr(sys, name).encoding, getattr(sys, name).errors) for name in names]

def run(command, typed):
    read, write = os.pipe()
    os.write(write, typed)
    os.close(write)
    os.dup2(read, 0)
    os.close(read)
    for number, (name, encoding, errors) in enumerate(STREAMS):  # as Python begins with them
        setattr(sys, name, open(number, "w" if number else "r", -1, encoding, errors, closefd=False))
    sys.argv = command
    try:
        importlib.import_module("charrnn_runtime.cli." + command[0]).main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    sys.stdout.flush()

words = sys.argv[1:]
while words:
    length = int(words[0])
    run(words[2 : 2 + length], os.fsencode(words[1]))
    os.write(1, b"\\0ended\\0")
    words = words[2 + length :]
"""
"""Runs commands one after another in one process, which saves startup and import time."""
ENDED = "\0ended\0"


def _several(lines: list[tuple[str, list[Any], bytes]]) -> list[str | bytes | Path]:
    """The arguments of Python to run some commands; ``ENDED`` follows the stdout of each."""
    words: list[str | bytes | Path] = ["-c", SEVERAL]
    for command, arguments, typed in lines:
        words += [str(len(arguments) + 1), typed, command, *arguments]
    return words


# --- network, files, processes, telemetry ------------------------------------------------------------------


def test_a_command_uses_no_network_starts_no_process_and_leaves_no_files(world: World) -> None:
    command, arguments, typed = LINES[0]
    done = world.run(*_module(command), *arguments, input=typed)
    assert (done.returncode, world.refused, world.left_behind) == (0, [], []), done.stderr.decode()
    assert done.stdout
    assert list(world.here.iterdir()) == []


def test_no_command_uses_the_network_starts_a_process_or_leaves_files(world: World) -> None:
    done = world.run(*_several(LINES))
    assert (done.returncode, world.refused, world.left_behind) == (0, [], []), done.stderr.decode()
    assert [bool(text) for text in done.stdout.split(ENDED.encode())] == [True] * len(LINES) + [False]
    assert list(world.here.iterdir()) == []


def test_only_the_output_file_is_written(world: World) -> None:
    done = world.run(*_module("gen"), MODEL, "-n", "50", "-o", "out", "--streams", "2")
    assert (done.returncode, world.refused, world.left_behind) == (0, [], []), done.stderr.decode()
    assert [path.name for path in world.here.iterdir()] == ["out"]


@posix
@pytest.mark.parametrize("line", [0, 6])
def test_commands_work_with_network_access_blocked_by_the_kernel(world: World, line: int) -> None:
    command, arguments, typed = LINES[line]
    done = world.run(f"charrnn_runtime.cli.{command}", *arguments, kernel=True, input=typed)
    if done.returncode == CANNOT:
        pytest.skip("this kernel does not confine processes")
    assert (done.returncode, world.refused, world.left_behind) == (0, [], []), done.stderr.decode()
    assert done.stdout


CONTROLS = [
    ("import socket; socket.create_connection(('127.0.0.1', 9))", "socket."),
    ("import socket; socket.getaddrinfo('localhost', 9)", "socket.getaddrinfo"),
    ("open('/elsewhere', 'w')", "open"),
    ("import pathlib; pathlib.Path.home().joinpath('x').mkdir()", "os.mkdir"),
    ("import os; os.rename('../log', 'log')", "os.rename"),
    ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
]


@posix
@pytest.mark.parametrize(("code", "event"), CONTROLS)
def test_the_watch_detects_violations(world: World, code: str, event: str) -> None:
    done = world.run("-c", code)
    assert done.returncode == 1
    assert "refused to a watched process" in done.stderr.decode()
    assert world.refused[0].startswith(event)


@posix
def test_the_kernel_kills_a_process_that_opens_a_socket_and_enforces_file_modes(world: World) -> None:
    (world.here / "tries.py").write_text(
        "import os, socket, sys\n"
        "os.mkdir('closed', 0o500)\n"
        "try:\n"
        "    open('closed/file', 'w')\n"
        "except PermissionError:\n"
        "    print('modes hold', flush=True)\n"
        "socket.socket(socket.AF_INET)\n"
    )
    path = str(world.here)
    done = world.run("tries", kernel=True, env={"PYTHONPATH": path})
    if done.returncode == CANNOT:
        pytest.skip("this kernel does not confine processes")
    assert done.stdout == b"modes hold\n"
    assert done.returncode == -signal.SIGSYS


@pytest.mark.parametrize(("given", "held"), [(None, "1"), ("0", "0")])
def test_onnxruntime_telemetry_is_off_unless_the_user_enables_it(
    world: World, given: str | None, held: str
) -> None:
    # If the variable is set before onnxruntime is imported, it does not even store an id.
    code = (
        "import sys, os\n"
        "class Look:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "sys.meta_path.insert(0, Look())\n"
        "import charrnn_runtime.backends.session\n"
    )
    done = world.run("-c", code, env={"ORT_DISABLE_TELEMETRY": given})
    assert done.stdout.decode().split() == [held], done.stderr.decode()


# --- unusual environments ----------------------------------------------------------------------------------


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Remove write permission from a folder and everything in it."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        yield
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


@posix
def test_packages_and_folders_can_be_read_only(tmp_path: Path, lstm: CharRNN) -> None:
    packages = tmp_path / "site-packages"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(RUNTIME / "charrnn_runtime", packages / "charrnn_runtime", ignore=unwanted)
    world = World(tmp_path / "world", packages)
    unwatched = {
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": None,
    }  # Python may try to write, in vain
    with read_only(packages), read_only(world.here), read_only(world.home), read_only(world.temporary):
        done = world.run("charrnn_runtime.cli.gen", MODEL, "-n", "50", "-s", "1", kernel=True, env=unwatched)
    if done.returncode == CANNOT:
        pytest.skip("this kernel does not confine processes")
    assert (done.returncode, done.stdout.decode()) == (0, lstm.generate("", 50, seed=1)), done.stderr
    assert not list(packages.rglob("__pycache__"))


SURROUNDINGS: dict[str, dict[str, str | None]] = {
    "no home": {"HOME": None, "TMPDIR": None},
    "a home that is not there": {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/cache"},
    "a locale of ASCII alone": {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "latin-1",
    },
    "no terminal type": {"TERM": None, "COLUMNS": "20"},
}


@posix
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_command_works_in_unusual_environments(world: World, lstm: CharRNN, name: str) -> None:
    options: dict[str, Any] = {"env": SURROUNDINGS[name], "start_new_session": True}  # no terminal
    text = "é中λ"
    lines: list[tuple[str, list[Any], bytes]] = [
        ("gen", [MODEL, "-n", "60", "-s", "1", "-p", text.encode()], b""),
        ("score", [MODEL, "-", "--by-line"], text.encode()),
        ("info", [MODEL], b""),
    ]
    done = world.run(*_several(lines), **options)
    assert (done.returncode, world.refused) == (0, []), done.stderr.decode()
    generated, scored, told, _ = done.stdout.decode().split(ENDED)
    assert generated == lstm.generate(text, 60, seed=1)
    assert scored.endswith(f"  {text}\n")
    assert "中" in told


@posix
@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- 2>&-"])
@pytest.mark.parametrize("command", COMMANDS)
def test_standard_streams_can_be_closed(command: str, redirection: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("LORD")
    text = f'"{tmp_path}/text"'
    words = {"gen": "-n 5", "info": "", "score": text, "triton": f'"{tmp_path}/all"', "view": text}[command]
    line = f'"{MODEL}" {words} {redirection}'
    done = in_shell(f"charrnn_runtime.cli.{command}", line, real_start=command == "gen")
    if redirection == ">&-":
        message = f"charrnn-{command}: error: stdout is closed; the output cannot be written"
        message += "; give --output FILE" if command == "gen" else ""
        assert (done.returncode, done.stderr.decode().splitlines()[-1]) == (1, message)
    else:
        assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()


@posix
@pytest.mark.parametrize("command", COMMANDS)
def test_help_with_a_closed_stdout_ends_without_a_traceback(command: str) -> None:
    done = in_shell(f"charrnn_runtime.cli.{command}", "--help >&-", real_start=command == "gen")
    assert "Traceback" not in done.stderr.decode()
    assert "bug in charrnn" not in done.stderr.decode()


def at_a_terminal(columns: int, *words: str | Path) -> tuple[int, str]:
    """Run Python with all its streams on a terminal of some width; returns the exit code and the screen."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = command_environment(TERM="xterm", COLUMNS=None, LINES=None)
    process = subprocess.Popen(
        [sys.executable, *words], stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux raises it at the end
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return process.wait(timeout=60), shown.decode()


@posix
def test_a_terminal_of_20_columns_shows_the_text_unchanged(lstm: CharRNN) -> None:
    code, shown = at_a_terminal(20, *_module("gen"), MODEL, "-p", "LORD ", "-n", "60", "-s", "1", "-q")
    text = lstm.generate("LORD ", 60, seed=1)
    expected = (text if text.endswith("\n") else text + "\n").replace("\n", "\r\n")
    assert (code, shown) == (0, expected)


BAR = """
from charrnn_runtime.cli import terminal
bar = terminal.LateBar(100, "generating")
bar._begin -= 3
for _ in range(10):
    bar.advance(10)
bar.close()
"""


SLOW = """
import json, os, sys
from charrnn_runtime.cli import gen, score, terminal
begin = terminal.LateBar.__init__
def long_ago(bar, *values, **named):
    begin(bar, *values, **named)
    bar._begin -= 3
terminal.LateBar.__init__ = long_ago
for to, command, *sys.argv[1:] in json.loads(sys.argv[1]):
    if to:
        os.dup2(os.open(to, os.O_WRONLY | os.O_CREAT), 1)
    try:
        {"gen": gen, "score": score}[command].main()
    except SystemExit as end:
        assert not end.code
    os.write(2, b"\\0")
"""
"""Runs commands one after another; a zero byte follows the terminal output of each."""

CONTROL = "\x1b"
LONG = ["gen", MODEL, "-n", "3000", "-s", "1"]
MANY_STREAMS = ["gen", MODEL, "--streams", "40", "--batch", "2", "-n", "40", "-s", "1"]
LONG_SCORING = ["score", MODEL, README, "--unknown", "skip"]


def slowly_at_a_terminal(*lines: list[Any]) -> list[str]:
    """The output of long-running commands at a terminal; each is preceded by a file for stdout, or ""."""
    code, shown = at_a_terminal(80, "-c", SLOW, json.dumps(lines, default=str))
    *each, rest = shown.split("\0")
    assert (code, rest) == (0, ""), shown
    assert len(each) == len(lines)
    return each


@posix
def test_text_streamed_to_the_terminal_has_no_progress_bar() -> None:
    lines = LONG, MANY_STREAMS, [*LONG_SCORING, "--by-line"], [*LONG_SCORING, "--per-char"]
    for line, shown in zip(lines, slowly_at_a_terminal(*(["", *line] for line in lines)), strict=True):
        assert len(shown) > 1000, line
        assert CONTROL not in shown, line


@posix
def test_long_output_to_a_file_has_a_progress_bar(tmp_path: Path) -> None:
    lines = LONG, MANY_STREAMS, [*LONG_SCORING, "--by-line"], LONG_SCORING
    files = [tmp_path / str(number) for number in range(4)]
    asked = [[file, *line] for file, line in zip(files, lines, strict=True)]
    for line, file, shown in zip(lines, files, slowly_at_a_terminal(*asked), strict=True):
        assert ("generating" if line[0] == "gen" else "scoring") in shown, line
        assert "100%" in shown, line
        written = file.read_text()
        assert written, line
        assert CONTROL not in written, line


@posix
@pytest.mark.parametrize("columns", [1, 20, 200])
def test_a_progress_bar_fits_a_terminal_of_any_width(columns: int) -> None:
    code, shown = at_a_terminal(columns, "-c", BAR)
    assert code == 0
    assert "Traceback" not in shown
    assert shown  # the bar appeared
