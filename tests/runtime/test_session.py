"""Devices, buffers, and keeping stdout clean."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest

from charrnn_runtime import (
    CharRNN,
    CharRNNError,
    DeviceError,
    ModelFormatError,
    OutOfMemoryError,
    Sampling,
    SettingError,
)
from charrnn_runtime.backends import session
from charrnn_runtime.backends.buffers import BLOCK, Buffers, Given
from charrnn_runtime.backends.device import cuda_missing
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, read_model_file
from charrnn_runtime.graph.cpu_graph import cpu_graph
from charrnn_runtime.graph.sampler import Cuts
from make_models import FOLDER, SmallModel

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def file(lstm_path: Path) -> ModelFile:
    return read_model_file(lstm_path)


@pytest.fixture
def engine(file: ModelFile) -> Engine:
    return Engine(file, "cpu")


# --- devices -----------------------------------------------------------------------------------------------


def _without_driver(_: str) -> None:
    raise OSError("not found")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a CUDA build of onnxruntime but no NVIDIA driver."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", _without_driver)


@pytest.fixture
def plain_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime without CUDA."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    _install(monkeypatch, "onnxruntime")


def _install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def distribution(name: str) -> object:
        if name in names:
            return object()
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


@pytest.mark.usefixtures("no_driver")
def test_cuda_without_a_driver_is_an_error_and_never_the_cpu(lstm_path: Path) -> None:
    with pytest.raises(DeviceError, match=r'device="cuda" cannot be used: no NVIDIA driver is installed'):
        CharRNN.load(lstm_path, device="cuda")


@pytest.mark.usefixtures("plain_build")
def test_cuda_without_a_cuda_build_is_an_error_with_the_install_command(lstm_path: Path) -> None:
    line = 'replace it with: pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
    with pytest.raises(DeviceError, match=re.escape(f"build of onnxruntime lacks CUDA; {line}")):
        CharRNN.load(lstm_path, device="cuda")


def test_two_builds_at_once_are_an_error_with_the_commands_to_fix_it(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    _install(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    line = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "onnxruntime-gpu[cuda,cudnn]"'
    message = f"both installed, and the first hides the second; fix this with: {line}"
    with pytest.raises(DeviceError, match=re.escape(message)):
        CharRNN.load(lstm_path, device="cuda")


class _Driver:
    """A driver that finds one GPU."""

    def __init__(self, version: int = 13_000) -> None:
        self.version = version

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuInit(self, _: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 1
        return 0


@pytest.fixture
def lost_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU whose onnxruntime finds no CUDA libraries: it prints this and disables CUDA."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver())
    # The real one also prints, but not in builds without CUDA.
    printing = (lambda: print("Failed to load libcudart.so.13: not found")).__code__
    monkeypatch.setattr(ort, "preload_dlls", types.FunctionType(printing, vars(ort)))
    create = Engine._create_session

    def without_cuda(self: Engine, device: str, graph: bytes, **options: Any) -> Any:
        return create(self, "cpu", graph, **options)

    monkeypatch.setattr(Engine, "_create_session", without_cuda)


@pytest.mark.usefixtures("lost_libraries")
def test_a_silent_fallback_of_onnxruntime_is_an_error_and_stdout_stays_clean(
    lstm_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        DeviceError,
        match=r"cannot load CUDA's libraries \(libcudart.so.13\); install them with pip install",
    ):
        CharRNN.load(lstm_path, device="cuda")
    assert capsys.readouterr() == ("", "")
    assert not hasattr(ort, "print")  # print is restored


def test_a_process_forked_from_one_with_cuda_gets_advice_on_how_to_start_it(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn_runtime.backends.device._began_cuda_in", set())
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver())
    assert cuda_missing() is None
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(DeviceError, match=r'forked from one that uses CUDA cannot .* method "spawn" or'):
        CharRNN.load(lstm_path, device="cuda")
    assert CharRNN.load(lstm_path, device="auto").device == "cpu"


@pytest.mark.usefixtures("lost_libraries")
def test_auto_uses_the_cpu_and_explains_why_if_cuda_might_be_expected(lstm_path: Path) -> None:
    model = CharRNN.load(lstm_path, device="auto")
    assert model.device == "cpu"
    assert "cannot load CUDA's libraries" in model.device_note


@pytest.mark.skipif(cuda_missing() is None, reason="CUDA is here")
def test_a_session_on_cuda_lacks_nothing_but_cuda(engine: Engine) -> None:
    # onnxruntime's error if there is none; it would reject the CPU provider as a contradiction.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(Exception, match="assigned to the default CPU EP"):
            engine._create_session("cuda", engine._file)


@pytest.mark.skipif(
    CUDA not in ort.get_available_providers() or cuda_missing() is None,
    reason="a build of onnxruntime for CUDA, on a machine without it",
)
def test_a_driver_without_cuda_s_libraries_is_one_line_and_auto_is_silent(lstm_path: Path) -> None:
    program = (
        "from charrnn_runtime.backends import device\n"
        "from charrnn_runtime.cli.gen import main\n"
        "device._missing_driver = device._old_driver = lambda: None\n"
        "main()\n"
    )
    said = {}
    for device in ("cuda", "auto"):
        options = ["-n", "5", "-s", "1", "-q", "--device", device]
        command = [sys.executable, "-c", program, str(lstm_path), *options]
        said[device] = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said["cuda"].returncode == 1
    assert said["cuda"].stdout == ""
    assert len(said["cuda"].stderr.splitlines()) == 1
    assert "cannot load CUDA's libraries (" in said["cuda"].stderr
    assert (said["auto"].returncode, said["auto"].stderr) == (0, "")
    assert said["auto"].stdout


def test_an_onnxruntime_that_cannot_start_cuda_is_named_in_the_error(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver())
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)

    _let_cuda_fail(monkeypatch, RuntimeError("CUDA driver version is insufficient\nsecond line"))
    with pytest.raises(
        DeviceError, match=r"cannot start CUDA \(CUDA driver version is insufficient\); install"
    ) as caught:
        CharRNN.load(lstm_path, device="cuda")
    assert "\n" not in str(caught.value)


# The error of onnxruntime-gpu 1.31.1 with an old driver, without two repeated parts in the middle.
_TOLD_BY_CUDA = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const "
    "char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; "
    "std::conditional_t<THRW, void, common::Status> = void] CUDA failure 35: CUDA driver version is "
    "insufficient for CUDA runtime version ; GPU=0 ; hostname=host ; file=/onnxruntime_src/onnxruntime/core/"
    "providers/cuda/cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(info_.device_id); \n\n"
)


def test_cuda_errors_are_reported_without_source_locations(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver())
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    _let_cuda_fail(monkeypatch, RuntimeError(_TOLD_BY_CUDA))
    reason = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    with pytest.raises(DeviceError, match=rf"cannot start CUDA \({reason}\); install it with"):
        CharRNN.load(lstm_path, device="cuda")


def _let_cuda_fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    create = Engine._create_session

    def create_on_cpu(self: Engine, device: str, graph: bytes, **options: Any) -> Any:
        if device == "cuda":
            raise error
        return create(self, device, graph, **options)

    monkeypatch.setattr(Engine, "_create_session", create_on_cpu)


@pytest.mark.parametrize(
    ("built_for", "version", "words"),
    [
        ("13.0", 12_040, "supports CUDA up to 12.4, but this onnxruntime needs CUDA 13; install a newer"),
        ("13.0", 11_080, "supports CUDA up to 11.8, but this onnxruntime needs CUDA 13; install a newer"),
        ("", 12_090, "supports CUDA up to 12.9, but this onnxruntime needs CUDA 13; install a newer"),
        ("12.8", 11_080, "supports CUDA up to 11.8, but this onnxruntime needs CUDA 12; install a newer"),
        ("13.0", 13_000, None),
        ("13.0", 14_010, None),
        ("12.8", 12_040, None),  # a driver for any CUDA 12 is enough
    ],
)
def test_a_driver_that_is_too_old_is_named_before_anything_is_tried(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch, built_for: str, version: int, words: str | None
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "cuda_version", built_for, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver(version))
    if words is None:
        assert cuda_missing() is None
        return
    words = f"the NVIDIA driver is too old: it {words} driver, or use device="
    with pytest.raises(DeviceError, match=words):
        CharRNN.load(lstm_path, device="cuda")
    model = CharRNN.load(lstm_path, device="auto")
    assert model.device == "cpu"
    assert words in model.device_note


@pytest.mark.usefixtures("no_driver")
def test_auto_is_silent_if_cuda_is_not_expected(lstm_path: Path) -> None:
    model = CharRNN.load(lstm_path)
    assert (model.device, model.device_note) == ("cpu", "")


@pytest.mark.parametrize("name", ["lstm-2x12-int8", "gru-2x12-int8"])
def test_int8_is_for_the_cpu(name: str) -> None:
    with pytest.raises(DeviceError, match='this model is int8, which runs on the CPU only; use device="cpu"'):
        CharRNN.load(FOLDER / f"{name}.onnx", device="cuda")
    assert CharRNN.load(FOLDER / f"{name}.onnx", device="auto").device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cuda:1", None])
def test_other_devices_are_rejected(lstm_path: Path, device: Any) -> None:
    with pytest.raises(SettingError, match="device must be auto, cpu, cuda or webgpu"):
        CharRNN.load(lstm_path, device=device)


class _OnCuda:
    """A session on a GPU whose kernels alter the CPU's results, or fail."""

    def __init__(self, session: Any, change: Callable[[dict[str, Any]], Any]) -> None:
        self.session, self.change = session, change

    def get_providers(self) -> list[str]:
        return [CUDA]

    def run(self, names: list[str], *rest: Any) -> list[Any]:
        outputs = dict(zip(names, self.session.run(names, *rest), strict=True))
        self.change(outputs)
        return [outputs[name] for name in names]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fakes a machine with a GPU whose sessions start and give prescribed results."""

    def make(change: Callable[[dict[str, Any]], Any]) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
        monkeypatch.setattr(ctypes, "CDLL", lambda _: _Driver())
        monkeypatch.setattr(ort, "preload_dlls", lambda: None)
        create = Engine._create_session

        def on_cuda(self: Engine, device: str, graph: bytes, **options: Any) -> Any:
            session = create(self, "cpu", graph, **options)
            return session if device == "cpu" else _OnCuda(session, change)

        monkeypatch.setattr(Engine, "_create_session", on_cuda)

    return make


def _no_kernels(_: dict[str, Any]) -> None:
    raise RuntimeError(
        "Non-zero status code returned while running Gather node. Name:'Gather' Status Message: CUDA error "
        "cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the device"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _no_kernels,
            r"does not run on this GPU \(CUDA error cudaErrorNoKernelImageForDevice:no kernel image is .*\)",
        ),
        (lambda outputs: outputs["logits"].fill(0.0), "gave logits on this GPU that differ by .* CPU's"),
        (lambda outputs: outputs["logits"].fill(np.nan), "are not finite, on this GPU"),
        (lambda outputs: outputs["next_state"].fill(0.0), "gave states on this GPU that differ by .* CPU's"),
        (lambda outputs: outputs["next_state"].__imul__(1.01), "gave states on this GPU that differ by"),
        (lambda outputs: outputs["next_token"].fill(99), r"gave the tokens \[99, 99\], which are not in the"),
        (lambda outputs: outputs["next_token"].fill(0), "took the symbol 0 on this GPU where .* most likely"),
    ],
)
def test_a_gpu_that_fails_the_trial_step_is_rejected_with_its_reason(
    lstm_path: Path,
    lstm: CharRNN,
    card: Callable[..., None],
    change: Callable[[dict[str, Any]], Any],
    words: str,
) -> None:
    card(change)
    with pytest.raises(DeviceError, match=rf"cannot be used: a trial step of this model .*{words}") as caught:
        CharRNN.load(lstm_path, device="cuda")
    assert str(caught.value).endswith('; use device="cpu" on this machine')
    model = CharRNN.load(lstm_path, device="auto")
    assert model.device == "cpu"
    assert re.search(words, model.device_note)
    assert model.generate("LORD ", 20, seed=1) == lstm.generate("LORD ", 20, seed=1)


@pytest.mark.parametrize("name", ["lstm-2x12-fp32", "gru-2x12-fp16", "lstm-1x12-fp32-byte"])
def test_a_gpu_with_different_rounding_passes_the_trial_step(card: Callable[..., None], name: str) -> None:
    card(lambda outputs: outputs["logits"].__imul__(1 + 1e-5))
    assert CharRNN.load(FOLDER / f"{name}.onnx", device="cuda").device == "cuda"
    assert CharRNN.load(FOLDER / f"{name}.onnx", device="auto").device == "cuda"


# --- threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**30, float("nan"), 1.5, "2"])
def test_threads_are_an_integer_from_1_to_1024(lstm_path: Path, threads: Any) -> None:
    with pytest.raises(SettingError, match="threads must be"):
        CharRNN.load(lstm_path, device="cpu", threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3, np.int64(2)])
def test_the_number_of_threads_does_not_change_the_text(lstm: CharRNN, lstm_path: Path, threads: int) -> None:
    model = CharRNN.load(lstm_path, device="cpu", threads=threads)
    assert model.generate(["LORD "] * 3, 50, seed=1) == lstm.generate(["LORD "] * 3, 50, seed=1)


# --- stdout ------------------------------------------------------------------------------------------------


def test_nothing_is_printed(small: SmallModel, capfd: pytest.CaptureFixture[str]) -> None:
    model = CharRNN.load(small.path, device="auto")
    model.generate(["LORD "] * 2, 10, seed=1)
    model.step(model.prime("a"))
    assert capfd.readouterr() == ("", "")


def test_stdout_is_restored_after_threads_load_models_concurrently(
    lstm_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = threading.Barrier(8)

    def load() -> None:
        begun.wait()
        for _ in range(3):
            CharRNN.load(lstm_path, device="cpu").generate("", 3)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        print("x", end="")
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    print("still stdout")
    captured = capsys.readouterr()
    assert captured.out.endswith("still stdout\n")
    assert captured.err == ""  # output of other threads in the meantime is unaffected


# --- buffers -----------------------------------------------------------------------------------------------


def test_buffers_are_returned_and_reused(engine: Engine) -> None:
    with engine.buffers(3) as first:
        with engine.buffers(3) as second:
            assert second is not first
        with engine.buffers(3) as third:
            assert third is second
    with engine.buffers(3, keeps_logits=True) as reading:
        assert reading not in (first, second)
        with engine.buffers(3, keeps_logits=True, sampler=None) as without_sampler:
            assert without_sampler is not reading


def test_buffers_are_returned_after_an_exception(engine: Engine) -> None:
    with pytest.raises(KeyboardInterrupt), engine.buffers(2) as first:
        raise KeyboardInterrupt
    with engine.buffers(2) as again:
        assert again is first


def test_a_generator_collected_during_session_creation_returns_its_buffers(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CharRNN.load(lstm_path, device="cpu")
    streams = model.generate_each(["a"] * 50, 30, seed=1, max_batch_size=2)
    next(streams)
    cycle: list[Any] = [streams]
    cycle.append(cycle)
    del streams, cycle  # now only the cyclic garbage collector can free it
    create = Engine._create_session

    def collecting(self: Engine, *given: Any, **options: Any) -> Any:
        gc.collect()
        return create(self, *given, **options)

    monkeypatch.setattr(Engine, "_create_session", collecting)
    work = threading.Thread(target=model.generate, args=(["a"] * 11, 5), daemon=True)
    work.start()
    work.join(60)
    assert not work.is_alive()  # it would deadlock


def test_the_number_of_cached_sizes_is_limited(engine: Engine) -> None:
    for rows in range(1, 30):
        with engine.buffers(rows):
            pass
    assert len(engine._sessions) <= session._KEPT_SESSIONS
    assert {sizes.key for sizes in engine._free} <= set(engine._sessions)


def test_buffers_in_use_outlive_their_session(engine: Engine) -> None:
    with engine.buffers(1) as buffers:
        for rows in range(2, 30):
            with engine.buffers(rows):
                pass
        buffers.write_state(slice(None), np.zeros((buffers.rows, 48), np.float32))
        assert buffers.run(BLOCK) == BLOCK
    assert 1 not in {sizes.rows for sizes in engine._free}


def test_results_do_not_depend_on_block_boundaries(engine: Engine) -> None:
    texts = []
    for cuts in ([BLOCK, BLOCK, 6], [1] * (2 * BLOCK + 6), [7, 3, BLOCK, 28]):
        with engine.buffers(2) as buffers:
            buffers.write_state(slice(None), np.zeros((buffers.rows, 48), np.float32))
            buffers.tokens[0] = 0
            for name, value in Sampling(1.0).inputs(65).items():
                buffers.settings[name][:] = value
            uniforms = np.random.RandomState(0).uniform(size=(2 * BLOCK + 6, 2)).astype(np.float32)
            text = []
            for steps in cuts:
                buffers.uniforms[:steps], uniforms = uniforms[:steps], uniforms[steps:]
                assert buffers.run(steps) == steps
                text += buffers.tokens[1 : steps + 1].tolist()
                buffers.tokens[0] = buffers.tokens[steps]
            texts.append(text)
    assert texts[0] == texts[1] == texts[2]


def test_reused_buffers_keep_their_session_cached(engine: Engine) -> None:
    for rows in range(2, 2 + 3 * session._KEPT_SESSIONS):
        for used in (1, rows):
            with engine.buffers(used):
                pass
    assert (1, "any") in engine._sessions


def test_logits_are_the_same_with_any_sampler_and_without_one(small: SmallModel) -> None:
    engine = Engine(read_model_file(small.path), "cpu")
    tokens = np.random.RandomState(0).randint(0, len(engine.info.vocabulary), (BLOCK, 3))
    read = []
    samplers: tuple[Cuts | None, ...] = (*get_args(Cuts), None)
    for sampler in samplers:
        with engine.buffers(3, keeps_logits=True, sampler=sampler) as buffers:
            buffers.write_state(slice(None), 0.0)
            buffers.tokens[:BLOCK] = tokens
            given = Given(np.ones((BLOCK - 1, 3), np.bool_), tokens[1:]) if sampler is not None else None
            assert buffers.run(BLOCK, given) == BLOCK
            read.append((buffers.logits.copy(), buffers.read_state(slice(None))))
    for logits, states in read[1:]:
        np.testing.assert_array_equal(logits, read[0][0])
        np.testing.assert_array_equal(states, read[0][1])


def test_each_variant_of_the_graph_is_created_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def counted(*given: Any) -> Any:
        made.append(given)
        return cpu_graph(*given)

    monkeypatch.setattr(session, "cpu_graph", counted)
    samplers: tuple[Cuts | None, ...] = (*get_args(Cuts), None)
    for rows in (1, 2, 3):
        for sampler in samplers:
            with engine.buffers(rows, keeps_logits=True, sampler=sampler):
                pass
    assert len(made) == len(samplers)


def test_too_many_streams_for_the_memory_are_an_error_with_advice(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    allocate = Buffers._allocate

    def with_little_memory(self: Buffers) -> None:
        tried.append(self.rows)
        if self.rows > 300:
            raise MemoryError
        allocate(self)

    monkeypatch.setattr(Buffers, "_allocate", with_little_memory)
    model = CharRNN.load(lstm_path, device="cpu", threads=1)
    message = "out of memory on cpu in a batch of 1,024 streams: lower max_batch_size, or use a smaller"
    with pytest.raises(OutOfMemoryError, match=message):
        model.generate([""] * 1024, 5, max_batch_size=1024)
    with pytest.raises(OutOfMemoryError, match=message):
        model.step(model.initial_state(1024))
    assert tried == [1024, 1024]
    assert len(model.generate([""] * 1024, 5, max_batch_size=256)) == 1024


LIMITED = """
import resource, sys
from charrnn_runtime import OutOfMemoryError
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.backends.session import Engine
engine = Engine(read_model_file(sys.argv[1]), "cpu")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with engine.buffers(1_000_000) as buffers:
        buffers.run(1)
