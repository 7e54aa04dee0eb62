"""A line of input with editing and history, where there is a terminal and Python has readline.

The history lives in memory alone: nothing that was typed is written to a file.
"""

from __future__ import annotations

import sys


def line_editor_is_there() -> bool:
    """Whether lines can be edited: stdin and stdout are terminals, and Python was built with readline."""
    if sys.stdin is None or sys.stdout is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        import readline
    except ImportError:  # on Windows, and where Python was built without
        return False
    readline.set_auto_history(True)
    return True


def edited_line() -> bytes:
    """The next line, edited by the user, with its end; nothing at the end of the input."""
    try:
        line = input()
    except EOFError:
        return b""
    return line.encode(sys.stdin.encoding or "utf-8", "surrogateescape") + b"\n"
