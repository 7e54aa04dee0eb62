"""A model in forked processes: every child can use it independently, and exits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN
from limited import SECONDS, run_limited
from make_models import FOLDER
from marks import first_daily
from run_commands import command_environment

MODEL = FOLDER / "lstm-2x12-fp32.onnx"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

HEAD = """
import gc, os, sys, threading, time, warnings, weakref
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads run while it forks
from charrnn_runtime import CharRNN, CharRNNError, DeviceError

path = sys.argv[1]

busy, ended = threading.Event(), False

def goes_on():
    \"\"\"Whether the other thread should continue; it pauses while a child works.\"\"\"
    busy.wait()
    return not ended

def in_child(work):
    \"\"\"Fork; the child does some work and ends as a program does.\"\"\"
    sys.stdout.flush()
    child = os.fork()
    if not child:
        work()
        sys.exit(0)
    busy.clear()
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


def run(program: str, folder: Path, *words: object) -> str:
    return run_limited(HEAD + program, folder, MODEL, *words)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_generates_the_same_texts_and_exits(tmp_path: Path, threads: int) -> None:
    run(
        """
def work():
    assert model.generate(prompts, 40, seed=1) == expected
    in_child(again)

def again():
    assert model.generate(prompts, 40, seed=1) == expected
    assert model.score("LORD ").characters == 5

for streams in (1, 16, 41):
    model = CharRNN.load(path, device="cpu", threads=int(sys.argv[2]))
    prompts = ["LORD "] * streams
    expected = model.generate(prompts, 40, seed=1)
    in_child(work)
    assert model.generate(prompts, 40, seed=1) == expected
""",
        tmp_path,
        threads,
    )


def test_inherited_sessions_are_neither_used_nor_destroyed(tmp_path: Path) -> None:
    run(
        """
model = CharRNN.load(path, device="cpu", threads=1)
begun = model.generate_each(["LORD "] * 5, 40, seed=1, max_batch_size=2)
next(begun)
model.generate(["a"] * 3, 5, seed=1)
engine = model._engine
inherited = [weakref.ref(session) for session in engine._sessions.values()]
inherited += [weakref.ref(buffers._session) for buffers in engine._in_use]
assert len(inherited) > 2 and engine._in_use

def work():
    global model, begun, engine
    known = {id(session()) for session in inherited}
    list(begun)
    model.generate(["a"] * 3, 5, seed=1)
    assert engine._sessions and not known & {id(session) for session in engine._sessions.values()}
    del model, begun, engine
    gc.collect()
    assert all(session() is not None for session in inherited)

in_child(work)
""",
        tmp_path,
    )


@pytest.mark.parametrize("threads", first_daily([2, 1]))
def test_a_child_forked_while_another_thread_creates_sessions_does_not_hang(
    tmp_path: Path, threads: int
) -> None:
    run(
        """
model = CharRNN.load(path, device="cpu", threads=int(sys.argv[2]))
expected = model.generate(["a"] * 3, 9, seed=1)

def make():
    rows = 0
    while goes_on():
        rows = rows % 60 + 1
        model.generate(["LORD "] * rows, 2)
        if rows % 10 == 0:
            CharRNN.load(path, device="cpu")

thread = threading.Thread(target=make)
thread.start()

def work():
    assert model.generate(["a"] * 3, 9, seed=1) == expected
    assert CharRNN.load(path, device="cpu").generate(["a"] * 3, 9, seed=1) == expected

for _ in range(15):
    busy.set()
    time.sleep(0.01)
    in_child(work)
ended = True
busy.set()
thread.join()
""",
        tmp_path,
        threads,
    )


@pytest.mark.parametrize("threads", first_daily([2, 1]))
def test_a_child_forked_while_another_thread_runs_streams_does_not_hang(tmp_path: Path, threads: int) -> None:
    run(
        """
model = CharRNN.load(path, device="cpu", threads=int(sys.argv[2]))
expected = model.generate(["a"] * 20, 9, seed=1)
scheduler = model.scheduler()

def submit():
    scheduler.submit(*(model.request("LORD ", 10**6, seed=i) for i in range(20)))

def run():
    submit()
    while goes_on():
        scheduler.run_block()

thread = threading.Thread(target=run)
thread.start()
said = set()

def work():
    assert model.generate(["a"] * 20, 9, seed=1) == expected
    if scheduler.busy:
        try:
            for _ in range(10):
                scheduler.run_block()
        except CharRNNError as error:
            assert "running when the process was forked" in str(error)
            assert not scheduler.busy
            submit()
            scheduler.run_block()
    scheduler.close()

for i in range(15):
    busy.set()
    time.sleep(0.01 + 0.001 * i)
    in_child(work)
ended = True
busy.set()
thread.join()
""",
        tmp_path,
        threads,
    )


