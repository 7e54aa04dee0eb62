"""Reads and writes the header of this package's safetensors files.

A file consists of eight bytes with the header's length (little-endian), the header, and the tensors' bytes.
The header is a JSON object: type, shape and offsets of each tensor, and a ``__metadata__`` map of strings.
Ours has a single key, ``charrnn``, with canonical JSON, so that equal content gives equal bytes; the library
would write several keys in varying order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

KEY: Final = "charrnn"
"""The metadata key of a file's description."""

MAX_HEADER: Final = 16 * 1024 * 1024
"""Parsed JSON can take about 30 times its length in memory."""

_SIZE_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class ForeignFileError(ValueError):
    """A file is not a safetensors file, or was written by another program."""


class AlteredFileError(ValueError):
    """A file of ours is truncated or damaged."""


@dataclass(frozen=True)
class SafetensorsHeader:
    """The header before the tensors' bytes.

    Attributes:
        table: type, shape and offsets of each tensor, not validated.
        about: the file's description, a JSON object, not validated.
        size: the offset of the tensors' bytes.
    """

    table: dict[str, Any]
    about: dict[str, Any]
    size: int


def read_header(file: BinaryIO) -> SafetensorsHeader:
    """Read the header of a file, from its start to the tensors' bytes.

    Raises:
        ForeignFileError: the file is something else.
        AlteredFileError: it is truncated or damaged.
        OSError: it cannot be read.
    """
    start = file.read(_SIZE_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _SIZE_BYTES or not 2 <= length <= MAX_HEADER:
        if start.startswith(_PICKLES):  # a header of 640 bytes also begins like a pickle
            raise ForeignFileError(
                "it is a pickle, as written by torch.save; pickles are never loaded, since they can run "
                "arbitrary code"
            )
        raise ForeignFileError("it is not a safetensors file")
    content = file.read(length)
    if len(content) < length:
        raise AlteredFileError("it ends within its header")
    try:
        table = _object(content)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(str(error)) from error
    metadata = table.pop(_METADATA, None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise ForeignFileError("it is a safetensors file written by another program")
    try:
        about = _object(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise AlteredFileError(str(error)) from error
    return SafetensorsHeader(table, about, _SIZE_BYTES + length)


def header_size(content: bytes) -> int:
    """The offset of the tensors' bytes in a file."""
    return _SIZE_BYTES + int.from_bytes(content[:_SIZE_BYTES], "little")


def encode_header(table: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """Encode a header, padded so that the tensors' bytes start at a multiple of 8.

    Args:
        table: each tensor's ``dtype``, ``shape`` and ``data_offsets``.
        about: the file's description.
    """
    encoded = json.dumps({_METADATA: metadata(about), **table}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(_SIZE_BYTES, "little") + encoded


def metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """The metadata map of a header, for the safetensors library."""
    return {KEY: canonical(about)}


def canonical(about: Mapping[str, Any]) -> str:
    """Canonical JSON.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _object(content: str | bytes) -> dict[str, Any]:
    value = json.loads(content, object_pairs_hook=_without_duplicates)
    if not isinstance(value, dict):
        raise ValueError("its header is not a table")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate keys, of which readers might choose different values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key occurs twice in its header")
    return made
