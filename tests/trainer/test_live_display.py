"""The live display: drawing, resizing, and samples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from charrnn_trainer.cli import region as region_module
from charrnn_trainer.cli.curve import VALIDATION_MARK, Points, Series, draw_curve
from charrnn_trainer.cli.live import LiveDisplay
from charrnn_trainer.cli.region import Region
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.events import Logged, Started, Stepped, Validated
from screens import Screen
from terminal_picture import as_svg
from tiny_runs import environment, run_program

FALLING = [(float(step), 4.0 - step / 100.0) for step in range(1, 301)]


# --- the curve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 512, 513, 5_000])
def test_a_series_keeps_means_of_any_number_of_points_in_bounded_memory(count: int) -> None:
    series = Series()
    for step in range(1, count + 1):
        series.add(step, float(step % 7))
    series.add(count + 1, float("nan"))
    points = series.points()
    assert len(points) == count if count <= 512 else 256 <= len(points) <= 512
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    assert points[0][0] >= 1
    assert points[-1][0] <= count
    if count == 512:
        assert points == [(float(step), float(step % 7)) for step in range(1, 513)]


def columns_of(lines: list[Text], *characters: str) -> dict[int, set[int]]:
    """The rows in which each column shows the curve."""
    margin = lines[0].plain.index(" ") + 1
    found: dict[int, set[int]] = {}
    for row, line in enumerate(lines):
        for column, character in enumerate(line.plain[margin:]):
            if character != " " and (not characters or character in characters):
                found.setdefault(column, set()).add(row)
    return found


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("columns", [30, 59, 120])
def test_a_falling_loss_is_drawn_from_the_top_left_to_the_bottom_right(columns: int, braille: bool) -> None:
    lines = draw_curve(FALLING, [], columns, 5, braille=braille)
    assert len(lines) == 5
    assert all(line.cell_len <= columns for line in lines)
    rows = columns_of(lines)
    drawn = sorted(rows)
    # All but the first tenth, which does not stretch the scale; without a gap, and never upwards.
    assert drawn == list(range(drawn[0], drawn[-1] + 1))
    assert drawn[0] <= columns // 6
    assert drawn[-1] >= columns - 9
    assert min(rows[drawn[0]]) == 0
    assert max(rows[drawn[-1]]) == 4
    middles = [sum(rows[column]) / len(rows[column]) for column in drawn]
    assert middles == sorted(middles)
    if not braille:
        "".join(line.plain for line in lines).encode("ascii")


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ([(1.0, 2.0), (2.0, 2.0)], []),
        ([(1.0, 0.0), (2.0, 0.0)], [(2.0, 0.0)]),
        ([(7.0, 3.0), (7.5, 1.0)], [(7.0, 9.0), (9.0, 1.0)]),
        (FALLING, FALLING[::50]),
    ],
)
def test_any_losses_are_drawn_within_the_plot_area(training: Points, validation: Points) -> None:
    for braille in (True, False):
        lines = draw_curve(training, validation, 40, 4, braille=braille)
        assert [line.cell_len <= 40 for line in lines] == [True] * 4
        assert float(lines[0].plain.split()[0]) > float(lines[-1].plain.split()[0]) >= 0.0
        assert any(columns_of(lines))


def test_a_worse_validation_loss_is_marked_above_the_curve() -> None:
    worse = [(step, loss + 1.0) for step, loss in FALLING[60::60]]
    lines = draw_curve(FALLING, worse, 59, 6, braille=True)
    marks, line = columns_of(lines, VALIDATION_MARK), columns_of(lines)
    assert len(marks) == len(worse)
    for column, rows in marks.items():
        assert max(rows) < max(line[column])


# --- the region --------------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen(80)
    monkeypatch.setattr(region_module, "terminal_size", lambda: (made.columns, 24))
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    return made


def test_resizing_neither_leaves_artifacts_nor_erases_output(screen: Screen) -> None:
    screen.write("before\n")
    drawn = 0

    def render(columns: int, rows: int) -> list[Text]:
        nonlocal drawn
        drawn += 1
        assert rows == 23
        return [Text(f"{drawn} " + "x" * (columns - 3)), Text("short"), Text("y" * columns)]

    region = Region(Console(file=screen, force_terminal=True, width=80), render)
    said = []
    for number, columns in enumerate([80, 79, 60, 25, 17, 120, 40, 200, 80, 13, 80]):
        screen.resize(columns)
        said.append(f"said {number}")
        region.say(said[-1])
        assert screen.lines[: 1 + len(said)] == ["before", *said]
        shown = screen.lines[1 + len(said) :]
        assert [line[:1] for line in shown] == [str(drawn)[:1], "s", "y"], columns
        assert all(len(line) < columns for line in shown)


def test_a_permanent_line_wraps_between_words_and_never_within_options(screen: Screen) -> None:
    region = Region(Console(file=screen, force_terminal=True), lambda columns, rows: [Text("row")])
    screen.resize(24)
    region.say("  try a lower value of --learning-rate 0.0017 or stop")
    assert screen.lines == ["  try a lower value of", "    --learning-rate", "    0.0017 or stop", "row"]


def test_a_shorter_region_erases_the_rows_of_a_longer_one(screen: Screen) -> None:
    rows = 5
    region = Region(
        Console(file=screen, force_terminal=True), lambda *_: [Text(f"row {row}") for row in range(rows)]
    )
    region.say("one")
    rows = 2
    region.say("two")
    assert screen.lines == ["one", "two", "row 0", "row 1"]


# --- the display -------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


Shown = Callable[..., tuple[LiveDisplay, Clock, list[int]]]


@pytest.fixture
def shown(screen: Screen) -> Iterator[Shown]:
    """Creates a live display on a screen, with its clock and the steps of its samples."""
    displays = []

    def make(**settings: Any) -> tuple[LiveDisplay, Clock, list[int]]:
        clock, samples = Clock(), list[int]()

        def write(length: int) -> str:
            samples.append(length)
            return "To be,\nor not to be: that is the question, 春眠不覺曉" * 5

        config = TrainConfig().replace(steps=400, **settings)
        started = Started(config, 0, 0.0, 1, 900, 100, "cpu", Path("run"), write)
        console = Console(file=screen, force_terminal=True)
        displays.append(LiveDisplay(console, started, clock))
        return displays[-1], clock, samples

    yield make
    for display in displays:
        display.close()


def test_the_first_sample_comes_after_ten_seconds_and_others_at_validations_or_every_minute(
    shown: Shown,
) -> None:
    display, clock, samples = shown()
    taken = []
    for step in range(1, 31):
        clock.now = 0.7 * step
        display.step(Stepped(step, 4.0, 0.005, 0.7, step / 400))
        taken.append(len(samples))
    assert [count for count in taken if count > 1] == []
    assert taken.index(1) + 1 == 15  # 10.5 seconds
    display.validated(Validated(30, 3.9, True, 100))
    assert len(samples) == 2
    for step, expected in ((31, 2), (32, 3), (33, 3)):  # a minute after the last one there is another
        clock.now = 21.0 + 30.5 * (step - 30)
        display.step(Stepped(step, 4.0, 0.005, 0.7, step / 400))
        assert len(samples) == expected


@pytest.mark.parametrize("columns", [120, 80, 60, 40, 20])
def test_no_word_is_broken_at_any_width(shown: Shown, screen: Screen, columns: int) -> None:
    screen.resize(columns)
    display, clock, _ = shown()
    for step in range(1, 101):
        clock.now = float(step)
        display.step(Stepped(step, 4.0 - step / 50.0, 0.005, 0.0123, step / 400))
    display.validated(Validated(100, 2.1, True, 100))
    display.close()
    lines = screen.lines
    assert all(len(line) < columns for line in lines)
    words = " ".join(lines).split()
    for word in ("training", "validation", "characters/s", "s/batch", "0.012", "(3.030", "100/400", "25%"):
        assert word in words, word
    assert any(line.startswith("sample at step") for line in lines)
    if columns >= 60:
        losses = re.compile(r"loss: ⠒ training \d\.\d{3}  o validation 2\.100 \(3\.030 bits\)")
        assert sum(losses.fullmatch(line) is not None for line in lines) == 1
        assert sum("━" in line for line in lines) == 1


def test_without_losses_of_single_steps_the_curve_shows_logged_losses(shown: Shown, screen: Screen) -> None:
    display, _, _ = shown()
    for step in range(1, 9):
        display.step(Stepped(step, None, 0.005, 0.01, step / 400))
        if step % 2 == 0:
            display.log(Logged(step, 4.0 - step / 8.0, 0.005, 0.01, 100.0))
    display.close()
    assert any("⠉" in line or "⠒" in line for line in screen.lines if line[:2] in ("3.", "2."))


DRIVER = """
import time
from pathlib import Path
from charrnn_trainer.cli import display as module
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.events import Started, Stepped, Validated
with module.Display() as display:
    config = TrainConfig().replace(steps=100)
    display(Started(config, 0, 0.0, 1, 900, 100, "cpu", Path("run"), lambda length: "and so on " * 24))
    for step in range(1, 101):
        display(Stepped(step, 4.0 - step / 50, 0.005, 0.01, step / 100))
        if step % 50 == 0:
            display(Validated(step, 3.0, True, 100))
    Path("ready").touch()
    while not Path("enough").exists():
        time.sleep(0.05)