def test_idle_streams_continue_in_the_child_and_in_the_parent(tmp_path: Path) -> None:
    run(
        """
model = CharRNN.load(path, device="cpu", threads=1)
alone = model.generate("LORD ", 300, seed=1, echo=False)
each = [one.text for one in model.generate_each(["a", "b", "c"], 100, seed=1)]
text, streams = model.stream("LORD ", 300, seed=1), model.generate_each(iter("abc"), 100, seed=1)
begun = next(text)
first = next(streams).text
lines = model.score_stream(iter(["LORD ", "of all"]))
next(lines)

def work():
    assert begun + "".join(text) == alone
    assert [first, *(one.text for one in streams)] == each
    assert len(next(lines)) == 6

in_child(work)
in_child(lambda: (text.close(), streams.close(), lines.close()))
work()
""",
        tmp_path,
    )


def test_asyncio_streams_start_in_the_child_and_those_of_the_parent_stay_there(tmp_path: Path) -> None:
    run(
        """
import asyncio
model = CharRNN.load(path, device="cpu")
expected = model.generate("LORD ", 50, seed=1)

async def read(text):
    return "".join([chunk async for chunk in text])

async def begin():
    global begun, waiting
    begun = model.stream_async("LORD ", 10**8, seed=1)
    waiting = model.stream_async("LORD ", 50, seed=1, echo=True)
    await anext(begun)
    return begun

text = asyncio.run(begin())

def work():
    assert asyncio.run(read(model.stream_async("LORD ", 50, seed=1, echo=True))) == expected
    assert asyncio.run(read(waiting)) == expected
    try:
        asyncio.run(anext(begun))
    except CharRNNError as error:
        assert "only the parent can continue it" in str(error)
    else:
        raise AssertionError

in_child(work)
in_child(work)
""",
        tmp_path,
    )


def test_a_child_that_uses_the_parents_gpu_gets_a_clear_error(tmp_path: Path) -> None:
    run(
        """
model = CharRNN.load(path, device="cpu")
scheduler = model.scheduler()
scheduler.submit(model.request("LORD ", 500, seed=1))
scheduler.run_block()
model._engine.device = "cuda"  # as if

def work():
    for use in (scheduler.run_block, lambda: model.generate("a", 5)):
        try:
            use()
        except CharRNNError as error:
            said.append(str(error))
    assert "start them again" in said[0]
    assert isinstance(error_of(lambda: model.step(model.initial_state())), DeviceError)
    assert "spawn" in said[1]

def error_of(use):
    try:
        use()
    except Exception as error:
        return error

said = []
in_child(work)
""",
        tmp_path,
    )


def test_a_child_forked_while_another_thread_imports_the_package_can_import_it(
    tmp_path: Path,
) -> None:
    run_limited(
        """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import charrnn_runtime
thread = threading.Thread(target=lambda: charrnn_runtime.CharRNN)
thread.start()
time.sleep(0.02)
child = os.fork()
if not child:
    charrnn_runtime.CharRNN.load(sys.argv[1], device="cpu").generate("a", 5)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
""",
        tmp_path,
        MODEL,
    )


def test_a_child_exits_even_if_onnxruntime_telemetry_is_enabled(tmp_path: Path) -> None:
    # Telemetry has a thread for which the child would wait at exit.
    said = run_limited(
        "import onnxruntime, time\ntime.sleep(0.3)\n"
        + HEAD
        + """
import atexit, ctypes
model = CharRNN.load(path, device="cpu", threads=2)
expected = model.generate(["LORD "] * 20, 20, seed=1)

def work():
    atexit.register(print, "Python's handlers run")
    assert model.generate(["LORD "] * 20, 20, seed=1) == expected
    ctypes.CDLL(None).puts(b"what C has buffered is written")
    in_child(lambda: None)

in_child(work)
sys.stdout.flush()
child = os.fork()
if not child:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
""",
        tmp_path,
        MODEL,
        ORT_DISABLE_TELEMETRY=None,
        HOME=str(tmp_path),
        XDG_CACHE_HOME=None,
    )
    assert "Python's handlers run" in said
    assert "what C has buffered is written" in said


