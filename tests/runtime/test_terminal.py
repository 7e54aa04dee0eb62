"""Lines of commands on a terminal and elsewhere."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime.cli import line_breaks, terminal

LONG = "error-like words with --learning-rate 0.0017 and more of them, " * 4


@settings(deadline=None)
@given(
    st.lists(st.text("ab-/.é春", min_size=1, max_size=30), min_size=1), st.integers(0, 6), st.integers(10, 90)
)
def test_lines_are_wrapped_between_words(words: list[str], indent: int, columns: int) -> None:
    line = " " * indent + " ".join(words)
    rows = line_breaks.broken(line, columns).split("\n")
    assert " ".join(rows).split() == words
    assert rows == [line] or all(len(row) < columns or len(row.split()) == 1 for row in rows)
    assert rows[0].startswith(" " * indent + words[0][:1]) or len(" " * indent + words[0]) >= columns


def test_a_line_that_fits_is_unchanged() -> None:
    assert line_breaks.broken("  | two  spaces   kept", 80) == "  | two  spaces   kept"


@pytest.mark.parametrize("columns", [1, 2])
def test_the_narrowest_terminal_shows_one_word_per_row(columns: int) -> None:
    assert line_breaks.broken("  some words", columns).split() == ["some", "words"]


@pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")
def test_lines_are_wrapped_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal.say(LONG)
    assert capsys.readouterr().err == LONG + "\n"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.say(LONG)
        shown = os.read(ours, 4096).decode()
        terminal.say_at_once("at once")
        assert os.read(ours, 4096) == b"at once\r\n"
    os.close(ours)
    rows = shown.split("\r\n")
    assert len(rows) > 3
    assert all(len(row) < 60 for row in rows)
    assert " ".join(rows).split() == LONG.split()


def test_a_live_display_receives_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    with terminal.speaking_through(shown.append):
        terminal.say("one")
        terminal.say_at_once("two")
        terminal.warn("three")
    terminal.say("four")
    assert shown == ["one", "two", "warning: three"]
    assert capsys.readouterr().err == "four\n"
