"""Incremental decoding of ids to text."""

from __future__ import annotations

from itertools import pairwise
from typing import AnyStr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn_runtime import SettingError, Vocabulary
from charrnn_runtime.streaming import ByteStream, TextStream

ABC = Vocabulary("abc")
BYTES = Vocabulary.of_bytes()

few_letters = st.text("abc", max_size=60)
stops = st.one_of(st.none(), st.text("abc", min_size=1, max_size=5))
cuts = st.lists(st.integers(0, 60))


def _pieces(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(ids)), len(ids)]
    return [ids[begin:end] for begin, end in pairwise(edges)]


def _text(vocabulary: Vocabulary, ids: list[int], stop: str | None, cuts: list[int]) -> tuple[str, bool]:
    stream = TextStream(vocabulary, stop)
    text = "".join(stream.push(piece) for piece in _pieces(ids, cuts)) + stream.finish()
    return text, stream.stopped


def _until(text: AnyStr, stop: AnyStr | None) -> tuple[AnyStr, bool]:
    """The result of str.find or bytes.find."""
    end = -1 if stop is None else text.find(stop)
    return (text, False) if end < 0 else (text[:end], True)


@given(few_letters, stops, cuts)
@example("aab", "ab", [2])
@example("abab", "abac", [1, 2, 3])
def test_any_chunking_gives_the_text_up_to_the_stop_text(
    text: str, stop: str | None, cuts: list[int]
) -> None:
    assert _text(ABC, ABC.encode(text).tolist(), stop, cuts) == _until(text, stop)


any_bytes = st.one_of(
    st.binary(max_size=60), st.lists(st.sampled_from(b"ab\xc3\xa9\xe4\xb8\xad\xff")).map(bytes)
)
any_stop = st.one_of(st.none(), st.text("aé中\ufffd", min_size=1, max_size=3))


@given(any_bytes, any_stop, cuts)
def test_any_chunking_of_any_bytes_gives_the_same_bytes(
    data: bytes, stop: str | None, cuts: list[int]
) -> None:
    stream = ByteStream(BYTES, stop)
    given_out = b"".join(stream.push(piece) for piece in _pieces(list(data), cuts)) + stream.finish()
    assert (given_out, stream.stopped) == _until(data, None if stop is None else stop.encode())


@given(any_bytes, any_stop, cuts)
def test_the_text_of_any_bytes_is_decoded_with_replacement_up_to_the_stop_text(
    data: bytes, stop: str | None, cuts: list[int]
) -> None:
    before, stopped = _until(data, None if stop is None else stop.encode())
    assert _text(BYTES, list(data), stop, cuts) == (before.decode(errors="replace"), stopped)


@given(any_bytes, st.text("aé中", min_size=1, max_size=3))
def test_a_stop_text_is_found_in_bytes_exactly_if_it_is_in_their_text(data: bytes, stop: str) -> None:
    # Except with replacement characters, which can replace other bytes.
    assert _text(BYTES, list(data), stop, []) == _until(data.decode(errors="replace"), stop)


@given(any_bytes, cuts)
def test_every_chunk_of_text_is_complete_utf_8(data: bytes, cuts: list[int]) -> None:
    stream = TextStream(BYTES)
    given_out = ""
    for piece in _pieces(list(data), cuts):
        given_out += stream.push(piece)
        assert given_out.encode().decode() == given_out
        assert data.decode(errors="replace").startswith(given_out)


@given(st.text(max_size=30), st.one_of(st.none(), st.text(min_size=1, max_size=3)), cuts)
def test_the_bytes_of_characters_are_their_utf_8(text: str, stop: str | None, cuts: list[int]) -> None:
    text = text.encode(errors="ignore").decode() + "é"
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text).tolist()
    stream = ByteStream(vocabulary, stop)
    given_out = b"".join(stream.push(piece) for piece in _pieces(ids, cuts)) + stream.finish()
    assert (given_out.decode(), stream.stopped) == _until(text, stop) == _text(vocabulary, ids, stop, cuts)


@given(st.text("aé中\U0001f600", max_size=30), st.one_of(st.none(), st.text("aé中", min_size=1)), cuts)
def test_any_chunking_of_utf_8_gives_the_text_up_to_the_stop_text(
    text: str, stop: str | None, cuts: list[int]
) -> None:
    assert _text(BYTES, list(text.encode()), stop, cuts) == _until(text, stop)


@given(few_letters, stops)
def test_only_a_possible_prefix_of_the_stop_text_is_held_back(text: str, stop: str | None) -> None:
    stream = TextStream(ABC, stop)
    given_out = ""
    for count, letter in enumerate(text, 1):
        given_out += stream.push(ABC.encode(letter))
        whole, stopped = _until(text[:count], stop)
        held = whole[len(given_out) :]
        assert stopped == stream.stopped
        if stop is None or stopped:
            assert held == ""
        else:
            assert stop.startswith(held)


def test_an_incomplete_utf_8_sequence_is_held_back() -> None:
    stream = TextStream(BYTES)
    assert stream.push([0xE4]) == ""
    assert stream.push([0xB8]) == ""
    assert stream.push([0xAD]) == "中"
    assert stream.finish() == ""


def test_an_unfinished_utf_8_sequence_becomes_one_replacement_character() -> None:
    stream = TextStream(BYTES)
    assert stream.push([0x61, 0xE4, 0xB8]) == "a"
    assert stream.finish() == "\ufffd"


def test_bytes_that_are_not_utf_8_are_replaced_at_once() -> None:
    assert TextStream(BYTES).push([0xFF, 0x61]) == "\ufffda"


def test_a_possible_prefix_of_the_stop_text_is_output_at_the_end() -> None:
    stream = TextStream(ABC, "abc")
    assert stream.push(ABC.encode("cab")) == "c"
    assert stream.finish() == "ab"
    assert not stream.stopped


def test_output_after_the_stop_text_is_dropped() -> None:
    stream = TextStream(ABC, "b")
    assert stream.push(ABC.encode("abc")) == "a"
    assert stream.stopped
    assert stream.push(ABC.encode("aaa")) == ""
    assert stream.finish() == ""


def test_the_first_stop_text_counts() -> None:
    assert _text(ABC, ABC.encode("aabcabc").tolist(), "abc", [3]) == ("a", True)


def test_an_empty_stop_text_is_rejected() -> None:
    for kind in (TextStream, ByteStream):
        with pytest.raises(SettingError, match="stop must be a non-empty text"):
            kind(ABC, "")
