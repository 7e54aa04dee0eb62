"""The runtime in other programs: it changes nothing in the process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from guests import LOOK
from limited import run_limited
from make_models import FOLDER

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
TELEMETRY = "ORT_DISABLE_TELEMETRY"
ORT = "import onnxruntime as ort, sys\n"
MARK = "print('MARK', flush=True)\n"
HOST_S_SESSION = "ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
USE = "from charrnn_runtime import CharRNN\nCharRNN.load(sys.argv[1], device='cpu').generate('LORD ', 9)\n"
SAID = re.compile(r"\[[VIWEF]:onnxruntime:")


def test_importing_changes_no_process_wide_state(tmp_path: Path) -> None:
    run_limited(
        LOOK
        + """
import importlib, importlib.util
# What others do when they are imported is theirs.
others = ("numpy", "onnxruntime", "random", "prometheus_client", "starlette.routing", "uvicorn")
for name in ("google.protobuf.descriptor_pb2", *others):
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
before = look()
import_all("charrnn_runtime")
compare(before, look())
""",
        tmp_path,
        ORT_DISABLE_TELEMETRY="1",
    )


def test_importing_it_first_does_not_change_the_environment(tmp_path: Path) -> None:
    run_limited(
        LOOK
        + """
def environments():
    return dict(os.environ), native_environment()
before = environments()
import charrnn_runtime
charrnn_runtime.CharRNN
assert "onnxruntime" in sys.modules
assert environments() == before
""",
        tmp_path,
        ORT_DISABLE_TELEMETRY=None,
        HOME=str(tmp_path),
        XDG_CACHE_HOME=None,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]  # no telemetry database


def test_using_a_model_changes_no_process_wide_state(tmp_path: Path) -> None:
    run_limited(
        LOOK
        + """
import asyncio, numpy, onnxruntime
from charrnn_runtime import CharRNN
before = look()
model = CharRNN.load(sys.argv[1], device="auto", threads=2)
model.generate(["LORD "] * 40, 20)
model.score("LORD ")
text = model.stream("LORD ", 50)
next(text)
text.close()
compare(before, look())
""",
        tmp_path,
        MODEL,
        ORT_DISABLE_TELEMETRY="1",
    )


@pytest.mark.parametrize("given", ["0", "1", ""])
def test_telemetry_settings_of_the_user_are_kept(tmp_path: Path, given: str) -> None:
    program = (
        f"import os\nfrom charrnn_runtime import CharRNN\nassert os.environ['{TELEMETRY}'] == {given!r}\n"
    )
    run_limited(program, tmp_path, MODEL, **{TELEMETRY: given, "HOME": str(tmp_path)})


def test_telemetry_is_unchanged_if_onnxruntime_was_imported_before(tmp_path: Path) -> None:
    run_limited(
        """
import os, onnxruntime
said = []
onnxruntime.disable_telemetry_events = lambda: said.append("off")
from charrnn_runtime import CharRNN
assert not said and "ORT_DISABLE_TELEMETRY" not in os.environ
""",
        tmp_path,
        **{TELEMETRY: None, "HOME": str(tmp_path), "XDG_CACHE_HOME": None},
    )


@pytest.mark.parametrize("severity", [None, 0, 1])
def test_the_log_level_of_onnxruntime_in_a_host_program_is_unchanged(
    tmp_path: Path, severity: int | None
) -> None:
    first = ORT if severity is None else f"{ORT}ort.set_default_logger_severity({severity})\n"
    alone, beside = (
        run_limited(program + MARK + HOST_S_SESSION, tmp_path, MODEL).split("MARK")[1]
        for program in (first, first + USE)
    )
    assert bool(SAID.search(alone)) == (severity is not None)
    assert bool(SAID.search(beside)) == bool(SAID.search(alone))


def test_a_command_silences_onnxruntime_on_stderr(tmp_path: Path) -> None:
    said = run_limited(
        "import sys, onnxruntime as ort\n"
        "from charrnn_runtime import process\n"
        "ort.set_default_logger_severity(0)\n"
        "said = []\n"
        "ort.set_default_logger_severity = said.append\n"
        "from charrnn_runtime.cli import gen\n"
        "sys.argv = ['charrnn-gen', sys.argv[1], '-n', '5', '-s', '1', '-q']\n"
        "try:\n"
        "    gen.main()\n"
        "finally:\n"
        "    assert said == [4], said\n",
        tmp_path,
        MODEL,
    )
    assert said


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
def test_loading_and_using_models_leaks_no_file_handles(tmp_path: Path) -> None:
    run_limited(
        """
import os, sys
from charrnn_runtime import CharRNN
import io, pickle
data = open(sys.argv[1], "rb").read()
def handles():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
CharRNN.load(sys.argv[1], device="cpu").generate("a", 5)
before = handles()
for _ in range(5):
    CharRNN.load(sys.argv[1], device="cpu").generate("a", 5)
    CharRNN.load(io.BytesIO(data), device="cpu")
    pickle.loads(pickle.dumps(CharRNN.from_bytes(data, device="cpu")))
assert handles() == before
""",
        tmp_path,
        MODEL,
    )
