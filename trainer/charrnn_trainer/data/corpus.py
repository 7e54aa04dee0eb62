"""A text as token ids. They are in a file (`token_file`) and are mapped into memory, so that a text may be
larger than the memory; `scanning` makes that file.
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
"""The shortest text that can be trained on, in characters (at the byte level, in bytes)."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as token ids, and what is known of it.

    Attributes:
        ids: ``uint8 or uint16 [N]``, perhaps mapped from a file.
        vocabulary: which id is which symbol.
        name: what the text is called.
        sha256: the hash of the text's bytes as they were read.
        source: the path that it was read from, or the paths of several texts; None for the default corpus and
            for texts in memory.
        train_length: how many tokens at the start are for training, where that was settled when the text was
            read (of several texts, each keeps a part for validation); None otherwise.

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
        """The corpus of a text in memory.

        Raises:
            CharRNNError: the text is shorter than 32 characters, has one distinct character or too many, or
                holds half a surrogate pair.
        """
        vocabulary = Vocabulary.of_bytes() if level == "byte" else Vocabulary.from_text(text or "?")
        ids = vocabulary.encode(text, dtype=id_type(vocabulary))
        check_text(name, level, len(ids), _distinct(ids, len(vocabulary)))
        return cls(ids, vocabulary, name, hashlib.sha256(text.encode()).hexdigest())

    @classmethod
    def from_ids(cls, ids: NDArray[Any], vocabulary: Vocabulary, *, name: str = "tokens") -> Corpus:
        """The corpus of a text that is encoded already: ``ids`` is an integer array ``[N]``.

        It is copied, unless it cannot be written to and is of the type that the vocabulary asks for.

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
        """Map a file of ids into memory, which `scanning` or `save` wrote, after checking all its bytes.

        Raises:
            CharRNNError: the file is missing, cut, altered or something else.
        """
        info, ids = open_tokens(path)
        return cls(ids, info.vocabulary, info.name, info.sha256, info.source, info.train_length)

    def save(self, path: Path) -> Corpus:
        """Write the ids to a file, whole or not at all; gives the same corpus mapped from there."""
        info = TokensInfo(self.vocabulary, self.name, self.sha256, self.source, self.train_length)
        ids = write_tokens(path, info, len(self), windows(self.ids))
        return dataclasses.replace(self, ids=ids)

    def __len__(self) -> int:
        """N, the number of tokens."""
        return len(self.ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.ids, dtype=dtype, copy=copy)

    def train_tokens(self, val_fraction: float) -> int:
        """How many tokens are trained on: validation is the rest, the last ``val_fraction`` of the text."""
        if self.train_length is not None and val_fraction:
            return self.train_length
        return int((1.0 - val_fraction) * len(self))


def _distinct(ids: NDArray[Any], size: int) -> int:
    """How many different ones there are of ``ids [N]``, each below ``size``."""
    seen = np.zeros(size, dtype=np.bool_)
    for window in windows(ids):
        seen[window] = True
    return int(seen.sum())


def check_text(name: str, level: str, length: int, distinct: int) -> None:
    """Check that there is something to learn in a text of this length, with ``distinct`` distinct symbols.

    Raises:
        CharRNNError: it is too short, or has too few symbols or too many.
    """
    unit = "bytes" if level == "byte" else "characters"
    if length < MIN_LENGTH:
        found = f"only {length:,} {unit}" if length else "empty"
        raise CharRNNError(f"{name} is {found}; at least {MIN_LENGTH} {unit} are needed to train on")
    if distinct < 2 and level == "char":
        raise CharRNNError(
            f"{name} repeats one and the same character, so there is nothing to learn; give a text with at "
            "least two different characters"
        )
    if distinct > spec.MAX_VOCABULARY:
        raise CharRNNError(
            f"{name} has {distinct:,} distinct characters, but a model holds at most "
            f"{spec.MAX_VOCABULARY:,}; train on its bytes instead (level=byte)",
            "level",
        )
