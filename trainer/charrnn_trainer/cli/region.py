"""Rows at the bottom of a terminal that are redrawn repeatedly, below permanent lines.

Terminal modes are changed only within a single write, so the terminal is left intact however the process
ends.
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
"""While a frame is drawn, the cursor is hidden, automatic wrapping is off (for characters that are wider than
expected), and terminals that support synchronized output show nothing until the end of the frame."""

_CLEAR_ROW, _CLEAR_ROW_ABOVE = "\r\x1b[2K", "\x1b[A\x1b[2K"
"""Rows are cleared one by one and as a whole: terminals that rewrap rows still treat a row as long if only
its end was cleared, and tmux moves a screen that is cleared at once into its scrollback."""

Render = Callable[[int, int], list[Text]]
"""Returns the rows to draw, given the available columns and rows."""


class Region:
    """The rows, redrawn four times a second by a thread.

    The cursor rests at the start of the line below them, where the ``^C`` of a terminal moves nothing.
    """

    def __init__(self, console: Console, render: Render) -> None:
        self._console = console
        self._render = render
        self._lock = threading.Lock()
        self._said: collections.deque[str] = collections.deque()
        self._widths: list[int] = []  # of the rows on the screen, in columns
        self._rows = terminal_size()[1]
        self._out_of_sight = 0  # stale rows that have scrolled off the top
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_often, daemon=True)
        self._before: Any = None

    def start(self) -> None:
        """Start drawing."""
        if hasattr(signal, "SIGCONT") and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGCONT, self._continued)
        self._thread.start()

    def stop(self) -> None:
        """Draw a last time, and leave the rows on the screen."""
        self._over.set()
        self._thread.join()
        if self._before is not None:
            signal.signal(signal.SIGCONT, self._before)
        with self._lock:
            self._draw()

    def say(self, line: str) -> None:
        """Write a permanent line above the rows. Safe to call from a signal handler."""
        self._said.append(line)
        if self._lock.acquire(blocking=False):  # else the next drawing writes it
            try:
                self._draw()
            finally:
                self._lock.release()

    def _draw_often(self) -> None:
        while not self._over.wait(_SECONDS):
            with self._lock:
                self._draw()

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        """After Ctrl-Z, the shell has written below the rows, so they are left where they are."""
        self._widths = []

    def _draw(self) -> None:
        """Write the lines said since the last drawing, and the rows below them, in a single write."""
        columns, rows = terminal_size()
        parts = [_BEGIN_FRAME, self._clear(columns, rows)]
        lines: list[Text] = []
        if _is_in_foreground():
            # Leave the last column free: terminals differ in when they wrap.
            lines = self._render(columns - 1, rows - 1)[: rows - 1]
        elif not self._said:
            self._widths = []  # the shell writes there now
            return
        if self._said:
            self._out_of_sight = 0  # the lines scroll off after them
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
        """Clear the rows of the last drawing, upwards from the line below them.

        A terminal that was made narrower has wrapped longer rows. One that was made lower has scrolled some
        off the top, and brings them back when it grows again.
        """
        breaks = _breaks_long_rows()
        drawn = sum(max(1, -(-width // columns)) if breaks else 1 for width in self._widths)
        back = min(self._out_of_sight, max(0, rows - self._rows))
        self._out_of_sight += max(0, drawn - (rows - 1)) - back
        self._rows = rows
        return _CLEAR_ROW + _CLEAR_ROW_ABOVE * min(drawn + back, rows - 1)

    def _in_codes(self, line: Text) -> str:
        """A line with escape codes for its styles, if the terminal supports them."""
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return captured.get()


def has_terminal(console: Console) -> bool:
    """Whether stderr is a terminal whose rows can be redrawn."""
    # Variables such as FORCE_COLOR make rich treat a file as a terminal.
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    return at_terminal and not console.is_dumb_terminal and not console.legacy_windows


def terminal_size() -> tuple[int, int]:
    """The columns and rows of the terminal behind stderr; at least 10 x 4."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        columns = rows = 0
    if not columns or not rows:  # a terminal may report 0
        columns, rows = shutil.get_terminal_size()
    return max(columns, 10), max(rows, 4)


def _breaks_long_rows() -> bool:
    """Whether the terminal rewraps rows when it becomes narrower; of current ones, only xterm truncates."""
    return "XTERM_VERSION" not in os.environ or "TMUX" in os.environ


def _is_in_foreground() -> bool:
    """Whether this process is in the foreground of its terminal, not started with ``&``."""
    if not hasattr(os, "tcgetpgrp"):
        return True
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # not a controlling terminal
        return True
