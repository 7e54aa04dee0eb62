"""GPU training: on the CPU as far as possible, and on a GPU in tests marked `gpu`."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charrnn_runtime.errors import DeviceError
from charrnn_trainer.config import DataConfig, NetworkConfig, OptimizationConfig
from charrnn_trainer.data.batches import Streams
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.split import split_text
from charrnn_trainer.nn.network import CharNetwork, State
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training import cuda_graph, device_batches, gpu, torch_settings, trainer
from charrnn_trainer.training import step as step_module
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.capture import Play, capture_graph
from charrnn_trainer.training.cuda_graph import StaticStep, choose_step
from charrnn_trainer.training.device_batches import Batches, HostBatches, ResidentBatches, batches_on
from charrnn_trainer.training.events import Event, Notice, Stepped
from charrnn_trainer.training.precision import ComputeMode, choose_compute_mode
from charrnn_trainer.training.step import StepFunction, TrainStep
from tiny_runs import TEXT, TINY

CPU = torch.device("cpu")
CORPUS = Corpus.from_text(TEXT, name="hamlet")
PLAIN = TINY.replace(dropout=0.0, input_dropout=0.0, weight_drop=0.0, reset_chance=0.0)


# --- batches cut on the device -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 4)])
@pytest.mark.parametrize("spread", [False, True])
def test_batches_cut_on_the_device_equal_those_cut_on_the_host(
    monkeypatch: pytest.MonkeyPatch, seed: int | None, kind: type, rows: slice, spread: bool
) -> None:
    monkeypatch.setattr(device_batches, "_PIECE", 100)
    ids: NDArray[Any] = np.random.default_rng(0).integers(np.iinfo(kind).max + 1, size=999).astype(kind)
    split = split_text(999, DataConfig(val_fraction=0.4, split="spread")) if spread else None
    streams = Streams(ids, 4, 7, seed=seed, rows=rows, split=split)
    on_device, on_host = ResidentBatches(streams, CPU), HostBatches(streams, CPU)
    for index in range(2 * streams.batches_per_pass + 1):
        expected = streams.batch(index)
        for batches in (on_device, on_host):
            for tensor, tokens in zip(batches.batch(index), expected, strict=True):
                assert tensor.dtype == torch.int64
                np.testing.assert_array_equal(tensor.numpy(), tokens)


def test_a_text_on_disk_is_copied_to_the_device(tmp_path: Path) -> None:
    ids = CORPUS.save(tmp_path / "tokens.safetensors").ids
    assert isinstance(ids, np.memmap)
    inputs, _ = ResidentBatches(Streams(ids, 4, 7), CPU).batch(0)
    np.testing.assert_array_equal(inputs[0].numpy(), ids[:7])


def test_a_text_that_would_fill_the_gpu_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(CORPUS.ids, 4, 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (len(CORPUS) * 4 - 1, 10**9))
    assert isinstance(batches_on(torch.device("cuda"), streams), HostBatches)
    assert isinstance(batches_on(CPU, streams), HostBatches)


# --- a step in fixed memory --------------------------------------------------------------------------------


class Learning:
    """A tiny network in training, with all its state."""

    def __init__(self, **settings: object) -> None:
        config = {"layers": 1, "hidden_size": 8, **settings}
        torch.manual_seed(0)
        self.network = CharNetwork(NetworkConfig(**config), len(CORPUS.vocabulary))  # type: ignore[arg-type]
        self.train_step = TrainStep(
            self.network, OptimizationConfig(clip=0.5), ComputeMode("fp32", False), torch.device("cpu")
        )
        self.batches = HostBatches(Streams(CORPUS.ids, 8, 16), CPU)
        self.state: State = self.network.initial_state(8)

    def steps(self, learn: StepFunction, count: int) -> list[tuple[float, float]]:
        """Losses and norms; half of the streams are reset in the middle."""
        results = []
        for index in range(count):
            self.train_step.optimizer.set_rate(0.01 / (index + 1))
            if index == count // 2:
                stays = torch.arange(8) < 4
                self.state = tuple(part * stays[:, None] for part in self.state)
            loss, norm, self.state = learn(*self.batches.batch(index), self.state)
            results.append((float(loss), float(norm)))
        return results

    def all_of_it(self) -> list[torch.Tensor]:
        """Weights, optimizer state (once there is one) and random generators."""
        weights = [weight.detach().clone() for weight in self.network.parameters()]
        kept = [part.clone() for part in self.train_step.optimizer.tensors().values() if part.any()]
        return [*weights, *kept, torch.get_rng_state()]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_step_in_fixed_memory_matches_a_plain_step(cell: str, tied: bool) -> None:
    plain, static = (Learning(cell=cell, embedding_size=5, tie_weights=tied) for _ in range(2))
    step = StaticStep(static.train_step.learn, *static.batches.batch(0), static.state)
    assert static.steps(step, 12) == plain.steps(plain.train_step.learn, 12)
    for one, other in zip(plain.network.parameters(), static.network.parameters(), strict=True):
        assert torch.equal(one, other)
    places = [part.data_ptr() for part in static.state]
    static.steps(step, 2)
    assert [part.data_ptr() for part in static.state] == places


def test_a_learning_rate_in_a_tensor_is_changed_in_place() -> None:
    learning = Learning()
    rate = torch.tensor(0.5)
    for group in learning.train_step.optimizer._torch.param_groups:
        group["lr"] = rate
    learning.train_step.optimizer.set_rate(0.25)
    assert rate.item() == 0.25
    assert all(group["lr"] is rate for group in learning.train_step.optimizer._torch.param_groups)


def choose(learning: Learning, capture: Callable[[Play], Play]) -> cuda_graph.StepChoice:
    return choose_step(
        learning.train_step, learning.network, learning.batches, 3, learning.state, capture=capture
    )


def captured_rightly(run: Play) -> Play:
    return run


def captured_twice(run: Play) -> Play:
    def play() -> None:
        run()
        run()

    return play


def captured_nothing(run: Play) -> Play:
    return lambda: None


def captured_not_at_all(run: Play) -> Play:
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    ("capture", "words"),
    [
        (captured_rightly, "faster here ("),
        (captured_twice, "its results differed"),
        (captured_nothing, "its results differed"),
        (captured_not_at_all, "capturing one failed (operation not permitted when stream is capturing"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_the_trial_of_a_captured_step_is_undone_whatever_its_outcome(
    dropout: float, capture: Callable[[Play], Play], words: str, begun: bool
) -> None:
    learning = Learning(dropout=dropout, input_dropout=dropout / 2)
    if begun:
        learning.steps(learning.train_step.learn, 3)
    before = learning.all_of_it()
    state = [part.clone() for part in learning.state]
    choice = choose(learning, capture)
    assert words in choice.words
    assert "\n" not in choice.words
    if capture is not captured_rightly:
        assert choice.learn == learning.train_step.learn
    after = learning.all_of_it()
    assert len(after) == len(before)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(state, learning.state, strict=True))


def test_a_faster_captured_step_is_chosen_and_matches_the_plain_one() -> None:
    plain, quick = Learning(dropout=0.3), Learning(dropout=0.3)
    slow = True
    learn = quick.train_step.learn

    def slowly(inputs: torch.Tensor, targets: torch.Tensor, state: State) -> tuple[torch.Tensor, ...]:
        if slow:
            time.sleep(0.02)
        return learn(inputs, targets, state)  # type: ignore[return-value]

    def capture(run: Play) -> Play:
        def play() -> None:
            nonlocal slow
            slow = False
            run()
            slow = True

        return play

    quick.train_step.learn = slowly  # type: ignore[assignment, method-assign]
    choice = choose(quick, capture)
    assert isinstance(choice.learn, StaticStep)
    assert "each training step runs as one CUDA graph, which is faster here" in choice.words
    torch.manual_seed(7)
    expected = plain.steps(plain.train_step.learn, 8)
    torch.manual_seed(7)
    assert quick.steps(choice.learn, 8) == expected


# --- a complete training run, with the CPU posing as a GPU -------------------------------------------------


@pytest.fixture
def make_believe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU poses as a GPU; CUDA calls do the equivalent on the CPU, or nothing."""
    for module in (trainer, torch_settings, step_module, cuda_graph, device_batches):
        monkeypatch.setattr(module, "is_gpu", lambda device: True)
    for name in ("Event", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))


