"""Text files: detects the encoding, and recognizes files that are not text.

A text is UTF-8 unless its byte-order mark or the caller says otherwise. It is decoded in blocks, so it may
be larger than memory. A byte-order mark at the start is not part of the text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import shell_word

MARK: Final = "\ufeff"

Notice = Callable[[str], None]
"""Receives notices about texts that may not be what they seem, which name the parameter ``encoding``."""

_HEAD: Final = 4096
"""The number of bytes at the start of a text to inspect."""

_MARKS: Final = (  # longer ones first: UTF-32's starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LONGEST_MARK: Final = 4

_COMPRESSED: Final = (
    (b"\x1f\x8b", "a gzip-compressed file", "gzip -dc"),
    (b"\xfd7zXZ\0", "an xz-compressed file", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", "zstd -dc"),
    (b"BZh", "a bzip2-compressed file", "bzip2 -dc"),
    (b"PK\x03\x04", "a zip archive (.docx, .xlsx, .epub and .npz files are, too)", "unzip -p"),
)

_BINARY: Final = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04\x95", "a Python pickle"),
)


def check_encoding(encoding: str) -> str:
    """Normalize the name of a Python text encoding.

    Raises:
        SettingError: it is not a text encoding.
    """
    try:
        "a".encode(encoding)  # fails for codecs that convert bytes to bytes
        if codecs.lookup(encoding).incrementaldecoder is not None:
            return encoding
    except (LookupError, TypeError, ValueError):  # UnicodeError is a ValueError
        pass
    raise SettingError(
        f"encoding must be one that Python supports, such as utf-8, latin-1, cp1252, utf-16 or gb18030, not "
        f"{encoding!r}",
        "encoding",
    )


def file_kind(head: bytes, name: str = "") -> str:
    """The kind of file that starts with these bytes, if it is not a text; otherwise "".

    Args:
        head: the first bytes; 262 are enough.
        name: the file name, to suggest a command that converts it to text; "" for no suggestion.
    """
    for magic, kind, command in _COMPRESSED:
        if head.startswith(magic) and not (magic == b"BZh" and head[4:10] != b"1AY&SY"):
            return _to_unpack(kind, command, name)
    for magic, kind in _BINARY:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":  # POSIX.1-1988
        return _to_unpack("a tar archive", "tar -xOf", name)
    if len(head) > 9 and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 28:
        return "a safetensors file"
    # An ONNX file starts with its IR version, followed by the producer name or the graph.
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42):
        return "an ONNX model"
    return ""


def why_not_a_model(head: bytes, name: str, error: str) -> str:
    """The kind of file that starts with these bytes, which cannot be read as ONNX because of an error."""
    kind = file_kind(head)
    if kind == "a safetensors file":
        command = f"charrnn-export {shell_word(name)} my.onnx"
        return f"it is {kind}; if it is a checkpoint, export it: {command}"
    if kind and kind != "an ONNX model":
        return f"it is {kind}"
    return f"it is not an ONNX file, or is truncated or damaged ({error})"


def _to_unpack(kind: str, command: str, name: str) -> str:
    words = f"{command} {shell_word(name)} > text.txt"
    return f"{kind}: extract the text first, for example with {words}" if name else kind


def wide_encoding(block: bytes) -> str:
    """UTF-16 or UTF-32 without a byte-order mark, as suggested by many NUL bytes; otherwise ""."""
    if block.count(0) * 50 < len(block) or not block:
        return ""
    nuls = [block[place::4].count(0) for place in range(4)]
    quarter = len(block) / 4
    if min(nuls[2], nuls[3]) > 0.9 * quarter:
        return "utf-32-le"
    if min(nuls[0], nuls[1]) > 0.9 * quarter:
        return "utf-32-be"
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if nuls[first] + nuls[first + 2] > 0.9 * sum(nuls):
            return "" if block.isascii() and _are_letters(block[first::2]) else encoding
    return ""


def _are_letters(block: bytes) -> bool:
    """Whether many bytes are Latin letters, as in text with NULs between words."""
    return sum(map(block.count, b"abcdefghijklmnopqrstuvwxyz")) * 3 > len(block)


class TextDecoder:
    """Decodes a text block by block.

    Attributes:
        encoding: the encoding; if it was not given, known from the first block on.
        had_mark: whether a byte-order mark was skipped.
    """

    def __init__(self, name: str, encoding: str | None = None, notice: Notice | None = None) -> None:
        """Start decoding.

        Args:
            name: the name of the text in messages.
            encoding: one of Python's encodings; None to detect a byte-order mark, otherwise UTF-8.
            notice: receives notices: a byte-order mark other than UTF-8's, or many NULs.

        Raises:
            SettingError: the encoding is unknown.
        """
        self.encoding = "utf-8" if encoding is None else check_encoding(encoding)
        self.had_mark = False
        self._name, self._notice = name, notice
        self._is_given = encoding is not None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._offset = 0
        self._begun = False
        self._head = self._waiting = b""

    def decode(self, block: bytes, *, final: bool = False) -> str:
        """Decode the next block; an incomplete character at its end is returned with the following block.

        Raises:
            CharRNNError: the bytes are invalid in this encoding; the message suggests another one.
        """
        if self._decoder is None:
            block, self._waiting = self._waiting + block, b""
            if len(block) < _LONGEST_MARK and not final:
                self._waiting = block  # a byte-order mark may be incomplete
                return ""
            self._head = block[:_HEAD]
            self._begin(block)
            self._decoder = codecs.getincrementaldecoder(self.encoding)()
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(block, final)
        except UnicodeError as error:
            raise self._undecodable(error, block, self._offset - pending) from None
        self._offset += len(block)
        if text and not self._begun:
            self._begun = True
            if text.startswith(MARK):
                self.had_mark, text = True, text[1:]
        return text

    def _begin(self, head: bytes) -> None:
        """Detect the kind of text from the first block."""
        if self._is_given:
            return
        kind = file_kind(head, self._name)
        if kind:
            raise CharRNNError(f"{self._name} is not a text file but {kind}")
        self.encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        if self._notice is None:
            return
        if self.encoding != "utf-8":
            self.had_mark = True
            shown = self.encoding.upper()
            self._notice(f"{self._name} is read as {shown}, according to its byte-order mark")
            return
        wide = wide_encoding(head)
        if wide:
            self._notice(
                f"{self._name} has many NUL bytes and looks like {wide.upper()}, but is read as UTF-8; if it "
                f'is {wide.upper()}, give encoding="{wide}"'
            )
        elif head.count(0) * 50 > len(head):
            self._notice(f"{self._name} has many NUL bytes, which is unusual for text")

    def _undecodable(self, error: UnicodeError, block: bytes, begin: int) -> CharRNNError:
        """The error for bytes that are invalid in this encoding.

        Args:
            error: Python's error.
            block: the block with the invalid bytes, or that ends within a character.
            begin: the position in the text of the bytes that were pending before the block.
        """
        where = ""
        if isinstance(error, UnicodeDecodeError):
            where = f": byte {begin + error.start} is 0x{error.object[error.start]:02x}"
            block = bytes(error.object)
        if _looks_binary(self._head):
            advice = "it looks like binary data, not text"
        else:
            likely = _other_than(self.encoding, _likely_encoding(self._head, block))
            advice = f'give the right encoding, perhaps encoding="{likely}"'
        return CharRNNError(f"{self._name} is not {self.encoding.upper()}{where}; {advice}", "encoding")


def decoded(
    blocks: Iterable[bytes], name: str, encoding: str | None = None, notice: Notice | None = None
) -> Iterator[str]:
    """Decode blocks of bytes; see `TextDecoder` for the arguments and errors."""
    decoder = TextDecoder(name, encoding, notice)
    for block in chain(blocks, [b""]):
        text = decoder.decode(block, final=not block)
        if text:
            yield text


def _likely_encoding(head: bytes, block: bytes) -> str:
    """A likely encoding of a text that starts with these bytes and is not valid UTF-8."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    found = marked or wide_encoding(head)
    if found:
        return found
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(block)  # which may end within a character
        return "utf-8"
    # cp1252 has quotation marks and dashes where Latin-1 has control characters.
    return "cp1252" if re.search(rb"[\x80-\x9f]", block) else "latin-1"


def _other_than(encoding: str, likely: str) -> str:
    same = codecs.lookup(encoding).name == codecs.lookup(likely).name
    return ("latin-1" if likely != "latin-1" else "utf-8") if same else likely


def _looks_binary(block: bytes) -> bool:
    """Whether there are more control characters than in any usual text encoding."""
    controls = sum(block.count(byte) for byte in range(32) if byte not in b"\t\n\f\r\x1b")
    is_wide = wide_encoding(block) or block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return controls * 20 > len(block) and not is_wide
