"""Reads gzip and xz files as the bytes that they hold."""

from __future__ import annotations

import gzip
import lzma
import zlib
from typing import IO, Final, Protocol

from charrnn_runtime.errors import CharRNNError

GZIP: Final = b"\x1f\x8b"
XZ: Final = b"\xfd7zXZ\x00"
"""What files of these formats begin with (RFC 1952; The .xz File Format 1.2.1)."""


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; none at the end."""
        ...


def decompressed(file: IO[bytes], name: str) -> Readable:
    """What a binary file holds, from its start; a file that is not compressed is given as it is.

    Args:
        file: open at its start, and can be sought.
        name: what the file is called in errors.

    Raises:
        CharRNNError: on reading, that the file is damaged or cut.
    """
    beginning = file.read(len(XZ))
    file.seek(0)
    if beginning.startswith(GZIP):
        # Its default is the mode of the file, and a temporary file's is for writing.
        return _Decompressed(gzip.GzipFile(fileobj=file, mode="rb"), name, "gzip")
    if beginning == XZ:
        return _Decompressed(lzma.LZMAFile(file), name, "xz")
    return file


class _Decompressed:
    """Says in our words what is wrong with a file."""

    def __init__(self, file: Readable, name: str, kind: str) -> None:
        self._file, self._name, self._kind = file, name, kind

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise CharRNNError(
                f"{self._name} is a {self._kind} file that is cut or damaged: {error}; copy or download it "
                f"again, or save what can still be read of it with {self._kind} -dc"
            ) from error
