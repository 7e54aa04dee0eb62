"""Text files: which encoding they have, and what they are where they are not text.

A text is UTF-8 unless its byte-order mark or the caller says otherwise. It is decoded a block at a time, so
that it may be longer than memory. A mark at its start is not part of it.
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
"""Takes a line about a text that may be other than it seems. It names the parameter ``encoding``."""

_HEAD: Final = 4096
"""How many bytes at the start of a text are looked at, to say what it may be."""

_MARKS: Final = (  # longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LONGEST_MARK: Final = 4

_COMPRESSED: Final = (
    (b"\x1f\x8b", "a file that gzip compressed", "gzip -dc"),
    (b"\xfd7zXZ\0", "a file that xz compressed", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "a file that zstd compressed", "zstd -dc"),
    (b"BZh", "a file that bzip2 compressed", "bzip2 -dc"),
    (b"PK\x03\x04", "a zip archive, as .docx, .xlsx, .epub and .npz files are, too", "unzip -p"),
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
    """The name of one of Python's text encodings.

    Raises:
        SettingError: it is none.
    """
    try:
        "a".encode(encoding)  # refuses those that turn bytes into bytes
        if codecs.lookup(encoding).incrementaldecoder is not None:
            return encoding
    except (LookupError, TypeError, ValueError):  # UnicodeError is a ValueError
        pass
    raise SettingError(
        f"encoding must be one that Python knows, such as utf-8, latin-1, cp1252, utf-16 or gb18030, not "
        f"{encoding!r}",
        "encoding",
    )


def what_it_is(head: bytes, name: str = "") -> str:
    """What a file is that begins with some bytes, where these are not the beginning of a text; else "".

    Args:
        head: its first bytes; 262 are enough.
        name: its name, for a command that makes a text of it; none is given for "".
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
    # An ONNX file begins with its IR version, and then the name of what made it, or the graph.
    if len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42):
        return "an ONNX model"
    return ""


def what_instead_of_a_model(head: bytes, name: str, error: str) -> str:
    """What a file is that begins with some bytes and cannot be read as an ONNX file, because of an error."""
    kind = what_it_is(head)
    if kind == "a safetensors file":
        command = f"charrnn-export {shell_word(name)} my.onnx"
        return f"it is {kind}; if it is a checkpoint, make a model of it: {command}"
    if kind and kind != "an ONNX model":
        return f"it is {kind}"
    return f"it is not an ONNX file, or is truncated or damaged ({error})"


def _to_unpack(kind: str, command: str, name: str) -> str:
    words = f"{command} {shell_word(name)} > text.txt"
    return f"{kind}: unpack it first, as with {words}" if name else kind


def wide_encoding(block: bytes) -> str:
    """The encoding that many NUL bytes hint at: one of UTF-16 or UTF-32 without a mark, or ""."""
    if block.count(0) * 50 < len(block) or not block:
        return ""
    nuls = [block[place::4].count(0) for place in range(4)]
    quarter = len(block) / 4
    if min(nuls[2], nuls[3]) > 0.9 * quarter:
        return "utf-32-le"
    if min(nuls[0], nuls[1]) > 0.9 * quarter:
        return "utf-32-be"
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        found = nuls[first] + nuls[first + 2]
        # Every other byte of Latin letters is one; of other scripts only those of spaces and line ends.
        enough = found > 3 or (found > 1 and found > quarter)
        if enough and found > 0.9 * sum(nuls):
            return "" if block.isascii() and _are_letters(block[first::2]) else encoding
    return ""


def _are_letters(block: bytes) -> bool:
    """Whether many bytes are Latin letters, as they are where NULs are between words."""
    return sum(map(block.count, b"abcdefghijklmnopqrstuvwxyz")) * 3 > len(block)


