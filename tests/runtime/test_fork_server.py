"""A program run by the fork server sees what a newly started process would see, and ends in the same way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fork_client import PASSED_ON
from forked import CLIENT, forked, read_at_start, server_address
from run_commands import command_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")

PROBE = """\
import json, os, resource, signal, sys
streams = [
    stream and [stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering,
                stream.isatty(), getattr(stream.buffer, "raw", stream.buffer).closefd]
    for stream in (sys.stdin, sys.stdout, sys.stderr)
]
seen = {
    "argv": sys.argv, "path": sys.path[0], "name": __name__, "file": __file__, "cwd": os.getcwd(),
    "main": sys.modules["__main__"].__dict__ is globals(), "spec": __spec__ and __spec__.name,
    "environment": dict(os.environ), "umask": os.umask(0), "streams": streams, "int": int.__name__,
    "signals": {n: str(signal.getsignal(n)).partition(" at ")[0] for n in signal.valid_signals()},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "limits": [resource.getrlimit(n) for n in range(16)],
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
}
with open(sys.argv[1], "w") as file:
    json.dump(seen, file, indent=1, sort_keys=True)
"""

Start = Callable[..., list[Any]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Returns the command line that runs a program in the current folder through the server."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "probe.py").write_text(PROBE)
    address = server_address("charrnn_runtime", tuple(sorted(read_at_start(command_environment()).items())))

    def command(program: str, *words: object) -> list[Any]:
        if program != PROBE:
            (tmp_path / "program.py").write_text(program)
        name = "probe" if program == PROBE else "program"
        return [sys.executable, "-I", "-S", CLIENT, address, sys.executable, "-m", name, *words]

    return command


def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "env": command_environment(), **options}
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


def test_a_command_is_run_by_the_server_and_not_by_its_client(start: Start) -> None:
    parent = "import os, pathlib; print(pathlib.Path(f'/proc/{os.getppid()}/cmdline').read_bytes())"
    assert b"fork_server.py" in run(start(parent)).stdout


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "{} < probe.py",
        "{} > out 2> err",
        "{} <&-",
        "{} >&-",
        "{} <&- >&- 2>&-",
        "umask 027; {}",
        "ulimit -n 99; ulimit -c 0; {}",
        "trap '' INT TERM; {}",
        "mkdir -p below; cd below; cp ../probe.py .; {}",
        "COLUMNS=33 CHARRNN_OTHER=ü _CHARRNN_EMPTY= {}",
        "{} --word 'two words' '' ü $'\\xff'",
    ],
)
def test_a_forked_process_sees_the_same_environment_as_a_new_process(
    start: Start, tmp_path: Path, around: str
) -> None:
    words = start(PROBE, tmp_path / "seen")
    seen = []
    for command in (words, words[5:]):
        line = around.format('"$@"')
        done = run(["bash", "-c", line, "bash", *command])
        assert done.returncode == 0, done.stderr
        seen.append((tmp_path / "seen").read_text())
    assert seen[0] == seen[1]


def test_an_installed_script_runs_as_main_with_its_arguments(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{sys.executable}\n{PROBE}")
    script.chmod(0o755)
    seen = []
    for command in ([*start(PROBE)[:5], script, "seen"], [script, "seen"]):
        assert run(command).returncode == 0
        seen.append((tmp_path / "seen").read_text())
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import sys; sys.exit(0)",
        "import sys; sys.exit(7)",
        "import sys; sys.exit(300)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit('a message')",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; print('lost'); os.abort()",
        "raise KeyboardInterrupt",
        "raise ValueError('wrong')",
        "print('kept', end='')",
        "import atexit, threading; atexit.register(print, 1); threading.Timer(0.05, print, [2]).start()",
        "import sys; sys.stdin.readline(); print('a' * 100_000)",
    ],
)
def test_a_forked_process_ends_like_a_new_process(start: Start, program: str) -> None:
    command = start(program)
    ended = [run(each, input=b"x\n", stdin=None) for each in (command, command[5:])]
    assert ended[0].returncode == ended[1].returncode
    assert ended[0].stdout == ended[1].stdout
    assert ended[0].stderr.splitlines()[-1:] == ended[1].stderr.splitlines()[-1:]


def test_a_closed_pipe_is_detected_at_the_end(start: Start) -> None:
    command = start("import sys; sys.stdin.readline(); print('unread')")
    ended = []
    for each in (command, command[5:]):
        process = subprocess.Popen(
            each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=command_environment(),
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        ended.append((process.communicate(b"go\n", 60)[1], process.returncode))
    assert ended[0][1] == ended[1][1] != 0
    assert ended[0][0].splitlines()[-1] == ended[1][0].splitlines()[-1]


def test_stdout_and_stderr_keep_their_order_and_pipes_close_with_the_process(start: Start) -> None:
    program = "import os\nfor n in range(3):\n  os.write(1, b'o%d ' % n); os.write(2, b'e%d ' % n)"
    done = subprocess.run(
        start(program),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=command_environment(),
        check=True,
    )
    assert done.stdout == b"o0 e0 o1 e1 o2 e2 "
    line = '"$@" | head -c 4; echo; seq 3 | "${@:1:6}" -c x 2>&- | cat; echo end'
    assert run(["bash", "-c", line, "bash", *start(program)]).stdout.endswith(b"end\n")


def test_stdin_is_streamed(start: Start) -> None:
    program = "import sys\nfor line in sys.stdin: print(repr(line), flush=True)"
    command = start(program)
    text = "é\r\nü\n\xa0\n".encode() + b"last"
    assert run(command, input=text, stdin=None).stdout == run(command[5:], input=text, stdin=None).stdout
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=command_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            assert process.stdout.readline() == b"'%d\\n'\n" % number


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_signal_for_the_client_reaches_the_process(start: Start, name: str) -> None:
    program = f"""
