"""The validation loss: every held-out character once, each row warmed up, without side effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn_trainer.config import NetworkConfig
from charrnn_trainer.data import split
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.training import validation
from charrnn_trainer.training.validation import cold_loss, validation_loss, validation_rows

VOCABULARY = 5


@pytest.fixture(scope="module")
def network() -> CharNetwork:
    torch.manual_seed(3)
    network = CharNetwork(NetworkConfig("lstm", 1, 6, dropout=0.5), VOCABULARY)
    with torch.no_grad():
        network.output.weight.mul_(4.0)
    return network


def naive_loss(network: CharNetwork, ids: np.ndarray, start: int) -> float:
    """Row by row, following the definition."""
    network.eval()
    rows, length, warm_up = validation_rows(len(ids), start)
    losses = []
    with torch.no_grad():
        for row in range(rows):
            first = start + row * ((len(ids) - start) // rows)
            inputs = torch.from_numpy(ids[first - warm_up : first + length].astype(np.int64))
            logits, _ = network(inputs[np.newaxis], network.initial_state(1))
            scores = torch.log_softmax(logits[0], dim=1)
            for place in range(length):
                losses.append(-float(scores[warm_up + place - 1, inputs[warm_up + place]]))
    network.train()
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("tokens", "start"), [(32, 28), (100, 90), (700, 630), (2_000, 1_800), (7_000, 6_000), (9_000, 1_000)]
)
@pytest.mark.parametrize("chunk", [1, 100, 256])
def test_the_loss_follows_its_definition(
    network: CharNetwork, monkeypatch: pytest.MonkeyPatch, tokens: int, start: int, chunk: int
) -> None:
    if chunk == 1 and tokens > 1_000:
        pytest.skip("a step at a time is slow, and shows nothing new on a longer text")
    monkeypatch.setattr(validation, "_CHUNK", chunk)
    ids = np.random.RandomState(tokens).randint(0, VOCABULARY, tokens).astype(np.uint8)
    assert validation_loss(network, ids, start) == pytest.approx(naive_loss(network, ids, start), rel=1e-5)


@given(st.integers(32, 3_000_000), st.floats(0.0, 0.9, exclude_min=True))
def test_rows_cover_the_held_out_text_except_a_remainder(tokens: int, fraction: float) -> None:
    start = int((1 - fraction) * tokens)
    if start == tokens:
        return
    rows, length, warm_up = validation_rows(tokens, start)
    assert 1 <= rows <= 64
    assert length == min((tokens - start) // rows, 32_768)
    assert rows == 1 or length >= 64
    assert rows == 64 or length < 128
    assert warm_up == min(512, start) >= 1


def test_only_the_beginning_of_long_rows_is_read(
    network: CharNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "MAX_ROW", 70)
    ids = np.random.RandomState(1).randint(0, VOCABULARY, 9_000).astype(np.uint8)
    assert validation_rows(9_000, 1_000) == (64, 70, 512)
    assert validation_loss(network, ids, 1_000) == pytest.approx(naive_loss(network, ids, 1_000), rel=1e-5)


def test_tinyshakespeare_is_cut_into_64_rows() -> None:
    assert validation_rows(1_115_394, 1_003_854) == (64, 1_742, 512)


def test_evaluation_changes_neither_the_network_nor_the_random_numbers(network: CharNetwork) -> None:
    ids = np.arange(200, dtype=np.uint8) % VOCABULARY
    before = torch.get_rng_state()
    losses = {validation_loss(network, ids, 150) for _ in range(2)}
    assert len(losses) == 1
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_large_vocabulary_is_evaluated_in_shorter_pieces(
    network: CharNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.arange(900, dtype=np.uint8) % VOCABULARY
    whole = validation_loss(network, ids, 450)
    monkeypatch.setattr(validation, "_LOGITS", 1)  # no room for logits: one step at a time
    assert validation_loss(network, ids, 450) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("tokens", [1_000, 1_006, 1_007, 2_000])
def test_the_cold_loss_reads_windows_from_a_zero_state(network: CharNetwork, tokens: int) -> None:
    ids = np.random.RandomState(tokens).randint(0, VOCABULARY, tokens).astype(np.uint8)
    start, window = 900, 7
    losses = []
    network.eval()
    for first in range(start, tokens - window, window):
        inputs = torch.from_numpy(ids[first : first + window + 1].astype(np.int64))
        with torch.no_grad():
            logits, _ = network(inputs[np.newaxis, :-1], network.initial_state(1))
        losses.append(torch.nn.functional.cross_entropy(logits[0], inputs[1:]).item())
    network.train()
    assert cold_loss(network, ids, start, window) == pytest.approx(np.mean(losses), rel=1e-5)
    assert network.training


def test_a_text_too_short_for_a_cold_window_is_rejected(network: CharNetwork) -> None:
    with pytest.raises(ValueError, match="10 characters do not fill a window of 10"):
        cold_loss(network, np.zeros(100, np.uint8), 90, 10)
