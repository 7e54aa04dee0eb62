"""The file of ids that training reads: written and checked in windows, and read through a memory map.

It is a safetensors file with one tensor, ``tokens [N]``, of the smallest unsigned type that holds the ids,
and one metadata key, ``charrnn``: JSON with the text's name, hash and vocabulary, and the hash of the ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import written_whole
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data.safetensors_header import encode_header, read_header

WINDOW: Final = 64 * 1024
"""How many ids are looked at, or written, at a time."""

Source = str | tuple[str, ...]
"""The path of a text, or the paths of several."""


@dataclass(frozen=True)
class TokensInfo:
    """What a file of ids says of them.

    Attributes:
        vocabulary: which id is which symbol.
        name: what the text is called.
        sha256: the hash of the text's bytes as they were read.
        source: the path that it was read from, if any, or the paths of several texts.
        train_length: how many ids at the start are for training, where that is settled.
    """

    vocabulary: Vocabulary
    name: str
    sha256: str
    source: Source | None
    train_length: int | None = None

    @property
    def id_type(self) -> np.dtype[Any]:
        """The type of the ids."""
        return id_type(self.vocabulary)


def id_type(vocabulary: Vocabulary) -> np.dtype[Any]:
    """The smallest unsigned type that holds the ids, little-endian as files keep it."""
    return np.dtype("u1") if len(vocabulary) <= 256 else np.dtype("<u2")


def windows(ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array ``[N]`` in views of up to `WINDOW` numbers."""
    return (ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW))


def write_tokens(path: Path, info: TokensInfo, length: int, pieces: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Write ids to a file, whole or not at all, and map them into memory.

    Args:
        path: the file to write.
        info: what it says of the ids.
        length: N, how many there will be.
        pieces: the ids, ``[n]`` each, of the type that ``info`` asks for.

    Raises:
        CharRNNError: there are not ``length`` of them, or the file cannot be written.
    """
    digest = hashlib.sha256()
    written = 0
    with written_whole(path) as file:
        # The hash is known at the end only, and every hash is as long: write the header twice.
        header = _header(info, length, digest.hexdigest())
        file.write(header)
        for piece in pieces:
            raw = np.ascontiguousarray(piece).data
            digest.update(raw)
            file.write(raw)
            written += len(piece)
        if written != length:
            raise CharRNNError(f"{info.name} changed while it was being read; start again")
        file.seek(0)
        file.write(_header(info, length, digest.hexdigest()))
    try:
        return _mapped(path, info, len(header), length)
    except OSError as error:
        raise _cannot_read(path, error) from error


def open_tokens(path: Path) -> tuple[TokensInfo, NDArray[Any]]:
    """Map the ids of a file into memory, after checking all its bytes.

    Returns:
        what the file says, and the ids ``[N]``, each of which the vocabulary has.

    Raises:
        CharRNNError: the file is missing, cut, altered or something else.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
        table, about = header.table, header.about
        vocabulary = Vocabulary(about["symbols"], about["level"])
        length = int(table["tokens"]["shape"][0])
        trained = about.get("train_length")
        if trained is not None and not 0 < int(trained) <= length:
            raise ValueError("more of it is for training than there is")
        source = about.get("source")
        source = tuple(map(str, source)) if isinstance(source, list) else source
        info = TokensInfo(vocabulary, str(about["name"]), str(about["sha256"]), source, trained)
        if table["tokens"] != _tensor(info, length) or length < 1:
            raise ValueError("its size is not what its header says")
        if path.stat().st_size != header.size + length * info.id_type.itemsize:
            raise ValueError("its size is not what its header says")
        if _digest(path, header.size, info) != about["tokens_sha256"]:
            raise ValueError("its bytes were altered")
        return info, _mapped(path, info, header.size, length)
    except OSError as error:
        raise _cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CharRNNError(f"{path} is not a file of tokens, or is truncated or damaged: {error}") from error
    except CharRNNError as error:
        raise CharRNNError(f"{path} is not a file of tokens: {error}") from error


def _digest(path: Path, start: int, info: TokensInfo) -> str:
    """The hash of the ids in a file, each of which is checked.

    They are read rather than mapped: pages of a map that were touched count as the process's memory.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while raw := file.read(WINDOW * info.id_type.itemsize):
            digest.update(raw)
            highest = np.frombuffer(raw, info.id_type).max()
            if highest >= len(info.vocabulary):
                raise ValueError(f"the id {highest} is not in its vocabulary")
    return digest.hexdigest()


def _mapped(path: Path, info: TokensInfo, start: int, length: int) -> NDArray[Any]:
    return np.memmap(path, dtype=info.id_type, mode="r", offset=start, shape=(length,))


def _tensor(info: TokensInfo, length: int) -> dict[str, Any]:
    size = info.id_type.itemsize
    return {"dtype": "U8" if size == 1 else "U16", "shape": [length], "data_offsets": [0, length * size]}


def _header(info: TokensInfo, length: int, tokens_sha256: str) -> bytes:
    about: dict[str, Any] = {
        "level": info.vocabulary.level,
        "name": info.name,
        "sha256": info.sha256,
        "symbols": list(info.vocabulary.symbols),
        "tokens_sha256": tokens_sha256,
    }
    if info.source is not None:
        about["source"] = info.source
    if info.train_length is not None:
        about["train_length"] = info.train_length
    return encode_header({"tokens": _tensor(info, length)}, about)


def _cannot_read(path: Path, error: OSError) -> CharRNNError:
    return CharRNNError(f"cannot read the tokens in {path}: {error.strerror or error}")
