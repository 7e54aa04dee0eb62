"""Any text -> token ids on disk, and the part of them that is kept for validation.

A text is read twice, in pieces: once to learn its symbols (`scan_text`), once to encode it
(`ScannedText.encode_to`). The ids lie in a file (`token_file`) and are mapped into memory, so that a text may
be larger than the memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.vocabulary import Level, Vocabulary
from charrnn_trainer.data.text_source import Pieces, Progress, TextSource
from charrnn_trainer.data.token_file import TokensInfo, id_type, open_tokens, windows, write_tokens
from charrnn_trainer.data.vocabulary_growth import grow_vocabulary

MIN_LENGTH: Final = 32
"""The shortest text that can be trained on, in characters (at the byte level, in bytes)."""

_CODE_POINTS: Final = 0x110000


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as token ids, and what is known of it.

    Attributes:
        ids: ``uint8 or uint16 [N]``, perhaps mapped from a file.
        vocabulary: which id is which symbol.
        name: what the text is called.
        sha256: the hash of the text's bytes as they were read.
        source: the path that it was read from, if any; None for the default corpus and for texts in memory.

    Example:
        >>> corpus = Corpus.from_text("to be, or not to be, that is the question")
        >>> len(corpus), len(corpus.vocabulary), corpus.ids.dtype.name
        (41, 14, 'uint8')
    """

    ids: NDArray[Any]
    vocabulary: Vocabulary
    name: str
    sha256: str
    source: str | None = None

    @classmethod
    def from_text(cls, text: str, *, level: Level = "char", name: str = "text") -> Corpus:
        """The corpus of a text in memory.

        Raises:
            CharRNNError: the text is shorter than 32 characters, has one distinct character or too many, or
                holds half a surrogate pair.
        """
        vocabulary = Vocabulary.of_bytes() if level == "byte" else Vocabulary.from_text(text or "?")
        ids = vocabulary.encode(text, dtype=id_type(vocabulary))
        _check_text(name, level, len(ids), _distinct(ids, len(vocabulary)))
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
        _check_text(name, vocabulary.level, len(ids), _distinct(ids, len(vocabulary)))
        own = ids.astype(id_type(vocabulary), copy=ids.flags.writeable)
        return cls(own, vocabulary, name, digest.hexdigest())

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Map a file that `ScannedText.encode_to` or `save` wrote into memory, after checking all its bytes.

        Raises:
            CharRNNError: the file is missing, cut, altered or something else.
        """
        info, ids = open_tokens(path)
        return cls(ids, info.vocabulary, info.name, info.sha256, info.source)

    def save(self, path: Path) -> Corpus:
        """Write the ids to a file, whole or not at all; gives the same corpus mapped from there."""
        info = TokensInfo(self.vocabulary, self.name, self.sha256, self.source)
        ids = write_tokens(path, info, len(self), windows(self.ids))
        return Corpus(ids, self.vocabulary, self.name, self.sha256, self.source)

    def __len__(self) -> int:
        """N, the number of tokens."""
        return len(self.ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.ids, dtype=dtype, copy=copy)

    def train_tokens(self, val_fraction: float) -> int:
        """How many tokens are trained on: validation is the rest, the last ``val_fraction`` of the text."""
        return int((1.0 - val_fraction) * len(self))


@dataclass(frozen=True)
class ScannedText:
    """A text that was read once, to learn what it holds.

    Close it, or use it in a ``with`` statement: what was kept aside of a pipe then goes away.

    Attributes:
        name: what it is called.
        sha256: the hash of its bytes as they were read.
        vocabulary: its symbols, and those that were given to begin with.
        length: N, its characters (at the byte level, its bytes).
        distinct: how many different ones there are.
        beginning: its first characters, to show them.
        had_bom: whether a byte-order mark was removed from its start.
        had_crlf: whether Windows line ends were replaced.
        source: the path that it was read from, as an absolute one; "-" for standard input.
        size: its bytes as they were read.
    """

    name: str
    sha256: str
    vocabulary: Vocabulary
    length: int
    distinct: int
    beginning: str
    had_bom: bool
    had_crlf: bool
    source: str
    size: int
    _text: TextSource = field(repr=False, compare=False)
    _unix_lines: bool = field(default=False, repr=False, compare=False)

    def __enter__(self) -> ScannedText:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was kept aside; the text cannot be encoded any more."""
        self._text.close()

    def encode_to(self, path: Path, *, source: str | None, on_progress: Progress | None = None) -> Corpus:
        """Encode the text into a file of ids, whole or not at all, and map that into memory.

        Args:
            path: the file to write.
            source: what the corpus says of where it came from.
            on_progress: is called with the number of bytes that were read since the last call.

        Raises:
            CharRNNError: the text cannot be read any more or has changed, or the file cannot be written.
        """
        source = None if source is None else _as_text(source)
        info = TokensInfo(self.vocabulary, self.name, self.sha256, source)
        ids = write_tokens(path, info, self.length, self._encoded(on_progress))
        return Corpus(ids, self.vocabulary, self.name, self.sha256, source)

    def _encoded(self, on_progress: Progress | None) -> Iterator[NDArray[Any]]:
        id_of = _id_of_codes(self.vocabulary)
        with self._text.opened() as file:
            level, unix = self.vocabulary.level, self._unix_lines
            pieces = Pieces(file, self.name, level, on_progress, unix_lines=unix)
            for piece in pieces:
                yield np.take(id_of, _codes(piece), mode="clip")
            # The hash also covers what has no id: the scan has seen every symbol of the text.
            if pieces.sha256 != self.sha256:
                raise CharRNNError(f"{self.name} changed while it was being read; start again")


