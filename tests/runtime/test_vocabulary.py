"""Symbols to ids and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime import CharRNNError, UnknownCharacterError, Vocabulary
from charrnn_runtime.format import spec

# Every code point except surrogates, which encoded text cannot contain.
unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
any_text = st.text()


@given(unicode_text.filter(bool))
def test_any_text_round_trips_through_its_vocabulary(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text)
    assert ids.shape == (len(text),)
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode_bytes(ids) == text.encode()


@given(unicode_text)
def test_any_text_round_trips_at_the_byte_level(text: str) -> None:
    vocabulary = Vocabulary.of_bytes()
    ids = vocabulary.encode(text)
    assert ids.tolist() == list(text.encode())
    assert vocabulary.decode(ids) == text


@given(unicode_text.filter(bool))
def test_symbols_are_the_distinct_characters_in_code_point_order(text: str) -> None:
    assert Vocabulary.from_text(text).symbols == tuple(sorted(set(text)))


@given(st.lists(unicode_text).filter(any))
def test_chunks_give_the_vocabulary_of_the_whole(pieces: list[str]) -> None:
    assert Vocabulary.from_text(iter(pieces)) == Vocabulary.from_text("".join(pieces))


@given(st.lists(st.integers(0, 255)))
def test_any_bytes_round_trip(ids: list[int]) -> None:
    vocabulary = Vocabulary.of_bytes()
    assert vocabulary.decode_bytes(ids) == bytes(ids)
    assert vocabulary.decode(ids) == bytes(ids).decode(errors="replace")


@given(unicode_text.filter(bool), any_text)
def test_unknown_characters_are_named_with_their_first_positions(known: str, text: str) -> None:
    vocabulary = Vocabulary.from_text(known)
    expected = list(dict.fromkeys(c for c in text if c not in known))
    assert vocabulary.unknown_characters(text) == expected
    if expected:
        with pytest.raises(UnknownCharacterError) as caught:
            vocabulary.encode(text)
        assert caught.value.characters == tuple(expected)
        assert caught.value.positions == tuple(text.index(c) for c in expected)
        message = str(caught.value)
        assert repr(expected[0]) in message
        assert f"U+{ord(expected[0]):04X}" in message
        assert f"position {text.index(expected[0])}" in message
        assert message.isprintable()


@given(unicode_text.filter(bool), any_text)
def test_skip_drops_only_the_unknown_characters(known: str, text: str) -> None:
    vocabulary = Vocabulary.from_text(known)
    kept = "".join(c for c in text if c in known)
    assert vocabulary.decode(vocabulary.encode(text, "skip")) == kept


def test_many_unknown_characters_are_counted_and_not_all_listed() -> None:
    with pytest.raises(UnknownCharacterError, match=r"and 21 more; its vocabulary has 1 characters"):
        Vocabulary("a").encode("bcdefghijklmnopqrstuvwxyzå")


def test_lone_surrogates_are_unknown_at_the_byte_level_too() -> None:
    vocabulary = Vocabulary.of_bytes()
    with pytest.raises(UnknownCharacterError) as caught:
        vocabulary.encode("ab\ud800")
    assert caught.value.characters == ("\ud800",)
    assert caught.value.positions == (2,)
    assert vocabulary.encode("a\udfffb", "skip").tolist() == [97, 98]


def test_a_byte_prompt_is_utf_8() -> None:
    assert Vocabulary.of_bytes().encode("é中").tolist() == [0xC3, 0xA9, 0xE4, 0xB8, 0xAD]


@given(st.binary())
def test_the_byte_level_accepts_any_bytes_unchanged(data: bytes) -> None:
    vocabulary = Vocabulary.of_bytes()
    assert vocabulary.encode(data).tolist() == list(data)
    assert vocabulary.decode_bytes(vocabulary.encode(data, "skip", np.uint8)) == data
    assert vocabulary.unknown_characters(data) == []


def test_the_character_level_rejects_bytes() -> None:
    with pytest.raises(CharRNNError, match="reads characters, not bytes"):
        Vocabulary("abc").encode(b"abc")


def test_code_points_far_beyond_the_highest_symbol_are_unknown() -> None:
    assert Vocabulary("abc").unknown_characters("c\U0010ffffd") == ["\U0010ffff", "d"]


def test_ids_follow_the_given_order() -> None:
    vocabulary = Vocabulary("zay")
    assert vocabulary.encode("ayz").tolist() == [1, 2, 0]
    assert len(vocabulary) == 3


@pytest.mark.parametrize(("symbols", "start"), [("a\nb", 1), ("ba", 0), ("\n", 0)])
def test_the_start_token_is_the_newline_or_else_the_first_symbol(symbols: str, start: int) -> None:
    assert Vocabulary(symbols).start_token == start


def test_the_byte_level_starts_with_a_newline() -> None:
    assert Vocabulary.of_bytes().start_token == 10


def test_ids_have_the_requested_type() -> None:
    assert Vocabulary("ab").encode("ba", dtype=np.uint8).dtype == np.uint8
    assert Vocabulary.of_bytes().encode("ba", dtype=np.uint16).dtype == np.uint16


@pytest.mark.parametrize("ids", [[3], [-1], [0, 2**40]])
def test_ids_outside_the_vocabulary_are_rejected(ids: list[int]) -> None:
    with pytest.raises(CharRNNError, match=r"ids range from 0 to 2"):
        Vocabulary("abc").decode(ids)


def test_the_empty_text_is_accepted() -> None:
    for vocabulary in (Vocabulary("a"), Vocabulary.of_bytes()):
        assert vocabulary.encode("").shape == (0,)
        assert vocabulary.decode([]) == ""
        assert vocabulary.unknown_characters("") == []


@pytest.mark.parametrize(
    ("symbols", "level", "message"),
    [
        ([], "char", "no symbols"),
        (["a", "a"], "char", "'a' appears twice"),
        (["a", "bc"], "char", "symbol 1 must be one character"),
        (["a", ""], "char", "symbol 1 must be one character"),
        (["a", 7], "char", "symbol 1 must be one character"),
        (["\ud800"], "char", "a lone surrogate"),
        (["a"], "byte", "give no others"),
        (["a"], "word", "level must be char or byte"),
        ([chr(0x10000 + i) for i in range(spec.MAX_VOCABULARY + 1)], "char", "65,537 distinct"),
    ],
)
def test_invalid_symbols_are_rejected(symbols: list[str], level: str, message: str) -> None:
    with pytest.raises(CharRNNError, match=message):
        Vocabulary(symbols, level)  # type: ignore[arg-type]


def test_the_largest_vocabulary_works() -> None:
    symbols = [chr(0x10000 + i) for i in range(spec.MAX_VOCABULARY)]
    vocabulary = Vocabulary(symbols)
    assert vocabulary.decode(vocabulary.encode(symbols[-1] + symbols[0])) == symbols[-1] + symbols[0]


def test_an_empty_text_has_no_vocabulary() -> None:
    with pytest.raises(CharRNNError, match="no symbols"):
        Vocabulary.from_text("")


def test_a_text_with_a_lone_surrogate_has_no_vocabulary() -> None:
    with pytest.raises(CharRNNError, match="a lone surrogate"):
        Vocabulary.from_text("a\ud800")


def test_unknown_must_be_error_or_skip() -> None:
    with pytest.raises(CharRNNError, match="must be"):
        Vocabulary("a").encode("a", "ignore")  # type: ignore[arg-type]


def test_vocabularies_are_equal_by_level_and_symbols() -> None:
    assert Vocabulary("ab") == Vocabulary(("a", "b"))
    assert hash(Vocabulary("ab")) == hash(Vocabulary(("a", "b")))
    assert Vocabulary("ab") != Vocabulary("ba")
    assert Vocabulary.of_bytes() != Vocabulary([chr(i) for i in range(256)])
    assert Vocabulary("ab") != "ab"


def test_str_subclasses_are_text() -> None:
    class Name(str):
        __slots__ = ()

    assert Vocabulary("ab").encode(Name("ba")).tolist() == [1, 0]


def test_the_code_points_match_the_symbols_and_are_read_only() -> None:
    for vocabulary, wanted in ((Vocabulary("bä☃"), [98, 228, 0x2603]), (Vocabulary.of_bytes(), range(256))):
        assert vocabulary.codes.tolist() == list(wanted)
        with pytest.raises(ValueError, match="read-only"):
            vocabulary.codes[0] = 1
    assert Vocabulary("bä☃").codes[[1, 0]].tobytes().decode("utf-32-le") == "äb"