print("done")
"""


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_a_file_gets_plain_lines_even_if_colours_are_requested(tmp_path: Path, variable: str) -> None:
    (tmp_path / "enough").touch()
    done = run_program("-c", DRIVER, cwd=tmp_path, env={**environment(), variable: "1", "TERM": "xterm"})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr
    assert b"step 50: validation loss 3.0000 (4.328 bits per character), best so far\n" in done.stderr


@pytest.mark.parametrize(("variables", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], colours: bool
) -> None:
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    written: list[str] = []
    monkeypatch.setattr(screen, "write", written.append)
    lines = draw_curve(FALLING, FALLING[::50], 40, 4, braille=True)
    Region(Console(file=screen, force_terminal=True), lambda *_: lines).say("said")
    assert ("\x1b[36m" in "".join(written)) == colours
    assert ("\x1b[33m" in "".join(written)) == colours


def test_a_terminal_whose_encoding_lacks_braille_gets_ascii_only(
    shown: Shown, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "encoding", "iso8859-1")
    display, _, _ = shown()
    for step in range(1, 101):
        display.step(Stepped(step, 4.0 - step / 50.0, 0.005, 0.0123, step / 400))
    display.validated(Validated(100, 2.1, True, 100))
    display.close()
    text = "\n".join(screen.lines)
    text.encode("ascii")
    assert "loss: - training" in text
    assert "question, ?????" in text
    assert re.search(r"step 100/400 =+-+ ", text)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_resized_terminal_shows_one_complete_display(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", os.devnull, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=run_in).stdout

    def wait(what: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not what():
            assert time.monotonic() < end, tmux("capture-pane", "-p", "-S", "-")
            time.sleep(0.1)

    run_in = {**environment(), "LC_ALL": "C.UTF-8"}
    program = f"cd {tmp_path}; {sys.executable} driver.py; touch ended; sleep 300"
    tmux("new-session", "-d", "-x", "120", "-y", "30", program)
    try:
        wait((tmp_path / "ready").exists)
        for columns in ("80", "60", "120"):
            tmux("resize-window", "-x", columns, "-y", "30")
            time.sleep(0.7)  # it is redrawn four times per second
        (tmp_path / "enough").touch()
        wait((tmp_path / "ended").exists)
        lines = tmux("capture-pane", "-p", "-S", "-").splitlines()
    finally:
        tmux("kill-server")
    for beginning in (
        "network:",
        "split:",
        "step 50: validation",
        "step 100: validation",
        "step 100/100 ",
        "loss:",
    ):
        assert sum(line.startswith(beginning) for line in lines) == 1, lines
    assert sum("sample at step" in line for line in lines) == 1
    assert "done" in lines


def test_the_picture_of_a_terminal_shows_its_colours_and_loads_nothing() -> None:
    svg = as_svg("plain\n\x1b[36mcoloured\x1b[0m & <more>\n\n")
    assert "coloured" in svg
    assert "&lt;more&gt;" in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in re.sub(r"url\(#", "", svg)
    assert svg == as_svg("plain\n\x1b[36mcoloured\x1b[0m & <more>\n")
