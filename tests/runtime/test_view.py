"""The command charrnn-view: output to a terminal and to a pipe, as JSON and as a page."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from charrnn_runtime import CharRNN
from charrnn_runtime.cli import texts, view_text
from charrnn_runtime.cli.view_rows import View
from charrnn_runtime.cli.view_terminal import Lines
from charrnn_runtime.view.cells import shown_symbol
from charrnn_runtime.view.page import Page
from charrnn_runtime.view.units import unit_of
from hostile_files import changed, metadata
from make_models import FOLDER
from run_commands import Command, command_environment, in_shell, run_module

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
GRU = FOLDER / "gru-2x12-fp32.onnx"
BYTES = FOLDER / "lstm-1x12-fp32-byte.onnx"
TEXT = "LORD of the text:\nwho reads it?"

Done = subprocess.CompletedProcess[bytes]

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def view(*arguments: object, **options: Any) -> Done:
    return run_module("charrnn_runtime.cli.view", *arguments, **options)


def _ok(done: Done) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def _error(done: Done, code: int) -> str:
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert done.stdout == b""
    assert "bug in charrnn" not in lines[-1]
    return lines[-1]


# --- without colours ---------------------------------------------------------------------------------------


def test_a_pipe_gets_digits_under_the_text(lstm: CharRNN) -> None:
    done = view(MODEL, "-", input=TEXT.encode(), env={"FORCE_COLOR": "1", "COLUMNS": None})
    title, nothing, *rows = _ok(done).split("\n")
    assert (title, nothing) == ("surprise in bits: 0 to 9, + for 10 or more", "")
    assert "\x1b" not in done.stdout.decode()
    bits = lstm.trace(TEXT).bits
    digits = ["+" if each >= 9.5 else str(round(each)) for each in bits.tolist()]
    assert rows[:3] == ["LORD of the text:↵", "".join(digits[:18]), ""]
    assert rows[3:6] == ["who reads it?", "".join(digits[18:]), ""]


def test_units_and_the_most_likely_symbols_have_separate_rows(lstm: CharRNN) -> None:
    done = view(MODEL, "-", "--unit", "1:3", "--unit", "o0:2", "--top", "2", input=b"LORD of")
    trace = lstm.trace("LORD of")
    ids, _ = trace.most_likely(2)
    first, second = (
        "".join(shown_symbol(lstm.vocabulary, token) for token in ids[:, rank].tolist()) for rank in range(2)
    )
    signed = "".join(str(min(int((each + 1) * 5), 9)) for each in trace.unit("c1:3").tolist())
    gates = "".join(
        "?" if math.isnan(each) else str(min(int(each * 10), 9)) for each in trace.unit("o0:2").tolist()
    )
    assert _ok(done).split("\n") == [
        "unit c1:3; digits 0 to 9 stand for -1 to 1",
        "unit o0:2; digits 0 to 9 stand for 0 to 1, ? where c is near 0",
        "below each character, the 2 most likely at its position",
        "",
        "      LORD of",
        f"c1:3  {signed}",
        f"o0:2  {gates}",
        f"      {first}",
        f"      {second}",
        "",
        "",
    ]


def test_lines_are_broken_to_fit(lstm: CharRNN) -> None:
    done = view(
        MODEL, "-", "--surprise", "--unit", "0:1", input=("who " * 50).encode(), env={"COLUMNS": "30"}
    )
    rows = _ok(done).split("\n")[3:]
    assert max(map(len, rows)) <= 30
    assert "".join(row[6:] for row in rows[::4]).count("who") > 40


def test_a_width_of_0_means_unknown() -> None:
    rows = _ok(view(MODEL, "-", input=("who " * 50).encode(), env={"COLUMNS": "0"})).split("\n")
    assert len(rows[3]) == 80  # digits, also below spaces


def test_a_unit_given_twice_is_one_row() -> None:
    given = ("--unit", "c0:3", "--unit", "1:3", "--unit", "0:3")
    rows = _ok(view(MODEL, "-", *given, input=b"LORD")).split("\n")
    assert [row[:4] for row in rows[4:6]] == ["c0:3", "c1:3"]
    assert len([row for row in rows if row.startswith("c0:3")]) == 1


def test_unprintable_characters_take_one_column_and_cannot_control_the_terminal() -> None:
    text = "a\x1b[2Jb\tc\u202e\u0301é\x00中\n".encode() + b"\xff\xd0"
    shown = _ok(view(BYTES, "-", input=text))
    assert shown.split("\n")[2] == "a␛[2Jb␉c▯◌\u0301é␀中↵"
    assert len(shown.split("\n")[3]) == 15  # digits below them; the one below 中 takes two cells
    assert "▯▯" in shown  # the lone bytes
    assert not set(shown) & {"\x1b", "\x00", "\t", "\u202e"}


# --- on a terminal -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def _lines(model: CharRNN, text: str, views: list[View], top: int = 0) -> str:
    stream = Terminal()
    lines = Lines(stream, model.vocabulary, views, top)
    for trace in model.trace_stream([text[:4], text[4:]]):
        lines.add(trace)
    lines.end()
    return stream.getvalue()


@pytest.fixture
def coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("coloured")
def test_a_terminal_shows_the_text_in_colours(lstm: CharRNN) -> None:
    written = _lines(lstm, TEXT, [View()])
    rows = Text.from_ansi(written).split("\n", allow_blank=True)
    assert [row.plain for row in rows[2:4]] == ["LORD of the text:↵", "who reads it?"]
    bits, row = lstm.trace(TEXT).bits, rows[2]
    red = [_red_of(row, place) for place in range(17)]
    assert max(red) > 100
    order = sorted(range(17), key=lambda place: min(float(bits[place]), 8.0))
    assert all(red[low] <= red[high] for low, high in pairwise(order))


def _red_of(row: Text, place: int) -> int:
    """The redness of a character's background."""
    styles = [span.style for span in row.spans if span.start <= place < span.end]
    for style in styles:
        background = getattr(style, "bgcolor", None)
        if background is not None and background.triplet is not None:
            return int(background.triplet.red)
    raise AssertionError("it has no colour")


