"""The text that a run reads, and the checkpoint that it may start from: what is known before it begins."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import SettingError
from charrnn_trainer.config import SETTINGS, TrainConfig
from charrnn_trainer.setting import option_of

if TYPE_CHECKING:
    from charrnn_runtime.vocabulary import Vocabulary
    from charrnn_trainer.data.corpus import ScannedText


@contextlib.contextmanager
def reading(size: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar for a text that takes its time."""
    bar = terminal.LateBar(size, what)
    try:
        yield bar.advance
    finally:
        bar.close()


def scan(text: str | None, config: TrainConfig, vocabulary: Vocabulary | None) -> ScannedText:
    """Read the text, or the default one, once."""
    from charrnn_trainer.data.corpus import scan_text

    level: Literal["char", "byte"] = "byte" if config.data.level == "byte" else "char"
    if text is not None:
        size = os.path.getsize(text) if os.path.isfile(text) else 0
        with reading(size, "reading the text") as progress:
            return scan_text(
                text,
                level=level,
                vocabulary=vocabulary,
                on_progress=progress,
                unix_lines=config.data.lines,
            )

    from charrnn_trainer.cli.display import download_progress
    from charrnn_trainer.data.default_corpus import default_corpus

    with download_progress() as progress:
        found = default_corpus(terminal.say, progress)
    unix = config.data.lines
    return scan_text(str(found.path), level=level, vocabulary=vocabulary, name=found.name, unix_lines=unix)


def start_from(
    path: Path, config: TrainConfig, given: dict[str, Any]
) -> tuple[TrainConfig, Path, Vocabulary]:
    """The settings that the network of a checkpoint asks for, its file, and its vocabulary."""
    from charrnn_trainer.runs.checkpoint import read_header
    from charrnn_trainer.runs.finding import find_checkpoint

    path = find_checkpoint(path)
    header = read_header(path)
    known = header.config.flat()
    fixed = {name: known[name] for name, setting in SETTINGS.items() if setting.from_weights}
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise SettingError(
                f"{option_of(name, given[name])} does not fit --init-from {path}, which was trained with "
                f"{option_of(name, value)}; leave it out"
            )
    terminal.say(f"starting from {path}")
    return config.replace(**fixed), path, header.vocabulary


def say_what_is_added(text: ScannedText, known: Vocabulary) -> None:
    """Say which characters a network to start from does not know."""
    from charrnn_trainer.data.vocabulary_growth import words_on_growth

    words = words_on_growth(text.name, known, text.vocabulary)
    if words is not None:
        terminal.say(words)
