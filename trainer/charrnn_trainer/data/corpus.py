"""A text as token ids. The ids are memory-mapped from a file (`token_file`, written by `scanning`), so a text
may be larger than memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.vocabulary import Level, Vocabulary
from charrnn_trainer.data.token_file import Source, TokensInfo, id_type, open_tokens, windows, write_tokens

MIN_LENGTH: Final = 32
"""The minimum length of a text in characters (at the byte level, in bytes)."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as token ids, with its vocabulary and origin.

    Attributes:
        ids: ``uint8 or uint16 [N]``, possibly memory-mapped.
        vocabulary: the symbols by id.
        name: the name of the text.
        sha256: the hash of the text's original bytes.
        source: the path of the text, or the paths of several texts; None for the default corpus and for texts
            in memory.
        train_length: the number of tokens at the start for training, if the split was decided when the text
            was read (the end of each of several texts is held out); else None.

    Examples:
        >>> corpus = Corpus.from_text("to be, or not to be, that is the question")
        >>> len(corpus), len(corpus.vocabulary), corpus.ids.dtype.name
        (41, 14, 'uint8')
    """

    ids: NDArray[Any]
    vocabulary: Vocabulary
    name: str
    sha256: str
    source: Source | None = None
    train_length: int | None = None

    @classmethod
    def from_text(cls, text: str, *, level: Level = "char", name: str = "text") -> Corpus:
        """Build a corpus from a text in memory.

        Raises:
            CharRNNError: the text is shorter than 32 characters, has one distinct character or too many, or
                contains a lone surrogate.
        """
        vocabulary = Vocabulary.of_bytes() if level == "byte" else Vocabulary.from_text(text or "?")
        ids = vocabulary.encode(text, dtype=id_type(vocabulary))
        check_text(name, level, len(ids), _distinct(ids, len(vocabulary)))
        return cls(ids, vocabulary, name, hashlib.sha256(text.encode()).hexdigest())

    @classmethod
    def from_ids(cls, ids: NDArray[Any], vocabulary: Vocabulary, *, name: str = "tokens") -> Corpus:
        """Build a corpus from an encoded text: ``ids`` is an integer array ``[N]``.

        The array is copied, unless it is read-only and already of the vocabulary's id type.

        Raises:
            CharRNNError: there are fewer than 32 ids, or one is not in the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise CharRNNError(f"{name}: ids must be integers [N], not {ids.dtype} {list(ids.shape)}")
        digest = hashlib.sha256()
        for window in windows(ids):
            digest.update(vocabulary.decode_bytes(window))  # checks the range
        check_text(name, vocabulary.level, len(ids), _distinct(ids, len(vocabulary)))
        own = ids.astype(id_type(vocabulary), copy=ids.flags.writeable)
        return cls(own, vocabulary, name, digest.hexdigest())

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Memory-map a file of ids that `scanning` or `save` wrote, after checking all its bytes.

        Raises:
            CharRNNError: the file is missing, truncated, altered or not a file of tokens.
        """
        info, ids = open_tokens(path)
        return cls(ids, info.vocabulary, info.name, info.sha256, info.source, info.train_length)

    def save(self, path: Path) -> Corpus:
        """Write the ids to a file atomically; return the same corpus memory-mapped from it."""
        info = TokensInfo(self.vocabulary, self.name, self.sha256, self.source, self.train_length)
        ids = write_tokens(path, info, len(self), windows(self.ids))
        return dataclasses.replace(self, ids=ids)

    def __len__(self) -> int:
        """N, the number of tokens."""
        return len(self.ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.ids, dtype=dtype, copy=copy)

    def train_tokens(self, val_fraction: float) -> int:
        """The number of tokens for training; the rest, the last ``val_fraction``, is for validation."""
        if self.train_length is not None and val_fraction:
            return self.train_length
        return int((1.0 - val_fraction) * len(self))


def _distinct(ids: NDArray[Any], size: int) -> int:
    """The number of distinct values in ``ids [N]``, each below ``size``."""
    seen = np.zeros(size, dtype=np.bool_)
    for window in windows(ids):
        seen[window] = True
    return int(seen.sum())


def check_text(name: str, level: str, length: int, distinct: int) -> None:
    """Check that a text of this length, with ``distinct`` distinct symbols, can be trained on.

    Raises:
        CharRNNError: it is too short, or has too few or too many symbols.
    """
    unit = "bytes" if level == "byte" else "characters"
    if length < MIN_LENGTH:
        found = f"only {length:,} {unit}" if length else "empty"
        raise CharRNNError(f"{name} is {found}; at least {MIN_LENGTH} {unit} are needed to train on")
    if distinct < 2 and level == "char":
        raise CharRNNError(
            f"{name} repeats a single character, so there is nothing to learn; give a text with at least two "
            "distinct characters"
        )
    if distinct > spec.MAX_VOCABULARY:
        raise CharRNNError(
            f"{name} has {distinct:,} distinct characters, but a model supports at most "
            f"{spec.MAX_VOCABULARY:,}; train on its bytes instead (level=byte)",
            "level",
        )
