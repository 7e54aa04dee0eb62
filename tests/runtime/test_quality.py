"""Measures of text quality against plain loops; and charrnn-quality in real processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from charrnn_runtime import CharRNN, SettingError, draw_items, quality
from charrnn_runtime.cli import quality as quality_command
from charrnn_runtime.quality import Reference, measure_items, words
from hostile_files import BYTE, LSTM, changed, metadata
from list_models import list_model
from make_models import FOLDER
from run_commands import Command, run_module

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
TEXT = "The cat sat on the mat. The cat's whiskers - o'er the mat - were long! 'Tis 9 o'clock.\n"

few_letters = st.text("ab \n", max_size=60)


# --- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n 123 -- _!", []),
        ("LORD Lord lord", ["lord", "lord", "lord"]),
        ("o'er, pass'd; 'tis 'quoted'", ["o'er", "pass'd", "tis", "quoted"]),
        (
            "it\N{RIGHT SINGLE QUOTATION MARK}s rock''n''roll",
            ["it\N{RIGHT SINGLE QUOTATION MARK}s", "rock", "n", "roll"],
        ),
        ("well-known a1b2", ["well", "known", "a", "b"]),
        ("Straße ÉTÉ e\u0301te\u0301", ["strasse", "été", "e\u0301te\u0301"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("中文字。好", ["中文字", "好"]),
        ("\ud800 a\ud800b ]^\\-[", ["a", "b"]),
    ],
)
def test_words_are_runs_of_letters_with_apostrophes_inside(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(max_size=80))
def test_every_letter_of_a_text_is_in_exactly_one_word(text: str) -> None:
    def letters(given: str) -> list[str]:
        return [c for c in given if quality._is_letter(c)]

    assert letters("".join(words(text))) == letters(text.casefold())


# --- copies ------------------------------------------------------------------------------------------------


def _naive_copies(text: str, pieces: list[str], window: int) -> list[bool]:
    return [
        piece[start : start + window] in text for piece in pieces for start in range(len(piece) - window + 1)
    ]


@settings(max_examples=150, deadline=None)
@given(few_letters, st.lists(few_letters, max_size=5), st.integers(1, 12))
def test_copied_windows_are_the_substrings_of_the_training_text(
    text: str, pieces: list[str], window: int
) -> None:
    assert Reference(text, window=window).copied(pieces).tolist() == _naive_copies(text, pieces, window)


@settings(max_examples=100, deadline=None)
@given(few_letters, st.lists(few_letters, max_size=5), st.integers(1, 12), st.integers(1, 20))
def test_copies_are_exact_despite_hash_collisions_and_chunked_reading(
    text: str, pieces: list[str], window: int, part: int
) -> None:
    exact = quality._hashes

    def weak(codes: NDArray[np.uint32], window: int) -> NDArray[np.uint64]:
        return exact(codes, window) % np.uint64(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_hashes", weak)
        patch.setattr(quality, "_PIECE", part)
        patch.setattr(quality, "_VERIFIED", part)
        copied = Reference(text, window=window).copied(pieces)
    assert copied.tolist() == _naive_copies(text, pieces, window)


@given(st.lists(st.integers(0, 0x10FFFF), max_size=40), st.integers(1, 10))
def test_the_hash_of_a_window_is_its_polynomial(codes: list[int], window: int) -> None:
    base = int(quality._BASE)
    expected = [
        sum(code * base**place for place, code in enumerate(codes[start : start + window])) % 2**64
        for start in range(len(codes) - window + 1)
    ]
    assert quality._hashes(np.array(codes, np.uint32), window).tolist() == expected


def test_the_training_text_itself_is_entirely_copied() -> None:
    found = Reference(TEXT, window=50).measure([TEXT])
    assert (found.copied_windows, found.windows) == (1.0, len(TEXT) - 49)
    assert found.known_words == 1.0


def test_windows_do_not_cross_the_boundaries_of_pieces() -> None:
    reference = Reference("abcdef", window=4)
    assert reference.copied(["abc", "def"]).tolist() == []
    assert reference.copied(["abcd", "", "ef", "xcdef"]).tolist() == [True, False, True]


# --- combined ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [""], ["", ""], ["123 456\n!?"], ["\ud800"], ["short"]])
def test_a_text_without_words_and_windows_has_no_shares(pieces: list[str]) -> None:
    found = Reference(TEXT).measure(pieces)
    assert (found.words, found.known_words, found.windows, found.copied_windows) == (0, None, 0, None)
    assert found.distinct == (None, None, None, None)
    assert found.characters == sum(map(len, pieces))


@pytest.mark.parametrize("text", ["", "123", "short"])
def test_a_training_text_without_words_or_windows_matches_nothing(text: str) -> None:
    found = Reference(text).measure([TEXT])
    assert (found.known_words, found.copied_windows) == (0.0, 0.0)


def test_a_word_possibly_truncated_by_the_end_of_a_piece_is_not_counted() -> None:
    found = Reference("the mat").measure(["the ma", "the mat.", "mat", "o'"])
    assert (found.words, found.known_words) == (4, 0.75)  # the, the mat, o
    assert Reference("the mat").measure(["The the"]).words == 1


def test_distinct_n_is_the_share_of_distinct_word_ngrams() -> None:
    found = Reference("x").measure(["to be or not to be.", "To be!"])
    # 8 words, 4 different; to be, be or, or not, not to, to be, to be: 6 runs of 2, 4 different
    assert found.distinct == (4 / 8, 4 / 6, 1.0, 1.0)
    assert Reference("x").measure(["one two."]).distinct == (1.0, 1.0, None, None)


@settings(deadline=None)
@given(st.lists(few_letters, max_size=6), st.integers(1, 4))
def test_distinct_n_matches_a_plain_loop(pieces: list[str], n: int) -> None:
    runs = []
    for piece in pieces:
        found = (piece + ".").replace("\n", " ").removesuffix(".").split()
        if piece[-1:] in ("a", "b"):
            found.pop()
        runs += [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]
    expected = len(set(runs)) / len(runs) if runs else None
    assert Reference("x").measure(pieces).distinct[n - 1] == expected


def test_an_empty_window_is_rejected() -> None:
    with pytest.raises(SettingError, match="window must be 1 character or more, not 0"):
        Reference(TEXT, window=0)


# --- items -------------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab", max_size=2)), st.sets(st.text("ab", max_size=2)))
def test_item_counts_match_a_plain_loop(items: list[str], known: set[str]) -> None:
    repeated = sum(item in items[:place] for place, item in enumerate(items))
    found = measure_items(items, known)
    assert found.items == len(items)
    if not items:
        assert (found.repeated, found.listed) == (None, None)
        return
    assert found.repeated == repeated / len(items)
    assert found.listed == len([item for item in items if item in known]) / len(items)


# --- charrnn-quality ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command() -> Command:
    return lambda *arguments, **options: run_module("charrnn_runtime.cli.quality", *arguments, **options)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 30)
    return path


@pytest.fixture
def trained_on(tmp_path: Path) -> Callable[..., Path]:
    """A model whose metadata states its training text and the length of its training part."""

    def make(text: Path, end: Any, data: bytes = LSTM, name: str = "model.onnx") -> Path:
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        about = json.dumps({"corpus": {"sha256": digest, "trained_on": end}})
        path = tmp_path / name
        path.write_bytes(changed(metadata("training", about), data))
        return path

    return make


def _records(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def _error(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    assert (done.returncode, done.stdout) == (code, b"")
    assert "Traceback" not in done.stderr.decode()
    return done.stderr.decode().splitlines()[-1]


def test_models_are_compared_with_the_held_out_text(
    command: Command, text: Path, trained_on: Callable[..., Path], lstm: CharRNN
) -> None:
    whole = text.read_text()
    model = trained_on(text, 2000)
    options = ("--length", 290, "--streams", 3, "--window", 4, "--seed", 7)
    written, held_out = _records(command(model, "--text", text, *options, "--json"))
    reference = Reference(whole[:2000], window=4)
    pieces = lstm.generate([""] * 3, 97, seed=7)
    expected = reference.measure([pieces[0], pieces[1], pieces[2][:96]])
    assert (written["text"], written["characters"], written["words"]) == (str(model), 290, expected.words)
    assert written["windows"] == 2 * 94 + 93
    assert written["known_words"] == pytest.approx(expected.known_words, abs=1e-6)
    assert written["copied_windows"] == pytest.approx(expected.copied_windows, abs=1e-6)
    assert written["distinct"] == pytest.approx(list(expected.distinct), abs=1e-6)
    assert written["settings"] == {
        "length": 290,
        "streams": 3,
        "window": 4,
        "prompt": "",
        "seed": 7,
        "temperature": 0.8,
        "top_k": None,
        "top_p": 1.0,
        "min_p": 0.0,
    }
    assert held_out["text"] == f"held out: {text}"
    assert held_out["words"] == reference.measure([whole[2000:2290]]).words
    assert held_out["copied_windows"] == 1.0  # the text is repetitive


def test_the_table_has_a_line_for_each_text(command: Command, text: Path) -> None:
    done = command(MODEL, MODEL, "--text", text, "-n", 200, "--streams", 2, "-s", 1, "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    header, first, second, held_out = done.stdout.decode().splitlines()
    assert header.split() == [
        *("text", "characters", "words", "known", "copied", "(50)"),
        *("distinct-1", "distinct-2", "distinct-3", "distinct-4"),
    ]
    assert first == second
    assert first.split()[:2] == [str(MODEL), "200"]
    assert held_out.split("  ")[0] == f"held out: {text}"


def test_a_seed_that_was_not_given_is_drawn_and_shown(command: Command, text: Path) -> None:
    done = command(MODEL, "--text", text, "-n", 60, "--json")
    (seed,) = [line for line in done.stderr.decode().splitlines() if line.startswith("seed ")]
    number = int(seed.split()[1].rstrip(","))
    assert _records(done)[0]["settings"]["seed"] == number
    again = command(MODEL, "--text", text, "-n", 60, "--json", "--seed", number)
    assert again.stdout == done.stdout


def test_without_metadata_the_first_nine_tenths_are_the_training_text(command: Command, text: Path) -> None:
    done = command(MODEL, "--text", text, "-n", 60, "-s", 1, "--json")
    said = done.stderr.decode()
    assert f"{MODEL} was trained on a text other than {text}, or does not record which" in said
    assert "the first 90 %" in said
    assert _records(done)[1]["characters"] == 60


def test_the_longest_training_part_of_all_models_is_used(
    command: Command, text: Path, trained_on: Callable[..., Path]
) -> None:
    models = [trained_on(text, end, name=f"{end}.onnx") for end in (100, 2550, 9)]
    done = command(*models, "--text", text, "-n", 100, "-s", 1, "--json")
    assert _records(done)[-1]["characters"] == len(text.read_text()) - 2550 == 60
    assert "has 60 characters, but each model generates 100" in done.stderr.decode()
    assert "--length 60 makes them comparable" in done.stderr.decode()


def test_a_text_used_entirely_for_training_has_nothing_held_out(
    command: Command, text: Path, trained_on: Callable[..., Path]
) -> None:
    done = command(trained_on(text, len(text.read_text())), "--text", text, "-n", 50, "-s", 1, "--json")
    assert len(_records(done)) == 1
    assert "no part of" in done.stderr.decode()
    other = text.with_name("other.txt")
    other.write_text("Something else entirely.")
    done = command(MODEL, "--text", text, "--held-out", other, "-n", 50, "-s", 1, "--json")
    assert [record["text"] for record in _records(done)] == [str(MODEL), str(other)]


@pytest.mark.parametrize("end", [-1, "x", None, 1.5, [1]])
def test_with_unusable_metadata_nine_tenths_are_the_training_text(
    text: Path, trained_on: Callable[..., Path], end: Any
) -> None:
    model = CharRNN.load(trained_on(text, end), device="cpu")
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    assert quality_command._trained_on([model], text.read_text(), digest, text) == 2349
    assert quality_command._trained_on([], text.read_text(), digest, text) == 2349


def test_a_model_of_bytes_is_measured_too(
    command: Command, tmp_path: Path, trained_on: Callable[..., Path]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("éa b " * 100, encoding="utf-8")
    written, held_out = _records(
        command(trained_on(text, 300, BYTE), "--text", text, "-n", 40, "-s", 1, "--streams", 2, "--json")
    )
    assert 0 < written["characters"] <= 40
    assert held_out["characters"] == 40
    short = _records(command(trained_on(text, 595, BYTE), "--text", text, "-n", 40, "--json"))[1]
    assert short["characters"] == 5  # the last "éa b ", of whose é only one of two bytes was trained on


def test_a_byte_order_mark_does_not_count(command: Command, text: Path) -> None:
    plain = _records(command(MODEL, "--text", text, "-n", 60, "-s", 1, "--json"))
    text.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    assert _records(command(MODEL, "--text", text, "-n", 60, "-s", 1, "--json"))[0] == plain[0]


@pytest.mark.parametrize("content", ["", "12 34 56\n"])
def test_a_training_text_can_be_short_or_empty(command: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / "text").write_text(content)
    done = command(MODEL, "--text", tmp_path / "text", "-n", 60, "--streams", 1, "-s", 1, "--json")
    assert _records(done)[0]["copied_windows"] == 0.0


def test_an_undefined_share_is_a_dash_in_the_table(command: Command, text: Path) -> None:
    done = command(MODEL, "--text", text, "-n", 60, "-s", 1, "-q")  # streams of 2 characters have no windows
    assert done.stdout.decode().splitlines()[1].split()[-5] == "-"


def test_with_more_streams_than_characters_each_writes_one(command: Command, text: Path) -> None:
    written = _records(command(MODEL, "--text", text, "-n", 3, "--streams", 50, "-s", 1, "--json"))[0]
    assert (written["characters"], written["windows"], written["words"]) == (3, 0, written["words"])


def test_invalid_arguments_are_rejected(command: Command, text: Path, tmp_path: Path) -> None:
    for option, message in (
        (("--length", 0), "--length must be 1 or more, not 0"),
        (("--streams", 0), "--streams must be between 1 and"),
        (("--window", 0), "--window must be 1 or more, not 0"),
        (("--temperature", 0), "temperature must be at least"),
        (("--seed", -1), "seed must be between"),
    ):
        assert message in _error(command(MODEL, "--text", text, *option), 2)
    assert "none: no such file" in _error(command(tmp_path / "none", "--text", text), 1)
    assert "none cannot be read: No such file" in _error(command(MODEL, "--text", tmp_path / "none"), 1)
    assert "'ß' (U+00DF)" in _error(command(MODEL, "--text", text, "-p", "ß", "-n", 9), 1)
    (tmp_path / "latin").write_bytes(b"ab\xff")
    assert "byte 2 is 0xff" in _error(command(MODEL, "--text", tmp_path / "latin"), 1)
    assert "--text" in _error(command(MODEL), 2)
    both = _error(command(MODEL, "--text", "-", "--held-out", "-", input=b"abc abc"), 2)
    assert "--text and --held-out cannot both be read from stdin" in both


@pytest.fixture
def of_lines(tmp_path: Path) -> Path:
    """A model of short items whose metadata states that it was trained on lines."""
    path = tmp_path / "of-lines.onnx"
    path.write_bytes(list_model(MODEL, lines=True))
    return path


@pytest.fixture
def listed(tmp_path: Path, of_lines: Path) -> Path:
    """A list with some of the items that the model generates."""
    path = tmp_path / "list.txt"
    items = {item.text for item in draw_items(CharRNN.load(of_lines, device="cpu"), 20, seed=7)}
    path.write_text("".join(item + "\r\n" for item in [*sorted(items)[::2], "Emma", "Olivia", "Emma"]))
    return path


def test_models_of_lines_are_measured_on_complete_items(
    command: Command, of_lines: Path, listed: Path
) -> None:
    done = command(of_lines, "--text", listed, "-n", 400, "-s", 7, "--window", 3, "--json")
    (record,) = _records(done)
    items: list[str] = []
    for item in draw_items(CharRNN.load(of_lines, device="cpu"), None, seed=7):
        items.append(item.text)
        if sum(len(text) + 1 for text in items) >= 400:
            break
    known = set(listed.read_text().split("\n"))
    assert record["items"] == len(items) > 20
    assert record["repeated_items"] == pytest.approx(1 - len(set(items)) / len(items), abs=1e-6)
    assert record["repeated_items"] > 0
    assert record["listed_items"] == pytest.approx(sum(i in known for i in items) / len(items), abs=1e-6)
    assert record["listed_items"] > 0
    pieces = [item + "\n" for item in items]
    expected = Reference(listed.read_bytes().decode(), window=3).measure(pieces)
    assert record["characters"] == expected.characters
    assert record["words"] == expected.words
    assert record["known_words"] == pytest.approx(expected.known_words, abs=1e-6)
    assert "lines from all over" in done.stderr.decode()


def test_other_texts_are_measured_by_line_with_models_of_lines(
    command: Command, of_lines: Path, listed: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("Emma\nAda\n\nEmma\nLio and more\n")
    options = ("--text", listed, "--held-out", tmp_path / "other", "-n", 20, "-s", 7, "-q")
    written, plain, other = _records(command(of_lines, MODEL, *options, "--json"))
    assert written["items"] > 0
    assert "items" not in plain
    assert (other["items"], other["repeated_items"], other["listed_items"]) == (3, 0.333333, 0.666667)
    lines = command(of_lines, MODEL, *options).stdout.decode().splitlines()
    assert lines[0].split()[-3:] == ["items", "repeated", "listed"]
    assert lines[1].split()[-3] == str(written["items"])
    assert lines[2].split()[-3:] == ["-", "-", "-"]
    assert lines[3].split()[-3:] == ["3", "33.33%", "66.67%"]


def test_a_model_of_lines_that_completes_no_line_is_an_error(
    command: Command, of_lines: Path, listed: Path
) -> None:
    done = command(of_lines, "--text", listed, "--top-k", 1, "-p", "c", "-n", 50)
    assert "was trained on lines, but after 0 items no line ended within 1,000" in _error(done, 1)
