"""A terminal screen in memory, which interprets the live display's escape codes and can be resized.

Like most modern terminals, it wraps rows that no longer fit and joins them again when it grows. It supports
the codes that the display sends, and raises an error for any other.
"""

from __future__ import annotations

import io
import re

_CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Screen(io.StringIO):
    """Interprets terminal output. The cursor moves between rows that start at the left."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self._rows: list[str] = [""]
        self._goes_on: list[bool] = [False]  # whether the row continues in the next one
        self._row = self._column = 0
        self._wraps = True

    def write(self, text: str, /) -> int:
        place = 0
        while place < len(text):
            code = _CODE.match(text, place)
            if code:
                self._obey(code[1], code[2])
                place = code.end()
                continue
            self._put(text[place])
            place += 1
        return len(text)

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The rows, without trailing spaces and trailing empty rows."""
        rows = [row.rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def resize(self, columns: int) -> None:
        """Change the width; the cursor stays at the start of its row."""
        rows: list[str] = []
        goes_on: list[bool] = []
        cursor = 0
        joined = ""
        for number, (row, more) in enumerate(zip(self._rows, self._goes_on, strict=True)):
            if number == self._row:
                assert not joined  # the cursor's row does not continue another one
                cursor = len(rows)
            joined += row
            if more:
                continue
            parts = [joined[at : at + columns] for at in range(0, len(joined), columns)] or [""]
            rows += parts
            goes_on += [True] * (len(parts) - 1) + [False]
            joined = ""
        self._rows, self._goes_on, self._row, self.columns = rows, goes_on, cursor, columns

    def _obey(self, value: str, kind: str) -> None:
        if kind == "A":
            assert self._row >= int(value or 1), "the cursor would leave the rows that are there"
            self._row -= int(value or 1)
        elif (value, kind) == ("2", "K"):
            self._rows[self._row], self._goes_on[self._row] = "", False
        elif value == "?7":
            self._wraps = kind == "h"
        else:
            assert kind == "m" or value in ("?25", "?2026"), f"an unknown code: {value}{kind}"

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
            return
        if character == "\n":
            self._go_down()
            return
        assert character.isprintable()
        if self._column == self.columns:
            assert self._wraps, "a row of the display is too long"
            self._goes_on[self._row] = True
            self._go_down()
        row = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
        self._column += 1

    def _go_down(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append("")
            self._goes_on.append(False)
