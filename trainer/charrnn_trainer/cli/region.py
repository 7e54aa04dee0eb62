"""Rows at the bottom of a terminal that are redrawn again and again, below lines that stay.

Nothing about the terminal is changed for longer than one write takes, so that it is in order however the
process ends.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from charrnn_runtime.cli import line_breaks

_SECONDS: Final = 0.25
"""The time between two drawings."""

_BEGIN_FRAME, _END_FRAME = "\x1b[?2026h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?2026l"
"""While it draws, a terminal shows no cursor, and nothing until the end if it can wait; a character that
is wider than expected starts no new row."""

_CLEAR_ROW, _CLEAR_ROW_ABOVE = "\r\x1b[2K", "\x1b[A\x1b[2K"
"""Whole rows are cleared, one by one: a row whose end alone was cleared stays long for a terminal that breaks
rows again, and tmux keeps a whole screen that is cleared at once for scrolling back."""

Render = Callable[[int, int], list[Text]]
"""Gives the rows to draw, for at most this many columns and rows."""


class Region:
    """The rows, which a thread draws four times a second.

    The cursor stands at the beginning of the line below them: there a terminal shows ``^C`` without moving
    anything.
    """

    def __init__(self, console: Console, render: Render) -> None:
        self._console = console
        self._render = render
        self._lock = threading.Lock()
        self._said: collections.deque[str] = collections.deque()
        self._widths: list[int] = []  # of the rows that are on the screen, in columns
        self._rows = terminal_size()[1]
        self._out_of_sight = 0  # rows that went out of sight at the top, and are stale
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_often, daemon=True)
        self._before: Any = None

    def start(self) -> None:
        """Begin to draw."""
        if hasattr(signal, "SIGCONT") and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGCONT, self._continued)
        self._thread.start()

    def stop(self) -> None:
        """Draw for the last time, and leave that on the screen."""
        self._over.set()
        self._thread.join()
        if self._before is not None:
            signal.signal(signal.SIGCONT, self._before)
        with self._lock:
            self._draw()

    def say(self, line: str) -> None:
        """Write a line that stays, above the rows; a signal's handler may call this, too."""
        self._said.append(line)
        if self._lock.acquire(blocking=False):  # else it is written with the next drawing
            try:
                self._draw()
            finally:
                self._lock.release()

    def _draw_often(self) -> None:
        while not self._over.wait(_SECONDS):
            with self._lock:
                self._draw()

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        """After Ctrl-Z, the shell has written below the rows: they stay where they are."""
        self._widths = []

    def _draw(self) -> None:
        """Write what was said since the last time, and the rows below it, in one piece."""
        columns, rows = terminal_size()
        parts = [_BEGIN_FRAME, self._clear(columns, rows)]
        lines: list[Text] = []
        if _is_in_foreground():
            # The last column stays free: terminals differ in when they begin a new row.
            lines = self._render(columns - 1, rows - 1)[: rows - 1]
        elif not self._said:
            self._widths = []  # the shell writes there now
            return
        if self._said:
            self._out_of_sight = 0  # what is said follows them there
        while self._said:
            parts.append(line_breaks.broken(self._said.popleft(), columns) + "\n")
        for line in lines:
            line.truncate(columns - 1)
            parts.append(f"{self._in_codes(line)}\n")
        self._widths = [line.cell_len for line in lines]
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the training continues
            self._console.file.write("".join([*parts, _END_FRAME]))
            self._console.file.flush()

    def _clear(self, columns: int, rows: int) -> str:
        """Clear the rows that were drawn last, from the one below them up.

        A terminal that has become narrower has broken those that are longer. One that has become lower has
        moved some out of sight, and brings them back when it is higher again.
        """
        breaks = _breaks_long_rows()
        drawn = sum(max(1, -(-width // columns)) if breaks else 1 for width in self._widths)
        back = min(self._out_of_sight, max(0, rows - self._rows))
        self._out_of_sight += max(0, drawn - (rows - 1)) - back
        self._rows = rows
        return _CLEAR_ROW + _CLEAR_ROW_ABOVE * min(drawn + back, rows - 1)

    def _in_codes(self, line: Text) -> str:
        """A line with the codes of its styles, if the terminal has any."""
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return captured.get()


def has_terminal(console: Console) -> bool:
    """Whether stderr is a terminal whose rows can be redrawn."""
    # Variables such as FORCE_COLOR make rich take a file for a terminal.
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    return at_terminal and not console.is_dumb_terminal and not console.legacy_windows


def terminal_size() -> tuple[int, int]:
    """The columns and rows of the terminal behind stderr; at least 10 x 4."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        columns = rows = 0
    if not columns or not rows:  # a terminal need not know them
        columns, rows = shutil.get_terminal_size()
    return max(columns, 10), max(rows, 4)


def _breaks_long_rows() -> bool:
    """Whether the terminal breaks a row anew when it becomes narrower; of today's, xterm alone cuts it."""
    return "XTERM_VERSION" not in os.environ or "TMUX" in os.environ


def _is_in_foreground() -> bool:
    """Whether the terminal is this process's, and not of a shell that started it with ``&``."""
    if not hasattr(os, "tcgetpgrp"):
        return True
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # a terminal that controls no process
        return True
