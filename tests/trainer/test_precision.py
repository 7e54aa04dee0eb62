"""The choice of the number format: the modes that are timed, how often, and how."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer import TrainConfig
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.training import precision, torch_settings
from charrnn_trainer.training.precision import ComputeMode, choose_compute_mode

CPU = torch.device("cpu")
TINY = TrainConfig().replace(layers=1, hidden_size=4, batch_size=2, seq_length=3, precision="auto")
WAYS = (ComputeMode("fp32", True), ComputeMode("fp32", False), ComputeMode("bf16", True))


def _choose(monkeypatch: pytest.MonkeyPatch, seconds: dict[ComputeMode, list[float]]) -> Counter[ComputeMode]:
    """Give the modes these times in turn; return how often each was timed."""
    tried: Counter[ComputeMode] = Counter()

    def short_step(network: Any, config: Any, way: ComputeMode, device: Any, **_: Any) -> Any:
        return way

    def time_step(way: Any, device: Any) -> float:
        tried[way] += 1
        return seconds[way][min(tried[way], len(seconds[way])) - 1]

    monkeypatch.setattr(precision, "_candidates", lambda config, device: list(seconds))
    monkeypatch.setattr(precision, "_short_step", short_step)
    monkeypatch.setattr(precision, "_time_step", time_step)
    choice = choose_compute_mode(TINY, 5, CPU)
    least = {way: min(values[: tried[way]]) for way, values in seconds.items()}
    assert choice.milliseconds == {way: value * 1e3 for way, value in least.items()}
    assert least[choice.compute_mode] == min(least.values())
    return tried


def test_a_hopeless_mode_is_timed_once_and_a_close_one_in_every_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = _choose(monkeypatch, dict(zip(WAYS, ([1.0], [1.1], [9.0]), strict=True)))
    assert [tried[way] for way in WAYS] == [4, 4, 1]


def test_two_rounds_are_enough_if_one_mode_is_clearly_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _choose(monkeypatch, dict(zip(WAYS, ([3.0], [2.0], [1.0]), strict=True)))
    assert [tried[way] for way in WAYS] == [2, 2, 2]


def test_a_slow_first_round_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _choose(monkeypatch, dict(zip(WAYS, ([1.0], [2.0], [5.0, 0.5]), strict=True)))
    assert [tried[way] for way in WAYS] == [2, 2, 2]


@given(st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=4), min_size=3, max_size=3))
def test_the_fastest_measured_mode_is_chosen(times: list[list[float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tried = _choose(patch, dict(zip(WAYS, times, strict=True)))
    assert all(1 <= tried[way] <= 4 for way in WAYS)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a thread's time is counted too coarsely")
def test_time_during_which_the_thread_is_descheduled_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, computing = itertools.count(0, 1000), itertools.count(0, 1)
    clocks = SimpleNamespace(
        perf_counter=lambda: float(next(waiting)), thread_time=lambda: float(next(computing))
    )
    monkeypatch.setattr(precision, "time", clocks)
    choice = choose_compute_mode(TINY, 5, CPU)
    assert set(choice.milliseconds.values()) == {1000.0}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The CPU poses as a GPU: launching a kernel takes 100 seconds, and a graph 1."""
    now = SimpleNamespace(seconds=0.0, captures=0, can_capture=True)

    def capture_graph(step: Any) -> Any:
        if not now.can_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        now.captures += 1
        step()

        def replay() -> None:
            now.seconds += 1

        return replay

    forward = CharNetwork.forward

    def slow_forward(self: CharNetwork, *given: Any) -> Any:
        now.seconds += 100
        return forward(self, *given)

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(precision, "is_gpu", lambda device: True)
    monkeypatch.setattr(precision, "capture_graph", capture_graph)
    monkeypatch.setattr(precision, "side_stream", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(precision, "_candidates", lambda config, device: [WAYS[0], WAYS[1]])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(CharNetwork, "forward", slow_forward)
    return now


def test_on_a_gpu_captured_steps_are_timed_as_replayed_in_training(gpu: SimpleNamespace) -> None:
    choice = choose_compute_mode(TINY, 5, CPU)
    assert gpu.captures == 2
    assert set(choice.milliseconds.values()) == {1000.0}


def test_on_a_gpu_plain_steps_are_timed_if_training_uses_them(gpu: SimpleNamespace) -> None:
    for choice in (
        choose_compute_mode(TINY, 5, CPU, processes=2),
        choose_compute_mode(TINY.replace(lines=True), 5, CPU),
    ):
        assert set(choice.milliseconds.values()) == {100_000.0}
    assert gpu.captures == 0
    gpu.can_capture = False
    assert set(choose_compute_mode(TINY, 5, CPU).milliseconds.values()) == {100_000.0}


def test_the_cudnn_warning_about_non_contiguous_weights_is_suppressed(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_settings, "is_gpu", lambda device: True)
    forward = CharNetwork.forward

    def warning_forward(self: CharNetwork, *given: Any) -> Any:
        warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)
        return forward(self, *given)

    monkeypatch.setattr(CharNetwork, "forward", warning_forward)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_compute_mode(TINY, 5, CPU)


def test_measuring_restores_random_generators_and_settings() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    choose_compute_mode(TINY, 5, CPU)
    assert torch.equal(torch.rand(4), expected)
    assert not torch.is_autocast_enabled("cpu")
