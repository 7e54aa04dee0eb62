"""Checkpoints: their content, how they are found, and files that are not checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint, read_header, save_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint, list_checkpoints, newest_run
from charrnn_trainer.runs.header import CheckpointError
from charrnn_trainer.training.api import train
from tiny_runs import TEXT, TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ckpt") / "lstm"
    train(TINY, Corpus.from_text(TEXT, name="hamlet"), out=folder)
    return folder


@pytest.fixture(scope="module")
def path(run: Path) -> Path:
    return find_checkpoint(run, "last")


@pytest.fixture(scope="module")
def content(path: Path) -> bytes:
    return path.read_bytes()


def test_a_checkpoint_describes_itself(run: Path, path: Path) -> None:
    checkpoint = load_checkpoint(path)
    corpus = Corpus.from_text(TEXT)
    assert path.name == "lstm-2x8-step12.safetensors"
    assert (checkpoint.step, checkpoint.config, checkpoint.vocabulary) == (
        12,
        TINY.replace(embedding_size=0),
        corpus.vocabulary,
    )
    assert checkpoint.corpus.name == "hamlet"
    assert checkpoint.corpus.sha256 == corpus.sha256
    assert (checkpoint.corpus.characters, checkpoint.corpus.train_tokens) == (len(TEXT), int(0.9 * len(TEXT)))
    assert [item.step for item in checkpoint.evaluations] == [3, 6, 9, 12]
    assert checkpoint.validation_loss == checkpoint.evaluations[-1].validation_loss
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert checkpoint.train_loss == pytest.approx(sum(losses[step] for step in range(9, 13)) / 4)


def test_a_header_is_read_without_the_tensors(path: Path) -> None:
    header, checkpoint = read_header(path), load_checkpoint(path)
    assert {**vars(header), "tensors": checkpoint.tensors} == vars(checkpoint)


def test_tensors_have_torchs_names_and_one_metadata_key_is_canonical_json(path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {
        "model.rnn.weight_ih_l0",
        "model.rnn.bias_hh_l1",
        "model.output.weight",
        "model.output.bias",
        "optimizer.output.bias.exp_avg",
        "optimizer.rnn.weight_hh_l1.exp_avg_sq",
        "state.h",
        "state.c",
        "random.cpu",
    } <= names
    assert list(metadata) == ["charrnn"]
    values = json.loads(metadata["charrnn"])
    assert json.dumps(values, sort_keys=True, separators=(",", ":")) == metadata["charrnn"]


def test_a_network_round_trips_through_a_checkpoint(tmp_path: Path) -> None:
    result = train(TINY.replace(cell="gru"), Corpus.from_text(TEXT), out=tmp_path / "run")
    before = torch.get_rng_state()
    network = load_checkpoint(find_checkpoint(tmp_path / "run", "last")).network()
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in result.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight)


def test_saving_a_loaded_checkpoint_gives_the_same_bytes(path: Path, content: bytes, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(path)
    copy = Checkpoint(**{**vars(checkpoint), "path": tmp_path / "copy.safetensors"})
    save_checkpoint(copy, copy.tensors)
    assert copy.path.read_bytes() == content


# --- finding -----------------------------------------------------------------------------------------------


@pytest.fixture
def runs(run: Path, tmp_path: Path) -> Path:
    """A folder of two runs; the second is older, although its name sorts later."""
    for age, name in enumerate(("lstm", "lstm-2")):
        shutil.copytree(run, tmp_path / name)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").touch()
    return tmp_path


def test_the_newest_run_of_a_folder_is_the_one_that_saved_last(runs: Path) -> None:
    assert newest_run(runs) == runs / "lstm"
    assert newest_run(runs / "lstm-2") == runs / "lstm-2"
    checkpoint = find_checkpoint(runs / "lstm-2", "last")
    os.utime(checkpoint, (2_000_000, 2_000_000))
    assert newest_run(runs) == runs / "lstm-2"
    assert find_checkpoint(runs, "last") == checkpoint


def test_a_run_that_has_not_saved_yet_is_not_preferred(runs: Path) -> None:
    (runs / "lstm-3").mkdir()
    (runs / "lstm-3" / "config.toml").touch()
    assert newest_run(runs) == runs / "lstm"


def test_the_best_has_the_lowest_validation_loss(run: Path) -> None:
    entries = list_checkpoints(run)
    losses = {entry.step: entry.validation_loss for entry in entries}
    best = min(losses, key=lambda step: losses[step] or 0.0)
    assert [entry.step for entry in entries if entry.best] == [best]
    assert [entry.step for entry in entries if entry.last] == [12]
    assert load_checkpoint(find_checkpoint(run)).step == best
    assert load_checkpoint(find_checkpoint(run, 6)).step == 6


def test_without_validation_the_last_is_the_best(tmp_path: Path) -> None:
    train(TINY.replace(val_fraction=0.0), Corpus.from_text(TEXT), out=tmp_path / "run")
    entries = list_checkpoints(tmp_path / "run")
    assert [(entry.step, entry.best, entry.last) for entry in entries] == [
        (6, False, False),
        (12, True, True),
    ]
    assert all(entry.validation_loss is None for entry in entries)


def test_a_checkpoint_file_is_found_by_its_own_path(path: Path) -> None:
    assert find_checkpoint(path) == find_checkpoint(path, "last") == find_checkpoint(path, 12) == path
    with pytest.raises(CheckpointError, match="no checkpoint at step 6; its checkpoints are at 12"):
        find_checkpoint(path, 6)


def test_a_missing_checkpoint_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at step 7; its checkpoints are at 6, .*12"):
        find_checkpoint(run, 7)
    with pytest.raises(CheckpointError, match=r"missing does not exist"):
        find_checkpoint(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="contains no run"):
        find_checkpoint(tmp_path)
    (tmp_path / "config.toml").touch()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)


# --- files that are not checkpoints ------------------------------------------------------------------------


def refusal(folder: Path, content: bytes) -> str:
    """The error message for a rejected file."""
    path = folder / "bad-step1.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


def test_a_checkpoint_truncated_anywhere_is_rejected(content: bytes, tmp_path: Path) -> None:
    size = 8 + int.from_bytes(content[:8], "little")
    for length in {0, 1, 7, 8, 9, size // 2, size - 1, size, size + 1, len(content) // 2, len(content) - 1}:
        refusal(tmp_path, content[:length])
    refusal(tmp_path, content + b"\0")


@given(st.data())
def test_a_checkpoint_with_one_flipped_bit_is_rejected_or_loads_unchanged(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    place = data.draw(st.integers(0, len(content) - 1))
    altered = bytearray(content)
    altered[place] ^= 1 << data.draw(st.integers(0, 7))
    path = folder / "file.safetensors"
    path.write_bytes(altered)
    try:
        loaded = load_checkpoint(path)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a refusal is one of two right outcomes
    else:  # a space of the header's padding, for one
        (folder / "whole.safetensors").write_bytes(content)
        whole = load_checkpoint(folder / "whole.safetensors")
        assert loaded.config == whole.config
        assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in whole.tensors.items())


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_is_rejected_and_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "saved.pt")
    for content in (pickle.dumps(_Harmful()), (tmp_path / "saved.pt").read_bytes()):
        assert "is a pickle" in refusal(tmp_path, content)
    assert not (tmp_path / "harm").exists()


def test_other_files_are_rejected(tmp_path: Path) -> None:
    foreign = safetensors.torch.save({"weight": torch.zeros(3)})
    assert "written by another program" in refusal(tmp_path, foreign)
    foreign = safetensors.torch.save({"weight": torch.zeros(3)}, {"charrnn": "hello"})
    assert "truncated or damaged" in refusal(tmp_path, foreign)
    assert "it is not a safetensors file" in refusal(tmp_path, b"To be, or not to be")
    assert "not a charrnn checkpoint" in refusal(tmp_path, (10**5).to_bytes(8, "little") + b"[" * 10**5)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path)


def with_values(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The checkpoint with another header and a matching hash."""
    from charrnn_trainer.runs import checkpoint as module

    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["charrnn"])
    del about["sha256"]
    change(about)
    tensors = safetensors.torch.load(content)
    with contextlib.suppress(ValueError):  # values that JSON cannot represent have no hash
        about["sha256"] = module._digest(about, safetensors.torch.save(tensors))
    return safetensors.torch.save(tensors, {"charrnn": json.dumps(about)})


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another version": lambda about: about.update(version=2),
    "a negative step": lambda about: about.update(step=-1),
    "a step in words": lambda about: about.update(step="twelve"),
    "a loss that is none": lambda about: about.update(validation_loss="low"),
    "a loss without end": lambda about: about.update(train_loss=1e999),
    "something without end": lambda about: about.update(more=1e999),
    "another kind": lambda about: about.update(kind="great"),
    "a missing key": lambda about: about.pop("window"),
    "half a window": lambda about: about.update(window=[1.0]),
    "an unknown setting": lambda about: about["config"]["network"].update(heads=8),
    "a huge layer": lambda about: about["config"]["network"].update(hidden_size=16_384),
    "an endless layer": lambda about: about["config"]["network"].update(hidden_size=10**12),
    "more layers": lambda about: about["config"]["network"].update(layers=3),
    "another cell": lambda about: about["config"]["network"].update(cell="gru"),
    "an embedding": lambda about: about["config"]["network"].update(embedding_size=8),
    "no embedding size": lambda about: about["config"]["network"].pop("embedding_size"),
    "more streams": lambda about: about["config"]["data"].update(batch_size=5),
    "more symbols": lambda about: about["vocabulary"]["symbols"].append("€"),
    "a symbol twice": lambda about: about["vocabulary"]["symbols"].__setitem__(0, "a"),
    "another level": lambda about: about["config"]["data"].update(level="byte"),
    "a corpus of less than nothing": lambda about: about["corpus"].update(train_tokens=-1),
    "a corpus beyond its end": lambda about: about["corpus"].update(train_tokens=10**9),
    "a corpus with more": lambda about: about["corpus"].update(author="Bacon"),
    "evaluations in words": lambda about: about.update(evaluations=["good"]),
    "no settings": lambda about: about.update(config=None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_header_is_rejected(content: bytes, tmp_path: Path, lie: str) -> None:
    refusal(tmp_path, with_values(content, LIES[lie]))


def test_the_same_header_rewritten_is_accepted(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    path.write_bytes(with_values(content, lambda about: None))
    assert load_checkpoint(path).step == 12


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.output.bias", torch.full((22,), float("nan"))),
        ("model.output.bias", torch.zeros(22, dtype=torch.float16)),
        ("model.output.bias", torch.zeros(21)),
        ("state.h", torch.zeros(2, 4, 9)),
        ("random.cpu", torch.zeros(5)),
        ("optimizer.output.bias.step", torch.tensor(float("inf"))),
        ("model.output.scale", torch.zeros(1)),
    ],
)
def test_a_tensor_that_does_not_fit_is_rejected(
    path: Path, tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    checkpoint = load_checkpoint(path)
    assert len(checkpoint.vocabulary) == 22
    copy = Checkpoint(**{**vars(checkpoint), "path": tmp_path / "copy.safetensors"})
    save_checkpoint(copy, {**checkpoint.tensors, name: tensor})
    assert name in refusal(tmp_path, copy.path.read_bytes())


def test_a_missing_tensor_is_rejected(path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(path)
    for name in ("model.output.bias", "state.c", "random.cpu"):
        copy = Checkpoint(**{**vars(checkpoint), "path": tmp_path / "copy.safetensors"})
        tensors = {other: tensor for other, tensor in checkpoint.tensors.items() if other != name}
        save_checkpoint(copy, tensors)
        assert name in refusal(tmp_path, copy.path.read_bytes())
