"""The output of charrnn-triton on NVIDIA's server; `noxfile.py triton` installs it and runs these tests.

The server is the one inside the package nvidia-pytriton, which has the Python backend alone. For the steps, a
stand-in for the ONNX Runtime backend is built (`onnxruntime_backend.cpp`): the server checks the
configuration, batches sequences and keeps their states; the stand-in runs a batch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.uniforms import stream_keys, uniforms_at

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = {
    "lstm": ROOT / "models" / "lstm.onnx",
    "bytes": ROOT / "tests" / "models" / "lstm-1x12-fp32-byte.onnx",
}
REQUESTS = 64
STAND_IN = os.environ.get("CHARRNN_TRITON_BACKEND", "")

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("pytriton") and importlib.util.find_spec("tritonclient")),
    reason="needs nvidia-pytriton, which `noxfile.py triton` installs",
)


class Server:
    """A running server and its clients."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, http: int, grpc: int) -> None:
        self.process, self.log, self.http, self.grpc = process, log, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        request = urllib.request.Request(f"http://{self.http}/v2/{path}", json.dumps(body).encode())
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=120) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return bytes(error.read())

    def text(self, model: str, body: dict[str, Any]) -> str:
        answer = json.loads(self.post(f"models/{model}/generate", body))
        assert "text" in answer, answer
        return str(answer["text"])

    def pieces(self, model: str, body: dict[str, Any]) -> list[str]:
        lines = self.post(f"models/{model}/generate_stream", {**body, "stream": True}).decode().splitlines()
        return [json.loads(line.removeprefix("data: "))["text"] for line in lines if line]

    def index(self) -> dict[str, str]:
        """Why each model is unavailable; "" for available ones."""
        return {
            each["name"]: each.get("reason", "") for each in json.loads(self.post("repository/index", {}))
        }


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def write(model: Path, repository: Path, *options: str) -> None:
    command = [sys.executable, "-m", "charrnn_runtime.cli.triton", str(model), str(repository), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "repository"
    for name, path in MODELS.items():
        write(path, repository, "--name", name, "--device", "cpu")
        write(path, repository, "--name", f"{name}-steps", "--backend", "onnxruntime", "--device", "cpu")

    write(MODELS["lstm"], repository, "--name", "broken", "--backend", "onnxruntime")
    broken = repository / "broken" / "config.pbtxt"
    broken.write_text(broken.read_text().replace("TYPE_INT64 dims: [ 1 ]", "TYPE_INT64 dims: [ ]"))
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    stub = package / "tritonserver" / "python_backend_stubs" / "{}.{}".format(*sys.version_info)
    backends = folder / "backends"
    (backends / "python").mkdir(parents=True)
    for source in (*(package / "tritonserver" / "backends" / "python").iterdir(), *stub.iterdir()):
        (backends / "python" / source.name).symlink_to(source)
    if STAND_IN:
        (backends / "onnxruntime").mkdir()
        (backends / "onnxruntime" / "libtriton_onnxruntime.so").symlink_to(STAND_IN)
    # The backend uses the first Python that it finds, with the packages of this environment.
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(package.parent / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
    http, grpc = free_port(), free_port()
    command = [str(package / "tritonserver" / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={backends}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false"]
    command += ["--exit-on-error=false", "--strict-readiness=false"]
    log = folder / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        running = Server(process, log, http, grpc)
        try:
            wait_for(running)
            yield running
        finally:
            process.terminate()
            process.wait(60)


def wait_for(server: Server) -> None:
    for _ in range(300):
        assert server.process.poll() is None, server.log.read_text()
        if b"Started HTTPService" in server.log.read_bytes():
            return
        time.sleep(0.2)
    pytest.fail(server.log.read_text())


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """The text of each seed alone, from the runtime in one process."""
    model = CharRNN.load(MODELS["lstm"], device="cpu")
    return [model.generate("LORD ", 200, seed=seed, echo=False) for seed in range(REQUESTS)]


def test_texts_over_http_match_python(server: Server, expected: list[str]) -> None:
    with ThreadPoolExecutor(REQUESTS) as pool:
        bodies = [{"prompt": "LORD ", "length": 200, "seed": seed} for seed in range(REQUESTS)]
        assert list(pool.map(lambda body: server.text("lstm", body), bodies)) == expected


def test_chunks_over_http_concatenate_to_the_text(server: Server, expected: list[str]) -> None:
    with ThreadPoolExecutor(REQUESTS) as pool:
        bodies = [{"prompt": "LORD ", "length": 200, "seed": seed} for seed in range(REQUESTS)]
        pieces = list(pool.map(lambda body: server.pieces("lstm", body), bodies))
    assert ["".join(each) for each in pieces] == expected
    assert all(len(each) > 1 for each in pieces)


def grpc_requests(count: int, length: int) -> Iterator[tuple[str, list[Any]]]:
    import tritonclient.grpc as client

    for seed in range(count):
        inputs = []
        for name, kind, value in (
            ("prompt", "BYTES", np.array([b"LORD "], np.object_)),
            ("length", "INT64", np.array([length], np.int64)),
            ("seed", "UINT64", np.array([seed], np.uint64)),
            ("stream", "BOOL", np.array([True])),
        ):
            inputs.append(client.InferInput(name, [1], kind))
            inputs[-1].set_data_from_numpy(value)
        yield str(seed), inputs


def test_chunks_over_grpc_concatenate_to_the_text(server: Server, expected: list[str]) -> None:
    import tritonclient.grpc as client

    answers: queue.Queue[Any] = queue.Queue()
    texts = [""] * REQUESTS
    with client.InferenceServerClient(server.grpc) as grpc:
        grpc.start_stream(callback=lambda result, error: answers.put((result, error)))
        for name, inputs in grpc_requests(REQUESTS, 200):
            grpc.async_stream_infer("lstm", inputs, request_id=name, enable_empty_final_response=True)
        ended = 0
        while ended < REQUESTS:
            result, error = answers.get(timeout=120)
            assert error is None
            said = result.get_response()
            if said.outputs:
                texts[int(said.id)] += result.as_numpy("text").item().decode()
            ended += said.parameters["triton_final_response"].bool_param
        grpc.stop_stream()
    assert texts == expected


def test_a_disconnected_client_cancels_only_its_own_texts(server: Server, expected: list[str]) -> None:
    import tritonclient.grpc as client

    first = threading.Event()
    with client.InferenceServerClient(server.grpc) as grpc:
        grpc.start_stream(callback=lambda result, error: first.set())
        for name, inputs in grpc_requests(REQUESTS, 10**9):
            grpc.async_stream_infer("lstm", inputs, request_id=name)
        assert first.wait(60)
        grpc.stop_stream(cancel_requests=True)
    # Texts of a billion characters would occupy all rows of the scheduler for hours.
    assert server.text("lstm", {"prompt": "LORD ", "length": 200, "seed": 3}) == expected[3]


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"temperature": 0.5, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.9, "min_p": 0.01},
        {"stop": ["\n", "x"]},
        {"unknown": "skip"},
    ],
    ids=str,
)
def test_options_match_python(server: Server, options: dict[str, Any]) -> None:
    prompt = "LORDß " if "unknown" in options else "LORD "
    model = CharRNN.load(MODELS["lstm"], device="cpu")
    text = model.generate(prompt, 300, seed=9, echo=False, **options)
    assert server.text("lstm", {"prompt": prompt, "length": 300, "seed": 9, **options}) == text


def test_a_text_without_a_prompt_starts_as_in_python(server: Server) -> None:
    text = CharRNN.load(MODELS["lstm"], device="cpu").generate("", 100, seed=2)
    assert server.text("lstm", {"length": 100, "seed": 2}) == text


def test_text_of_a_byte_model_matches_python(server: Server) -> None:
    text = CharRNN.load(MODELS["bytes"], device="cpu").generate("é", 300, seed=2, echo=False)
    assert server.text("bytes", {"prompt": "é", "length": 300, "seed": 2}) == text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "ß"}, "characters that the model does not know"),
        ({"prompt": "a", "temperature": 0}, "temperature must be at least"),
        ({"prompt": "a", "length": -1}, "length must be"),
    ],
    ids=str,
)
def test_invalid_requests_get_an_error_and_the_server_keeps_running(
    server: Server, body: dict[str, Any], said: str
) -> None:
    assert said in json.loads(server.post("models/lstm/generate", body))["error"]
    assert server.text("lstm", {"prompt": "a", "length": 3, "seed": 1})