class TextDecoder:
    """Decodes one text as its blocks come.

    Attributes:
        encoding: which encoding it has; known from the first block on, if it was not given.
        had_mark: whether a byte-order mark at the start was skipped.
    """

    def __init__(self, name: str, encoding: str | None = None, notice: Notice | None = None) -> None:
        """A text of which nothing has come yet.

        Args:
            name: what messages call it.
            encoding: one of Python's encodings; None for what a byte-order mark says, or UTF-8.
            notice: is told what the reader should know: a mark that is not UTF-8's, or many NULs.

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
        """The text of the next block; what its end cuts comes with the one after it.

        Raises:
            CharRNNError: it is not text in this encoding; the message says what it may be.
        """
        if self._decoder is None:
            block, self._waiting = self._waiting + block, b""
            if len(block) < _LONGEST_MARK and not final:
                self._waiting = block  # a mark may be cut
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
        """Find out from the first block what the text is."""
        if self._is_given:
            return
        kind = what_it_is(head, self._name)
        if kind:
            raise CharRNNError(f"{self._name} is not text but {kind}")
        self.encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        if self._notice is None:
            return
        if self.encoding != "utf-8":
            self.had_mark = True
            shown = self.encoding.upper()
            self._notice(f"{self._name} is read as {shown}, as the byte-order mark at its start says")
            return
        wide = wide_encoding(head)
        if wide:
            self._notice(
                f"{self._name} has many NUL bytes and looks like {wide.upper()}, but is read as UTF-8; if it "
                f'is that, give encoding="{wide}"'
            )
        elif head.count(0) * 50 > len(head):
            several = "NUL bytes, the first" if head.count(0) > 1 else "a NUL byte"
            self._notice(
                f"{self._name} has {several} at offset {head.index(0):,}, which is unusual for a text; "
                "charrnn-train --level byte reads any bytes as they are"
            )

    def _undecodable(self, error: UnicodeError, block: bytes, begin: int) -> CharRNNError:
        """The error about bytes that are not text in this encoding.

        Args:
            error: Python's.
            block: the block that has them, or that ends within a character.
            begin: where in the text the bytes begin that the decoder had before it.
        """
        where = ""
        if isinstance(error, UnicodeDecodeError):
            where = f": byte {begin + error.start} is 0x{error.object[error.start]:02x}"
            block = bytes(error.object)
        if _looks_binary(self._head):
            advice = "it looks like binary data, and not like text"
        else:
            likely = _other_than(self.encoding, _likely_encoding(self._head, block))
            advice = f'say which one it is in, as with encoding="{likely}"'
        return CharRNNError(f"{self._name} is not {self.encoding.upper()}{where}; {advice}", "encoding")


def decoded(
    blocks: Iterable[bytes], name: str, encoding: str | None = None, notice: Notice | None = None
) -> Iterator[str]:
    """The text of some blocks of bytes; see `TextDecoder`, whose arguments and errors these are."""
    decoder = TextDecoder(name, encoding, notice)
    for block in chain(blocks, [b""]):
        text = decoder.decode(block, final=not block)
        if text:
            yield text


def _likely_encoding(head: bytes, block: bytes) -> str:
    """An encoding that a text may have which begins with some bytes, and has others that are not UTF-8."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    found = marked or wide_encoding(head)
    if found:
        return found
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(block)  # which may end within a character
        return "utf-8"
    # Windows' Western encoding has quotation marks and dashes where Latin-1 has control characters.
    return "cp1252" if re.search(rb"[\x80-\x9f]", block) else "latin-1"


def _other_than(encoding: str, likely: str) -> str:
    same = codecs.lookup(encoding).name == codecs.lookup(likely).name
    return ("latin-1" if likely != "latin-1" else "utf-8") if same else likely


def _looks_binary(block: bytes) -> bool:
    """Whether there are more control characters than in any usual encoding of a text."""
    controls = sum(block.count(byte) for byte in range(32) if byte not in b"\t\n\f\r\x1b")
    is_wide = wide_encoding(block) or block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return controls * 20 > len(block) and not is_wide