@pytest.mark.usefixtures("coloured")
def test_several_views_are_rows_with_their_names(lstm: CharRNN) -> None:
    units = [View(unit_of(lstm.info.state_layout, name)) for name in ("1:3", "h0:2")]
    rows = Text.from_ansi(_lines(lstm, "LORD", [View(), *units], top=2)).plain.split("\n")
    assert rows[5:8] == ["bits  LORD", "c1:3  LORD", "h0:2  LORD"]
    assert [len(row) for row in rows[8:10]] == [10, 10]


@pytest.mark.usefixtures("coloured")
def test_no_color_is_honoured(lstm: CharRNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    written = _lines(lstm, TEXT, [View()], top=1)
    assert "\x1b" not in written
    assert "0 to 9, + for 10 or more" in written


# --- JSON --------------------------------------------------------------------------------------------------


def test_json_has_an_object_for_each_symbol(lstm: CharRNN) -> None:
    done = view(MODEL, "-", "--json", "--unit", "1:3", "--top", "3", input=TEXT.encode())
    rows = [json.loads(line) for line in _ok(done).splitlines()]
    trace = lstm.trace(TEXT)
    assert "".join(row["character"] for row in rows) == TEXT
    ids, probabilities = trace.most_likely(3)
    for place, row in enumerate(rows):
        assert row["bits"] == pytest.approx(float(trace.bits[place]), abs=1e-4)
        assert row["units"] == {"c1:3": pytest.approx(float(trace.unit("1:3")[place]), abs=1e-4)}
        assert [each["character"] for each in row["most_likely"]] == [
            lstm.vocabulary.symbols[token] for token in ids[place]
        ]
        assert row["most_likely"][0]["probability"] == pytest.approx(float(probabilities[place, 0]), abs=1e-5)


def test_json_of_a_byte_model_has_bytes() -> None:
    done = view(BYTES, "-", "--json", input="é".encode() + b"\xff")
    rows = [json.loads(line) for line in _ok(done).splitlines()]
    assert [row["byte"] for row in rows] == [0xC3, 0xA9, 0xFF]
    assert all(len(row["most_likely"]) == 5 and "units" not in row for row in rows)


def test_bits_match_charrnn_score(score: Command) -> None:
    rows = [json.loads(line) for line in _ok(view(MODEL, "-", "--json", input=TEXT.encode())).splitlines()]
    told = json.loads(_ok(score(MODEL, "-", "--json", "--per-char", input=TEXT.encode())))
    assert [row["bits"] for row in rows] == pytest.approx(told["bits"], abs=1e-4)


# --- finding units -----------------------------------------------------------------------------------------

LONG = 'He said "I go", (as HE did).\nThen the others "went" (all of them), too.\n' * 40


def test_units_are_found_and_reported_with_their_scores() -> None:
    done = view(
        MODEL, "-", "--units", "2", "--json", "--length", "5", "--unknown", "skip", input=LONG.encode()
    )
    rows = [json.loads(line) for line in _ok(done).splitlines()]
    found, symbols = rows[:2], rows[2:]
    assert len(symbols) == 5
    for each in found:
        assert re.fullmatch(r"[hc][01]:\d+", each["unit"])
        assert each["follows"] in ("quotes", "line position", "brackets", "uppercase", "line end next")
        assert 0.0 < each["score"] <= 1.0
    assert set(symbols[0]["units"]) == {each["unit"] for each in found}


def test_units_can_be_selected_on_another_text(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(LONG)
    options = ("--find-in", other, "--unknown", "skip")
    heading = _ok(view(MODEL, "-", *options, "--units", "1", input=b"LORD")).split("\n")[0]
    assert re.match(
        r"[hc][01]:\d+ follows .+ \((AUC|r) 0\.\d{3}(, low there|, falling)?\); digits 0 to 9 stand for",
        heading,
    )
    done = view(MODEL, "-", "--units", "1", input=b"LORD")  # too short to find units
    assert "no units were found" in done.stderr.decode()
    assert _ok(done).startswith("surprise in bits")


# --- a page ------------------------------------------------------------------------------------------------


def test_a_page_is_written_atomically_and_overwrites_only_with_force(in_folder: Path) -> None:
    (in_folder / "text").write_text(TEXT)
    assert _ok(view(MODEL, "text", "--html", "page.html", cwd=in_folder)) == "page.html\n"
    page = (in_folder / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "already exists" in _error(view(MODEL, "text", "--html", "page.html", cwd=in_folder), 1)
    assert _ok(view(MODEL, "text", "--html", "page.html", "--force", "-n", "3", cwd=in_folder))
    assert (in_folder / "page.html").read_text(encoding="utf-8") != page
    assert sorted(os.listdir(in_folder)) == ["page.html", "text"]


def test_an_existing_page_is_reported_before_anything_is_read(in_folder: Path) -> None:
    (in_folder / "page").write_text("mine")
    done = view("no-model", "no-text", "--html", "page", cwd=in_folder)
    assert "page already exists; choose another name, or use --force to replace it" in _error(done, 1)


@pytest.mark.parametrize("input_name", ["model", "text", "other"])
def test_a_page_never_replaces_an_input_file(in_folder: Path, input_name: str) -> None:
    (in_folder / "model").write_bytes(MODEL.read_bytes())
    for name in ("text", "other"):
        (in_folder / name).write_text(TEXT)
    os.link(in_folder / input_name, in_folder / "page")
    before = (in_folder / "page").read_bytes()
    options = ("--find-in", "other", "--html", "page", "--force")
    assert "would replace an input file" in _error(view("model", "text", *options, cwd=in_folder), 2)
    assert (in_folder / "page").read_bytes() == before


def test_a_page_never_replaces_the_file_on_stdin(in_folder: Path) -> None:
    (in_folder / "text").write_text(TEXT)
    with (in_folder / "text").open("rb") as file:
        done = view(MODEL, "-", "--html", "text", "--force", stdin=file, cwd=in_folder)
    assert "--html text would replace an input file; choose another name" in _error(done, 2)
    assert (in_folder / "text").read_text() == TEXT


def test_an_input_that_stdout_appends_to_is_rejected(in_folder: Path) -> None:
    (in_folder / "text").write_text(TEXT)
    with (in_folder / "text").open("rb") as file, (in_folder / "text").open("ab") as out:
        for name, options in (("text", {}), ("-", {"stdin": file})):
            done = view(MODEL, name, stdout=out, cwd=in_folder, **options)
            assert done.returncode == 1
            assert b"is both the input and the output" in done.stderr
    assert (in_folder / "text").read_text() == TEXT


def test_a_dash_is_stdout_and_dot_slash_dash_a_file(in_folder: Path) -> None:
    (in_folder / "text").write_text(TEXT)
    page = _ok(view(MODEL, "text", "--html", "-", cwd=in_folder))
    assert os.listdir(in_folder) == ["text"]
    assert _ok(view(MODEL, "text", "--html", "./-", cwd=in_folder)) == f"{in_folder / '-'}\n"
    assert (in_folder / "-").read_text(encoding="utf-8") == page
    assert page.startswith("<!doctype html>")


def test_the_units_of_a_page_are_reported(lstm: CharRNN, tmp_path: Path) -> None:
    gates = ("--unit", "o0:2", "--unit", "o1:2")
    done = view(MODEL, "-", *gates, "--html", tmp_path / "page", input=TEXT.encode())
    assert "the page shows all 48 numbers of the state, and 2 output gates; open" in done.stderr.decode()
    few = Page(lstm.info, "text", [(unit_of(lstm.info.state_layout, "0:1"), "")], symbols=10**7)
    assert few.contents == "1 of the 48 numbers of the state"


# --- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"], ["--html", "page"]], ids=str)
def test_skipped_characters_are_reported(in_folder: Path, options: list[str]) -> None:
    text = "LORD ☃ of ☃☂\n".encode()
    done = view(MODEL, "-", "--unknown", "skip", *options, input=text, cwd=in_folder)
    _ok(done)
    assert "3 characters were skipped because" in done.stderr.decode()
    assert "does not know them: '☃', '☂'" in done.stderr.decode()


def test_length_limits_how_much_is_read() -> None:
    rows = _ok(view(MODEL, "-", "--json", "-n", "7", input=TEXT.encode())).splitlines()
    assert "".join(json.loads(row)["character"] for row in rows) == TEXT[:7]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 1000])
def test_chunks_of_bytes_end_between_characters(
    byte_model: CharRNN, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    data = "aé中😀\n".encode() * 20 + b"\xff\x80\xe4\xb8"
    monkeypatch.setattr(texts, "_CHUNK", piece)
    monkeypatch.setattr(view_text, "_PIECE", max(piece, 4))
    asked: dict[str, Any] = {"encoding": None, "normalize": False, "most": None}
    pieces: list[Any] = list(view_text.pieces(byte_model, io.BytesIO(data), Path("-"), **asked))
    assert b"".join(pieces) == data
    for each in pieces[:-4]:
        each.decode()  # ends at a character boundary


@pytest.mark.parametrize(
    "options", [[], ["--json"], ["--html", "page"], ["--units", "3"], ["--unit", "0:1"]], ids=str
)
def test_a_text_of_only_unknown_characters_is_an_error(in_folder: Path, options: list[str]) -> None:
    done = view(MODEL, "-", "--unknown", "skip", *options, input=("☃☂" * 150).encode(), cwd=in_folder)
    assert "the model knows none of the 300 characters of stdin" in _error(done, 1)
    assert "warning" not in done.stderr.decode()
    assert os.listdir(in_folder) == []


def test_known_characters_after_many_unknown_ones_are_shown(in_folder: Path, lstm: CharRNN) -> None:
    done = view(MODEL, "-", "--unknown", "skip", "--json", input=("☃" * 600 + "LORD").encode())
    assert [json.loads(line)["character"] for line in _ok(done).splitlines()] == list("LORD")
    (in_folder / "other").write_text("☃☂", encoding="utf-8")
    done = view(MODEL, "-", "--unknown", "skip", "--find-in", "other", input=b"LORD", cwd=in_folder)
    assert "the model knows none of the 2 characters of other" in _error(done, 1)


def test_a_model_of_lines_reads_each_line_from_a_zero_state(tmp_path: Path, lstm: CharRNN) -> None:
    model = tmp_path / "lines.onnx"
    model.write_bytes(changed(metadata("lines", "true"), MODEL.read_bytes()))
    rows = _ok(view(model, "-", "--json", input=b"LORD\r\nof\n")).splitlines()
    bits = [*lstm.trace("LORD\n").bits.tolist(), *lstm.trace("of\n").bits.tolist()]
    assert [json.loads(row)["bits"] for row in rows] == pytest.approx(bits, abs=1e-4)


def test_a_long_text_takes_no_more_memory_than_a_short_one(
    lstm: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_CHUNK", 300)
    views = [View(), View(unit_of(lstm.info.state_layout, "1:3"))]

    class Nowhere(io.TextIOBase):
        def write(self, text: str, /) -> int:
            return len(text)

    def peak(size: int) -> int:
        file = io.BytesIO((b"LORD of all\n" * (size // 12 + 1))[:size])
        tracemalloc.start()
        try:
            lines = Lines(Nowhere(), lstm.vocabulary, views, 3)
            asked: dict[str, Any] = {"encoding": None, "normalize": False, "most": None}
            for trace in lstm.trace_stream(view_text.pieces(lstm, file, Path("-"), **asked)):
                lines.add(trace)
            lines.end()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # one-time allocations
    assert peak(1500) < peak(500) + 100_000  # a trace of 1,000 symbols takes 440,000 bytes


# --- errors and exits --------------------------------------------------------------------------------------


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert "has no text to show" in _error(view(MODEL, tmp_path / "empty"), 1)
    assert "has no text to show" in _error(view(MODEL, tmp_path / "empty", "--html", tmp_path / "x"), 1)
    assert not (tmp_path / "x").exists()
    wrong = _error(view(MODEL, "-", "--unit", "2:1", input=b"a"), 2)
    assert "--unit must be layer:index with a layer from 0 to 1 and an index from 0 to 11" in wrong
    assert "h0, h1, not 'c0:1'" in _error(view(GRU, "-", "--unit", "c0:1", input=b"a"), 2)
    assert "omit --json" in _error(view(MODEL, "-", "--html", "x", "--json", input=b"a"), 2)
    assert "200,000" in _error(view(MODEL, "-", "--html", "x", "-n", "200001", input=b"a"), 2)
    twice = _error(view(MODEL, "-", "--find-in", "-", input=b"a"), 2)
    assert "give a file for one of them" in twice
    assert "--force requires --html" in _error(view(MODEL, "-", "--force", input=b"a"), 2)
    assert "does not know: '☃' (U+2603) at position 1" in _error(view(MODEL, "-", input="a☃".encode()), 1)
    assert "cannot be read" in _error(view(MODEL, tmp_path / "none"), 1)


@posix
def test_a_closed_pipe_ends_the_command_silently(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("LORD of all\n" * 5000)
    done = in_shell("charrnn_runtime.cli.view", f'"{MODEL}" "{tmp_path}/text" -q | head -c 100')
    assert (len(done.stdout), done.stderr) == (100, b"")


@posix
def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("LORD of all\n" * 100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "charrnn_runtime.cli.view", str(MODEL), str(tmp_path / "text"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"{")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
