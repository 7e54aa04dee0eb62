"""Reads the text of a run, and the checkpoint that it may start from, before training starts."""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charrnn_runtime.cli import terminal
from charrnn_runtime.cli.texts import say_notice
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import shell_word
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.setting import option_of
from charrnn_trainer.train_config import SETTINGS, TrainConfig

if TYPE_CHECKING:
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.data.scanning import ScannedText
    from charrnn_trainer.data.token_file import Source


@contextlib.contextmanager
def reading(size: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar, shown only if reading takes long."""
    bar = terminal.LateBar(size, what)
    try:
        yield bar.advance
    finally:
        bar.close()


def find(given: Sequence[str], pattern: str | None) -> Source:
    """Resolve the given paths to text files: files stay, folders become the files that match the pattern.

    Raises:
        SettingError: a folder without a pattern or without a match, or a pattern without a folder.
    """
    paths: list[str] = []
    for path in given:
        if not os.path.isdir(path):
            paths.append(path)
            continue
        if pattern is None:
            raise SettingError(
                f"{path} is a folder; choose the files to read, such as --glob '*.txt', or "
                "--glob '**/*.txt' to include subfolders"
            )
        found = _files_in(path, pattern)
        if not found:
            raise SettingError(
                f"{path} has no file that matches --glob {shlex.quote(pattern)}; give another pattern"
            )
        paths += found
    if pattern is not None and paths == list(given):
        raise SettingError("--glob selects files in a folder; give a folder as TEXT, or omit --glob")
    return paths[0] if len(paths) == 1 else tuple(paths)


def _files_in(folder: str, pattern: str) -> list[str]:
    """The files in a folder that match a pattern, sorted by path; hidden files must match explicitly."""
    try:
        found = glob.glob(pattern, root_dir=folder, recursive=True)
    except (ValueError, OSError) as error:
        raise SettingError(f"--glob {shlex.quote(pattern)} is not a valid pattern: {error}") from error
    files = (os.path.join(folder, name) for name in sorted(found))
    return [path for path in files if os.path.isfile(path)]


def scan(text: Source | None, config: TrainConfig, vocabulary: Vocabulary | None) -> ScannedText:
    """Scan the given text or texts, or the default text."""
    from charrnn_trainer.data.scanning import scan_text, scan_texts

    data = config.data
    level: Literal["char", "byte"] = "byte" if data.level == "byte" else "char"
    if text is not None:
        paths = [text] if isinstance(text, str) else text
        if level == "char":
            _refuse_settings(paths)
        size = sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
        with reading(size, "reading the text" if len(paths) == 1 else "reading the texts") as progress:
            scanned = scan_texts(
                paths,
                level=level,
                vocabulary=vocabulary,
                on_progress=progress,
                unix_lines=data.lines,
                encoding=None if data.encoding == "auto" else data.encoding,
                on_notice=say_notice,
                separator=data.separator,
                # Held-out lines, and blocks spread over the text, come from the joined text.
                val_fraction=0.0 if data.lines or data.split == "spread" else data.val_fraction,
            )
        if len(scanned.files) > 1:
            terminal.say(_about_texts(scanned, config))
        return scanned

    from charrnn_trainer.cli.display import download_progress
    from charrnn_trainer.data.default_corpus import default_corpus

    with download_progress() as progress:
        found = default_corpus(terminal.say, progress)
    unix = data.lines
    return scan_text(str(found.path), level=level, vocabulary=vocabulary, name=found.name, unix_lines=unix)


def _refuse_settings(paths: Sequence[str]) -> None:
    """Reject a ``config.toml`` given as the text; any other TOML file is accepted as text."""
    for path in paths:
        if path.endswith(".toml"):
            with contextlib.suppress(CharRNNError):
                RunFile.read(Path(path))
                settings = f"--config {shell_word(path)}"
                break
    else:
        return
    raise SettingError(f"{path} contains the settings of a run, not a text; to start from them: {settings}")


def _about_texts(scanned: ScannedText, config: TrainConfig) -> str:
    """One line about how several texts are joined."""
    separator = config.data.separator.encode("unicode_escape").decode("ascii")
    between = f'"{separator}" between them' if separator else "nothing between them"
    held_out = ""
    if scanned.train_length is not None:
        held_out = f", the last {config.data.val_fraction * 100:g} % of each held out for validation"
    return f"texts: {len(scanned.files):,}, joined with {between}{held_out}"


def start_from(
    path: Path, config: TrainConfig, given: dict[str, Any]
) -> tuple[TrainConfig, Path, Vocabulary]:
    """The settings with a checkpoint's network in them, the checkpoint's file, and its vocabulary."""
    from charrnn_trainer.runs.checkpoint import read_header
    from charrnn_trainer.runs.finding import find_checkpoint

    path = find_checkpoint(path)
    header = read_header(path)
    known = header.config.flat()
    fixed = {name: known[name] for name, setting in SETTINGS.items() if setting.from_weights}
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise SettingError(
                f"{option_of(name, given[name])} does not match --init-from {path}, which was trained with "
                f"{option_of(name, value)}; omit it"
            )
    terminal.say(f"starting from {path}")
    return config.replace(**fixed), path, header.vocabulary


def say_what_is_added(text: ScannedText, known: Vocabulary) -> None:
    """Print the characters that the vocabulary of the checkpoint lacks."""
    from charrnn_trainer.data.vocabulary_growth import words_on_growth

    words = words_on_growth(text.name, known, text.vocabulary)
    if words is not None:
        terminal.say(words)
