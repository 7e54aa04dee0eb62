"""Export of checkpoints from tiny runs: verified, atomic and deterministic."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pickle
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from charrnn_runtime import CharRNN
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.export import build as build_module
from charrnn_trainer.export import verify as verify_module
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.export.build import ExportError, build
from charrnn_trainer.export.graph.weights import StepWeights, fold_weights, step_model_bytes
from charrnn_trainer.export.verify import compare_with_torch, verify
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints
from charrnn_trainer.runs.header import CheckpointError
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import train
from marks import first_daily
from reference import naive_step
from step_graphs import Stepper, metadata

CELLS = ("lstm", "gru", "rnn")
PRECISIONS = ("fp32", "fp16", "int8")

TEXT = "to be, or not to be, that is the question:\nwhether 'tis nobler in the mind to suffer\n" * 30

TINY = TrainConfig().replace(
    layers=2,
    hidden_size=12,
    steps=9,
    batch_size=4,
    seq_length=16,
    eval_every=3,
    save_every=3,
    log_every=3,
    precision="fp32",
    onednn=False,
    threads=1,
)


def _train(folder: Path, **settings: Any) -> Path:
    train(TINY.replace(**settings), Corpus.from_text(TEXT, name="hamlet.txt"), out=folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each cell; the GRU reads through an embedding."""
    folder = tmp_path_factory.mktemp("ckpt")
    return {
        cell: _train(folder / cell, cell=cell, embedding_size=5 if cell == "gru" else None) for cell in CELLS
    }


@pytest.fixture
def checkpoint(runs: dict[str, Path]) -> Checkpoint:
    return load_checkpoint(find_checkpoint(runs["lstm"], "last"))


