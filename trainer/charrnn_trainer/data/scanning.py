"""Texts -> token ids on disk.

A text is read twice, in pieces: once to learn its symbols (`scan_texts`), once to encode it
(`ScannedText.encode_to`). Several texts become one, with a separator between them. Where the end of a text is
for validation, the end of each of them is: first come the parts of all texts that are for training, then
their parts for validation, which takes a third reading.
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
    """One of the texts that were read.

    Attributes:
        name: what it is called.
        sha256: the hash of its bytes as they were read.
        length: its characters (at the byte level, its bytes).
        train_length: how many of them, from the first, are for training.
        ended: whether it ends with the separator already, so that none is added.
        encoding: which encoding it has, at level "char".
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
    """A text, or several, that were read once to learn what they hold.

    Close it, or use it in a ``with`` statement: what was kept aside of a pipe then goes away.

    Attributes:
        name: what it is called.
        sha256: the hash of its bytes as they were read; of several texts, that of their hashes.
        vocabulary: its symbols, and those that were given to begin with.
        length: N, its characters (at the byte level, its bytes), separators included.
        train_length: how many of them, from the first, are for training; None where that is not settled yet.
        distinct: how many different ones there are.
        beginning: its first characters, to show them.
        had_bom: whether a byte-order mark was removed from its start.
        had_crlf: whether Windows line ends were replaced.
        source: the path that it was read from, as an absolute one; "-" for standard input. Of several texts,
            all their paths.
        size: its bytes as they are in the files.
        encoding: which encoding it has; None at the byte level, or if there are several.
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
        """Let go of what was kept aside; the text cannot be encoded any more."""
        for file in self.files:
            file._text.close()

    def encode_to(self, path: Path, *, source: Source | None, on_progress: Progress | None = None) -> Corpus:
        """Encode the text into a file of ids, whole or not at all, and map that into memory.

        Args:
            path: the file to write.
            source: what the corpus says of where it came from.
            on_progress: is called with the number of bytes that were read since the last call.

        Raises:
            CharRNNError: the text cannot be read any more or has changed, or the file cannot be written.
        """
        info = TokensInfo(self.vocabulary, self.name, self.sha256, source, self.train_length)
        ids = write_tokens(path, info, self.length, self._encoded(on_progress))
        return Corpus(ids, self.vocabulary, self.name, self.sha256, source, self.train_length)

    def _encoded(self, on_progress: Progress | None) -> Iterator[NDArray[Any]]:
        """The ids of everything in the order of the corpus, ``[n]`` at a time."""
        id_of = id_of_codes(self.vocabulary)
        separator = np.take(id_of, codes_of(self._separator))
        training = [(file, 0, file.train_length) for file in self.files]
        held_back = [(file, file.train_length, file.length) for file in self.files]
        parts = [*training, *(held_back if self.train_length is not None else ())]
        for number, (file, first, last) in enumerate(parts):
            yield from self._part(file, first, last, id_of, on_progress if first == 0 else None)
            at_end = number + 1 == len(parts)
            if len(parts) > 1 and not at_end and not (file.ended and last == file.length):
                yield separator

    def _part(
        self, file: ScannedFile, first: int, last: int, id_of: NDArray[Any], on_progress: Progress | None
    ) -> Iterator[NDArray[Any]]:
        """The ids of a text from one place to another."""
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
            # The hash also covers what has no id: the scan has seen every symbol of the text.
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
    """Read one text once, to learn what it holds; see `scan_texts`."""
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
    """Read texts once, to learn what they hold.

    Args:
        paths: files, or "-" for standard input; gzip, xz and zstd are unpacked. What can be read only once (a
            pipe) is kept aside.
        level: "char" for UTF-8 text, "byte" for anything.
        vocabulary: the symbols to begin with, to which those that the texts have besides are added; None
            takes the texts' own.
        name: what the whole is called; None makes a name of the files' names.
        on_progress: is called with the number of bytes that were read since the last call.
        unix_lines: read Windows line ends, CR LF, as LF alone; a text that ends with the separator gets no
            other one.
        separator: what is put between texts.
        val_fraction: the share of the end of each text that is kept for validation; of one text, and with 0
            of several, where the text is split is settled later.
        encoding: one of Python's encodings, at level "char"; None reads UTF-8, or what a byte-order mark
            says.
        on_notice: is told, in a line each, of texts that may be other than they seem.

    Raises:
        CharRNNError: one cannot be read, or is not text in that encoding (the message names the byte); all
            together have less than 32 characters, or one distinct character, or too many; or they are of
            another level than ``vocabulary``.
        SettingError: two of the paths are of the same file.
    """
    if not paths:
        raise SettingError("no text was given; give the path of a text file")
    _check_paths(paths)  # all of them, before one is read, which may take long
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
                if path == "-":  # most likely nothing was piped into the command
                    raise CharRNNError("standard input is empty; pipe a text into it, or omit -")
                if on_notice is not None:
                    on_notice(f"{own_name} is empty, so it adds nothing")
            trained = int((1.0 - val_fraction) * pieces.length)
            ended = unix_lines and pieces.ending in (separator, separator.encode())
            files[-1] = ScannedFile(
                own_name, pieces.sha256, pieces.length, trained, ended, pieces.encoding, text
            )
            beginning = beginning or pieces.beginning
            had_bom, had_crlf = had_bom or pieces.had_bom, had_crlf or pieces.had_crlf
        for file in [file for file in files if not file.length][: len(files) - 1]:
            files.remove(file)  # an empty one adds nothing
            file._text.close()
        several = len(files) > 1
        if not several:  # how it is split is settled later
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
    """Check that every text can be read, and that none comes twice, as it would on both sides of a split."""
    seen: set[str] = set()
    for path in paths:
        check_readable(path)
        place = path if path == "-" else os.path.realpath(path)
        if place in seen:
            raise SettingError(f"{path} was given twice; give each text once")
        seen.add(place)


def _lengths(files: Sequence[ScannedFile], separator: int, *, parted: bool) -> tuple[int, int | None]:
    """The length of all texts with the separators between their parts, and of that what is for training."""
    whole = sum(file.length for file in files)
    if not parted:
        return whole + separator * sum(not file.ended for file in files[:-1]), None
    # A text whose validation part is empty ends with its part for training.
    behind = [separator * (not file.ended or file.train_length < file.length) for file in files]
    training = sum(file.train_length for file in files) + sum(behind)
    held_back = whole - sum(file.train_length for file in files)
    return training + held_back + separator * sum(not file.ended for file in files[:-1]), training


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
    """A path as text that any file can hold: Python keeps what its locale cannot decode as surrogates."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return os.fsencode(path).decode(errors="replace")


def _check_level(name: str, own: Vocabulary, vocabulary: Vocabulary) -> None:
    if own.level != vocabulary.level:
        raise CharRNNError(
            f"{name} was read at level {own.level}, but the network to start from works at level "
            f"{vocabulary.level}; give level={vocabulary.level}",
            "level",
        )
