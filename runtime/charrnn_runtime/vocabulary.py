"""The vocabulary: maps symbols to ids.

At level "char", the symbols are Unicode code points; at level "byte", they are the 256 byte values of the
UTF-8 form, so every text can be encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import choice, ids_array, several, shown, wrong
from charrnn_runtime.arguments import text as check_text
from charrnn_runtime.errors import CharRNNError, SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.normalization import equivalents, known_form
from charrnn_runtime.record import Reconstructible

Level = Literal["char", "byte"]
Unknown = Literal["error", "skip", "normalize"]
"""How to handle unknown characters: raise an error, drop them, or convert them to their other Unicode form
(composed or decomposed) if the model knows that, and raise an error otherwise."""

_CODE_POINTS = 0x110000
_ABSENT = -1


class Vocabulary(Reconstructible):
    """Maps text to ids and back.

    Ids count from 0 in the order of ``symbols``. Vocabularies are immutable; two are equal if their level and
    symbols are.

    Examples:
        >>> vocabulary = Vocabulary.from_text("hello")
        >>> vocabulary.symbols
        ('e', 'h', 'l', 'o')
        >>> vocabulary.encode("hole").tolist()
        [1, 3, 2, 0]
        >>> vocabulary.decode([1, 0, 2, 2, 3])
        'hello'
    """

    def __init__(self, symbols: Sequence[str], level: Level = "char") -> None:
        """Create a vocabulary from symbols in id order; at level "byte", from the 256 bytes.

        Raises:
            CharRNNError: a symbol is not a single character, appears twice, or is a lone surrogate; there are
                no or too many symbols; or symbols were given at level "byte", which has its own.
        """
        choice("level", level, spec.LEVELS)
        self.level: Level = level
        given = symbols if isinstance(symbols, str) else several("symbols", symbols, "characters")
        self.symbols: tuple[str, ...] = tuple(given)
        if level == "byte":
            if self.symbols:
                raise CharRNNError("vocabulary: the byte level has its own 256 symbols; give no others")
            self._size = spec.BYTE_VOCABULARY
            return
        _check_symbols(self.symbols)
        self._size = len(self.symbols)
        self._codes = np.array([ord(symbol) for symbol in self.symbols], dtype="<u4")  # [V]
        self._ids = np.full(int(self._codes.max()) + 2, _ABSENT, dtype=np.int32)  # code point -> id
        self._ids[self._codes] = np.arange(self._size, dtype=np.int32)

    @classmethod
    def from_text(cls, text: str | Iterable[str]) -> Vocabulary:
        """The distinct characters of a text (or of its pieces), in code-point order.

        Raises:
            CharRNNError: the text is empty, or has more distinct characters than a model can have.
        """
        seen = np.zeros(_CODE_POINTS, dtype=np.bool_)
        for piece in (text,) if isinstance(text, str) else several("text", text, "texts"):
            check_text("text", piece, "char")
            seen[_code_points(piece)] = True
        return cls([chr(code) for code in np.flatnonzero(seen)])

    @classmethod
    def of_bytes(cls) -> Vocabulary:
        """The vocabulary of all 256 bytes."""
        return cls((), "byte")

    def _made_of(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "level": self.level}

    def __len__(self) -> int:
        """V, the number of symbols."""
        return self._size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.level == other.level and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash((self.level, self.symbols))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} symbols, level={self.level!r})"

    @property
    def codes(self) -> NDArray[np.uint32]:
        """The code point of each symbol, ``uint32 [V]`` little-endian; at level "byte", each byte."""
        codes = np.arange(self._size, dtype="<u4") if self.level == "byte" else self._codes.view()
        codes.flags.writeable = False
        return codes

    @property
    def start_token(self) -> int:
        """The id that a stream without a prompt reads first: the newline's, or 0 if there is no newline."""
        if self.level == "byte":
            return ord("\n")
        return self.symbols.index("\n") if "\n" in self.symbols else 0

    def encode(self, text: str | bytes, unknown: Unknown = "error", dtype: Any = np.int64) -> NDArray[Any]:
        """Encode a text.

        Args:
            text: any text. Lone surrogates are unknown at both levels. At the byte level, it may be bytes,
                which are used unchanged.
            unknown: how to handle characters without an id: "error", "skip" to drop them, or "normalize" to
                convert them as `normalize` does.
            dtype: the integer type of the result; it must be able to hold V - 1.

        Returns:
            ``dtype [T]``, one id per character (at the byte level, one per byte of the UTF-8 form).

        Raises:
            UnknownCharacterError: the text has unknown characters, and ``unknown`` is not "skip".
            SettingError: the argument is not a text, such as bytes at the character level.
        """
        check_unknown(unknown)
        check_text("text", text, self.level)
        dtype = self._integer_type(dtype)
        if isinstance(text, bytes):
            return np.frombuffer(text, dtype=np.uint8).astype(dtype)
        if unknown == "normalize":
            text = self.normalize(text)
        codes = _code_points(text)  # [T]
        if self.level == "byte":
            lone = (codes >= 0xD800) & (codes <= 0xDFFF)
            if not lone.any():
                return np.frombuffer(text.encode(), dtype=np.uint8).astype(dtype)
            if unknown != "skip":
                raise self._unknown_error(text, codes, lone)
            return np.frombuffer(text.encode(errors="ignore"), dtype=np.uint8).astype(dtype)
        # Code points beyond the table map to its last entry, which is absent.
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        absent = ids == _ABSENT
        if absent.any():
            if unknown != "skip":
                raise self._unknown_error(text, codes, absent)
            ids = ids[~absent]
        return ids.astype(dtype)

    def unknown_characters(self, text: str | bytes) -> list[str]:
        """The distinct characters of ``text`` that have no id, in the order of their first appearance."""
        try:
            self.encode(text)
        except UnknownCharacterError as error:
            return list(error.characters)
        return []

    def normalize(self, text: str) -> str:
        """Convert unknown characters to their other Unicode form, if that is known.

        "é" may be one character, or two: "e" and a combining accent. If one form has no id, the other
        may have one. Characters that are known, or unknown in both forms, are unchanged.
        """
        check_text("text", text, "char")
        if self.level == "byte":
            return text
        codes = _code_points(text)
        absent = self._ids[np.minimum(codes, len(self._ids) - 1)] == _ABSENT
        return known_form(text, np.flatnonzero(absent).tolist(), self._knows) if absent.any() else text

    def _integer_type(self, dtype: Any) -> np.dtype[Any]:
        kind: np.dtype[Any]
        try:
            kind = np.dtype(dtype)
        except (TypeError, ValueError):
            kind = np.dtype(np.float64)
        if kind.kind not in "iu" or np.iinfo(kind).max < len(self) - 1:
            raise wrong("dtype", f"an integer type that can hold {len(self) - 1:,}", dtype)
        return kind

    def _knows(self, text: str) -> bool:
        codes = _code_points(text)
        return bool((self._ids[np.minimum(codes, len(self._ids) - 1)] != _ABSENT).all())

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Decode ids.

        At the byte level, invalid UTF-8 becomes U+FFFD, one for each maximal part of a sequence (Unicode 16,
        section 3.9, "substitution of maximal subparts"); `decode_bytes` returns the raw bytes.

        Raises:
            CharRNNError: an id is not in [0, V).
        """
        if self.level == "byte":
            return self.decode_bytes(ids).decode(errors="replace")
        return self._codes[self._checked(ids)].tobytes().decode("utf-32-le")

    def decode_bytes(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Decode ids to UTF-8; at the byte level, to the raw bytes, valid UTF-8 or not."""
        if self.level == "byte":
            return self._checked(ids).astype(np.uint8).tobytes()
        return self.decode(ids).encode()

    def _checked(self, ids: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        array = ids_array("ids", ids)
        if array.size and not (array.min() >= 0 and array.max() < len(self)):
            wrong = array[(array < 0) | (array >= len(self))][0]
            raise CharRNNError(f"id {wrong} is not in the vocabulary: ids range from 0 to {len(self) - 1}")
        return array.astype(np.int64, copy=False)

    def _unknown_error(
        self, text: str, codes: NDArray[np.uint32], absent: NDArray[np.bool_]
    ) -> UnknownCharacterError:
        positions = np.flatnonzero(absent)
        begin, end, form = 0, 0, ""
        if self.level == "char":
            found = equivalents(text, positions[:1000].tolist(), self._knows)
            begin, end, form = next(found, (begin, end, form))
        _, first = np.unique(codes[positions], return_index=True)
        positions = positions[np.sort(first)]
        characters = [chr(codes[position]) for position in positions]
        return UnknownCharacterError(
            characters,
            [int(position) for position in positions],
            len(self),
            written=text[begin:end],
            known_as=form,
        )


def check_unknown(unknown: Any) -> Unknown:
    """Check a value for handling unknown characters.

    Raises:
        SettingError: it is not one of `spec.UNKNOWN`.
    """
    choice("unknown", unknown, spec.UNKNOWN)
    return unknown  # type: ignore[no-any-return]


def _code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, ``uint32 [T]``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _check_symbols(symbols: tuple[str, ...]) -> None:
    if not symbols:
        raise CharRNNError("vocabulary: it has no symbols; at least one is required")
    if len(symbols) > spec.MAX_VOCABULARY:
        raise CharRNNError(
            f"vocabulary: {len(symbols):,} distinct characters, but a model can have at most "
            f'{spec.MAX_VOCABULARY:,}; train at the byte level instead (level="byte")',
            "level",
        )
    seen: set[str] = set()
    for index, symbol in enumerate(symbols):
        if not isinstance(symbol, str) or len(symbol) != 1:
            raise SettingError(
                f"vocabulary: symbol {index} must be one character, not {shown(symbol)} (in symbols)",
                "symbols",
            )
        if 0xD800 <= ord(symbol) <= 0xDFFF:
            raise CharRNNError(f"vocabulary: symbol {index} is {symbol!r}, a lone surrogate")
        if symbol in seen:
            raise CharRNNError(f"vocabulary: {symbol!r} appears twice")
        seen.add(symbol)