except OutOfMemoryError as error:
    print(error)
with engine.buffers(10_000) as buffers:
    print(buffers.run(buffers.steps))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's here")
def test_memory_is_freed_after_a_failed_allocation(lstm_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, lstm_path], check=True, capture_output=True, text=True
    )
    failed, ran = done.stdout.splitlines()
    assert failed.startswith("out of memory on cpu in a batch of 1,000,000 streams: lower max_batch_size")
    assert int(ran) == BLOCK


@pytest.mark.parametrize("fails", ["_allocate", "_run_bound"])
def test_memory_is_freed_even_if_the_error_is_kept(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    model = CharRNN.load(lstm_path, device="cpu")
    made: list[weakref.ref[Any]] = []
    create, use = Engine._create_session, Buffers._use

    def noted(self: Engine, *given: Any) -> Any:
        session = create(self, *given)
        made.append(weakref.ref(session))
        return session

    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    def use_and_fail(self: Buffers, session: Any) -> None:
        use(self, session)
        self._run_bound = partial(fail, session)  # the real one belongs to the session, too

    monkeypatch.setattr(Engine, "_create_session", noted)
    monkeypatch.setattr(Buffers, "_use", use_and_fail)
    if fails == "_allocate":
        monkeypatch.setattr(Buffers, "_allocate", fail)
    gc.disable()
    try:
        for way in (lambda: model.generate(["a"] * 5, 5), lambda: model.step(model.initial_state(6))):
            with pytest.raises(OutOfMemoryError) as caught:
                way()
            assert caught.value.__cause__ is not None
            assert [session() for session in made] == [None]
            made.clear()
    finally:
        gc.enable()


OUT_OF_MEMORY = "out of memory on cpu in a batch of 5 streams"
_PLACE = "/a/cuda_call.cc:146 std::conditional_t<THRW, void, common::Status> onnxruntime::CudaCall(int)"


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            MemoryError(),
            OutOfMemoryError,
            f"{OUT_OF_MEMORY}: lower max_batch_size",
        ),
        (
            RuntimeError("CUDA failure 2: out of memory"),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("Failed to allocate memory"),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError(
                f"{_PLACE} CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; file=a.cc ; expr=b"
            ),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0"),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError(
                "a.cc:1 AllocateRawInternal(size_t) Available memory of 5 is smaller than requested"
            ),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("CUDA failure 700: an illegal memory access ; file=/a/cuda_allocator.cc ; line=1"),
            CharRNNError,
            "cannot create a session: CUDA failure 700: an illegal memory access$",
        ),
        (
            RuntimeError("/a/cuda_allocator.cc:1 no"),
            CharRNNError,
            "cannot create a session: /a/cuda_allocator",
        ),
        (
            RuntimeError("x" * 400 + "std::bad_alloc"),
            OutOfMemoryError,
            OUT_OF_MEMORY,
        ),
        (RuntimeError("no kernel\nsecond line"), CharRNNError, "cannot create a session: no kernel$"),
    ],
)
def test_a_failed_session_creation_is_a_charrnn_error(
    lstm_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[CharRNNError],
    message: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    model = CharRNN.load(lstm_path, device="cpu")
    model.generate("a", 5)
    monkeypatch.setattr(Engine, "_create_session", fail)
    for way in (lambda: model.generate(["a"] * 5, 5), lambda: model.step(model.initial_state(5))):
        with pytest.raises(kind, match=message):
            way()
    monkeypatch.undo()
    model.generate("a", 5)  # the model remains usable


# --- the trial step ----------------------------------------------------------------------------------------


class _Fake:
    """A session with prescribed results."""

    def __init__(self, **outputs: Any) -> None:
        self.outputs = outputs

    def run(self, names: list[str], feeds: dict[str, Any], options: Any) -> list[Any]:
        assert sorted(feeds) == sorted(each.name for each in spec.INPUTS)
        return [self.outputs[name] for name in names]


def _good(**changes: Any) -> dict[str, Any]:
    outputs = {
        "logits": np.zeros((2, 65), np.float32),
        "next_token": np.zeros(2, np.int64),
        "next_state": np.zeros((2, 48), np.float32),
    }
    return {**outputs, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.zeros((2, 64), np.float32)}, "gave outputs of the wrong shape"),
        ({"next_state": np.zeros((1, 48), np.float32)}, "gave outputs of the wrong shape"),
        ({"logits": np.full((2, 65), np.nan, np.float32)}, "logits or states that are not finite"),
        ({"logits": np.full((2, 65), np.inf, np.float32)}, "logits or states that are not finite"),
        ({"next_state": np.full((2, 48), np.nan, np.float32)}, "logits or states that are not finite"),
        ({"next_token": np.array([0, 65])}, r"gave the tokens \[0, 65\], which are not in the vocabulary"),
        ({"next_token": np.array([-1, 0])}, r"gave the tokens \[-1, 0\]"),
    ],
)
def test_the_trial_step_rejects_invalid_results(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Engine, "_create_session", lambda *_, **__: _Fake(**_good(**changes)))
    with pytest.raises(ModelFormatError, match=message):
        Engine(file, "cpu")


def test_the_trial_step_accepts_valid_results(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_create_session", lambda *_, **__: _Fake(**_good()))
    assert Engine(file, "cpu").device == "cpu"


def test_messages_of_onnxruntime_are_shown_in_one_line(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Callable[..., Any]:
        raise RuntimeError("  first\x1b[31m line\nsecond line")

    monkeypatch.setattr(Engine, "_create_session", fail)
    with pytest.raises(ModelFormatError, match="onnxruntime reports first") as caught:
        Engine(file, "cpu")
    assert str(caught.value).isprintable()


def test_a_step_that_fails_after_the_trial_step_is_a_charrnn_error(
    lstm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CharRNN.load(lstm_path, device="cpu")
    monkeypatch.setattr(Buffers, "_bind", lambda *_: (None, None))
    for way in (lambda: model.generate("", 500, seed=1, temperature=100), lambda: _steps(model, 500)):
        with pytest.raises(CharRNNError, match="onnxruntime cannot run a step of the model") as caught:
            way()
        assert str(caught.value).isprintable()


def _steps(model: CharRNN, count: int) -> None:
    state = model.initial_state()
    for _ in range(count):
        state = model.step(state, temperature=100).state
