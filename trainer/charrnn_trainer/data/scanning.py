"""Converts texts to token ids on disk.

A text is read twice, in pieces: once to collect its symbols (`scan_texts`), and once to encode it
(`ScannedText.encode_to`). Several texts are joined, with a separator between them. If the end of the text is
for validation, the end of each text is held out: the training parts of all texts come first, then their
validation parts, which takes a third pass.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.text_files import Notice
from charrnn_runtime.vocabulary import Level, Vocabulary
from charrnn_trainer.data.code_points import codes_of, distinct_codes, id_of_codes
from charrnn_trainer.data.corpus import Corpus, check_text
from charrnn_trainer.data.text_source import Pieces, Progress, TextSource, check_readable
from charrnn_trainer.data.token_file import Source, TokensInfo, write_tokens
from charrnn_trainer.data.vocabulary_growth import grow_vocabulary


@dataclass(frozen=True)
class ScannedFile:
    """One scanned text.

    Attributes:
        name: its name.
        sha256: the hash of its original bytes.
        length: the number of its characters (at the byte level, bytes).
        train_length: the number of characters at the start that are for training.
        ended: whether it already ends with the separator, so that none is added.
        encoding: its encoding, at level "char".
    """

    name: str
    sha256: str
    length: int
    train_length: int
    ended: bool
    encoding: str
    _text: TextSource = field(repr=False, compare=False)


@dataclass(frozen=True)
class ScannedText:
    """One or several texts after the first pass.

    Close it, or use it in a ``with`` statement, to delete buffered pipes.

    Attributes:
        name: its name.
        sha256: the hash of its original bytes; for several texts, of their hashes.
        vocabulary: its symbols, together with those of the initial vocabulary.
        length: N, the number of its characters (at the byte level, bytes), including separators.
        train_length: the number of characters at the start that are for training; None if not yet decided.
        distinct: the number of distinct characters.
        beginning: its first characters, for display.
        had_bom: whether a byte-order mark was removed from its start.
        had_crlf: whether Windows line endings were replaced.
        source: its absolute path; "-" for standard input; for several texts, all paths.
        size: the size of the files in bytes.
        encoding: its encoding; None at the byte level, or if the files differ.
        files: the texts that it consists of.
    """

    name: str
    sha256: str
    vocabulary: Vocabulary
    length: int
    train_length: int | None
    distinct: int
    beginning: str
    had_bom: bool
    had_crlf: bool
    source: Source
    size: int
    encoding: str | None
    files: tuple[ScannedFile, ...]
    _separator: str | bytes = field(repr=False, compare=False)
    _unix_lines: bool = field(repr=False, compare=False)

    def __enter__(self) -> ScannedText:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete buffered pipes; the text can no longer be encoded."""
        for file in self.files:
            file._text.close()

    def encode_to(self, path: Path, *, source: Source | None, on_progress: Progress | None = None) -> Corpus:
        """Encode the text into a file of ids, atomically, and memory-map it.

        Args:
            path: the file to write.
            source: the source to record in the corpus.
            on_progress: called with the number of bytes read since the last call.

        Raises:
            CharRNNError: the text can no longer be read or has changed, or the file cannot be written.
        """
        info = TokensInfo(self.vocabulary, self.name, self.sha256, source, self.train_length)
        ids = write_tokens(path, info, self.length, self._encoded(on_progress))
        return Corpus(ids, self.vocabulary, self.name, self.sha256, source, self.train_length)

    def _encoded(self, on_progress: Progress | None) -> Iterator[NDArray[Any]]:
        """The ids in the order of the corpus, in arrays ``[n]``."""
        id_of = id_of_codes(self.vocabulary)
        separator = np.take(id_of, codes_of(self._separator))
        training = [(file, 0, file.train_length) for file in self.files]
        held_out = [(file, file.train_length, file.length) for file in self.files]
        parts = [*training, *(held_out if self.train_length is not None else ())]
        for number, (file, first, last) in enumerate(parts):
            yield from self._part(file, first, last, id_of, on_progress if first == 0 else None)
            at_end = number + 1 == len(parts)
            if len(parts) > 1 and not at_end and not (file.ended and last == file.length):
                yield separator

    def _part(
        self, file: ScannedFile, first: int, last: int, id_of: NDArray[Any], on_progress: Progress | None
    ) -> Iterator[NDArray[Any]]:
        """The ids of a text between two positions."""
        with file._text.opened() as opened:
            level = self.vocabulary.level
            unix, encoding = self._unix_lines, file.encoding
            pieces = Pieces(opened, file.name, level, on_progress, encoding=encoding, unix_lines=unix)
            begin = 0
            for piece in pieces:
                wanted = codes_of(piece)[max(first - begin, 0) : max(last - begin, 0)]
                begin = pieces.length
                if len(wanted):
                    yield np.take(id_of, wanted, mode="clip")
            # The hash also detects symbols without an id: the scan has seen all symbols of the text.
            if pieces.sha256 != file.sha256:
                raise CharRNNError(f"{file.name} changed while it was being read; start again")