# --- steps -------------------------------------------------------------------------------------------------

needs_stand_in = pytest.mark.skipif(not STAND_IN, reason="needs the stand-in that `noxfile.py triton` builds")
Step = Callable[[dict[str, Any], int, bool, bool], int]
"""Sends the inputs of a character with its sequence id and start and end flags; returns the next one."""


def write_by_steps(step: Step, number: int, prompt: str, length: int) -> str:
    """The text of a sequence client, as in docs/triton.md."""
    info = read_model_file(MODELS["lstm"]).info
    ids = [int(each) for each in info.vocabulary.encode(prompt)]
    uniforms = uniforms_at(stream_keys(number, np.array([0])), np.arange(length))
    for i in range(len(prompt) - 1 + length):
        position = i - (len(prompt) - 1)  # negative while the prompt is read
        values: dict[str, Any] = {
            "token": np.int64(ids[i]),
            "uniform": np.float32(0 if position < 0 else uniforms[position]),
            "temperature": np.float32(0.8),
            "top_k": np.int64(info.top_k_max),
            "top_p": np.float32(1),
            "min_p": np.float32(0),
        }
        next_token = step(values, number, i == 0, position == length - 1)
        if position >= 0:
            ids.append(next_token)
    return info.vocabulary.decode(ids[len(prompt) :])


