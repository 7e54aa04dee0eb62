"""Any text -> token ids on disk, and the part of them that is kept for validation.

A text is read twice, in pieces: once to learn its symbols (`scan_text`), once to encode it
(`ScannedText.encode_to`). The ids lie in a file in the smallest unsigned type that holds them and are mapped
into memory, so that a text may be larger than the memory.

The file of ids is a safetensors file with one tensor, ``tokens``, and one metadata key, ``charrnn``: JSON
with the text's name, hash and vocabulary.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import written_whole
from charrnn_runtime.vocabulary import Level, Vocabulary

MIN_LENGTH: Final = 32
"""The shortest text that can be trained on, in characters (at the byte level, in bytes)."""

_PIECE: Final = 4 * 1024 * 1024
_BEGINNING: Final = 2_000
_MEMORY: Final = 64 * 1024 * 1024
_MAX_HEADER: Final = 16 * 1024 * 1024
_BOM: Final = "\ufeff"


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
        ids = vocabulary.encode(text, dtype=_id_type(vocabulary))
        _check_text(name, level, len(ids), len(np.unique(ids)))
        return cls(ids, vocabulary, name, hashlib.sha256(text.encode()).hexdigest())

    @classmethod
    def from_ids(cls, ids: NDArray[Any], vocabulary: Vocabulary, *, name: str = "tokens") -> Corpus:
        """The corpus of a text that is encoded already: ``ids`` is an integer array ``[N]``.

        Raises:
            CharRNNError: there are fewer than 32 ids, or one is not in the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise CharRNNError(f"{name}: ids must be integers [N], not {ids.dtype} {list(ids.shape)}")
        text = vocabulary.decode_bytes(ids)  # checks the range
        _check_text(name, vocabulary.level, len(ids), len(np.unique(ids)))
        return cls(ids.astype(_id_type(vocabulary)), vocabulary, name, hashlib.sha256(text).hexdigest())

    @classmethod
    def open(cls, path: Path) -> Corpus:
        """Map a file that `encode_to` or `save` wrote into memory, after checking all its bytes.

        Raises:
            CharRNNError: the file is missing, cut, altered or something else.
        """
        try:
            header, start = _read_header(path)
            about = json.loads(header["__metadata__"]["charrnn"])
            table = header["tokens"]
            vocabulary = Vocabulary(about["symbols"], about["level"])
            dtype = _id_type(vocabulary)
            count = int(table["shape"][0])
            expected = {
                "dtype": _type_name(dtype),
                "shape": [count],
                "data_offsets": [0, count * dtype.itemsize],
            }
            if table != expected or path.stat().st_size != start + count * dtype.itemsize or count == 0:
                raise ValueError("its size is not what its header says")
            ids = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(count,))
            if _digest(ids) != about["tokens_sha256"]:
                raise ValueError("its bytes were altered")
            return cls(ids, vocabulary, str(about["name"]), str(about["sha256"]), about.get("source"))
        except OSError as error:
            raise CharRNNError(f"cannot read the tokens in {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise CharRNNError(f"{path} is no file of tokens, or was cut or altered: {error}") from error
        except CharRNNError as error:
            raise CharRNNError(f"{path} is no file of tokens: {error}") from error

    def save(self, path: Path) -> Corpus:
        """Write the ids to a file, whole or not at all; gives the same corpus mapped from there."""
        _write_tokens(path, self, len(self), iter((self.ids,)))
        return Corpus.open(path)

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
        vocabulary: its symbols, or those that it was checked against.
        length: N, its characters (at the byte level, its bytes).
        distinct: how many different ones there are.
        beginning: its first characters, to show them.
        had_bom: whether a byte-order mark was removed from its start.
        source: the path that it was read from, as an absolute one; "-" for standard input.
    """

    name: str
    sha256: str
    vocabulary: Vocabulary
    length: int
    distinct: int
    beginning: str
    had_bom: bool
    source: str
    _file: IO[bytes] | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> ScannedText:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was kept aside; the text cannot be encoded any more."""
        if self._file is not None:
            self._file.close()

    def encode_to(self, path: Path, *, source: str | None) -> Corpus:
        """Encode the text into a file of ids, whole or not at all, and map that into memory.

        Args:
            path: the file to write.
            source: what the corpus says of where it came from.

        Raises:
            CharRNNError: the text cannot be read any more or has changed, or the file cannot be written.
        """
        corpus = Corpus(np.empty(0), self.vocabulary, self.name, self.sha256, source)
        _write_tokens(path, corpus, self.length, self._encoded())
        return Corpus.open(path)

    def _encoded(self) -> Iterator[NDArray[Any]]:
        dtype = _id_type(self.vocabulary)
        with _opened(self.source, self._file) as file:
            reader = _Pieces(file, self.name, self.vocabulary.level)
            for piece in reader:
                if isinstance(piece, bytes):
                    yield np.frombuffer(piece, dtype=np.uint8)
                else:
                    yield self.vocabulary.encode(piece, dtype=dtype)
            if reader.sha256 != self.sha256:
                raise CharRNNError(f"{self.name} changed while it was being read; start again")


def scan_text(
    path: str, *, level: Level = "char", vocabulary: Vocabulary | None = None, name: str | None = None
) -> ScannedText:
    """Read a text once, to learn what it holds.

    Args:
        path: a file, or "-" for standard input. What can be read only once (a pipe) is kept aside.
        level: "char" for UTF-8 text, "byte" for anything.
        vocabulary: the symbols that the text must make do with; None takes the text's own.
        name: what the text is called; None takes the file's name.

    Raises:
        CharRNNError: it cannot be read, is no UTF-8 (the message names the byte), is shorter than 32
            characters, has one distinct character or too many, or has some that ``vocabulary`` lacks.
    """
    name = name or ("standard input" if path == "-" else Path(path).name)
    source = path if path == "-" else os.path.abspath(path)
    kept = _keep_aside(path)
    try:
        with _opened(source, kept) as file:
            reader = _Pieces(file, name, level)
            codes = _distinct_codes(reader, level)
        _check_text(name, level, reader.length, len(codes))
        own = Vocabulary.of_bytes() if level == "byte" else Vocabulary([chr(code) for code in codes])
        if vocabulary is not None:
            _check_known(name, own, vocabulary)
    except BaseException:
        if kept is not None:
            kept.close()
        raise
    return ScannedText(
        name=name,
        sha256=reader.sha256,
        vocabulary=vocabulary or own,
        length=reader.length,
        distinct=len(codes),
        beginning=reader.beginning,
        had_bom=reader.had_bom,
        source=source,
        _file=kept,
    )


def _distinct_codes(pieces: Iterable[str | bytes], level: str) -> NDArray[np.intp]:
    """The code points, or at level "byte" the bytes, that occur, in ascending order."""
    seen = np.zeros(256 if level == "byte" else 0x110000, dtype=np.bool_)
    for piece in pieces:
        if isinstance(piece, bytes):
            seen[np.frombuffer(piece, dtype=np.uint8)] = True
        else:
            seen[np.frombuffer(piece.encode("utf-32-le"), dtype="<u4")] = True
    return np.flatnonzero(seen)


class _Pieces:
    """The pieces of a text: str at level "char", bytes at level "byte"; counts and hashes as it goes."""

    def __init__(self, file: IO[bytes], name: str, level: str) -> None:
        self.length = 0
        self.beginning = ""
        self.had_bom = False
        self._file, self._name, self._level = file, name, level
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[str | bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        consumed = 0
        while True:
            try:
                raw = self._file.read(_PIECE)
            except OSError as error:
                raise CharRNNError(f"cannot read {self._name}: {error.strerror or error}") from error
            self._hash.update(raw)
            piece: str | bytes = raw
            if self._level == "char":
                pending = len(decoder.getstate()[0])
                try:
                    piece = decoder.decode(raw, final=not raw)
                except UnicodeDecodeError as error:
                    offset = consumed - pending + error.start
                    raise self._not_utf8(error.object[error.start], offset) from error
                if self.length == 0 and not self.had_bom and piece.startswith(_BOM):
                    self.had_bom, piece = True, piece[1:]
            consumed += len(raw)
            if piece:
                if not self.beginning:
                    first = piece[:_BEGINNING]
                    self.beginning = first if isinstance(first, str) else first.decode(errors="replace")
                self.length += len(piece)
                yield piece
            if not raw:
                return

    def _not_utf8(self, byte: int, offset: int) -> CharRNNError:
        hint = "it looks like UTF-16; " if offset == 0 and byte in (0xFE, 0xFF) else ""
        return CharRNNError(
            f"{self._name} is not UTF-8: byte 0x{byte:02X} at offset {offset:,} cannot be read; {hint}"
            "convert it to UTF-8, or train on its bytes with --level byte"
        )


@contextlib.contextmanager
def _opened(source: str, kept: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """The text from its start: what was kept aside, else the file itself."""
    if kept is not None:
        kept.seek(0)
        yield kept
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _cannot_read(source, error) from error
    with file:
        yield file


def _keep_aside(path: str) -> IO[bytes] | None:
    """Copy what can be read only once to a temporary file; None where the path can be opened again."""
    if path != "-":
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:
            raise _cannot_read(path, error) from error
        if stat.S_ISDIR(mode):
            raise CharRNNError(f"{path} is a folder; give a text file")
        if stat.S_ISREG(mode):
            return None
    elif sys.stdin is None:
        raise CharRNNError("standard input is closed; give the path of a text file")
    kept = tempfile.SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 - closed with the text
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            while piece := file.read(_PIECE):
                kept.write(piece)
    except BaseException as error:
        kept.close()
        if isinstance(error, OSError):
            raise _cannot_read(path, error) from error
        raise
    return cast("IO[bytes]", kept)


def _cannot_read(path: str, error: OSError | ValueError) -> CharRNNError:
    name = "standard input" if path == "-" else path
    if isinstance(error, FileNotFoundError):
        return CharRNNError(f"there is no file {name}; give the path of a text file")
    return CharRNNError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}")


def _check_text(name: str, level: str, length: int, distinct: int) -> None:
    unit = "bytes" if level == "byte" else "characters"
    if length < MIN_LENGTH:
        found = f"only {length:,} {unit}" if length else "empty"
        raise CharRNNError(f"{name} is {found}; at least {MIN_LENGTH} {unit} are needed to train on")
    if distinct < 2:
        raise CharRNNError(
            f"{name} repeats one and the same {unit[:-1]}, so there is nothing to learn; "
            f"give a text with at least two different {unit}"
        )


def _check_known(name: str, own: Vocabulary, vocabulary: Vocabulary) -> None:
    if own.level != vocabulary.level:
        raise CharRNNError(
            f"{name} was read at level {own.level}, but the network to start from works at level "
            f"{vocabulary.level}; give --level {vocabulary.level}"
        )
    missing = sorted(set(own.symbols) - set(vocabulary.symbols))
    if missing:
        shown = ", ".join(f"{symbol!r} (U+{ord(symbol):04X})" for symbol in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CharRNNError(
            f"{name} has characters that the network to start from does not know: {shown}{more}; "
            "take them out, or train without --init-from"
        )


def _id_type(vocabulary: Vocabulary) -> np.dtype[Any]:
    """The smallest unsigned type that holds the ids, little-endian as files keep it."""
    return np.dtype("u1") if len(vocabulary) <= 256 else np.dtype("<u2")


def _type_name(dtype: np.dtype[Any]) -> str:
    return "U8" if dtype.itemsize == 1 else "U16"


def _digest(ids: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(ids), _PIECE):
        digest.update(ids[start : start + _PIECE].tobytes())
    return digest.hexdigest()


def _header(corpus: Corpus, length: int, tokens_sha256: str) -> bytes:
    about = {
        "level": corpus.vocabulary.level,
        "name": corpus.name,
        "sha256": corpus.sha256,
        "symbols": list(corpus.vocabulary.symbols),
        "tokens_sha256": tokens_sha256,
    }
    if corpus.source is not None:
        about["source"] = corpus.source
    dtype = _id_type(corpus.vocabulary)
    header = {
        "__metadata__": {"charrnn": json.dumps(about, sort_keys=True, separators=(",", ":"))},
        "tokens": {
            "dtype": _type_name(dtype),
            "shape": [length],
            "data_offsets": [0, length * dtype.itemsize],
        },
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the ids start at a multiple of 8
    return len(encoded).to_bytes(8, "little") + encoded


def _read_header(path: Path) -> tuple[Any, int]:
    """The header of a safetensors file, and where its data start."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= _MAX_HEADER:
            raise ValueError("it has no header of a sensible size")
        return json.loads(file.read(size)), 8 + size


def _write_tokens(path: Path, about: Corpus, length: int, pieces: Iterator[NDArray[Any]]) -> None:
    digest = hashlib.sha256()
    written = 0
    with written_whole(path) as file:
        # The hash is known at the end only, and every hash is as long: write the header twice.
        file.write(_header(about, length, digest.hexdigest()))
        for piece in pieces:
            raw = np.ascontiguousarray(piece).tobytes()
            digest.update(raw)
            written += len(piece)
            file.write(raw)
        if written != length:
            raise CharRNNError(f"{about.name} changed while it was being read; start again")
        file.seek(0)
        file.write(_header(about, length, digest.hexdigest()))