# --- libraries that fork -----------------------------------------------------------------------------------

POOLS = """
import multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor
from charrnn_runtime import CharRNN, UnknownCharacterError

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads run while it forks
model = None

def inherit(given):
    global model
    model = given

def generate(seed):
    return model.generate(["LORD "] * 20, 20, seed=seed)

def generate_with(given, seed):
    return given.generate(["LORD "] * 20, 20, seed=seed)

def fail(_):
    model.generate("\\x00")

def put(queue, given):
    queue.put(given.generate(["LORD "] * 20, 20, seed=0))

if __name__ == "__main__":
    path, method = sys.argv[1:]
    count = 1 if method == "spawn" else 2  # spawned ones share nothing, and import for themselves
    context = multiprocessing.get_context(method)
    loaded = CharRNN.load(path, device="cpu", threads=2)
    expected = [generate_with(loaded, seed) for seed in range(4)]
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_workers_use_a_model(tmp_path: Path, method: str) -> None:
    run_limited(
        POOLS
        + """
    queue = context.Queue()
    processes = [context.Process(target=put, args=(queue, loaded)) for _ in range(count)]
    for process in processes:
        process.start()
    assert [queue.get() for _ in processes] == [expected[0]] * count
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with context.Pool(count, inherit, (loaded,)) as pool:
        assert pool.map(generate, range(4)) == expected
""",
        tmp_path,
        MODEL,
        method,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_pool_executor_uses_a_model(tmp_path: Path, method: str) -> None:
    run_limited(
        POOLS
        + """
    with ProcessPoolExecutor(count, context, inherit, (loaded,)) as pool:
        assert list(pool.map(generate, range(4))) == expected
        assert list(pool.map(generate_with, [loaded] * 4, range(4))) == expected
        try:
            pool.submit(fail, 0).result()
        except UnknownCharacterError as error:
            assert error.characters == ("\\x00",)
        else:
            raise AssertionError
""",
        tmp_path,
        MODEL,
        method,
    )


APPLICATION = """
import sys
from charrnn_runtime import CharRNN

model = CharRNN.load(sys.argv[-1], device="cpu", threads=2)
texts = model.generate(["LORD "] * 20, 20, seed=1)  # sessions that workers inherit

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return ["|".join(model.generate(["LORD "] * 20, 20, seed=1)).encode()]
"""

SERVER = """
import sys
from gunicorn.app.base import BaseApplication

class Server(BaseApplication):
    def load_config(self):
        for name, value in {
            "bind": f"fd://{sys.argv[1]}", "workers": 3, "preload_app": True, "control_socket_disable": True
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        sys.path.insert(0, sys.argv[2])
        from application import application
        return application

Server().run()
"""


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed")
def test_gunicorn_workers_share_a_model_loaded_before_forking(tmp_path: Path, lstm: CharRNN) -> None:
    expected = "|".join(lstm.generate(["LORD "] * 20, 20, seed=1))
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "server.py").write_text(SERVER)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        words = [listening.fileno(), tmp_path, MODEL]
        server = subprocess.Popen(
            [sys.executable, tmp_path / "server.py", *map(str, words)],
            env=command_environment(),
            cwd=tmp_path,
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + SECONDS
            for _ in range(9):
                assert _answer(address, end) == expected
            server.send_signal(signal.SIGTERM)  # workers are asked to exit, and killed only after 30 s
            said, _ = server.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(server.pid, signal.SIGKILL)
            print(server.communicate()[0].decode())
            raise
    assert server.returncode == 0, said.decode()
    assert b"SIGKILL" not in said


def _answer(address: str, end: float) -> str:
    while True:
        try:
            with urllib.request.urlopen(address, timeout=max(1.0, end - time.monotonic())) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
