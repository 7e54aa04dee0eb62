"""charrnn-score on texts larger than memory: only a piece of them is in memory."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN, CharRNNError
from charrnn_runtime.cli import score as score_command
from charrnn_runtime.cli import score_rows, texts
from charrnn_runtime.compressed import Unpacked

PIECE = 2_000
PATH = Path("a text")
JSON_BITS = score_rows.Options("error", per_char=True, as_json=True)


class Repeated(io.RawIOBase):
    """A file with a text repeated up to a size, generated on read."""

    def __init__(self, text: str, size: int) -> None:
        self._unit, self._place = len(text.encode()), 0
        self._left = size // self._unit * self._unit  # ends at a character boundary
        self._text = text.encode() * (PIECE // self._unit + 2)

    def read(self, size: int = -1, /) -> bytes:
        assert 0 < size <= PIECE  # never the whole file
        piece = self._text[self._place :][: min(size, self._left)]
        self._left -= len(piece)
        self._place = (self._place + len(piece)) % self._unit
        return piece


class Characters:
    """A stream that only counts the bytes written to it."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, text: str) -> None:
        self.count += len(text)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_CHUNK", PIECE)
    monkeypatch.setattr(score_command, "_STRIDE", PIECE // 20)


def peak(models: list[CharRNN], text: str, size: int, **options: bool) -> int:
    """Peak memory while scoring a text of ``size`` bytes."""
    per_char, as_json = options.get("per_char", False), options.get("as_json", False)
    tracemalloc.start()
    try:
        file = Unpacked(Repeated(text, size), "a text")
        chosen = score_rows.Options("skip", per_char, as_json)
        score_command._score_whole(models, file, PATH, chosen, Characters(), False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("options", [{}, {"per_char": True}, {"per_char": True, "as_json": True}])
def test_a_long_text_takes_no_more_memory_than_a_short_one(lstm: CharRNN, options: dict[str, bool]) -> None:
    peak([lstm], "LORD of all", PIECE, **options)  # one-time allocations
    short = peak([lstm], "LORD of all", 4 * PIECE, **options)
    # Holding the text would take 8 more pieces; other allocations vary by one or two.
    assert peak([lstm], "LORD of all", 12 * PIECE, **options) < short + 4 * PIECE


@pytest.mark.usefixtures("small_pieces")
def test_models_with_different_block_sizes_share_a_text_in_bounded_memory(
    lstm: CharRNN, byte_model: CharRNN
) -> None:
    models = [lstm, byte_model]  # the first skips every ß, the second reads it as two bytes
    peak(models, "ßßßßa", PIECE)
    short = peak(models, "ßßßßa", 5 * PIECE)
    assert peak(models, "ßßßßa", 12 * PIECE) < short + 3 * PIECE


@pytest.mark.usefixtures("small_pieces")
def test_pieces_give_the_same_as_the_whole(lstm: CharRNN) -> None:
    text = "To be, or not to be: that is the question.\n" * 60
    stream, file = io.StringIO(), Unpacked(io.BytesIO(text.encode()), "a text")
    score_command._score_whole([lstm], file, PATH, JSON_BITS, stream, False)
    record = json.loads(stream.getvalue())
    whole = lstm.score(text)
    assert record["file"] == str(PATH)
    assert record["characters"] == len(text) == len(record["bits"])
    assert record["bits_per_character"] == pytest.approx(whole.bits_per_character, abs=1e-5)
    assert sum(record["bits"]) == pytest.approx(whole.bits_per_character * len(text), abs=0.1)


@pytest.mark.usefixtures("small_pieces")
def test_the_bits_of_the_second_model_follow_those_of_the_first(lstm: CharRNN, byte_model: CharRNN) -> None:
    text = "To be, or not to be: that is the question.\n" * 60
    stream, file = io.StringIO(), Unpacked(io.BytesIO(text.encode()), "a text")
    score_command._score_whole([lstm, byte_model], file, PATH, JSON_BITS, stream, False)
    record = json.loads(stream.getvalue())
    for name, model in (("bits", lstm), ("other_bits", byte_model)):
        assert len(record[name]) == len(text)
        assert sum(record[name]) * math.log(2) == pytest.approx(model.score(text).nats, abs=0.2)


@pytest.mark.parametrize("text", ["", "ß"])
def test_a_text_with_nothing_to_score_is_an_error(lstm: CharRNN, text: str) -> None:
    stream = io.StringIO()
    options = score_rows.Options("skip", per_char=True, as_json=True)
    with pytest.raises(CharRNNError, match="there is nothing to score in a text"):
        score_command._score_whole(
            [lstm], Unpacked(io.BytesIO(text.encode()), ""), PATH, options, stream, False
        )


@pytest.mark.usefixtures("small_pieces")
def test_an_unknown_character_is_reported_at_its_position_in_the_whole_text(lstm: CharRNN) -> None:
    file = Unpacked(io.BytesIO(("x" * 3 * PIECE + "ß").encode()), "a text")
    options = score_rows.Options("error", per_char=False, as_json=False)
    with pytest.raises(Exception, match=f"at position {3 * PIECE};"):
        score_command._score_whole([lstm], file, PATH, options, io.StringIO(), False)
