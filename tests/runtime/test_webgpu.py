"""Models through WebGPU: on SwiftShader, a software GPU, if it and onnxruntime's plugin are installed."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest

import software_gpu
from charrnn_runtime import CharRNN, CharRNNError, DeviceError, OutOfMemoryError, draw_items
from charrnn_runtime.backends import webgpu
from charrnn_runtime.backends.buffers import Buffers
from charrnn_runtime.backends.device import error_of
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.backends.webgpu_buffers import WebGpuBuffers
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.graph.sampler import Cuts
from limited import run_limited
from list_models import list_model
from make_models import FOLDER
from run_commands import Command, run_module

LSTM = FOLDER / "lstm-2x12-fp32.onnx"
RNN = FOLDER / "rnn-1x12-fp32.onnx"  # the fastest to compile in a new process
EXACT = ["gru-2x12-fp32", "lstm-1x12-fp32-byte", "lstm-2x12-fp32", "rnn-1x12-fp32"]


@pytest.fixture(scope="session")
def gpu() -> Iterator[None]:
    """Makes this process use SwiftShader."""
    reason = software_gpu.missing()
    if reason is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in software_gpu.environment().items():
            patch.setenv(name, value)
        software_gpu.load_here()
        yield


@pytest.fixture(scope="session")
def on_gpu(gpu: None) -> Callable[[str], CharRNN]:
    """Loads a small model by name, once for all tests."""
    return cache(lambda name: CharRNN.load(FOLDER / f"{name}.onnx", device="webgpu"))


@pytest.fixture
def pair(on_gpu: Callable[[str], CharRNN], load: Callable[[str], CharRNN]) -> tuple[CharRNN, CharRNN]:
    """The small LSTM on the GPU and on the CPU."""
    return on_gpu("lstm-2x12-fp32"), load("lstm-2x12-fp32")


# --- the same results as on the CPU ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if "1x12" in name else ()) for name in EXACT]
)
def test_a_model_generates_the_same_as_on_the_cpu(
    on_gpu: Callable[[str], CharRNN], load: Callable[[str], CharRNN], name: str
) -> None:
    model = on_gpu(name)
    assert model.device == "webgpu"
    expected = load(name).generate("LORD ", 80, seed=1, temperature=1.0, top_k=20, top_p=0.95, min_p=0.01)
    assert model.generate("LORD ", 80, seed=1, temperature=1.0, top_k=20, top_p=0.95, min_p=0.01) == expected


@pytest.mark.parametrize("settings", [{}, {"min_p": 0.02}, {"top_k": 1}], ids=str)
def test_each_sampler_selects_the_same_as_on_the_cpu(
    pair: tuple[CharRNN, CharRNN], settings: dict[str, Any]
) -> None:
    prompts = ["LORD ", "", "To be"]
    texts = [model.generate(prompts, 60, seed=2, temperature=1.0, **settings) for model in pair]
    assert texts[0] == texts[1]


def test_a_live_stream_gives_the_same_text(pair: tuple[CharRNN, CharRNN]) -> None:
    texts = [list(model.stream("LORD ", 80, seed=3)) for model in pair]
    assert len(texts[0]) > 1
    assert "".join(texts[0]) == "".join(texts[1])


def test_steps_after_a_prompt_give_the_same_logits_states_and_tokens(pair: tuple[CharRNN, CharRNN]) -> None:
    states = [model.prime(["LORD ", "A"]) for model in pair]
    for _ in range(50):
        steps = [model.step(state, seed=4) for model, state in zip(pair, states, strict=True)]
        np.testing.assert_allclose(steps[0].logits, steps[1].logits, atol=1e-4)
        states = [step.state for step in steps]
        np.testing.assert_allclose(states[0].rows, states[1].rows, atol=1e-4)
        np.testing.assert_array_equal(states[0].tokens, states[1].tokens)


def test_texts_have_the_same_probability(pair: tuple[CharRNN, CharRNN]) -> None:
    texts = ["To be, or not to be: that is the question", "A", "LORD " * 8]
    scores = [model.score(texts) for model in pair]
    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one.per_character, other.per_character, atol=1e-4)


def test_forks_of_a_state_continue_independently_and_as_on_the_cpu(pair: tuple[CharRNN, CharRNN]) -> None:
    texts = [model.generate(model.prime("LORD ").fork(3), 60, seed=5) for model in pair]
    assert len({*texts[0]}) == 3
    assert texts[0] == texts[1]


def test_beam_search_finds_the_same(pair: tuple[CharRNN, CharRNN]) -> None:
    found = [model.beam("LORD ", 10, beams=4) for model in pair]
    assert [each.text for each in found[0]] == [each.text for each in found[1]]


def test_items_are_the_same(gpu: None, tmp_path: Path) -> None:
    path = tmp_path / "items.onnx"
    path.write_bytes(list_model(LSTM))
    items = [
        [item.text for item in draw_items(CharRNN.load(path, device=device), 12, seed=7, max_batch_size=4)]
        for device in ("webgpu", "cpu")
    ]
    assert items[0] == items[1]


def test_streams_join_leave_and_stop_at_any_character(pair: tuple[CharRNN, CharRNN]) -> None:
    prompts = ["A", "BC", "DEF", "G", ""]
    together = [
        [
            each.text
            for each in model.generate_each(prompts, 40, seed=2, stop="e", logprobs=2, max_batch_size=2)
        ]
        for model in pair
    ]
    assert any("e" not in text and len(text) < 40 for text in together[0])
    assert together[0] == together[1]


@pytest.mark.parametrize("sampler", [*sorted({*get_args(Cuts)} - {"greedy"}), None])
def test_every_node_runs_on_the_gpu(pair: tuple[CharRNN, CharRNN], sampler: Cuts | None) -> None:
    for name in EXACT:
        engine = Engine.__new__(Engine)
        engine.__dict__ |= pair[0]._engine.__dict__
        engine._file = read_model_file(FOLDER / f"{name}.onnx").onnx_bytes
        engine._graphs = {}
        engine.__dict__.pop("_separate", None)
        session = engine._create_session("webgpu", engine._graph(2, sampler))
        nodes = {
            node.name: subgraph.ep_name
            for subgraph in session.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
        }
        assert nodes
        assert set(nodes.values()) == {webgpu.WEBGPU_PROVIDER}, nodes


def test_states_and_tokens_are_in_the_gpus_memory(pair: tuple[CharRNN, CharRNN]) -> None:
    with pair[0]._engine.buffers(2, steps=2, keeps_logits=True) as buffers:
        buffers.write_state(slice(None), 0.0)
        buffers.run(2)
        bound = [binding.get_outputs() for binding, _ in buffers._bound[0]]
        assert [[value.device_name() for value in values] for values in bound] == [["webgpu"] * 3] * 2


# --- sharing a process -------------------------------------------------------------------------------------


def test_threads_can_share_models(pair: tuple[CharRNN, CharRNN]) -> None:
    other = CharRNN.load(LSTM, device="webgpu")  # sessions of two models crash if they run concurrently
    prompts = [chr(ord("A") + index) for index in range(8)]
    expected = [pair[1].generate(prompt, 12, seed=3) for prompt in prompts]
    models = [pair[0], other] * 4
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda model, prompt: model.generate(prompt, 12, seed=3), models, prompts)
        assert list(texts) == expected


def test_unused_objects_are_freed(gpu: None) -> None:
    model = CharRNN.load(LSTM, device="webgpu")
    model.generate(["A", "B"], 5, seed=1)
    engine = model._engine
    left: list[weakref.ref[Any]] = [weakref.ref(session) for session in engine._sessions.values()]
    left += [weakref.ref(buffers) for kept in engine._free.values() for buffers in kept]
    assert len(left) == 2
    del model, engine
    gc.collect()
    assert [each() for each in left] == [None, None]
    assert not webgpu._turns.gone


def test_freeing_waits_while_another_thread_uses_webgpu(gpu: None) -> None:
    freed = []

    class Thing:
        def __del__(self) -> None:
            freed.append(self)

    with ThreadPoolExecutor(1) as pool:
        with webgpu.turn():
            pool.submit(webgpu.free, {"thing": Thing()}).result(60)  # does not wait
            assert not freed
        assert len(freed) == 1


COMMAND = """
import sys
from charrnn_runtime.cli import gen
path = sys.argv[1]
sys.argv[1:] = [path, *sys.argv[2:]]
try:
    gen.main()
