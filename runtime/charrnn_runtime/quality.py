"""Measures of text quality: known words, passages copied from the training text, and diversity.

A **word** is a sequence of letters and marks (Unicode categories L and M) with single apostrophes inside
it, such as "o'er"; case is ignored. A **window** is a sequence of W characters; it is **copied** if the same
characters occur anywhere in the training text. **Distinct-n** is the number of distinct n-grams of words
divided by the number of n-grams (Li et al. 2016, "A diversity-promoting objective function for neural
conversation models"); it falls with the length of a text, so compare texts of equal length.

For models that generate **items**, one per line, `measure_items` counts repeated and listed items.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import SettingError
from charrnn_runtime.record import Record

DISTINCT = (1, 2, 3, 4)
"""The values of n for distinct-n."""

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, and therefore invertible modulo 2**64
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_PIECE = 1 << 20  # characters of the training text to hash at a time
_VERIFIED = 1 << 16  # windows to compare at a time


class TextQuality(Record):
    """The result of `Reference.measure`. A share is None if its denominator is 0.

    Attributes:
        characters: the number of characters.
        words: the number of words.
        known_words: the share of the words that occur in the training text.
        windows: the number of windows.
        copied_windows: the share of the windows that are copied from the training text.
        distinct: distinct-n for n = 1, 2, 3, 4.
    """

    characters: int
    words: int
    known_words: float | None
    windows: int
    copied_windows: float | None
    distinct: tuple[float | None, ...]


class ItemQuality(Record):
    """The result of `measure_items`. A share is None if its denominator is 0.

    Attributes:
        items: the number of items.
        repeated: the share of items that repeat an earlier one: 1 - distinct items / items.
        listed: the share of items that are in the list.
    """

    items: int
    repeated: float | None
    listed: float | None


def measure_items(items: Sequence[str], known: Collection[str]) -> ItemQuality:
    """Measure how many items repeat, and how many are in the training list.

    Args:
        items: the lines that a model generated, without line endings.
        known: the lines of the list; preferably a set.

    Examples:
        >>> found = measure_items(["emma", "ana", "emma", "lio"], {"emma", "olivia"})
        >>> found.repeated, found.listed
        (0.25, 0.5)
    """
    return ItemQuality(
        items=len(items),
        repeated=_share(len(items) - len(set(items)), len(items)),
        listed=_share(sum(item in known for item in items), len(items)),
    )


class Reference:
    """A training text to measure other texts against.

    Attributes:
        text: the training text.
        window: W, the length of a window in characters.

    Examples:
        >>> reference = Reference("The cat sat on the mat.", window=7)
        >>> found = reference.measure(["the mat sat on the hat."])
        >>> found.words, round(found.known_words, 3), found.windows, round(found.copied_windows, 3)
        (6, 0.833, 17, 0.529)
        >>> found.distinct[1:]
        (1.0, 1.0, 1.0)
    """

    def __init__(self, text: str, *, window: int = 50) -> None:
        """Store a training text.

        Raises:
            SettingError: the window is less than one character.
        """
        if window < 1:
            raise SettingError(f"window must be 1 character or more, not {window}")
        self.text = text
        self.window = window
        self._words = frozenset(_each_word(text))

    def measure(self, pieces: Sequence[str]) -> TextQuality:
        """Measure the quality of some pieces of text.

        Words, n-grams and windows never span two pieces. A word at the very end of a piece is not counted,
        since it may be truncated.
        """
        in_pieces = [_whole_words(piece) for piece in pieces]
        count = sum(map(len, in_pieces))
        known = sum(word in self._words for piece in in_pieces for word in piece)
        copied = self.copied(pieces)
        return TextQuality(
            characters=sum(map(len, pieces)),
            words=count,
            known_words=_share(known, count),
            windows=len(copied),
            copied_windows=_share(int(copied.sum()), len(copied)),
            distinct=tuple(_distinct(in_pieces, n) for n in DISTINCT),
        )

    def copied(self, pieces: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each window is copied: ``bool [windows]``, in order of the pieces.

        The hashes of the windows are looked up among those of the training text, which is hashed piece by
        piece to bound memory use; every match is then verified character by character.
        """
        codes = _code_points("".join(pieces))  # [N]
        windows = _window_starts(pieces, self.window)  # [windows], places in codes
        copied = np.zeros(len(windows), np.bool_)
        if not len(windows) or len(self.text) < self.window:
            return copied
        # One window represents all with the same hash; those that differ from it (hash collisions) are looked
        # up separately.
        hashes, first, which = np.unique(
            _hashes(codes, self.window)[windows], return_index=True, return_inverse=True
        )
        like_first = _same(codes, windows, codes, windows[first][which], self.window)  # [windows]
        found, doubtful = self._search(codes, windows[first], hashes)
        copied = found[which] & like_first
        for number in np.flatnonzero(~like_first | (doubtful & ~found)[which]).tolist():
            start = windows[number]
            copied[number] = _text(codes[start : start + self.window]) in self.text
        return copied

    def _search(
        self, codes: NDArray[np.uint32], windows: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which windows, given by positions and sorted hashes, are found; and which hit a hash collision."""
        found, doubtful = np.zeros((2, len(hashes)), np.bool_)
        for begin in range(0, len(self.text) - self.window + 1, _PIECE):
            piece = _code_points(self.text[begin : begin + _PIECE + self.window - 1])
            theirs = _hashes(piece, self.window)
            place = np.minimum(np.searchsorted(hashes, theirs), len(hashes) - 1)
            there = np.flatnonzero(hashes[place] == theirs)
            same = _same(codes, windows[place[there]], piece, there, self.window)
            found[place[there[same]]] = True
            doubtful[place[there[~same]]] = True
        return found, doubtful


def words(text: str) -> list[str]:
    """The words of a text, in order, case-folded."""
    return list(_each_word(text))


def _each_word(text: str) -> Iterator[str]:
    folded = text.casefold()
    letters = "".join(sorted(filter(_is_letter, set(folded))))
    if not letters:
        return iter(())
    run = f"[{re.escape(letters)}]+"
    found = re.finditer(f"{run}(?:['\N{RIGHT SINGLE QUOTATION MARK}]{run})*", folded)
    return (match[0] for match in found)


def _whole_words(piece: str) -> list[str]:
    found = words(piece)
    return found[:-1] if piece and _is_letter(piece[-1]) else found


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _distinct(in_pieces: Sequence[Sequence[str]], n: int) -> float | None:
    seen: set[tuple[str, ...]] = set()
    count = 0
    for piece in in_pieces:
        seen.update(_runs(piece, n))
        count += max(0, len(piece) - n + 1)
    return _share(len(seen), count)


def _runs(piece: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(piece[start:] for start in range(n)), strict=False)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _text(codes: NDArray[np.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def _window_starts(pieces: Sequence[str], window: int) -> NDArray[np.int64]:
    """The start of each window in the concatenation of all pieces."""
    starts = []
    begin = 0
    for piece in pieces:
        starts.append(np.arange(begin, begin + max(0, len(piece) - window + 1)))
        begin += len(piece)
    return np.concatenate(starts) if starts else np.zeros(0, np.int64)


def _hashes(codes: NDArray[np.uint32], window: int) -> NDArray[np.uint64]:
    """The hash of every window: ``uint32 [N]`` -> ``uint64 [N - W + 1]``.

    The hash of the window at i is the sum over j < W of codes[i + j] * BASE^j modulo 2^64 (Karp and Rabin
    1987), computed as a difference of prefix sums, multiplied by BASE^-i.
    """
    count = len(codes) - window + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * _powers(_BASE, len(codes)), out=sums[1:])
    hashes: NDArray[np.uint64] = (sums[window:] - sums[:count]) * _powers(_INVERSE, count)
    return hashes


def _powers(base: np.uint64, count: int) -> NDArray[np.uint64]:
    """1, base, base^2, ... modulo 2^64."""
    factors = np.full(count, base)
    factors[:1] = 1
    return np.cumprod(factors)


def _same(
    left: NDArray[np.uint32],
    left_starts: NDArray[np.int64],
    right: NDArray[np.uint32],
    right_starts: NDArray[np.int64],
    window: int,
) -> NDArray[np.bool_]:
    """Whether the windows at these positions are equal: ``bool [M]``."""
    same = np.ones(len(left_starts), np.bool_)
    for begin in range(0, len(same), _VERIFIED):
        part = slice(begin, begin + _VERIFIED)
        for offset in range(window):
            same[part] &= left[left_starts[part] + offset] == right[right_starts[part] + offset]
    return same