import signal, sys
signal.signal(signal.{name}, lambda number, _: sys.exit(40 + number))
print("ready", flush=True)
while True: signal.pause()
"""
    with subprocess.Popen(start(program), stdout=subprocess.PIPE, env=command_environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, name))
        try:
            assert process.wait(60) == 40 + getattr(signal, name)
        finally:
            process.kill()


def test_a_process_ends_with_its_client(start: Start) -> None:
    program = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(20)\nprint('alive')"
    with subprocess.Popen(start(program), stdout=subprocess.PIPE, env=command_environment()) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == b""  # its pipe ends with it
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline


def test_concurrent_processes_have_separate_exit_codes(start: Start) -> None:
    program = "import os, sys; print(sys.argv[1], os.urandom(4).hex()); sys.exit(int(sys.argv[1]))"
    command = start(program)
    processes = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, env=command_environment())
        for number in range(40)
    ]
    for number, process in enumerate(processes):
        out, _ = process.communicate(timeout=60)
        assert out.split()[0] == b"%d" % number
        assert process.returncode == number


def test_processes_share_no_state(start: Start) -> None:
    program = (
        "import random, sys, numpy; print(random.random(), numpy.random.random(), hasattr(sys, 'left'));"
        "sys.left = 1"
    )
    first, second = (run(start(program)).stdout.split() for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[2] == second[2] == b"False"


def test_environment_variables_read_at_startup_force_a_real_start(start: Start) -> None:
    program = "import os, pathlib; print(pathlib.Path(f'/proc/self/cmdline').read_bytes())"
    plain, other = run(start(program)), run(start(program), env=command_environment(PYTHONUTF8="1"))
    assert b"fork_server" in plain.stdout
    assert b"fork_server" not in other.stdout
    assert (
        forked([sys.executable, "-m", "charrnn_runtime.cli.gen"], command_environment(LC_ALL="C"))[1] == "-m"
    )
    assert (
        forked([sys.executable, "-m", "charrnn_runtime.cli.gen"], command_environment(COLUMNS="9"))[1] == "-I"
    )


@pytest.mark.parametrize("words", [("-c", "pass"), ("-m", "json.tool"), ("x.py",)])
def test_other_programs_are_not_forked(words: tuple[str, ...]) -> None:
    assert forked([sys.executable, *words], dict(os.environ)) == [sys.executable, *words]


def test_a_command_is_really_started_if_the_server_is_gone(start: Start, tmp_path: Path) -> None:
    command = start("print('done')")
    command[4] = tmp_path / "no-server"
    assert run(command).stdout == b"done\n"


def test_the_resource_limits_of_the_server_are_unchanged(start: Start) -> None:
    limit = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    run(["bash", "-c", 'ulimit -S -c 0; "$@"', "bash", *start(limit)])
    assert int(run(start(limit)).stdout) == resource.getrlimit(resource.RLIMIT_CORE)[0]