except SystemExit as end:
    assert not end.code, end.code
print("The command has ended", flush=True)
"""

FORKED = """
import gc, os, warnings
warnings.simplefilter("ignore")
from charrnn_runtime import CharRNN, CharRNNError, DeviceError
model = CharRNN.load(path, device="webgpu")
expected = model.generate("LORD ", 40, seed=1)
text = model.stream("LORD ", 40, seed=1)
begun = next(text)

def said_by(use):
    try:
        use()
    except CharRNNError as error:
        return str(error)

child = os.fork()
if not child:
    for use in (
        lambda: model.generate("a", 5),
        lambda: model.step(model.initial_state()),
        lambda: CharRNN.load(path, device="webgpu"),
    ):
        assert "forked from one that uses WebGPU" in said_by(use), said_by(use)
    assert "start them again" in said_by(lambda: list(text))
    assert CharRNN.load(path, device="cpu").generate("LORD ", 40, seed=1) == expected
    del model, text
    gc.collect()
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert "LORD " + begun + "".join(text) == expected
assert model.generate("LORD ", 40, seed=1) == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_charrnn_gen_writes_the_same_as_on_the_cpu_and_a_forked_child_gets_an_error(
    gpu: None, load: Callable[[str], CharRNN], tmp_path: Path
) -> None:
    # In one process, since WebGPU takes seconds to start.
    options = ["--prime", "LORD ", "-n", 40, "-s", 1, "--stats", "--device", "webgpu"]
    said = run_limited(COMMAND + FORKED, tmp_path, RNN, *options, "--output", tmp_path / "text")
    assert (tmp_path / "text").read_text() == load(RNN.stem).generate("LORD ", 40, seed=1)
    told, _, nothing = said.partition("The command has ended\n")
    assert "characters per second on webgpu" in told
    assert "onnxruntime" not in told
    assert nothing == ""


