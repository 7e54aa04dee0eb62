"""Reads files that gzip, xz or zstd compressed as the bytes that they hold.

Every command that reads a text opens it through `Unpacked`: whether a file is compressed is seen by its first
bytes, whatever its name is. No more is held of it than a block and what its format needs (a window of at most
128 MiB), however much it holds. zstd is a part of Python from 3.14 on; before that it takes the package
backports.zstd, which is imported when a file needs it.
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
"""What files of these formats begin with (RFC 1952; The .xz File Format 1.2.1; RFC 8878)."""

_BLOCK: Final = 64 * 1024
_MEMORY: Final = 256 * 1024 * 1024
"""What unpacking xz may take; xz -9 needs a quarter of it. zstd's own limit is a window of 128 MiB."""


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; none at the end."""
        ...


class _Decompressor(Protocol):
    """What `lzma` and `compression.zstd` call so: it unpacks one stream, or frame, as its bytes come."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Unpacked:
    """A binary file as the bytes that it holds, from its start; it may be a pipe.

    Attributes:
        kind: "gzip", "xz" or "zstd"; "" where the file is not compressed.
        size: the bytes of the file itself, as `advanced` counts them; None if that is not known.
    """

    def __init__(self, file: Readable, name: str) -> None:
        """Read a file that is open at its start.

        Args:
            file: the file.
            name: what it is called in errors.

        Raises:
            CharRNNError: zstd compressed it, and this Python cannot unpack that.
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
        """The next bytes, at most ``size``; none at the end.

        Raises:
            CharRNNError: the file is compressed, and cut or damaged.
            OSError: it cannot be read.
        """
        try:
            return self._text.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise self._damaged(error) from error
        except Exception as error:
            if type(error).__name__ == "ZstdError":  # of whichever package it is
                raise self._damaged(error) from error
            raise

    def read_all(self, most: int) -> bytes:
        """All bytes that are left.

        Args:
            most: how many a file that is compressed may hold. (What is not has its size for all to see.)

        Raises:
            CharRNNError: it holds more, or as for `read`.
        """
        blocks, size = [], 0
        while block := self.read(1 << 20):
            blocks.append(block)
            size += len(block)
            if self.kind and size > most:
                raise CharRNNError(
                    f"{self._name} is a {self.kind} file that holds more than {most:,} bytes, which is too "
                    f"much to be read at once; give a part of it, as {self.kind} -dc shows it"
                )
        return b"".join(blocks)

    def advanced(self) -> int:
        """How many bytes of the file itself were read since the last call."""
        before, self._told = self._told, self._raw.place
        return self._told - before

    def _damaged(self, error: Exception) -> CharRNNError:
        said = " ".join(str(error).split())
        return CharRNNError(
            f"{self._name} is a {self.kind} file that is cut or damaged: {said}; copy or download it "
            f"again, or save what can still be read of it with {self.kind} -dc"
        )


class _Counted:
    """A file whose first bytes were looked at, and which may be a pipe; counts what was read.

    Attributes:
        head: its first bytes, as many as tell whether it is compressed.
        place: how many bytes of the file were given to who reads it.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._ended = False  # a terminal would go on after its end
        self.place = 0
        self.head = self._waiting = b""
        while len(self.head) < len(XZ) and (more := self._read_file(len(XZ) - len(self.head))):
            self.head += more  # a pipe may give less than was asked for
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
    """What the streams of an xz file, or the frames of a zstd file, hold one after the other."""

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
        """What begins with the next stream; none at the end. xz allows zeros between two."""
        data = data.lstrip(b"\0")
        while not data and (block := self._raw.read(_BLOCK)):
            data = block.lstrip(b"\0")
        return data


def _xz_stream() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


def _zstd(name: str) -> Any:
    """The module that unpacks zstd.

    Raises:
        CharRNNError: there is none.
    """
    try:
        if sys.version_info >= (3, 14):
            return importlib.import_module("compression.zstd")
        return importlib.import_module("backports.zstd")
    except ImportError:
        package = (
            "this Python was built without what reads it"
            if sys.version_info >= (3, 14)
            else "it needs the package backports.zstd (the extra zstd of charrnn-runtime): pip install "
            "backports.zstd"
        )
        raise CharRNNError(f"{name} is a zstd file; {package}; or unpack it first, with zstd -dc") from None


def _size_of(file: Any) -> int | None:
    """How many bytes there are to read; None if that is not known, as of a pipe."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):  # no file of the system's
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
