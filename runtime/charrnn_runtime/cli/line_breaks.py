"""Messages that are longer than a row of the terminal, broken between words."""

from __future__ import annotations

import os
import sys


def broken(line: str, columns: int) -> str:
    """A line that is longer than a terminal's row in rows, broken between words; words stay whole."""
    if len(line) < columns:
        return line
    import textwrap  # few lines are so long

    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(
        line,
        max(columns - 1, 1),
        subsequent_indent=indent if columns > 2 * len(indent) else "",
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,  # an option, --top-k, is a word
    )


def fitted(line: str) -> str:
    """A line in rows of the terminal behind stderr, if there is one."""
    if sys.stderr is None or not sys.stderr.isatty():
        return line
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return line
    return broken(line, columns) if columns else line  # a terminal need not know its size
