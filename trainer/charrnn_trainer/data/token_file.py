"""The file of token ids that training reads: written and verified in windows, and memory-mapped.

It is a safetensors file with one tensor, ``tokens [N]``, of the smallest unsigned type that fits the ids, and
one metadata key, ``charrnn``: JSON with the text's name, hash and vocabulary, and the hash of the ids.
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
"""The number of ids processed at a time."""

Source = str | tuple[str, ...]
"""The path of a text, or the paths of several."""


@dataclass(frozen=True)
class TokensInfo:
    """The metadata of a file of ids.

    Attributes:
        vocabulary: the symbols by id.
        name: the name of the text.
        sha256: the hash of the text's original bytes.
        source: the path of the text, if any, or the paths of several texts.
        train_length: the number of ids at the start for training, if decided.
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
    """The smallest unsigned type that fits the ids, little-endian as in files."""
    return np.dtype("u1") if len(vocabulary) <= 256 else np.dtype("<u2")


def windows(ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of up to `WINDOW` elements of an array ``[N]``."""
    return (ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW))


def write_tokens(path: Path, info: TokensInfo, length: int, pieces: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Write ids to a file atomically, and memory-map them.

    Args:
        path: the file to write.
        info: its metadata.
        length: N, the number of ids.
        pieces: the ids, ``[n]`` each, of the type ``info.id_type``.

    Raises:
        CharRNNError: there are not exactly ``length`` ids, or the file cannot be written.
    """
    digest = hashlib.sha256()
    written = 0
    with written_whole(path) as file:
        # The hash is known only at the end, but its length is fixed: write the header twice.
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
    """Memory-map the ids of a file, after checking all its bytes.

    Returns:
        The metadata, and the ids ``[N]``, all within the vocabulary.

    Raises:
        CharRNNError: the file is missing, truncated, altered or not a file of tokens.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file)
        table, about = header.table, header.about
        vocabulary = Vocabulary(about["symbols"], about["level"])
        length = int(table["tokens"]["shape"][0])
        trained = about.get("train_length")
        if trained is not None and not 0 < int(trained) <= length:
            raise ValueError("its training part is longer than the text")
        source = about.get("source")
        source = tuple(map(str, source)) if isinstance(source, list) else source
        info = TokensInfo(vocabulary, str(about["name"]), str(about["sha256"]), source, trained)
        if table["tokens"] != _tensor(info, length) or length < 1:
            raise ValueError("its size does not match its header")
        if path.stat().st_size != header.size + length * info.id_type.itemsize:
            raise ValueError("its size does not match its header")
        if _digest(path, header.size, info) != about["tokens_sha256"]:
            raise ValueError("its hash does not match its content")
        return info, _mapped(path, info, header.size, length)
    except OSError as error:
        raise _cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CharRNNError(f"{path} is not a file of tokens, or is truncated or damaged: {error}") from error
    except CharRNNError as error:
        raise CharRNNError(f"{path} is not a file of tokens: {error}") from error


def _digest(path: Path, start: int, info: TokensInfo) -> str:
    """The hash of the ids in a file, all of which are checked.

    The file is read rather than mapped: touched pages of a mapping count as the process's memory.
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