# --- commands ----------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_score_and_quality_match_the_cpu(gpu: None, score: Command, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is the question.\n" * 20)
    quality = lambda *words, **options: run_module("charrnn_runtime.cli.quality", *words, **options)  # noqa: E731
    for command, words in (
        (score, (LSTM, text)),
        (quality, (LSTM, "--text", text, "--length", 100, "--streams", 2, "--window", 4, "--seed", 1)),
    ):
        done = [command(*words, "--device", device, env=_environment()) for device in ("webgpu", "cpu")]
        assert [each.returncode for each in done] == [0, 0], done
        assert done[0].stdout == done[1].stdout
        assert b"webgpu" in done[0].stderr


def _environment() -> dict[str, str | None]:
    return {**software_gpu.environment()}


def test_a_machine_without_a_driver_is_one_error(gpu: None, gen: Command) -> None:
    environment = {**_environment(), "VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json"}
    done = gen(LSTM, "-n", 5, "--device", "webgpu", env=environment)
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.decode().splitlines()[-1]
    assert said == (
        "charrnn-gen: error: --device webgpu cannot be used: no driver provides a GPU; install the GPU's "
        "driver, or use --device cpu on this machine"
    )


# --- errors ------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An installed plugin, on a machine with Vulkan and a recent onnxruntime."""
    module = types.ModuleType("onnxruntime_ep_webgpu")
    module.get_library_path = lambda: "/nowhere/libplugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", module)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: None)
    monkeypatch.setattr(ort, "__version__", "1.31.0")
    monkeypatch.setattr(webgpu._turns, "began_in", set())
    monkeypatch.setattr(ort, "get_ep_devices", list, raising=False)
    return module


