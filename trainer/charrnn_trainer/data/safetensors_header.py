"""The header of the safetensors files that this package writes: read, and made, here alone.

Such a file is eight bytes that give the header's length (little-endian), the header, and the tensors' bytes.
The header is a JSON object: for each tensor its type, shape and place, and under ``__metadata__`` strings by
name, of which ours have one, ``charrnn``. It holds canonical JSON, so that the same content is the same
bytes, which with several keys it would not be: the library writes them in another order every time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

KEY: Final = "charrnn"
"""The metadata key that holds all of a file's description."""

MAX_HEADER: Final = 16 * 1024 * 1024
"""JSON can take some 30 times its length once it is parsed."""

_SIZE_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class ForeignFileError(ValueError):
    """A file is not a safetensors file, or one that something else wrote."""


class AlteredFileError(ValueError):
    """A file is one of ours that is truncated or damaged."""


@dataclass(frozen=True)
class SafetensorsHeader:
    """The header before the tensors' bytes.

    Attributes:
        table: for each tensor what the file says of its type, shape and place, unchecked.
        about: the file's description, unchecked but for being a JSON object.
        size: where the tensors' bytes begin.
    """

    table: dict[str, Any]
    about: dict[str, Any]
    size: int


def read_header(file: BinaryIO) -> SafetensorsHeader:
    """Read the header of a file that is open at its beginning, and leave it open behind that.

    Raises:
        ForeignFileError: the file is something else.
        AlteredFileError: it is truncated or damaged.
        OSError: it cannot be read.
    """
    start = file.read(_SIZE_BYTES)
    length = int.from_bytes(start, "little")
    if len(start) < _SIZE_BYTES or not 2 <= length <= MAX_HEADER:
        if start.startswith(_PICKLES):  # a header of 640 bytes begins as a pickle does, too
            raise ForeignFileError(
                "it is a pickle, as torch.save writes, and pickles are never loaded here, since they can run "
                "any code"
            )
        raise ForeignFileError("it does not begin as safetensors files do")
    content = file.read(length)
    if len(content) < length:
        raise AlteredFileError("it ends within its header")
    try:
        table = _object(content)
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(str(error)) from error
    metadata = table.pop(_METADATA, None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise ForeignFileError("it is a safetensors file that something else wrote")
    try:
        about = _object(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise AlteredFileError(str(error)) from error
    return SafetensorsHeader(table, about, _SIZE_BYTES + length)


def header_size(content: bytes) -> int:
    """Where the tensors' bytes begin in a whole file."""
    return _SIZE_BYTES + int.from_bytes(content[:_SIZE_BYTES], "little")


def encode_header(table: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """A header as it is in a file, padded so that tensors begin at a multiple of 8 bytes.

    Args:
        table: each tensor's ``dtype``, ``shape`` and ``data_offsets``.
        about: the file's description.
    """
    encoded = json.dumps({_METADATA: metadata(about), **table}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(_SIZE_BYTES, "little") + encoded


def metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """The strings by name that the library writes into a header."""
    return {KEY: canonical(about)}


def canonical(about: Mapping[str, Any]) -> str:
    """JSON in the one form that a content has.

    Raises:
        ValueError: it has none, with a number that is not finite.
    """
    return json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _object(content: str | bytes) -> dict[str, Any]:
    value = json.loads(content, object_pairs_hook=_without_doubles)
    if not isinstance(value, dict):
        raise ValueError("its header is not a table")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may occur twice: another reader might take the other value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key occurs twice in its header")
    return made