def scan_text(
    path: str,
    *,
    level: Level = "char",
    vocabulary: Vocabulary | None = None,
    name: str | None = None,
    on_progress: Progress | None = None,
    unix_lines: bool = False,
) -> ScannedText:
    """Scan one text; see `scan_texts`."""
    return scan_texts(
        [path],
        level=level,
        vocabulary=vocabulary,
        name=name,
        on_progress=on_progress,
        unix_lines=unix_lines,
    )


def scan_texts(
    paths: Sequence[str],
    *,
    level: Level = "char",
    vocabulary: Vocabulary | None = None,
    name: str | None = None,
    on_progress: Progress | None = None,
    unix_lines: bool = False,
    separator: str = "\n",
    val_fraction: float = 0.0,
    encoding: str | None = None,
    on_notice: Notice | None = None,
) -> ScannedText:
    """Read texts once, to collect symbols, lengths and hashes.

    Args:
        paths: files, or "-" for standard input; gzip, xz and zstd are decompressed. Pipes are buffered, since
            they can be read only once.
        level: "char" for text, "byte" for any file.
        vocabulary: an initial vocabulary, which is extended by the texts' other symbols; None for none.
        name: the name of the whole; None derives one from the files' names.
        on_progress: called with the number of bytes read since the last call.
        unix_lines: read Windows line endings (CR LF) as LF, and add no separator to texts that end with it.
        separator: the text between two texts.
        val_fraction: the share at the end of each of several texts to hold out for validation. For a single
            text, or with 0, the split is decided later.
        encoding: one of Python's encodings, at level "char"; None for UTF-8, or the encoding of a byte-order
            mark.
        on_notice: called with a line about each text that may be in a different encoding than it seems.

    Raises:
        CharRNNError: a text cannot be read, or is not valid in the encoding (the message names the byte); the
            texts together have fewer than 32 characters, one distinct character, or too many; or their level
            differs from that of ``vocabulary``.
        SettingError: two paths lead to the same file.
    """
    if not paths:
        raise SettingError("no text given; give the path of a text file")
    _check_paths(paths)  # all of them first, since reading one may take long
    codes: NDArray[np.intp] = np.zeros(0, np.intp)
    files: list[ScannedFile] = []
    beginning, had_bom, had_crlf = "", False, False
    try:
        for path in paths:
            own_name = "standard input" if path == "-" else _as_text(Path(path).name)
            if name and len(paths) == 1:
                own_name = name
            text = TextSource(path)
            files.append(ScannedFile(own_name, "", 0, 0, False, "", text))  # closed if reading fails
            with text.opened() as opened:
                pieces = Pieces(
                    opened,
                    own_name,
                    level,
                    on_progress,
                    encoding=encoding,
                    on_notice=on_notice,
                    unix_lines=unix_lines,
                )
                codes = np.union1d(codes, distinct_codes(pieces, level))
            if not pieces.length and len(paths) > 1:
                if path == "-":  # most likely, nothing was piped into the command
                    raise CharRNNError("standard input is empty; pipe a text into it, or omit -")
                if on_notice is not None:
                    on_notice(f"{own_name} is empty and is skipped")
            trained = int((1.0 - val_fraction) * pieces.length)
            ended = unix_lines and pieces.ending in (separator, separator.encode())
            files[-1] = ScannedFile(
                own_name, pieces.sha256, pieces.length, trained, ended, pieces.encoding, text
            )
            beginning = beginning or pieces.beginning
            had_bom, had_crlf = had_bom or pieces.had_bom, had_crlf or pieces.had_crlf
        for file in [file for file in files if not file.length][: len(files) - 1]:
            files.remove(file)
            file._text.close()
        several = len(files) > 1
        if not several:  # its split is decided later
            files[0] = dataclasses.replace(files[0], train_length=files[0].length)
        between: str | bytes = separator if level == "char" else separator.encode()
        if several and separator:
            codes = np.union1d(codes, codes_of(between).astype(np.intp))
        length, train_length = _lengths(files, len(between), parted=several and val_fraction > 0)
        name = name or _joint_name(files)
        check_text(name, level, length, len(codes))
        own = Vocabulary.of_bytes() if level == "byte" else Vocabulary([chr(code) for code in codes])
        if vocabulary is not None:
            _check_level(name, own, vocabulary)
            own = grow_vocabulary(vocabulary, own.symbols)
    except BaseException:
        for file in files:
            file._text.close()
        raise
    sources = tuple(file._text.path for file in files)
    return ScannedText(
        name=name,
        sha256=_joint_hash(files, between) if several else files[0].sha256,
        vocabulary=own,
        length=length,
        train_length=train_length,
        distinct=len(codes),
        beginning=beginning,
        had_bom=had_bom,
        had_crlf=had_crlf,
        source=sources if several else sources[0],
        size=sum(file._text.size for file in files),
        encoding=_joint_encoding(files) if level == "char" else None,
        files=tuple(files),
        _separator=between,
        _unix_lines=unix_lines,
    )


