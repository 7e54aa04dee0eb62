"""The training loop: learning, events, files and stopping."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn_runtime.errors import CharRNNError, DeviceError, SettingError
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data.batches import get_batches
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.nn import network as network_module
from charrnn_trainer.nn.network import CharNetwork, next_token_loss
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training import resolving
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.divergence import DivergedError
from charrnn_trainer.training.events import Event, Logged, Notice, Saved, Started, Stepped, Validated
from charrnn_trainer.training.precision import choose_compute_mode
from tiny_runs import TEXT, TINY

CORPUS = Corpus.from_text(TEXT, name="hamlet")
PLAIN = TINY.replace(dropout=0.0, input_dropout=0.0, weight_drop=0.0, reset_chance=0.0).replace(
    random_start=False, schedule="constant", warmup_steps=0, weight_decay=0.0
)


def losses(config: TrainConfig, corpus: Corpus = CORPUS, **options: Any) -> list[float]:
    """The loss of every step."""
    seen: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            assert event.loss is not None
            seen.append(event.loss)

    train(config, corpus, listen, **options)
    return seen


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_training_steps_match_a_plain_loop(cell: str) -> None:
    """More than two passes: the state is carried, detached, and reset at the end of a pass."""
    config = PLAIN.replace(cell=cell, steps=30, batch_size=4, seq_length=40, clip=0.5, val_fraction=0.0)
    torch.manual_seed(config.run.seed)
    network = CharNetwork(config.network, len(CORPUS.vocabulary))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.005, weight_decay=0.0)
    batches = get_batches(CORPUS, 4, 40)
    per_pass = len(TEXT) // 160 - 1
    assert 2 * per_pass < 30
    expected = []
    for step in range(30):
        x, y = (torch.from_numpy(part.astype(np.int64)) for part in next(batches))
        if step % per_pass == 0:
            state = network.initial_state(4)
        logits, state = network(x, state)
        state = tuple(part.detach() for part in state)
        loss = next_token_loss(logits, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        expected.append(loss.item())
    assert losses(config) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_it_learns_a_repeating_text(cell: str) -> None:
    config = PLAIN.replace(cell=cell, layers=1, hidden_size=32, steps=120, learning_rate=0.02)
    seen = losses(config)
    assert seen[0] == pytest.approx(math.log(len(CORPUS.vocabulary)), abs=0.3)
    assert seen[-1] < 0.5


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    torch.manual_seed(1)
    first = losses(TINY)
    torch.manual_seed(2)
    assert losses(TINY) == first
    assert losses(TINY.replace(seed=1)) != first


def test_training_restores_the_callers_random_state_and_threads() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(TINY.replace(threads=2, steps=1, layers=1, batch_size=1, seq_length=2, val_fraction=0.0), CORPUS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 1


def test_bf16_trains_as_fp32_does() -> None:
    wide = PLAIN.replace(hidden_size=32, steps=40, learning_rate=0.01)
    exact, rough = losses(wide), losses(wide.replace(precision="bf16", onednn=True))
    assert rough != exact
    assert rough[-1] == pytest.approx(exact[-1], abs=0.1)


def test_weight_decay_excludes_biases() -> None:
    config = PLAIN.replace(steps=1, learning_rate=1e-9, weight_decay=1000.0, val_fraction=0.0)
    decayed = train(config.replace(learning_rate=1e-4), CORPUS).network.state_dict()
    start = train(config.replace(weight_decay=0.0), CORPUS).network.state_dict()
    for name, weight in start.items():
        shrunk = decayed[name].abs().sum() < 0.95 * weight.abs().sum()
        assert bool(shrunk) == (weight.ndim > 1), name


# --- events and files --------------------------------------------------------------------------------------


def test_events_come_in_order_and_agree_with_the_history(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(TINY, CORPUS, events.append, out=tmp_path / "run")
    assert isinstance(events[0], Started)
    assert (events[0].train_tokens, events[0].validation_tokens) == (1_530, 170)
    assert events[0].parameters == result.network.parameter_count()
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 13))
    logged = [event for event in events if isinstance(event, Logged)]
    assert [event.step for event in logged] == [4, 8, 12]
    step_losses = [event.loss or 0.0 for event in steps]
    assert [event.train_loss for event in logged] == pytest.approx(
        [sum(step_losses[first : first + 4]) / 4 for first in (0, 4, 8)]
    )
    evaluated = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in evaluated] == [3, 6, 9, 12]
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == step_losses
    assert [line["validation_loss"] for line in lines if "validation_loss" in line] == [
        event.validation_loss for event in evaluated
    ]
    assert result.evaluations[-1].validation_loss == evaluated[-1].validation_loss
    assert result.best is not None
    assert result.best.validation_loss == min(event.validation_loss for event in evaluated)
    assert (result.step, result.stopped, result.run) == (12, False, tmp_path / "run")


def test_checkpoints_are_kept_when_due_when_best_and_at_the_end(tmp_path: Path) -> None:
    saved: list[Saved] = []
    config = TINY.replace(steps=20, save_every=8, eval_every=3)
    train(
        config,
        CORPUS,
        lambda event: saved.append(event) if isinstance(event, Saved) else None,
        out=tmp_path / "run",
    )
    kinds = {event.step: event.kind for event in saved}
    assert (kinds[8], kinds[16], kinds[20]) == ("scheduled", "scheduled", "last")
    entries = list_checkpoints(tmp_path / "run")
    best = next(entry for entry in entries if entry.best)
    assert {entry.step for entry in entries} == {8, 16, 20, best.step}


def test_a_new_best_is_saved_even_if_no_checkpoint_is_due(tmp_path: Path) -> None:
    # The validation text is reversed, so its loss rises during training.
    corpus = Corpus.from_text(TEXT + TEXT[:200][::-1])
    config = PLAIN.replace(steps=60, learning_rate=0.03, eval_every=5, save_every=60, hidden_size=16)
    train(config, corpus, out=tmp_path / "run")
    entries = list_checkpoints(tmp_path / "run")
    assert len(entries) == 2
    assert (entries[0].best, entries[0].last) == (True, False)
    assert entries[0].step < 60
    assert load_checkpoint(entries[0].path).kind == "best"


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(TINY, CORPUS).run is None
    assert list(tmp_path.iterdir()) == []


def test_without_validation_nothing_is_validated(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(TINY.replace(val_fraction=0.0), CORPUS, events.append)
    assert not [event for event in events if isinstance(event, Validated)]
    assert (result.evaluations, result.best) == ((), None)


def test_the_saved_settings_of_a_run_repeat_it_byte_for_byte(tmp_path: Path) -> None:
    config = TINY.replace(precision="auto", onednn=None, device="auto")
    train(config, CORPUS, out=tmp_path / "first")
    file = RunFile.read(tmp_path / "first" / "config.toml")
    assert file.config.run.precision in ("fp32", "bf16")
    train(file.config, Corpus.open(tmp_path / "first" / "tokens.safetensors"), out=tmp_path / "second")
    for path in (tmp_path / "first").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_samples_can_be_requested_at_any_time_without_side_effects() -> None:
    samples: list[str] = []
    started: list[Started] = []

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            started.append(event)
        elif isinstance(event, Stepped):
            samples.append(started[0].write(20))

    undisturbed = train(TINY, CORPUS).network.state_dict()
    disturbed = train(TINY, CORPUS, listen).network.state_dict()
    assert all(torch.equal(disturbed[name], weight) for name, weight in undisturbed.items())
    assert {len(sample) for sample in samples} == {20}
    assert set("".join(samples)) <= set(TEXT)


def test_a_short_text_shrinks_the_batch_with_a_notice(tmp_path: Path) -> None:
    events: list[Event] = []
    corpus = Corpus.from_text("to be, or not to be, that is the question")
    result = train(TINY.replace(batch_size=100, seq_length=100), corpus, events.append, out=tmp_path / "run")
    assert (result.config.data.batch_size, result.config.data.seq_length) == (3, 6)
    assert isinstance(events[0], Notice)
    assert "3 streams of 6 characters" in events[0].message
    assert RunFile.read(tmp_path / "run" / "config.toml").config == result.config


def test_the_shortest_text_trains() -> None:
    corpus = Corpus.from_text("ab" * 16)
    assert train(TINY, corpus).step == 12
    events: list[Event] = []
    assert train(TINY.replace(val_fraction=0.9), corpus, events.append).step == 12
    assert isinstance(events[0], Notice)
    assert events[0].message.endswith("batches are reduced to 1 stream of 1 character")


def test_bytes_train_too() -> None:
    corpus = Corpus.from_text(TEXT, level="byte")
    assert train(TINY, corpus).config.data.level == "byte"


# --- starting from another run -----------------------------------------------------------------------------


def test_training_can_start_from_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "first")
    start = find_checkpoint(tmp_path / "first", "last")
    continued = losses(TINY, out=tmp_path / "second", init_from=start)
    assert continued[0] < losses(TINY)[0] - 0.05
    assert RunFile.read(tmp_path / "second" / "config.toml").init_from == str(start)


def test_weights_of_another_network_or_text_are_rejected(tmp_path: Path) -> None:
    train(TINY, CORPUS, out=tmp_path / "first")
    start = find_checkpoint(tmp_path / "first", "last")
    with pytest.raises(CharRNNError, match="this network's is"):
        train(TINY.replace(hidden_size=9), CORPUS, init_from=start)
    with pytest.raises(CharRNNError, match="absent"):
        train(TINY.replace(layers=1), CORPUS, init_from=start)
    with pytest.raises(CharRNNError, match="vocabulary of the text lacks"):
        train(TINY, Corpus.from_text(TEXT.upper()), init_from=start)


# --- stopping ----------------------------------------------------------------------------------------------


def test_a_stopped_run_saves_and_reports_that_it_stopped(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(
        TINY,
        CORPUS,
        events.append,
        out=tmp_path / "run",
        should_stop=lambda: any(isinstance(event, Stepped) and event.step == 4 for event in events),
    )
    assert (result.step, result.stopped) == (4, True)
    assert load_checkpoint(find_checkpoint(tmp_path / "run", "last")).kind == "interrupted"


@pytest.mark.parametrize("rate", [900.0, 30.0])
def test_a_diverging_run_ends_before_its_last_step(tmp_path: Path, rate: float) -> None:
    config = PLAIN.replace(cell="rnn", steps=2_000, learning_rate=rate, clip=0.0)
    # a third of such rates would diverge again; no rate above the default is advised
    advice = re.escape("try a lower learning rate (learning_rate=0.005), clip=1, or warmup_steps")
    with pytest.raises(DivergedError, match=rf"diverged at step .* {advice}$"):
        train(config, CORPUS, out=tmp_path / "run")


@pytest.mark.parametrize(("factor", "loss"), [(math.nan, "nan"), (1e3, r"\d+(\.\d+)?(e\+\d+)?")])
def test_a_diverging_run_keeps_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, loss: str
) -> None:
    config = TINY.replace(save_every=1, schedule="constant")
    whole = train(config.replace(steps=7), CORPUS, out=tmp_path / "whole")
    calls = 0

    def spoiled(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return next_token_loss(logits, targets) * (factor if calls == 8 else 1.0)

    monkeypatch.setattr(network_module, "next_token_loss", spoiled)
    said = (
        rf"step 8: the loss is {loss}; try .*; to start from the last good checkpoint, .*step7\.safetensors, "
        "use init_from"
    )
    with pytest.raises(DivergedError, match=said):
        train(config, CORPUS, out=tmp_path / "run")
    kept = load_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert kept.step == 7
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(kept.tensors[f"model.{name}"], weight)
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert max(steps) == 7  # the history shows the course of the losses


def test_a_full_disk_ends_the_run_and_keeps_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = train(TINY, CORPUS, out=tmp_path / "reference")
    assert reference.run is not None
    real = os.replace

    def full(source: str, target: Path) -> None:
        if target.name.endswith("step12.safetensors"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CharRNNError, match=r"cannot write .*step12\.safetensors: No space left on device"):
        train(TINY, CORPUS, out=tmp_path / "run")
    monkeypatch.undo()
    assert load_checkpoint(find_checkpoint(tmp_path / "run", 6)).step == 6
    resume(tmp_path / "run")
    for path in reference.run.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "run" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to", "^out of memory"),
        ("DefaultCPUAllocator: not enough memory: you tried to Allocate 5 bytes", "^out of memory"),
        ("CUDA error: out of memory", "out of GPU memory"),
        (
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "out of GPU memory",
        ),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out of GPU memory"),
        (
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "out of GPU memory",
        ),
    ],
)
def test_out_of_memory_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, said: str, words: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(network_module, "next_token_loss", fail)
    with pytest.raises(CharRNNError, match=f"{words}.*: lower batch_size"):
        train(TINY, CORPUS)


def test_other_torch_errors_are_not_reported_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(network_module, "next_token_loss", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(TINY, CORPUS)


def test_a_tensor_is_rejected_as_a_corpus() -> None:
    with pytest.raises(SettingError, match="Corpus"):
        train(TINY, np.zeros(100, dtype=np.int64))  # type: ignore[arg-type]


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device=cuda"):
        train(TINY.replace(device="cuda"), CORPUS)


def test_user_supplied_tokens_train() -> None:
    ids = np.arange(200) % 3
    assert train(TINY, Corpus.from_ids(ids, Vocabulary("abc"))).step == 12


# --- compute modes -----------------------------------------------------------------------------------------


def test_precisions_are_measured_only_if_there_is_a_choice() -> None:
    cpu = torch.device("cpu")
    auto = TINY.replace(precision="auto", onednn=None, embedding_size=0)
    choice = choose_compute_mode(auto, 22, cpu)
    assert len(choice.milliseconds) >= 1
    if choice.milliseconds:
        assert choice.milliseconds[choice.compute_mode] == min(choice.milliseconds.values())
    fixed = choose_compute_mode(TINY, 22, cpu)
    assert (fixed.compute_mode.precision, fixed.compute_mode.onednn, fixed.milliseconds) == (
        "fp32",
        False,
        {},
    )


def test_slow_bf16_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "has_fast_bf16", lambda: False)
    events: list[Event] = []
    train(TINY.replace(steps=1, precision="bf16", onednn=True), CORPUS, events.append)
    assert Notice("bf16 is slow on this processor; precision=fp32 would be faster", ("precision",)) in events


def test_measuring_changes_no_random_numbers() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    choose_compute_mode(TINY.replace(precision="auto", onednn=None), 22, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_measured_choices_are_reported_and_saved(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(TINY.replace(precision="auto", onednn=None), CORPUS, events.append, out=tmp_path / "run")
    notes = [event.message for event in events if isinstance(event, Notice)]
    assert any("the fastest here" in note and result.config.run.precision in note for note in notes)
    assert load_checkpoint(find_checkpoint(tmp_path / "run", "last")).config == result.config
    assert replace(result.config.run, precision="auto", onednn=None) == replace(
        TINY.run, precision="auto", onednn=None
    )