def _error(name: str = "lstm-2x12-fp32") -> str:
    with pytest.raises(DeviceError) as caught:
        CharRNN.load(FOLDER / f"{name}.onnx", device="webgpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_plugin_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    monkeypatch.setattr(webgpu._turns, "began_in", set())
    assert _error() == (
        'device="webgpu" cannot be used: its plugin is not installed; install it with: pip install '
        "onnxruntime-ep-webgpu (the extra webgpu of charrnn-runtime)"
    )


@pytest.mark.usefixtures("plugin")
def test_an_older_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.30.2")
    assert "requires onnxruntime 1.31 or newer, but this is 1.30.2; upgrade it" in _error()


@pytest.mark.usefixtures("plugin")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Vulkan is not needed")
def test_a_missing_vulkan_loader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise OSError(f"{name} not found")

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert "Vulkan loader is not installed (libvulkan.so.1 is not found); install" in _error()


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_onnxruntime_rejects_is_reported_with_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str, path: str) -> None:
        raise RuntimeError(f"{path}: version too old\nand more")

    monkeypatch.setattr(ort, "register_execution_provider_library", refuse, raising=False)
    assert "cannot load its plugin (/nowhere/libplugin.so: version too old); install a newer" in _error()


@pytest.mark.usefixtures("plugin")
def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *_: None, raising=False)
    assert "onnxruntime finds no GPU; use device=" in _error()


def test_int8_models_get_an_error_with_the_alternatives() -> None:
    assert "this model is int8, which runs on the CPU only; use device=" in _error("lstm-2x12-int8")


def test_a_gpu_without_16_bit_floats_is_reported_for_models_that_need_them(gpu: None) -> None:
    assert "does not support 16-bit floats, which fp16 models need; export the model with" in _error(
        "lstm-2x12-fp16"
    )


def test_a_gpu_that_computes_wrong_results_is_rejected(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine._trial_step

    def wrong(self: Engine, session: Any) -> list[Any]:
        outputs = step(self, session)
        if session.get_providers()[0] == webgpu.WEBGPU_PROVIDER:
            outputs[0] += 1
        return outputs

    monkeypatch.setattr(Engine, "_trial_step", wrong)
    assert "a trial step of this model gave logits on this GPU that differ by 1" in _error()


def test_auto_never_chooses_it(gpu: None) -> None:
    assert CharRNN.load(LSTM).device != "webgpu"


_TOO_LARGE = (
    "Buffer size (1152000000) exceeds the max buffer size limit (1073741824).\n - While calling [Device]"
)
_INVALID = (
    "[Invalid Buffer (unlabeled)] is invalid due to a previous error.\n - While encoding [CommandEncoder]"
)


@pytest.mark.parametrize("said", [_TOO_LARGE, _INVALID])
def test_out_of_memory_is_a_charrnn_error(said: str) -> None:
    # As in onnxruntime-ep-webgpu 0.4.0, for a batch too large for the driver or the memory.
    failed = RuntimeError(f"Error in execution: WebGPU validation failed. {said}")
    error = error_of(failed, "run a step of the model", "webgpu", 64)
    assert isinstance(error, OutOfMemoryError)
    assert str(error).startswith("out of memory on webgpu in a batch of 64 streams: lower max_batch_size")


def test_a_batch_that_does_not_fit_is_freed_and_the_model_remains_usable(
    pair: tuple[CharRNN, CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("[Invalid Buffer (unlabeled)] is invalid due to a previous error.")

    use = Buffers._use

    def use_and_fail(self: Buffers, session: Any) -> None:
        use(self, session)
        self._run_bound = fail

    model = pair[0]
    with monkeypatch.context() as patch:
        patch.setattr(WebGpuBuffers, "_use", use_and_fail)
        with pytest.raises(OutOfMemoryError, match="out of memory on webgpu in a batch of 7 streams"):
            model.generate(["A"] * 7, 5, seed=1)
    assert 7 not in {rows for rows, _ in model._engine._sessions}
    assert model.generate("A", 5, seed=1) == pair[1].generate("A", 5, seed=1)


def test_a_failed_copy_is_a_charrnn_error(
    pair: tuple[CharRNN, CharRNN], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Device lost\nmore")

    monkeypatch.setattr(ort, "copy_tensors", fail)
    with pytest.raises(CharRNNError, match=r"onnxruntime cannot copy to or from the GPU: Device lost$"):
        pair[0].generate("A", 5, seed=1)
