"""Scores of texts against the log-softmax in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from charrnn_runtime import CharRNN, OutOfMemoryError, Score, SettingError, UnknownCharacterError
from charrnn_runtime.backends.buffers import BLOCK, Buffers
from charrnn_runtime.scheduling import lane
from charrnn_runtime.scheduling.scheduler import CPU_ROWS
from charrnn_runtime.scoring import score_tokens
from make_models import FOLDER, SmallModel
from reference import naive_step

TEXT = "LORD of the text, who reads it all: from end to end!\nAnd then some."


def _naive(small: SmallModel, model: CharRNN, text: str) -> list[float]:
    weights, row = small.weights(), np.zeros(model.info.state_size)
    token, losses = model.info.start_token, []
    for following in model.vocabulary.encode(text).tolist():
        logits, row = naive_step(small.cell, small.layers, weights, token, row)
        losses.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following])
        token = following
    return losses


@pytest.mark.parametrize("text", ["a", TEXT, TEXT * 3, "x" * BLOCK, "y" * (BLOCK + 1)])
def test_losses_match_plain_numpy(exact: SmallModel, load: object, text: str) -> None:
    model: CharRNN = load(exact.path.stem)  # type: ignore[operator]
    score = model.score(text)
    expected = _naive(exact, model, text)
    np.testing.assert_allclose(score.per_character, expected, atol=3e-5)
    assert score.characters == len(text)
    assert score.nats == pytest.approx(sum(expected), abs=1e-3)
    assert score.bits_per_character == pytest.approx(sum(expected) / len(text) / math.log(2), abs=1e-4)
    assert score.perplexity == pytest.approx(math.exp(sum(expected) / len(text)), rel=1e-3)
    np.testing.assert_array_equal(np.concatenate(list(model.score_stream([text]))), score.per_character)


_models: list[CharRNN] = []


def _model() -> CharRNN:
    if not _models:
        _models.append(CharRNN.load(FOLDER / "gru-2x12-fp32.onnx", device="cpu"))
    return _models[0]


@settings(max_examples=30)
@given(
    st.lists(st.text("abc XYZ\n", max_size=90), max_size=30),
    st.integers(1, 40),
    st.sampled_from([1, 60, 10**6]),
)
def test_a_texts_score_does_not_depend_on_other_texts(texts: list[str], rows: int, held: int) -> None:
    model = _model()
    alone = [model.score(text).per_character.tolist() for text in texts]
    tokens = [model.vocabulary.encode(text) for text in texts]
    assert [
        losses.tolist() for losses in score_tokens(model._engine, tokens, max_batch_size=rows, held=held)
    ] == alone


@pytest.mark.parametrize("long_one", [0, 3, 39])
def test_a_long_text_among_short_ones_changes_no_score(
    monkeypatch: pytest.MonkeyPatch, long_one: int
) -> None:
    model = _model()
    texts = ["XYZ abc"[: number % 8] for number in range(40)]
    texts[long_one] = "abc XYZ\n" * 400
    alone = [model.score(text).per_character.tolist() for text in texts]
    tokens = [model.vocabulary.encode(text) for text in texts]
    asked = _watch_buffers(monkeypatch, model)
    assert [
        losses.tolist() for losses in score_tokens(model._engine, tokens, max_batch_size=8, held=400)
    ] == alone
    widths = [sizes["rows"] for sizes in asked]
    assert all(sizes["sampler"] is None for sizes in asked)
    assert 1 in widths
    assert max(widths) == 8
    if long_one == 0:
        assert widths.index(1) < len(widths) - 1  # and it widened again for the texts in the queue


def _watch_buffers(monkeypatch: pytest.MonkeyPatch, model: CharRNN) -> list[dict[str, Any]]:
    """A list of the sizes of all buffers that the model's engine lends."""
    engine, asked = model._engine, list[dict[str, Any]]()
    engine_buffers = type(engine).buffers

    def buffers(rows: int, **sizes: Any) -> object:
        asked.append({"rows": rows, **sizes})
        return engine_buffers(engine, rows, **sizes)

    monkeypatch.setattr(engine, "buffers", buffers)
    return asked


def test_an_invalid_batch_size_is_reported_before_a_score_is_requested(lstm: CharRNN) -> None:
    with pytest.raises(SettingError, match="max_batch_size"):
        lstm.score_each(["LORD"], max_batch_size=0)


def test_short_texts_of_different_lengths_share_blocks_of_several_steps(
    monkeypatch: pytest.MonkeyPatch, lstm: CharRNN
) -> None:
    blocks: list[int] = []
    run = Buffers.run

    def counted(self: Buffers, steps: int, *rest: Any) -> int:
        blocks.append(steps)
        return run(self, steps, *rest)

    monkeypatch.setattr(Buffers, "run", counted)
    lines = ["LORD of the text, who reads it all"[: 1 + number % 33] for number in range(600)]
    lstm.score(lines)
    assert all(steps % 8 == 0 for steps in blocks)
    read = sum(8 * math.ceil(len(line) / 8) for line in lines)
    assert sum(blocks) * CPU_ROWS < 1.3 * read + 8 * CPU_ROWS  # few rows are idle


