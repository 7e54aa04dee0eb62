"""Reads files compressed with gzip, xz or zstd.

Every command that reads a text opens it through `Unpacked`, which detects compression by the first bytes,
whatever the file name. Memory use is bounded by a block and the format's window (at most 128 MiB), however
large the file. zstd is part of Python from 3.14 on; older versions need the package backports.zstd, which is
imported only for zstd files.
"""

from __future__ import annotations

import gzip
import importlib
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any, Final, Protocol, cast

from charrnn_runtime.errors import CharRNNError

GZIP: Final = b"\x1f\x8b"
XZ: Final = b"\xfd7zXZ\x00"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
"""The magic numbers of these formats (RFC 1952; The .xz File Format 1.2.1; RFC 8878)."""

_BLOCK: Final = 64 * 1024
_MEMORY: Final = 256 * 1024 * 1024
"""The memory limit for xz; xz -9 needs a quarter of it. zstd's own limit is a window of 128 MiB."""


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; empty at the end."""
        ...


class _Decompressor(Protocol):
    """The decompressor interface of `lzma` and `compression.zstd`: incremental, for one stream or frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Unpacked:
    """A binary file, decompressed if necessary, from its start; it may be a pipe.

    Attributes:
        kind: "gzip", "xz" or "zstd"; "" if the file is not compressed.
        size: the size of the file itself, in bytes, as counted by `advanced`; None if unknown.
    """

    def __init__(self, file: Readable, name: str) -> None:
        """Wrap a file that is positioned at its start.

        Args:
            file: the file.
            name: the name of the file in errors.

        Raises:
            CharRNNError: it is compressed with zstd, which this Python does not support.
        """
        self.size = _size_of(file)
        self._raw = _Counted(file)
        self._name = name
        self._told = 0
        self._text: Readable = self._raw
        self.kind = ""
        if self._raw.head.startswith(GZIP):
            self.kind = "gzip"
            self._text = gzip.GzipFile(fileobj=cast("IO[bytes]", self._raw), mode="rb")
        elif self._raw.head == XZ:
            self.kind, self._text = "xz", _Streams(self._raw, _xz_stream)
        elif self._raw.head.startswith(ZSTD):
            self.kind, self._text = "zstd", _Streams(self._raw, _zstd(name).ZstdDecompressor)

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; empty at the end.

        Raises:
            CharRNNError: the compressed file is truncated or damaged.
            OSError: the file cannot be read.
        """
        try:
            return self._text.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise self._damaged(error) from error
        except Exception as error:
            if type(error).__name__ == "ZstdError":  # of either package
                raise self._damaged(error) from error
            raise

    def read_all(self, most: int) -> bytes:
        """All remaining bytes.

        Args:
            most: the limit on the decompressed size; uncompressed files have no limit.

        Raises:
            CharRNNError: the limit is exceeded, or as for `read`.
        """
        blocks, size = [], 0
        while block := self.read(1 << 20):
            blocks.append(block)
            size += len(block)
            if self.kind and size > most:
                raise CharRNNError(
                    f"{self._name} is a {self.kind} file that decompresses to more than {most:,} bytes, too "
                    f"many to read at once; give a part of it, from the output of {self.kind} -dc"
                )
        return b"".join(blocks)

    def advanced(self) -> int:
        """The number of bytes of the file itself read since the last call."""
        before, self._told = self._told, self._raw.place
        return self._told - before

    def _damaged(self, error: Exception) -> CharRNNError:
        said = " ".join(str(error).split())
        return CharRNNError(
            f"{self._name} is a {self.kind} file that is truncated or damaged: {said}; copy or download it "
            f"again, or recover what is readable with {self.kind} -dc"
        )


class _Counted:
    """A file, possibly a pipe, whose first bytes were inspected; counts the bytes read.

    Attributes:
        head: the first bytes, enough to detect compression.
        place: the number of bytes delivered.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._ended = False  # a terminal would continue after the end
        self.place = 0
        self.head = self._waiting = b""
        while len(self.head) < len(XZ) and (more := self._read_file(len(XZ) - len(self.head))):
            self.head += more  # pipes may return fewer bytes than requested
        self._waiting = self.head

    def read(self, size: int) -> bytes:
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        if len(data) < size:
            more = self._read_file(size - len(data))
            data = data + more if data else more
        self.place += len(data)
        return data

    def _read_file(self, size: int) -> bytes:
        data = b"" if self._ended else self._file.read(size)
        self._ended = not data
        return data


class _Streams:
    """The concatenated contents of the streams of an xz file, or the frames of a zstd file."""

    def __init__(self, raw: _Counted, new: Callable[[], _Decompressor]) -> None:
        self._raw, self._new = raw, new
        self._stream = new()

    def read(self, size: int) -> bytes:
        unpacked = b""
        while not unpacked:
            data = b""
            if self._stream.eof:
                data = self._next_stream(self._stream.unused_data)
                if not data:
                    break
                self._stream = self._new()
            elif self._stream.needs_input:
                data = self._raw.read(_BLOCK)
                if not data:
                    raise EOFError("it ends too early")
            unpacked = self._stream.decompress(data, size)
        return unpacked

    def _next_stream(self, data: bytes) -> bytes:
        """The start of the next stream; empty at the end. xz allows zero padding in between."""
        data = data.lstrip(b"\0")
        while not data and (block := self._raw.read(_BLOCK)):
            data = block.lstrip(b"\0")
        return data


def _xz_stream() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


def _zstd(name: str) -> Any:
    """The module that decompresses zstd.

    Raises:
        CharRNNError: there is none.
    """
    try:
        if sys.version_info >= (3, 14):
            return importlib.import_module("compression.zstd")
        return importlib.import_module("backports.zstd")
    except ImportError:
        package = (
            "this Python was built without zstd support"
            if sys.version_info >= (3, 14)
            else "install the package backports.zstd (the extra zstd of charrnn-runtime): pip install "
            "backports.zstd"
        )
        raise CharRNNError(f"{name} is a zstd file; {package}; or decompress it with zstd -dc") from None


def _size_of(file: Any) -> int | None:
    """The number of bytes to read; None if unknown, as for pipes."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):  # not backed by a file descriptor
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