@pytest.fixture
def model(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """An exported model."""
    path = tmp_path / "lstm.onnx"
    export_checkpoint(checkpoint, path)
    return path


def _altered(checkpoint: Checkpoint, **tensors: torch.Tensor) -> Checkpoint:
    """A checkpoint with other weights."""
    changed = {f"model.{name.replace('__', '.')}": tensor for name, tensor in tensors.items()}
    return dataclasses.replace(checkpoint, tensors=checkpoint.tensors | changed)


# --- every checkpoint --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", first_daily(CELLS))
def test_every_checkpoint_of_a_run_is_exported_and_verified(
    runs: dict[str, Path], tmp_path: Path, cell: str
) -> None:
    entries = list_checkpoints(runs[cell])
    assert [entry.step for entry in entries] == [3, 6, 9]
    seen = set()
    for entry in entries:
        for precision in PRECISIONS:
            path = tmp_path / f"{entry.step}.{precision}.onnx"
            report = export_checkpoint(load_checkpoint(entry.path), path, precision=precision)
            assert report.info.training["step"] == entry.step
            assert (report.info.cell, report.info.precision) == (cell, precision)
            if precision == "fp32":
                assert report.logit_difference < 1e-5
            CharRNN.load(path, device="cpu").generate("to ", 20, seed=1)
            seen.add(path.read_bytes())
    assert len(seen) == len(entries) * len(PRECISIONS)


@pytest.mark.parametrize("cell", CELLS)
def test_the_exported_file_computes_the_checkpoints_network(
    runs: dict[str, Path], tmp_path: Path, cell: str
) -> None:
    loaded = load_checkpoint(find_checkpoint(runs[cell]))
    export_checkpoint(loaded, tmp_path / "model.onnx")
    stepper = Stepper(onnx.load(tmp_path / "model.onnx"))
    weights = {name: tensor.numpy() for name, tensor in loaded.weights.items()}
    state = np.zeros(spec.state_size(cell, 2, 12))
    found_state = state[np.newaxis].astype(np.float32)
    for token in loaded.vocabulary.encode(TEXT[:60]):
        expected, state = naive_step(cell, 2, weights, int(token), state)
        logits, _, found_state = stepper.step([int(token)], found_state)
        np.testing.assert_allclose(logits[0], expected, atol=1e-5)


@pytest.mark.parametrize("level", ["char", "byte"])
def test_both_levels_are_exported(tmp_path: Path, level: str) -> None:
    corpus = Corpus.from_text("naïve café 中文\n" * 60, level=level)  # type: ignore[arg-type]
    train(TINY.replace(steps=3, layers=1), corpus, out=tmp_path / "run")
    report = export_checkpoint(load_checkpoint(find_checkpoint(tmp_path / "run")), tmp_path / "m.onnx")
    assert report.info.vocabulary == corpus.vocabulary
    assert report.info.vocabulary.level == level


def test_a_run_without_validation_is_exported_and_compared_on_its_own_text(tmp_path: Path) -> None:
    run = _train(tmp_path / "run", val_fraction=0.0)
    report = export_checkpoint(load_checkpoint(find_checkpoint(run)), tmp_path / "m.onnx", precision="int8")
    assert report.info.training["validation_loss"] is None
    assert report.compared_on == "the last 10 % of the training text"


@pytest.mark.parametrize("precision", first_daily(["int8", "fp32", "fp16"]))
def test_the_deepest_network_that_is_allowed_is_exported(tmp_path: Path, precision: str) -> None:
    run = _train(tmp_path / "run", cell="lstm", layers=spec.MAX_LAYERS, hidden_size=2, steps=1)
    loaded = load_checkpoint(find_checkpoint(run))
    report = export_checkpoint(loaded, tmp_path / "m.onnx", precision=precision)
    assert report.info.layers == spec.MAX_LAYERS


# --- the report and the metadata ---------------------------------------------------------------------------


def test_the_report_describes_the_written_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "lstm.onnx"
    report = export_checkpoint(checkpoint, path)
    assert report.info == read_model_file(path).info
    assert report.info.file_bytes == report.fp32_bytes == path.stat().st_size
    assert report.info.path == str(path)
    assert report.bits_per_character is None
    assert report.compared_on == ""
    assert report.replaced is None


@pytest.mark.parametrize("cell", CELLS)
def test_verification_finds_the_largest_difference_from_torch(runs: dict[str, Path], cell: str) -> None:
    # A file from another checkpoint, for a difference much larger than rounding.
    loaded = load_checkpoint(find_checkpoint(runs[cell], 9))
    other = build(load_checkpoint(find_checkpoint(runs[cell], 6)), "fp32")
    network = loaded.network().eval()
    stepper = Stepper(onnx.load_from_string(other.data))
    state = network.initial_state(4)
    largest = largest_of_states = 0.0
    for tokens in np.random.default_rng(0).integers(0, len(loaded.vocabulary), (256, 4)):
        rows = torch.cat([*torch.cat(state)], dim=1).numpy()  # h0, h1, and c0, c1
        found, _, after = stepper.step(tokens, rows)
        with torch.inference_mode():
            expected, state = network(torch.from_numpy(tokens)[:, None], state)
        largest = max(largest, float(np.abs(found - expected[:, 0].numpy()).max()))
        expected_after = torch.cat([*torch.cat(state)], dim=1).numpy()
        largest_of_states = max(largest_of_states, float(np.abs(after - expected_after).max()))
    difference = compare_with_torch(loaded, other)
    assert largest > 1e-3
    assert difference.logits == pytest.approx(largest, abs=1e-6)
    assert difference.state == pytest.approx(largest_of_states, abs=1e-6)


def test_a_chaotic_network_is_exported(tmp_path: Path) -> None:
    # With large recurrent weights, rounding makes two correct computations diverge completely.
    run = _train(tmp_path / "run", cell="rnn", steps=1)
    loaded = load_checkpoint(find_checkpoint(run))
    wild = torch.linspace(-3.0, 3.0, 144).mul(37).sin().mul(3).reshape(12, 12)
    chaotic = _altered(loaded, rnn__weight_hh_l0=wild, rnn__weight_hh_l1=wild.T.contiguous())
    weights = {name: tensor.numpy() for name, tensor in chaotic.weights.items()}
    stepper = Stepper(onnx.load_from_string(build(chaotic, "fp32").data))
    state, found_state = np.zeros(24), np.zeros((1, 24), np.float32)
    for token in np.random.RandomState(0).randint(0, len(loaded.vocabulary), 256):
        logits, state = naive_step("rnn", 2, weights, int(token), state)
        found, _, found_state = stepper.step([int(token)], found_state)
    assert np.abs(found[0] - logits).max() > 1e-2
    assert export_checkpoint(chaotic, tmp_path / "m.onnx").logit_difference < 1e-5


def test_verification_covers_at_least_200_steps_of_several_streams() -> None:
    assert verify_module.VERIFY_STEPS >= 200
    assert verify_module.VERIFY_STREAMS >= 2
    assert verify_module.FP32_BOUND == 1e-4
    assert verify_module.LOSS_BOUND == 0.01


def test_the_report_states_verification_and_comparison(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines: list[str] = []
    report = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision="int8", report=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("verified against torch: 256 steps of 4 streams, largest logit difference ")
    assert report.bits_per_character is not None
    small, exact = report.bits_per_character
    assert lines[1].startswith(f"int8: {small:.4f} bits per character on the run's validation text, ")
    assert f"fp32 {exact:.4f}" in lines[1]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_compared_bits_equal_the_validation_loss(
    checkpoint: Checkpoint, tmp_path: Path, precision: str
) -> None:
    report = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision=precision)
    assert report.bits_per_character is not None
    small, exact = report.bits_per_character
    assert checkpoint.validation_loss is not None
    assert exact == pytest.approx(checkpoint.validation_loss / math.log(2), abs=1e-4)
    assert 0 < abs(small - exact) < exact * 0.01
    assert report.info.file_bytes < report.fp32_bytes


def test_a_checkpoint_without_its_run_is_compared_on_generated_text(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    alone = shutil.copy(checkpoint.path, tmp_path)
    report = export_checkpoint(load_checkpoint(alone), tmp_path / "m.onnx", precision="int8")
    assert report.compared_on.startswith("text generated by the network")
    assert report.bits_per_character is not None


def test_the_text_of_another_run_next_to_a_checkpoint_is_not_used(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    alone = shutil.copy(checkpoint.path, tmp_path)
    Corpus.from_text(TEXT + "and so on\n", name="other").save(tmp_path / "tokens.safetensors")
    report = export_checkpoint(load_checkpoint(alone), tmp_path / "m.onnx", precision="int8")
    assert report.compared_on.startswith("text generated by the network")


def test_the_metadata_is_complete(checkpoint: Checkpoint, model: Path) -> None:
    found = metadata(onnx.load(model))
    assert sorted(found) == sorted(f"charrnn.{key}" for key in spec.METADATA_KEYS)
    assert json.loads(found["charrnn.vocabulary"]) == list(checkpoint.vocabulary.symbols)
    training = json.loads(found["charrnn.training"])
    assert training == {
        "corpus": {
            "name": "hamlet.txt",
            "sha256": checkpoint.corpus.sha256,
            "characters": len(TEXT),
            "trained_on": int(0.9 * len(TEXT)),
        },
        "step": 9,
        "train_loss": checkpoint.train_loss,
        "validation_loss": checkpoint.validation_loss,
        "config": checkpoint.config.to_dict(),
        "trainer_version": checkpoint.trainer_version,
    }


def test_the_file_contains_no_local_path(runs: dict[str, Path], model: Path) -> None:
    content = model.read_bytes()
    assert str(runs["lstm"].parent).encode() not in content
    assert os.fsencode(Path.home()) not in content or Path.home() == Path("/")


# --- reproducibility ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_checkpoint_gives_the_same_bytes(
    checkpoint: Checkpoint, tmp_path: Path, precision: str
) -> None:
    export_checkpoint(checkpoint, tmp_path / "one.onnx", precision=precision)
    moved = shutil.copy(checkpoint.path, tmp_path / "moved-step9.safetensors")
    torch.manual_seed(99)
    export_checkpoint(load_checkpoint(moved), tmp_path / "other.onnx", precision=precision)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_exporting_does_not_change_the_random_state_of_torch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    export_checkpoint(checkpoint, tmp_path / "m.onnx")
    assert torch.equal(torch.random.get_rng_state(), before)


# --- wrong graphs are not written --------------------------------------------------------------------------


def _break(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Break the folding that export uses."""

    def wrong(*arguments: Any) -> StepWeights:
        return change(fold_weights(*arguments))  # type: ignore[no-any-return]

    monkeypatch.setattr(build_module, "fold_weights", wrong)


def _one_weight_is_off(weights: StepWeights) -> StepWeights:
    output = weights.output.copy()
    output[0, 0] += 0.01
    return dataclasses.replace(weights, output=output)


def _gates_are_swapped(weights: StepWeights) -> StepWeights:
    table = np.roll(weights.table, weights.hidden_size, axis=1)
    return dataclasses.replace(weights, table=table)


def _layers_are_swapped(weights: StepWeights) -> StepWeights:
    first, second = weights.layers
    return dataclasses.replace(
        weights, layers=(dataclasses.replace(first, recurrent=second.recurrent), second)
    )


@pytest.mark.parametrize("change", [_one_weight_is_off, _gates_are_swapped, _layers_are_swapped])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_that_differs_from_torch_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, precision: str
) -> None:
    _break(monkeypatch, change)
    with pytest.raises(ExportError, match=r"differ from torch's by up to .*; nothing was written"):
        export_checkpoint(checkpoint, tmp_path / "folder" / "m.onnx", precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_leaves_the_existing_model(
    checkpoint: Checkpoint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.read_bytes()
    _break(monkeypatch, _one_weight_is_off)
    with pytest.raises(ExportError):
        export_checkpoint(checkpoint, model)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_an_error_that_appears_only_after_many_steps_is_detected(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A recurrent weight does nothing in the first step, which starts from zeros.
    def late(weights: StepWeights) -> StepWeights:
        recurrent = weights.layers[0].recurrent.copy()
        recurrent[0, 0] += 1.0
        first = dataclasses.replace(weights.layers[0], recurrent=recurrent)
        return dataclasses.replace(weights, layers=(first, *weights.layers[1:]))

    _break(monkeypatch, late)
    with pytest.raises(ExportError, match="differ from torch"):
        export_checkpoint(checkpoint, tmp_path / "m.onnx")


def test_nan_logits_are_detected_at_any_position(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(checkpoint, "fp32")
    original, steps = CharNetwork.forward, itertools.count()

    def strange(self: CharNetwork, *arguments: Any) -> Any:
        logits, state = original(self, *arguments)
        if next(steps) == 100:
            logits[1, 0, 2] = math.nan
        return logits, state

    monkeypatch.setattr(CharNetwork, "forward", strange)
    with pytest.raises(ExportError, match="logits differ from torch's by up to nan"):
        verify(checkpoint, built)
    assert next(steps) == 256


def test_a_wrong_state_is_detected_even_if_the_logits_are_right(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The output ignores the wrong element of the state.
    output = checkpoint.weights["output.weight"].clone()
    output[:, 0] = 0.0
    deaf = _altered(checkpoint, output__weight=output)

    def wrong(weights: StepWeights) -> StepWeights:
        top = weights.layers[1]
        bias = top.bias.copy()
        bias[3 * weights.hidden_size] += 1.0  # the output gate of the first cell in the top layer
        return dataclasses.replace(weights, layers=(weights.layers[0], dataclasses.replace(top, bias=bias)))

    _break(monkeypatch, wrong)
    with pytest.raises(ExportError, match="the graph's states differ from torch's by up to"):
        export_checkpoint(deaf, tmp_path / "m.onnx")


# --- int8 and fp16 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_loses_too_much_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(verify_module, "LOSS_BOUND", -0.5)
    monkeypatch.setattr(verify_module, "LOSS_FLOOR", -9.0)
    with pytest.raises(ExportError, match=rf"the {precision} model needs .* export it as fp32"):
        export_checkpoint(checkpoint, tmp_path / "m.onnx", precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_rejected_for_a_network_that_it_ruins(tmp_path: Path) -> None:
    # A large weight in every column rounds the others almost to zero. As it adds the same to all
    # logits, it changes nothing in fp32.
    run = _train(tmp_path / "run", steps=60, learning_rate=0.02, eval_every=60, save_every=60)
    trained = load_checkpoint(find_checkpoint(run))
    output = trained.weights["output.weight"].clone()
    output[:, 0] += 80.0
    ruined = _altered(trained, output__weight=output)
    export_checkpoint(ruined, tmp_path / "fp32.onnx")
    with pytest.raises(ExportError, match=r"the int8 model needs .* and fp32 .*nothing was written"):
        export_checkpoint(ruined, tmp_path / "int8.onnx", precision="int8")
    assert not (tmp_path / "int8.onnx").exists()


def test_a_network_that_predicts_with_certainty_is_exported(tmp_path: Path) -> None:
    # Its loss is zero, and so is one percent of it.
    run = tmp_path / "run"
    config = TINY.replace(cell="rnn", layers=1, hidden_size=2, steps=3)
    train(config, Corpus.from_text("ab" * 400), out=run)
    certain = _altered(
        load_checkpoint(find_checkpoint(run)),
        rnn__weight_ih_l0=torch.tensor([[5.0, -5.0], [-5.0, 5.0]]),
        rnn__weight_hh_l0=torch.zeros(2, 2),
        output__weight=torch.tensor([[-20.0, 20.0], [20.0, -20.0]]),
    )
    lines: list[str] = []
    report = export_checkpoint(certain, tmp_path / "m.onnx", precision="int8", report=lines.append)
    assert report.bits_per_character is not None
    assert report.bits_per_character[1] == 0.0
    assert "fp32 0.0000 (+0.0000 bits, bound +1%)" in lines[-1]


def test_weights_out_of_the_range_of_fp16_are_rejected(checkpoint: Checkpoint) -> None:
    for name, row in (("output.weight", 3), ("rnn.weight_hh_l1", 20), ("rnn.weight_ih_l1", 0)):
        weight = checkpoint.weights[name].clone()
        weight[row, 2] = -65_600.0
        too_large = _altered(checkpoint, **{name.replace(".", "__"): weight})
        with pytest.raises(ExportError, match=r"up to 65,600, but fp16 holds at most 65,504.*as fp32"):
            build(too_large, "fp16")
        build(too_large, "fp32")


@pytest.mark.parametrize("precision", ["FP32", "bf16", "", "int4"])
def test_an_unknown_precision_is_an_option_error(
    checkpoint: Checkpoint, tmp_path: Path, precision: str
) -> None:
    with pytest.raises(SettingError, match="precision must be fp32 or fp16 or int8"):
        export_checkpoint(checkpoint, tmp_path / "m.onnx", precision=precision)


# --- the destination ---------------------------------------------------------------------------------------


def test_missing_parent_folders_are_created(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "lstm.onnx"
    export_checkpoint(checkpoint, path)
    assert path.is_file()
    assert list(path.parent.iterdir()) == [path]


def test_a_charrnn_model_is_replaced_and_named(
    runs: dict[str, Path], checkpoint: Checkpoint, model: Path
) -> None:
    other = load_checkpoint(find_checkpoint(runs["gru"], 3))
    report = export_checkpoint(other, model, precision="int8")
    assert report.replaced == "a charrnn model (lstm 2x12 fp32, step 9)"
    assert read_model_file(model).info.cell == "gru"
    assert export_checkpoint(checkpoint, model).replaced == "a charrnn model (gru 2x12 int8, step 3)"


@pytest.mark.parametrize("content", [b"", b"my notes\n", b"\x08\x08"])
def test_another_file_is_replaced_only_with_force(
    checkpoint: Checkpoint, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "notes.onnx"
    path.write_bytes(content)
    with pytest.raises(CharRNNError, match=r"notes\.onnx exists and is not a charrnn model.*force=True"):
        export_checkpoint(checkpoint, path)
    assert path.read_bytes() == content
    report = export_checkpoint(checkpoint, path, force=True)
    assert report.replaced == "another kind of file"
    assert read_model_file(path).info.cell == "lstm"


def test_a_damaged_charrnn_model_is_another_file(checkpoint: Checkpoint, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-20])
    with pytest.raises(CharRNNError, match="exists and is not a charrnn model"):
        export_checkpoint(checkpoint, model)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_never_replaced(checkpoint: Checkpoint, tmp_path: Path, force: bool) -> None:
    with pytest.raises(CharRNNError, match="is a folder; give the file to write"):
        export_checkpoint(checkpoint, tmp_path, force=force)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_special_file_is_never_replaced(checkpoint: Checkpoint, tmp_path: Path, force: bool) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    with pytest.raises(CharRNNError, match="not a regular file"):
        export_checkpoint(checkpoint, pipe, force=force)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_that_cannot_be_created_is_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CharRNNError, match="cannot create the folder"):
        export_checkpoint(checkpoint, tmp_path / "file" / "sub" / "m.onnx")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only to the superuser, or to Windows"
)
def test_a_read_only_folder_is_an_error(checkpoint: Checkpoint, read_only: Path) -> None:
    with pytest.raises(CharRNNError, match="cannot write"):
        export_checkpoint(checkpoint, read_only / "m.onnx")
    with pytest.raises(CharRNNError, match="cannot create the folder"):
        export_checkpoint(checkpoint, read_only / "sub" / "m.onnx")
    assert list(read_only.iterdir()) == []


def test_a_full_disk_leaves_the_existing_file(
    checkpoint: Checkpoint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CharRNNError, match=r"cannot write .*: No space left on device"):
        export_checkpoint(checkpoint, model)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("where", ["its weights", "the rest"])
def test_a_model_too_large_to_load_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    weights = step_model_bytes(checkpoint.config.network, len(checkpoint.vocabulary))
    limit = weights - 1 if where == "its weights" else weights + 100
    monkeypatch.setattr(spec, "MAX_FILE_BYTES", limit)
    with pytest.raises(CharRNNError, match=f"at most {limit:,} can be loaded; .*level=byte"):
        export_checkpoint(checkpoint, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_file_permissions_follow_the_umask(checkpoint: Checkpoint, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        export_checkpoint(checkpoint, tmp_path / "m.onnx")
    finally:
        os.umask(old)
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640


# --- files that are not checkpoints ------------------------------------------------------------------------


def test_a_truncated_checkpoint_is_rejected(checkpoint: Checkpoint, tmp_path: Path) -> None:
    content = checkpoint.path.read_bytes()
    path = tmp_path / "cut-step9.safetensors"
    for length in (0, 7, 8, 100, 2_000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(find_checkpoint(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_altered_weight_is_rejected(checkpoint: Checkpoint, tmp_path: Path) -> None:
    content = bytearray(checkpoint.path.read_bytes())
    content[-200] ^= 1
    path = tmp_path / "altered-step9.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is truncated or damaged"):
        load_checkpoint(find_checkpoint(path))


def test_a_pickle_is_rejected_and_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was-run",))

    path = tmp_path / "evil-step1.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(find_checkpoint(path))
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(find_checkpoint(path))
    assert not (tmp_path / "was-run").exists()


def test_an_exported_model_is_rejected_as_a_checkpoint(model: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a charrnn checkpoint"):
        load_checkpoint(find_checkpoint(model))


def test_truncated_tokens_fail_an_int8_export_before_anything_is_written(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(runs["rnn"], tmp_path / "run")
    tokens = run / "tokens.safetensors"
    tokens.write_bytes(tokens.read_bytes()[:-5])
    loaded = load_checkpoint(find_checkpoint(run))
    with pytest.raises(CharRNNError, match=r"tokens\.safetensors"):
        export_checkpoint(loaded, tmp_path / "m.onnx", precision="int8")
    assert not (tmp_path / "m.onnx").exists()
    export_checkpoint(loaded, tmp_path / "m.onnx")


# --- the vocabulary ----------------------------------------------------------------------------------------


def test_ids_map_to_the_same_characters_in_the_exported_file(checkpoint: Checkpoint, model: Path) -> None:
    ids: NDArray[Any] = checkpoint.vocabulary.encode(TEXT[:100])
    assert CharRNN.load(model, device="cpu").vocabulary.decode(ids) == TEXT[:100]
    assert CharRNN.load(model, device="cpu").vocabulary == Vocabulary.from_text(TEXT)