def scan_text(
    path: str,
    *,
    level: Level = "char",
    vocabulary: Vocabulary | None = None,
    name: str | None = None,
    on_progress: Progress | None = None,
    unix_lines: bool = False,
) -> ScannedText:
    """Read a text once, to learn what it holds.

    Args:
        path: a file, or "-" for standard input. What can be read only once (a pipe) is kept aside.
        level: "char" for UTF-8 text, "byte" for anything.
        vocabulary: the symbols to begin with, to which those that the text has besides are added; None takes
            the text's own.
        name: what the text is called; None takes the file's name.
        on_progress: is called with the number of bytes that were read since the last call.
        unix_lines: read Windows line ends, CR LF, as LF alone.

    Raises:
        CharRNNError: it cannot be read, is no UTF-8 (the message names the byte), is shorter than 32
            characters, has one distinct character or too many, or is of another level than ``vocabulary``.
    """
    name = name or ("standard input" if path == "-" else _as_text(Path(path).name))
    text = TextSource(path)
    try:
        with text.opened() as file:
            pieces = Pieces(file, name, level, on_progress, unix_lines=unix_lines)
            codes = _distinct_codes(pieces, level)
        _check_text(name, level, pieces.length, len(codes))
        own = Vocabulary.of_bytes() if level == "byte" else Vocabulary([chr(code) for code in codes])
        if vocabulary is not None:
            _check_level(name, own, vocabulary)
            own = grow_vocabulary(vocabulary, own.symbols)
    except BaseException:
        text.close()
        raise
    return ScannedText(
        name=name,
        sha256=pieces.sha256,
        vocabulary=own,
        length=pieces.length,
        distinct=len(codes),
        beginning=pieces.beginning,
        had_bom=pieces.had_bom,
        had_crlf=pieces.had_crlf,
        source=text.path,
        size=text.size,
        _text=text,
        _unix_lines=unix_lines,
    )


def _as_text(path: str) -> str:
    """A path as text that any file can hold: Python keeps what its locale cannot decode as surrogates."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return os.fsencode(path).decode(errors="replace")


def _codes(piece: str | bytes) -> NDArray[Any]:
    """The code points of a piece, ``uint32 [n]``, or at level "byte" its bytes, ``uint8 [n]``."""
    if isinstance(piece, bytes):
        return np.frombuffer(piece, dtype=np.uint8)
    return np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")


def _distinct_codes(pieces: Iterable[str | bytes], level: str) -> NDArray[np.intp]:
    """The code points, or at level "byte" the bytes, that occur, in ascending order."""
    seen = np.zeros(256 if level == "byte" else _CODE_POINTS, dtype=np.bool_)
    for piece in pieces:
        codes = _codes(piece)
        if not np.take(seen, codes, mode="clip").all():  # three times as fast as setting them again
            seen[codes] = True
    return np.flatnonzero(seen)


def _id_of_codes(vocabulary: Vocabulary) -> NDArray[Any]:
    """The id of each code point, or at level "byte" of each byte; 0 for those that have none."""
    if vocabulary.level == "byte":
        return np.arange(256, dtype=id_type(vocabulary))
    ids = np.zeros(_CODE_POINTS, dtype=id_type(vocabulary))
    ids[[ord(symbol) for symbol in vocabulary.symbols]] = np.arange(len(vocabulary))
    return ids


def _distinct(ids: NDArray[Any], size: int) -> int:
    """How many different ones there are of ``ids [N]``, each below ``size``."""
    seen = np.zeros(size, dtype=np.bool_)
    for window in windows(ids):
        seen[window] = True
    return int(seen.sum())


def _check_text(name: str, level: str, length: int, distinct: int) -> None:
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


def _check_level(name: str, own: Vocabulary, vocabulary: Vocabulary) -> None:
    if own.level != vocabulary.level:
        raise CharRNNError(
            f"{name} was read at level {own.level}, but the network to start from works at level "
            f"{vocabulary.level}; give level={vocabulary.level}",
            "level",
        )