def test_the_number_of_waiting_scores_is_bounded(lstm: CharRNN) -> None:
    drawn = 0

    def texts() -> Iterator[NDArray[np.int64]]:
        nonlocal drawn
        yield lstm.vocabulary.encode("LORD " * 400)
        for _ in range(5000):
            drawn += 1
            yield lstm.vocabulary.encode("LORD")

    scores = score_tokens(lstm._engine, texts(), max_batch_size=4, held=720)
    assert len(next(scores)) == 2000
    assert drawn <= 720 // 36 + 2 * 4  # each takes 4 characters, plus 32 for any score
    assert sum(len(losses) for losses in scores) == 5000 * 4


def test_out_of_memory_is_a_package_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()

    def without_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Buffers, "_run_straight", without_memory)
    with pytest.raises(OutOfMemoryError, match="out of memory on cpu in a batch of"):
        model.score(["abc", "X", "Y"])
    with pytest.raises(OutOfMemoryError, match="in a batch of one stream: close other programs, or use"):
        list(model.score_stream(["abc", "X"]))


def test_a_large_vocabulary_is_scored_in_shorter_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    texts = ["abc", "XYZ", "a", "", "bb"] * 3
    expected = [score.nats for score in model.score(texts)]
    monkeypatch.setattr(lane, "_LOGITS_BYTES", 30 * len(model.vocabulary) * 4)
    asked = _watch_buffers(monkeypatch, model)
    assert [score.nats for score in model.score(texts)] == expected
    assert all(sizes["steps"] * sizes["rows"] <= 30 for sizes in asked)


@settings(max_examples=30)
@given(st.text("abc XYZ\n", max_size=200), st.lists(st.integers(0, 200)))
def test_a_text_in_pieces_scores_the_same_as_the_whole(text: str, cuts: list[int]) -> None:
    model = _model()
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(edges)]
    parts = [part.tolist() for part in model.score_stream(pieces)]
    assert [len(part) for part in parts] == [len(piece) for piece in pieces]
    assert [loss for part in parts for loss in part] == model.score(text).per_character.tolist()


def test_a_piece_is_scored_before_the_next_is_read(lstm: CharRNN) -> None:
    asked = 0

    def pieces() -> Iterator[str]:
        nonlocal asked
        for _ in range(5):
            asked += 1
            yield "LORD" * 20

    for number, losses in enumerate(lstm.score_stream(pieces()), start=1):
        assert (asked, len(losses)) == (number, 80)


def test_scores_come_in_the_order_of_the_texts(lstm: CharRNN) -> None:
    texts = [TEXT[: length % len(TEXT)] for length in range(0, 7 * (CPU_ROWS + 40), 7)]
    scores = lstm.score(texts)
    assert [score.characters for score in scores] == [len(text) for text in texts]
    assert [score.nats for score in scores] == [lstm.score(text).nats for text in texts]


def test_empty_texts_score_nothing(lstm: CharRNN) -> None:
    empty = lstm.score("")
    assert (empty.characters, empty.nats, empty.bits_per_character, empty.perplexity) == (0, 0.0, 0.0, 1.0)
    assert [score.characters for score in lstm.score(["", "a", "", "", "bc"])] == [0, 1, 0, 0, 2]
    assert lstm.score([]) == []
    assert [score.characters for score in lstm.score([""] * 200)] == [0] * 200
    assert list(lstm.score_stream([])) == []
    assert [len(losses) for losses in lstm.score_stream(["", ""])] == [0, 0]


def test_texts_are_read_lazily(lstm_path: Path) -> None:
    model = CharRNN.load(
        lstm_path, device="cpu", threads=1
    )  # with more, others may finish before the first text
    drawn = 0

    def texts() -> Iterator[str]:
        nonlocal drawn
        for _ in range(5000):
            drawn += 1
            yield "LORD"

    scores = model.score_each(texts())
    next(scores)
    assert drawn < 3 * CPU_ROWS


def test_unknown_characters_are_an_error_or_skipped(lstm: CharRNN) -> None:
    with pytest.raises(UnknownCharacterError):
        lstm.score("aßb")
    assert lstm.score("aßb", unknown="skip").nats == lstm.score("ab").nats
    with pytest.raises(UnknownCharacterError, match=r"'ß' \(U\+00DF\) at position 5;"):
        list(lstm.score_stream(["ab", "", "cdeß", "ß"]))
    skipped = list(lstm.score_stream(["aß", "ß", "b"], unknown="skip"))
    assert np.concatenate(skipped).tolist() == lstm.score("ab").per_character.tolist()


def test_losses_stay_finite_for_a_confident_model() -> None:
    score = Score.of(np.array([800.0, 900.0], np.float32))
    assert math.isfinite(score.perplexity)
    assert score.bits_per_character == pytest.approx(850 / math.log(2))


def test_bytes_are_scored_at_the_byte_level(byte_model: CharRNN) -> None:
    assert byte_model.score("é中").characters == 5


def test_uniform_probabilities_give_the_logarithm_of_the_vocabulary_size(lstm: CharRNN) -> None:
    total: NDArray[np.float64] = np.zeros(())
    step = lstm.step(lstm.initial_state())
    for symbol in lstm.vocabulary.symbols:
        total = total + math.exp(-lstm.score(symbol).nats)
    assert float(total) == pytest.approx(1.0, abs=1e-5)  # a distribution over the first character
    assert step.logits.shape == (1, 65)