def trained_as_on_a_gpu(run: Path, config: TrainConfig, *, captured: bool) -> dict[str, bytes]:
    """The checkpoints of a run that was stopped once, with static or plain steps."""

    def try_and_take(
        train_step: TrainStep, network: CharNetwork, batches: Batches, first: int, state: State
    ) -> cuda_graph.StepChoice:
        choice = choose_step(train_step, network, batches, first, state, capture=captured_rightly)
        assert "faster here (" in choice.words
        assert isinstance(batches, ResidentBatches)
        step = StaticStep(train_step.learn, *batches.batch(first), state)
        return cuda_graph.StepChoice(step if captured else train_step.learn, choice.words)

    stepped: list[Stepped] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            stepped.append(event)

    with mock.patch.object(gpu, "choose_step", try_and_take):
        assert train(config, CORPUS, listen, out=run, should_stop=lambda: len(stepped) == 7).step == 7
        resume(run, listen)
    assert {event.loss for event in stepped} == {None}  # no synchronization took place
    return {path.name: path.read_bytes() for path in run.glob("*step*.safetensors")}


@pytest.mark.usefixtures("make_believe")
def test_the_gpu_code_path_trains_identically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resident text, learning rate in a tensor, losses read at reports, static steps."""
    config = TINY.replace(layers=1, steps=20, eval_every=4)
    plain = trained_as_on_a_gpu(tmp_path / "plain", config, captured=False)
    assert trained_as_on_a_gpu(tmp_path / "captured", config, captured=True) == plain
    monkeypatch.undo()
    train(config, CORPUS, out=tmp_path / "cpu")
    lines = [
        [json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("cpu", "captured")
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for name in ("loss", "validation_loss", "gradient_norm"):
        expected, seen = ([line[name] for line in each if name in line] for each in lines)
        assert seen == pytest.approx(expected, rel=1e-4)  # the rate is fp32 in a tensor
    last = [load_checkpoint(tmp_path / run / "lstm-1x8-step20.safetensors") for run in ("cpu", "captured")]
    assert torch.equal(last[0].tensors["random.cpu"], last[1].tensors["random.cpu"])


@pytest.mark.usefixtures("make_believe")
@pytest.mark.parametrize("times", [0, 2])
def test_a_captured_step_with_equal_losses_but_other_weights_is_rejected_with_dropout(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """cuDNN draws its own random numbers for two layers, so losses and weights agree only roughly."""
    monkeypatch.setattr(device_batches, "is_gpu", lambda device: False)  # which pins memory
    learning = Learning(layers=2, dropout=0.5)

    def capture(run: Play) -> Play:
        def play() -> None:
            before = [weight.detach().clone() for weight in learning.network.parameters()]
            run()
            with torch.no_grad():
                for weight, old in zip(learning.network.parameters(), before, strict=True):
                    weight.copy_(old + times * (weight - old))

        return play

    learning.train_step.optimizer.set_rate(1e-4)
    choice = choose(learning, capture)
    assert "its results differed" in choice.words
    assert choice.learn == learning.train_step.learn
    assert "differed" not in choose(learning, captured_rightly).words


@pytest.mark.usefixtures("make_believe")
def test_if_capture_fails_training_continues_with_a_notice() -> None:
    notes: list[str] = []
    result = train(
        TINY, CORPUS, lambda event: notes.append(event.message) if isinstance(event, Notice) else None
    )
    assert result.step == 12
    assert any("capturing one failed" in note for note in notes)


class _Generator:
    """The random generator of a GPU, whose state includes whether it is in use by a capture."""

    def __init__(self, numbers: torch.Tensor, *, in_capture: bool = False) -> None:
        self.numbers, self.in_capture = numbers, in_capture

    def clone_state(self) -> _Generator:
        return _Generator(torch.get_rng_state())

    def graphsafe_set_state(self, other: _Generator) -> None:
        self.in_capture = other.in_capture
        torch.set_rng_state(other.numbers)


class _Cuda:
    """Streams, a generator and failing captures, as in PyTorch."""

    def __init__(self) -> None:
        self.usual: Any = mock.MagicMock()
        self.current: Any = self.usual
        self.generator = _Generator(torch.get_rng_state())
        self.captures: list[object] = []  # their streams

    def set_stream(self, stream: object) -> None:
        self.current = stream

    @contextlib.contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before = self.current
        self.set_stream(stream)
        yield
        self.set_stream(before)

    def capture_begin(self, **_: object) -> None:
        self.captures.append(self.current)
        self.generator.in_capture = True

    def capture_end(self) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        assert self.current not in self.captures
        assert not self.generator.in_capture
        torch.set_rng_state(state)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, make_believe: None) -> _Cuda:
    """The CPU poses as a GPU whose captures fail in the middle of a step."""
    cuda = _Cuda()
    clip = torch.nn.utils.clip_grad_norm_

    def clip_unless_capturing(*given: Any) -> torch.Tensor:
        if cuda.generator.in_capture:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return clip(*given)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_unless_capturing)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", object())
    for name, value in {
        "CUDAGraph": lambda: cuda,
        "current_stream": lambda *_: cuda.current,
        "set_stream": cuda.set_stream,
        "stream": cuda.stream,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "current_device": lambda: 0,
        "default_generators": (cuda.generator,),
        "set_rng_state": cuda.set_rng_state,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return cuda


def test_a_failed_capture_restores_the_stream_and_the_generator(cuda: _Cuda) -> None:
    config = TINY.replace(dropout=0.3, layers=2)
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notes.append(event.message)

    result = train(config, CORPUS, listen)
    assert len(cuda.captures) == 1
    assert cuda.captures != [cuda.usual]
    assert any("capturing one failed" in note for note in notes)
    assert cuda.current is cuda.usual
    assert not cuda.generator.in_capture
    with mock.patch.object(gpu, "choose_step", _plainly):
        expected = train(config, CORPUS)
    for one, other in zip(result.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.equal(one, other)


def _plainly(train_step: TrainStep, *rest: object) -> cuda_graph.StepChoice:
    return cuda_graph.StepChoice(train_step.learn, "plain")


# --- arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recurrent_layers_can_be_cast_manually(cell: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(cell=cell, layers=2, hidden_size=8, embedding_size=5)
    network = CharNetwork(config, 9).train()
    inputs, state = torch.randn(3, 6, 5), tuple(part + 0.1 for part in network.initial_state(3))
    expected, _ = network.rnn(inputs, state if len(state) > 1 else state[0])
    hidden, after = network._recur_in(dtype, inputs, state)
    assert {hidden.dtype, *(part.dtype for part in after)} == {dtype}
    near = {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(hidden.float(), expected, rtol=near, atol=near)
    hidden.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.rnn.parameters())


def test_cast_weights_are_dropped_too() -> None:
    network = CharNetwork(NetworkConfig(layers=1, hidden_size=8, weight_drop=0.5), 9)
    shares = {
        name: float((left == 0).float().mean())
        for (name, _), left in zip(network.rnn.named_parameters(), network._dropped_weights(), strict=True)
    }
    assert 0.2 < shares["weight_hh_l0"] < 0.8
    assert shares["weight_ih_l0"] == 0.0
    network.eval()
    assert all(
        left is weight
        for left, weight in zip(network._dropped_weights(), network.rnn.parameters(), strict=True)
    )


def test_a_new_run_with_tf32_is_rejected_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="precision=tf32 is for GPUs"):
        train(TINY.replace(precision="tf32", steps=1), CORPUS, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("precision", "products"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_fp32_on_a_gpu_never_uses_tf32_unless_requested(precision: str, products: str) -> None:
    users = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [user.fp32_precision for user in users]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no GPU
        with ComputeMode(precision, True).on(torch.device("cuda")):
            within = [user.fp32_precision for user in users]
    assert within == [products, products]
    assert [user.fp32_precision for user in users] == before


# --- on a GPU ----------------------------------------------------------------------------------------------


def losses_and_notes(config: TrainConfig) -> tuple[list[float], list[str]]:
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notes.append(event.message)

    result = train(config, CORPUS, listen)
    return [item.validation_loss for item in result.evaluations], notes


@pytest.mark.gpu
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_training_on_the_gpu_matches_the_cpu(cell: str, tied: bool) -> None:
    config = PLAIN.replace(cell=cell, steps=30, eval_every=10, hidden_size=32, tie_weights=tied)
    if tied:
        config = config.replace(embedding_size=16)
    expected, _ = losses_and_notes(config)
    for precision, near in (("fp32", 1e-3), ("tf32", 2e-2), ("bf16", 5e-2)):
        seen, notes = losses_and_notes(config.replace(device="cuda", precision=precision))
        assert seen == pytest.approx(expected, rel=near)
        assert any("graph" in note or "kernel" in note for note in notes)


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_step_can_be_captured_and_learns_the_same(
    monkeypatch: pytest.MonkeyPatch, cell: str, dropout: float
) -> None:
    config = TINY.replace(
        cell=cell, layers=1, dropout=dropout, weight_drop=dropout, device="cuda", steps=40, eval_every=10
    )
    real = choose_step

    def captured(train_step: TrainStep, *rest: object) -> cuda_graph.StepChoice:
        choice = real(train_step, *rest)  # type: ignore[arg-type]
        assert "failed" not in choice.words
        assert "differed" not in choice.words
        return choice

    with monkeypatch.context() as patch:
        patch.setattr("charrnn_trainer.training.gpu.choose_step", _plainly)
        expected, _ = losses_and_notes(config)
    with monkeypatch.context() as patch:
        patch.setattr("charrnn_trainer.training.gpu.choose_step", captured)
        seen, _ = losses_and_notes(config)
    assert seen == pytest.approx(expected, rel=1e-2)


@pytest.mark.gpu
def test_a_failed_capture_does_not_affect_training_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TINY.replace(layers=2, dropout=0.3, weight_drop=0.3, device="cuda", steps=20, eval_every=10)

    def fail_in_the_middle(run: Play) -> Play:
        def run_and_wait() -> None:
            run()
            torch.cuda.synchronize()  # not permitted in a capture

        return capture_graph(run_and_wait)

    def try_it(*given: Any) -> cuda_graph.StepChoice:
        stream = torch.cuda.current_stream()
        choice = choose_step(*given, capture=fail_in_the_middle)
        assert "capturing one failed" in choice.words
        assert torch.cuda.current_stream() == stream
        return choice

    with monkeypatch.context() as patch:
        patch.setattr("charrnn_trainer.training.gpu.choose_step", try_it)
        seen, _ = losses_and_notes(config)
    with monkeypatch.context() as patch:
        patch.setattr("charrnn_trainer.training.gpu.choose_step", _plainly)
        expected, _ = losses_and_notes(config)
    assert seen == pytest.approx(expected, rel=5e-2)  # cuDNN's dropout uses different random numbers


@pytest.mark.gpu
def test_a_run_moves_from_the_gpu_to_the_cpu_and_back(tmp_path: Path) -> None:
    config = PLAIN.replace(device="cuda", steps=6, hidden_size=16)
    whole = train(config.replace(steps=18), CORPUS)
    train(config, CORPUS, out=tmp_path / "run")
    assert resume(tmp_path / "run", changes={"steps": 12, "device": "cpu"}).step == 12
    last = resume(tmp_path / "run", changes={"steps": 18, "device": "cuda"})
    assert last.step == 18
    assert last.evaluations[-1].validation_loss == pytest.approx(
        whole.evaluations[-1].validation_loss, rel=1e-2
    )
    assert load_checkpoint(find_checkpoint(tmp_path / "run", "last")).config.run.device == "cuda"


@pytest.mark.gpu
def test_training_is_the_same_with_the_text_on_the_gpu_or_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PLAIN.replace(device="cuda", hidden_size=16)
    expected, _ = losses_and_notes(config)
    monkeypatch.setattr(device_batches, "RESIDENT_SHARE", 0.0)
    seen, notes = losses_and_notes(config)
    assert seen == pytest.approx(expected, rel=1e-3)
    assert any("batches are copied from the host" in note for note in notes)


@pytest.mark.gpu
def test_all_precisions_are_measured_on_a_gpu() -> None:
    auto = TINY.replace(precision="auto", onednn=None, device="cuda", embedding_size=0)
    choice = choose_compute_mode(auto, 22, torch.device("cuda"))
    assert {way.precision for way in choice.milliseconds} == {"fp32", "tf32", "bf16"}


@pytest.mark.gpu
def test_a_time_budget_is_kept_on_a_gpu() -> None:
    begin = time.perf_counter()
    result = train(TINY.replace(device="cuda", minutes=0.1, steps=10**9, eval_every=10**6), CORPUS)
    assert result.step > 10
    assert time.perf_counter() - begin > 6
