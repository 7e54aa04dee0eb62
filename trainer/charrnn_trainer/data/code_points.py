"""The code points or bytes of a piece of text, and their ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data.token_file import id_type

_CODE_POINTS: Final = 0x110000


def codes_of(piece: str | bytes) -> NDArray[Any]:
    """The code points of a piece, ``uint32 [n]``, or at level "byte" its bytes, ``uint8 [n]``."""
    if isinstance(piece, bytes):
        return np.frombuffer(piece, dtype=np.uint8)
    return np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")


def distinct_codes(pieces: Iterable[str | bytes], level: str) -> NDArray[np.intp]:
    """The distinct code points, or at level "byte" the distinct bytes, in ascending order."""
    seen = np.zeros(256 if level == "byte" else _CODE_POINTS, dtype=np.bool_)
    for piece in pieces:
        codes = codes_of(piece)
        if not np.take(seen, codes, mode="clip").all():  # three times as fast as always setting them
            seen[codes] = True
    return np.flatnonzero(seen)


def id_of_codes(vocabulary: Vocabulary) -> NDArray[Any]:
    """The id of each code point, or at level "byte" of each byte; 0 for those without an id."""
    if vocabulary.level == "byte":
        return np.arange(256, dtype=id_type(vocabulary))
    ids = np.zeros(_CODE_POINTS, dtype=id_type(vocabulary))
    ids[[ord(symbol) for symbol in vocabulary.symbols]] = np.arange(len(vocabulary))
    return ids
