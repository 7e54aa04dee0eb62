"""The split: every character is either for training or for validation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.config import DataConfig, NetworkConfig
from charrnn_trainer.data.batches import Streams, fit_batch
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.split import Split, split_text
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint
from charrnn_trainer.training.api import train
from charrnn_trainer.training.events import Event, Started
from charrnn_trainer.training.validation import validation_loss
from tiny_runs import TINY

TOKENS = st.integers(32, 20_000)
FRACTIONS = st.floats(0.0, 0.9)


def held_out(split: Split) -> set[int]:
    """The positions of characters that are not for training."""
    training = set(split.places(np.arange(split.train_tokens)).tolist())
    assert len(training) == split.train_tokens  # each once
    return set(range(split.tokens)) - training


@given(TOKENS, FRACTIONS, st.sampled_from(["end", "spread"]))
def test_every_character_is_in_the_training_or_the_validation_text(
    tokens: int, fraction: float, way: str
) -> None:
    split = split_text(tokens, DataConfig(val_fraction=fraction, split=way))
    kept = held_out(split)
    assert len(kept) == split.validation_tokens
    share = tokens - int((1 - fraction) * tokens)
    assert share - max(1, split.blocks) < split.validation_tokens <= share
    rows = split.rows()
    scored = [int(begin) + place for begin in rows.begins for place in range(rows.length)]
    assert len(scored) == len(set(scored))
    assert set(scored) <= kept
    assert len(kept) - len(scored) < max(1, len(rows.begins))
    assert all(begin >= rows.warm_up for begin in rows.begins)


@given(TOKENS, FRACTIONS)
def test_the_default_split_holds_out_the_end(tokens: int, fraction: float) -> None:
    split = split_text(tokens, DataConfig(val_fraction=fraction))
    start = int((1 - fraction) * tokens)
    assert split.train_tokens == start
    np.testing.assert_array_equal(split.places(np.arange(start)), np.arange(start))


@given(TOKENS, st.floats(0.01, 0.9))
def test_blocks_are_spread_over_the_text_and_warmed_up_on_training_text(tokens: int, fraction: float) -> None:
    split = split_text(tokens, DataConfig(val_fraction=fraction, split="spread"))
    rows, kept = split.rows(), held_out(split)
    assert split.blocks == 1 or split.block >= 64
    assert split.blocks == 64 or split.validation_tokens < 64 * (split.blocks + 1) + split.blocks
    if split.blocks > 1:
        assert set(np.diff(rows.begins)) == {tokens // split.blocks}
        assert tokens - int(rows.begins[-1]) - split.block < split.blocks  # the last one is at the end
        warm = {int(begin) - back for begin in rows.begins for back in range(1, rows.warm_up + 1)}
        assert not warm & kept


@given(
    tokens=st.integers(64, 3_000),
    fraction=st.floats(0.01, 0.9),
    way=st.sampled_from(["end", "spread"]),
    seed=st.none() | st.integers(0, 9),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40)),
)
def test_no_validation_character_is_in_a_training_batch(
    tokens: int, fraction: float, way: str, seed: int | None, sizes: tuple[int, int]
) -> None:
    split = split_text(tokens, DataConfig(val_fraction=fraction, split=way))
    kept = np.array(sorted(held_out(split)))
    batch, length = fit_batch(split.train_tokens, *sizes)
    if 2 * batch * length > split.train_tokens:
        return
    streams = Streams(np.arange(tokens), batch, length, seed, split=split)
    seen: set[int] = set()
    for index in range(2 * streams.batches_per_pass + 1):
        inputs, targets = streams.batch(index)
        seen.update(inputs.ravel().tolist(), targets.ravel().tolist())
        whole = np.concatenate([inputs, targets[:, -1:]], axis=1)
        np.testing.assert_array_equal(whole[:, 1:], targets)
        follows = whole[:, 1:] - whole[:, :-1]
        assert set(np.unique(follows)) <= {1, 1 + split.block, 1 - tokens, 1 - tokens + split.block}
    assert not seen & set(kept.tolist())
    if seed is None:
        assert len(seen) > split.train_tokens - 2 * batch * length


def test_processes_share_the_rows_of_a_spread_split() -> None:
    split = split_text(5_000, DataConfig(split="spread"))
    whole = Streams(np.arange(5_000), 6, 7, 3, split=split)
    parts = [Streams(np.arange(5_000), 6, 7, 3, slice(2 * rank, 2 * rank + 2), split) for rank in range(3)]
    for index in (0, 5, whole.batches_per_pass + 1):
        together = np.concatenate([part.batch(index)[1] for part in parts])
        np.testing.assert_array_equal(together, whole.batch(index)[1])


@torch.no_grad()
def test_each_block_is_scored_after_its_own_warm_up() -> None:
    torch.manual_seed(3)
    network = CharNetwork(NetworkConfig("lstm", 1, 6), 5).eval()
    ids = np.random.RandomState(0).randint(0, 5, 3_000).astype(np.uint8)
    rows = split_text(3_000, DataConfig(val_fraction=0.4, split="spread")).rows()
    losses = []
    for begin in rows.begins:
        inputs = torch.from_numpy(ids[begin - rows.warm_up : begin + rows.length].astype(np.int64))
        logits, _ = network(inputs[np.newaxis], network.initial_state(1))
        scores = torch.log_softmax(logits[0], dim=1)
        losses += [-float(scores[place - 1, inputs[place]]) for place in range(rows.warm_up, len(inputs))]
    assert len(rows.begins) > 10
    assert validation_loss(network, ids, rows) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.nightly
def test_a_run_keeps_its_split_and_its_export_is_compared_on_the_same_blocks(tmp_path: Path) -> None:
    text = "".join(chr(97 + (7 * place * place + place // 900) % 19) for place in range(20_000))
    events: list[Event] = []
    config = TINY.replace(split="spread", val_fraction=0.3)
    train(config, Corpus.from_text(text), events.append, out=tmp_path / "run")
    split = split_text(20_000, config.data)
    (started,) = [event for event in events if isinstance(event, Started)]
    assert (started.train_tokens, started.validation_tokens) == (split.train_tokens, split.validation_tokens)
    checkpoint = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert checkpoint.config.data.split == "spread"
    assert checkpoint.corpus.train_tokens == split.train_tokens
    report = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision="int8")
    assert report.bits_per_character is not None
    assert checkpoint.validation_loss is not None
    assert report.bits_per_character[1] == pytest.approx(checkpoint.validation_loss / math.log(2), abs=1e-4)
