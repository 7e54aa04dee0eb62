"""Word wrapping of messages that are longer than a terminal row."""

from __future__ import annotations

import os
import sys


def broken(line: str, columns: int) -> str:
    """Wrap a line to this many columns; words are never split."""
    if len(line) < columns:
        return line
    import textwrap  # lazily, since few lines are that long

    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(
        line,
        max(columns - 1, 1),
        subsequent_indent=indent if columns > 2 * len(indent) else "",
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,  # keeps options such as --top-k whole
    )


def fitted(line: str) -> str:
    """Wrap a line to the terminal behind stderr, if there is one."""
    if sys.stderr is None or not sys.stderr.isatty():
        return line
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return line
    return broken(line, columns) if columns else line  # terminals may not report their size