def grpc_step(grpc: Any, values: dict[str, Any], number: int, begins: bool, ends: bool) -> int:
    import tritonclient.grpc as client

    inputs = []
    for name, value in values.items():
        inputs.append(client.InferInput(name, [1, 1], "INT64" if value.dtype == np.int64 else "FP32"))
        inputs[-1].set_data_from_numpy(value.reshape(1, 1))
    sequence = {"sequence_id": number, "sequence_start": begins, "sequence_end": ends}
    return int(grpc.infer("lstm-steps", inputs, **sequence).as_numpy("next_token").item())


def http_step(server: Server, values: dict[str, Any], number: int, begins: bool, ends: bool) -> int:
    inputs = [
        {"name": name, "shape": [1, 1], "data": [value.item()]}
        | {"datatype": "INT64" if value.dtype == np.int64 else "FP32"}
        for name, value in values.items()
    ]
    sequence = {"sequence_id": number, "sequence_start": begins, "sequence_end": ends}
    body = {"inputs": inputs, "parameters": sequence, "outputs": [{"name": "next_token"}]}
    answer = json.loads(server.post("models/lstm-steps/infer", body))
    (output,) = answer["outputs"]
    assert output["shape"] == [1, 1]
    return int(output["data"][0])


@needs_stand_in
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_sequences_with_state_on_the_server_match_python(server: Server, protocol: str) -> None:
    """Many at once, which start and end at different times; each has its number, from 1, as its seed."""
    import tritonclient.grpc as client

    model = CharRNN.load(MODELS["lstm"], device="cpu")
    wanted = [(number, "LORD of"[: 1 + number % 7], 20 + number % 30) for number in range(1, REQUESTS + 1)]
    with client.InferenceServerClient(server.grpc) as grpc, ThreadPoolExecutor(REQUESTS) as pool:
        step = partial(grpc_step, grpc) if protocol == "grpc" else partial(http_step, server)
        texts = list(pool.map(lambda each: write_by_steps(step, *each), wanted))
    assert texts == [model.generate(prompt, length, seed=seed, echo=False) for seed, prompt, length in wanted]


@needs_stand_in
def test_logits_are_returned_on_request(server: Server) -> None:
    import tritonclient.grpc as client

    model = CharRNN.load(MODELS["lstm"], device="cpu")
    values: dict[str, Any] = {
        "token": np.int64(model.info.start_token),
        "uniform": np.float32(0.5),
        "temperature": np.float32(1),
    }
    values |= {"top_k": np.int64(1), "top_p": np.float32(1), "min_p": np.float32(0)}
    inputs = []
    for name, value in values.items():
        inputs.append(client.InferInput(name, [1, 1], "INT64" if value.dtype == np.int64 else "FP32"))
        inputs[-1].set_data_from_numpy(value.reshape(1, 1))
    with client.InferenceServerClient(server.grpc) as grpc:
        sequence = {"sequence_id": 999, "sequence_start": True, "sequence_end": True}
        logits = grpc.infer("lstm-steps", inputs, **sequence).as_numpy("logits")
    assert np.allclose(logits, model.step(model.initial_state(1), seed=0).logits, atol=1e-5)


@needs_stand_in
def test_the_server_accepts_the_configurations_and_reports_invalid_ones(server: Server) -> None:
    reasons = server.index()
    assert {name: reasons[name] for name in reasons if name != "broken"} == dict.fromkeys(
        [*MODELS, *(f"{name}-steps" for name in MODELS)], ""
    )
    assert "must specify 'dims'" in reasons["broken"]


def test_the_configurations_parse_with_the_protobuf_definition_of_nvidia(server: Server) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    folder = server.log.parent / "repository"
    for name in MODELS:
        text = text_format.Parse((folder / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert text.model_transaction_policy.decoupled
        steps = text_format.Parse(
            (folder / f"{name}-steps" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
        (state,) = steps.sequence_batching.state
        assert (state.input_name, state.output_name) == ("state", "next_state")
        assert state.initial_state[0].zero_data
        assert all(list(each.dims) == [1] and each.reshape.shape == [] for each in steps.input)
        assert all(each.HasField("reshape") for each in steps.input)