def _check_paths(paths: Sequence[str]) -> None:
    """Check that every text can be read, and reject duplicates, which would be on both sides of the split."""
    seen: set[str] = set()
    for path in paths:
        check_readable(path)
        place = path if path == "-" else os.path.realpath(path)
        if place in seen:
            raise SettingError(f"{path} is given twice; give each text once")
        seen.add(place)


def _lengths(files: Sequence[ScannedFile], separator: int, *, parted: bool) -> tuple[int, int | None]:
    """The length of all texts including separators, and the part of it that is for training."""
    whole = sum(file.length for file in files)
    if not parted:
        return whole + separator * sum(not file.ended for file in files[:-1]), None
    # A text with an empty validation part ends with its training part.
    behind = [separator * (not file.ended or file.train_length < file.length) for file in files]
    training = sum(file.train_length for file in files) + sum(behind)
    held_out = whole - sum(file.train_length for file in files)
    return training + held_out + separator * sum(not file.ended for file in files[:-1]), training


def _joint_name(files: Sequence[ScannedFile]) -> str:
    if len(files) == 1:
        return files[0].name
    if len(files) <= 3:
        return ", ".join(file.name for file in files)
    return f"{files[0].name} and {len(files) - 1:,} more"


def _joint_encoding(files: Sequence[ScannedFile]) -> str | None:
    encodings = {file.encoding for file in files}
    return encodings.pop() if len(encodings) == 1 else None


def _joint_hash(files: Sequence[ScannedFile], separator: str | bytes) -> str:
    data = separator.encode() if isinstance(separator, str) else separator
    return hashlib.sha256("\n".join(file.sha256 for file in files).encode() + b"\n" + data).hexdigest()


def _as_text(path: str) -> str:
    """A path as valid Unicode: Python keeps bytes that the locale cannot decode as surrogates."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return os.fsencode(path).decode(errors="replace")


def _check_level(name: str, own: Vocabulary, vocabulary: Vocabulary) -> None:
    if own.level != vocabulary.level:
        raise CharRNNError(
            f"{name} was read at level {own.level}, but the network in the checkpoint has level "
            f"{vocabulary.level}; give level={vocabulary.level}",
            "level",
        )
