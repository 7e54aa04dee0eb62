"""Line input with editing and history, on terminals where Python has readline.

The history is kept in memory only: no input is written to a file.
"""

from __future__ import annotations

import sys


def line_editor_is_there() -> bool:
    """Whether line editing is available: stdin and stdout are terminals, and Python has readline."""
    if sys.stdin is None or sys.stdout is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        import readline
    except ImportError:  # on Windows, and in Pythons built without it
        return False
    readline.set_auto_history(True)
    return True


def edited_line() -> bytes:
    """The next edited line, including its newline; empty at the end of input."""
    try:
        line = input()
    except EOFError:
        return b""
    return line.encode(sys.stdin.encoding or "utf-8", "surrogateescape") + b"\n"
