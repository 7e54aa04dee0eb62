"""Texts in commands: encodings, lists, units and headings; the advice in messages works."""

from __future__ import annotations

import bz2
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN
from list_models import list_model
from make_models import FOLDER
from marks import first_daily
from run_commands import Command, command_environment, run_module

MODEL = FOLDER / "lstm-2x12-fp32.onnx"
BYTES = FOLDER / "lstm-1x12-fp32-byte.onnx"
COMPOSED, DECOMPOSED = "café", "cafe\u0301"

Done = subprocess.CompletedProcess[bytes]

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def quality(*arguments: object) -> Done:
    """Runs charrnn-quality with a short length."""
    return run_module("charrnn_runtime.cli.quality", *arguments, "-n", 200, "--streams", 2, "--seed", 1)


def _ok(done: Done) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def _said(done: Done, code: int = 0) -> list[str]:
    assert done.returncode == code, done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    return done.stderr.decode().splitlines()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose metadata states that it was trained on lines."""
    path = tmp_path_factory.mktemp("models") / "names.onnx"
    path.write_bytes(list_model(MODEL, lines=True))
    return path


# --- encodings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding",
    ["latin-1", "utf-16"]
    + [pytest.param(name, marks=pytest.mark.nightly) for name in ("utf-32-be", "utf-8", "cp1252")],
)
def test_every_command_reads_files_in_the_given_encoding(
    gen: Command, score: Command, encoding: str, tmp_path: Path
) -> None:
    text = "Mélange\nétude é\n" * 3
    (tmp_path / "utf8").write_bytes(text.encode())
    (tmp_path / "other").write_bytes(text.encode(encoding))
    plain, other = tmp_path / "utf8", [tmp_path / "other", "--encoding", encoding]
    for options in (["--json"], ["--by-line", "--json"]):
        expected = _ok(score(MODEL, plain, *options)).replace("utf8", "other")
        assert _ok(score(MODEL, *other, *options)) == expected
    for option in ("--prime-file", "--primes-file"):
        expected = _ok(gen(MODEL, option, plain, "-n", 9, "-s", 1))
        assert _ok(gen(MODEL, option, *other, "-n", 9, "-s", 1)) == expected
    from_stdin = gen(
        MODEL, "--prime-file", "-", "--encoding", encoding, "-n", 9, "-s", 1, input=text.encode(encoding)
    )
    assert _ok(from_stdin) == _ok(gen(MODEL, "--prime-file", plain, "-n", 9, "-s", 1))
    expected = _ok(quality(MODEL, "--text", plain)).replace("utf8 ", "other")
    assert _ok(quality(MODEL, "--text", *other)).split() == expected.replace("utf8", "other").split()


def test_for_a_byte_model_a_text_is_converted_from_its_encoding_to_utf_8(
    score: Command, byte_model: CharRNN, tmp_path: Path
) -> None:
    (tmp_path / "text").write_bytes(COMPOSED.encode("latin-1"))
    as_it_is = json.loads(_ok(score(BYTES, tmp_path / "text", "--json")))
    decoded = json.loads(_ok(score(BYTES, tmp_path / "text", "--json", "--encoding", "latin-1")))
    assert (as_it_is["characters"], decoded["characters"]) == (4, 5)
    for record, data in ((as_it_is, COMPOSED.encode("latin-1")), (decoded, COMPOSED.encode())):
        assert record["unit"] == "byte"
        expected = byte_model.score(data).bits_per_character
        assert record["bits_per_character"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "data",
    first_daily(
        [
            "café".encode("latin-1"),
            "“é”".encode("cp1252"),
            "café".encode("utf-16-be"),
            "abc café".encode("utf-16-le"),
            "abc".encode("utf-32-le"),
            "abc".encode("utf-32-be"),
        ],
        2,
    ),
    ids=repr,
)
def test_the_encoding_that_a_message_suggests_works(
    gen: Command, score: Command, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    path.write_bytes(data)
    commands: list[tuple[Command, list[object]]] = [
        (score, [MODEL, path, "--unknown", "skip"]),
        (gen, [MODEL, "--prime-file", path, "--unknown", "skip", "-n", 3]),
        (gen, [MODEL, "--primes-file", path, "--unknown", "skip", "-n", 3]),
        (quality, [MODEL, "--text", path]),
    ]
    for command, words in commands:
        said = command(*words).stderr.decode()
        advised = re.findall(r"--encoding ([\w-]+)", said)
        assert len(set(advised)) == 1, said  # a warning may precede the error
        done = command(*words, "--encoding", advised[0])
        assert "--encoding" not in "\n".join(_said(done)), done.stderr.decode()


@posix
@pytest.mark.parametrize("kind", ["bz2", "zip"])
def test_the_command_that_a_message_suggests_for_a_compressed_text_works(
    score: Command, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"my text.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("text", "LORD")
    else:
        path.write_bytes(bz2.compress(b"LORD"))
    said = _said(score(MODEL, path), 1)[-1]
    line = re.search(r"extract the text first, for example with (.+ > text\.txt)$", said)
    assert line, said
    if shutil.which(shlex.split(line[1])[0]) is None:
        pytest.skip(f"there is no {shlex.split(line[1])[0]} here")
    subprocess.run(["sh", "-c", line[1]], cwd=tmp_path, check=True)
    assert (tmp_path / "text.txt").read_text() == "LORD"


# --- Unicode forms -----------------------------------------------------------------------------------------


def test_a_prompt_in_another_unicode_normalization_form_is_an_error_with_advice(
    gen: Command, lstm: CharRNN, tmp_path: Path
) -> None:
    said = _said(gen(MODEL, "-p", DECOMPOSED, "-n", 9), 1)[-1]
    assert "U+0065 U+0301" in said
    assert "as U+00E9 ('é')" in said
    advised = re.search(r"--unknown \w+", said)
    assert advised
    done = gen(MODEL, "-p", DECOMPOSED, "-n", 9, "-s", 1, *advised[0].split())
    assert _ok(done) == lstm.generate(COMPOSED, 9, seed=1)
    assert "the prompt is read as 'café'" in "\n".join(_said(done))
    assert lstm.generate(DECOMPOSED, 9, seed=1, unknown="normalize") == _ok(done)
    (tmp_path / "prompts").write_text(f"LORD\n{DECOMPOSED}\n", encoding="utf-8")
    assert "line 2 has characters" in _said(gen(MODEL, "--primes-file", tmp_path / "prompts"), 1)[-1]


def test_skipping_never_drops_a_combining_accent_silently(
    gen: Command, score: Command, lstm: CharRNN
) -> None:
    done = gen(MODEL, "-p", DECOMPOSED, "-n", 9, "-s", 1, "--unknown", "skip")
    assert _ok(done) == lstm.generate("cafe", 9, seed=1)
    assert "--unknown normalize keeps those that have a known form" in "\n".join(_said(done))
    done = score(MODEL, "-", "--unknown", "skip", input=DECOMPOSED.encode())
    assert "1 character was skipped" in _said(done)[-1]


@pytest.mark.parametrize("options", [["--by-line"], ["--whole"]])
def test_scoring_normalizes_a_text_to_the_form_of_the_model(
    score: Command, lstm: CharRNN, options: list[str]
) -> None:
    done = score(MODEL, "-", "--json", "--unknown", "normalize", *options, input=DECOMPOSED.encode())
    record = json.loads(_ok(done))
    assert record["characters"] == 4
    assert record["bits_per_character"] == pytest.approx(lstm.score(COMPOSED).bits_per_character, abs=1e-5)


# --- stop texts --------------------------------------------------------------------------------------------


def test_stop_accepts_python_escapes_if_the_model_has_no_backslash(gen: Command, lstm: CharRNN) -> None:
    whole = lstm.generate("LORD ", 400, seed=1)
    for given, stop in (("\\n", "\n"), ("a\\n", "a\n"), ("\n", "\n")):
        done = gen(MODEL, "-p", "LORD ", "-n", 400, "-s", 1, "--stop", given)
        assert _ok(done) == lstm.generate("LORD ", 400, seed=1, stop=stop)
    assert "\n" in whole


def test_a_backslash_is_literal_if_the_vocabulary_has_it(gen: Command, byte_model: CharRNN) -> None:
    done = gen(BYTES, "-n", 300, "-s", 1, "--stop", "\\n", "--json")
    record = json.loads(_ok(done))
    assert record["settings"]["stop"] == "\\n"
    assert record["text"] == byte_model.generate("", 300, seed=1, stop="\\n")
    said = _said(done)[-1]
    advised = re.search(r"in bash as (--stop \$'.+')$", said)
    assert advised, said
    if shutil.which("bash"):
        command = f"{shlex.quote(sys.executable)} -m charrnn_runtime.cli.gen"
        line = f"{command} {BYTES} -n 300 -s 1 --json {advised[1]}"
        out = subprocess.run(
            ["bash", "-c", line], env=command_environment(), check=True, capture_output=True
        ).stdout
        assert json.loads(out)["settings"]["stop"] == "\n"


# --- finish reasons ----------------------------------------------------------------------------------------


def test_json_has_the_finish_reason(gen: Command, lstm: CharRNN) -> None:
    done = gen(MODEL, "--json", "--streams", 4, "-n", 30, "-s", 1, "--stop", "e")
    records = [json.loads(line) for line in _ok(done).splitlines()]
    ends = [each.finish_reason for each in lstm.generate_each([""] * 4, 30, seed=1, stop="e")]
    assert [each["finish_reason"] for each in records] == ends
    for each, text in zip(records, lstm.generate([""] * 4, 30, seed=1), strict=True):
        assert each["finish_reason"] == ("stop" if "e" in text else "length")


# --- beam search -------------------------------------------------------------------------------------------


def test_the_most_likely_text_is_written_with_its_score(gen: Command, lstm: CharRNN) -> None:
    found = lstm.beam("KING ", 12, beams=5, stop=["j", "\n"])
    done = gen(MODEL, "-p", "KING ", "-n", 12, "--beam", 5, "--stop", "j", "--stop", "\\n")
    assert _ok(done).removesuffix("\n") == "KING " + found[0].text
    assert f"{found[0].nats:.4f} nats, {found[0].bits:.4f} bits" in _said(done)[-1]
    done = gen(MODEL, "-p", "KING ", "-n", 12, "--beam", 5, "--stop", "j", "--stop", "\n", "--json")
    records = [json.loads(line) for line in _ok(done).splitlines()]
    assert [each["text"] for each in records] == ["KING " + each.text for each in found]
    assert [each["finish_reason"] for each in records] == [each.finish_reason for each in found]
    assert [each["nats"] for each in records] == pytest.approx([each.nats for each in found], abs=1e-5)


def test_a_model_of_lines_gives_the_most_likely_line(gen: Command, names: Path) -> None:
    model = CharRNN.load(names, device="cpu")
    found = model.beam("\na", 30, beams=6, stop="\n")
    assert _ok(gen(names, "-p", "a", "-n", 30, "--beam", 6)) == f"a{found[0].text}\n"


# --- scoring lists -----------------------------------------------------------------------------------------

LIST = "ab\r\n\r\ncd\r\nabc"


def test_a_list_is_scored_line_by_line_by_a_model_that_learned_lines(
    score: Command, names: Path, tmp_path: Path
) -> None:
    model = CharRNN.load(names, device="cpu")
    assert model.vocabulary.unknown_characters("\r"), "the case of a list with Windows line ends"
    (tmp_path / "list").write_bytes(LIST.encode())
    done = score(names, tmp_path / "list", "--json")
    record = json.loads(_ok(done))
    scores = model.score(["ab\n", "cd\n", "abc\n"])
    nats, characters = sum(each.nats for each in scores), sum(each.characters for each in scores)
    assert (record["characters"], record["lines"]) == (characters, 3)
    assert record["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, abs=1e-5)
    assert any("was trained with --lines, so each line is scored separately" in line for line in _said(done))
    each = [
        json.loads(line) for line in _ok(score(names, tmp_path / "list", "--json", "--by-line")).splitlines()
    ]
    assert [line["text"] for line in each] == ["ab", "", "cd", "abc"]
    assert [line["characters"] for line in each] == [3, 0, 3, 4]
    whole = json.loads(_ok(score(names, tmp_path / "list", "--json", "--whole")))
    expected = model.score(LIST.replace("\r\n", "\n"))
    assert whole["characters"] == expected.characters
    assert whole["bits_per_character"] == pytest.approx(expected.bits_per_character, abs=1e-5)


def test_bits_of_a_list_are_computed_per_line(score: Command, names: Path) -> None:
    model = CharRNN.load(names, device="cpu")
    record = json.loads(_ok(score(names, "-", "--json", "--per-char", input=b"ab\nc\n")))
    losses = [loss for each in model.score(["ab\n", "c\n"]) for loss in each.per_character.tolist()]
    assert record["bits"] == pytest.approx([loss / math.log(2) for loss in losses], abs=1e-4)


# --- output ------------------------------------------------------------------------------------------------


def test_tables_have_a_header_and_json_has_none(score: Command) -> None:
    heading, row = _ok(score(MODEL, "-", input=b"LORD")).splitlines()
    assert re.split(r"\s{2,}", heading.strip()) == ["bits per character", "perplexity", "characters", "file"]
    assert len(row.split()) == 4
    for options in (["--by-line"], ["--by-line", "--per-char"]):
        assert _ok(score(MODEL, "-", *options, input=b"LORD")).startswith("bits per character  perplexity")
    heading = _ok(score(BYTES, "-", "--compare", MODEL, input=b"LORD")).splitlines()[0]
    assert heading.split("  ")[0] == "bits per byte"
    assert "other's bits per character  better model  file" in heading
    for line in _ok(score(MODEL, "-", "--json", "--by-line", input=b"LORD\na")).splitlines():
        assert json.loads(line)["unit"] == "character"


@pytest.mark.parametrize("options", [[], ["--by-line"], ["--json"], ["--per-char"], ["--json", "--per-char"]])
@pytest.mark.parametrize("data", [b"", "\ufeff".encode()])
def test_an_empty_file_is_an_error(score: Command, options: list[str], data: bytes) -> None:
    done = score(MODEL, "-", *options, input=data)
    assert _said(done, 1)[-1].endswith("there is nothing to score in stdin: it is empty")
    assert b"0.0" not in done.stdout


def test_a_text_of_only_unknown_characters_is_an_error(score: Command) -> None:
    said = _said(score(MODEL, "-", "--unknown", "skip", input="ßß".encode()), 1)[-1]
    assert said.endswith("the model knows none of its characters")


def test_info_begins_with_the_number_of_parameters_and_the_validation_loss(info: Command) -> None:
    first, second = _ok(info(MODEL)).splitlines()[:2]
    assert re.fullmatch(r"parameters\s+[\d,]+", first)
    assert second.startswith("validation loss")
    record = json.loads(_ok(info(MODEL, "--json")))
    assert list(record)[:2] == ["parameters", "validation_loss"]
    assert f"{record['parameters']:,}" in first
    if record["validation_loss"] is not None:
        assert f"{record['validation_loss']:.4f} nats" in second


def test_quality_measures_bytes_if_a_text_of_a_byte_model_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(range(256)) * 20)
    done = quality(BYTES, "--text", tmp_path / "data", "--json")
    assert "bytes are measured instead of characters" in "\n".join(_said(done))
    records = [json.loads(line) for line in _ok(done).splitlines()]
    assert [each["unit"] for each in records] == ["byte", "byte"]
    assert [each["characters"] for each in records] == [200, 200]
    assert "bytes" in _ok(quality(BYTES, "--text", tmp_path / "data")).splitlines()[0]
    assert "not UTF-8" in _said(quality(MODEL, "--text", tmp_path / "data"), 1)[-1]


def test_stats_report_prompt_processing_and_generation_separately(gen: Command) -> None:
    done = gen(MODEL, "-p", "LORD " * 600, "-n", 50, "--stats", "--no-prime")
    assert "; 3,000 prompt characters read in " in _said(done)[-1]
    done = gen(MODEL, "-p", "LORD ", "-n", 50, "--stats", "--streams", 3)
    assert "; 15 prompt characters read in " in _said(done)[-1]


def test_reading_a_long_prompt_first_changes_nothing(gen: Command, lstm: CharRNN) -> None:
    prompt = "LORD of the text " * 200
    state = lstm.prime(prompt)
    rest = lstm.generate(state, 60, seed=1)[0]
    assert lstm.generate(prompt, 60, seed=1, echo=False) == rest
    assert "".join(lstm.stream(prompt, 60, seed=1)) == rest
    assert [each.text for each in lstm.generate_each([prompt], 60, seed=1)] == [rest]
    assert lstm.generate([prompt, "x"], 60, seed=1)[0] == prompt + rest


# --- running the commands in other ways --------------------------------------------------------------------


def test_the_package_runs_its_commands() -> None:
    listed = _ok(run_module("charrnn_runtime"))
    assert listed == _ok(run_module("charrnn_runtime", "--help"))
    for name in ("gen", "score", "quality", "view", "triton", "info"):
        assert f"charrnn-{name}" in listed
        shown = _ok(run_module("charrnn_runtime", name, "--help"))
        assert f"Usage: charrnn-{name} " in shown
    expected = _ok(run_module("charrnn_runtime.cli.gen", MODEL, "-n", 9, "-s", 1))
    assert _ok(run_module("charrnn_runtime", "gen", MODEL, "-n", 9, "-s", 1)) == expected
    assert (
        "choose from gen, score, quality, view, serve, triton, info"
        in _said(run_module("charrnn_runtime", "train"), 2)[-1]
    )


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("gen", "--device", ["auto", "cpu", "cuda", "webgpu"]),
        ("gen", "--unknown", ["error", "skip", "normalize"]),
        ("score", "--device", ["auto", "cpu", "cuda", "webgpu"]),
        ("score", "--unknown", ["error", "skip", "normalize"]),
        ("quality", "--device", ["auto", "cpu", "cuda", "webgpu"]),
    ],
)
def test_shells_complete_choices(command: str, option: str, expected: list[str]) -> None:
    words = f"charrnn-{command} MODEL {option} "
    variable = f"_CHARRNN_{command.upper()}_COMPLETE"
    environment = {variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    done = run_module(f"charrnn_runtime.cli.{command}", env=environment)
    assert _ok(done).split() == expected
    environment["COMP_WORDS"] = words + expected[1][:1]
    assert expected[1] in _ok(run_module(f"charrnn_runtime.cli.{command}", env=environment)).split()


@posix
def test_line_editing_and_history_work_at_a_terminal(lstm: CharRNN, tmp_path: Path) -> None:
    import pty
    import tty

    pytest.importorskip("readline")
    master, slave = pty.openpty()
    tty.setraw(slave)  # input before the editor is ready must not be taken for terminal control keys
    # Delete a letter; recall the previous line with an arrow key and change it; end the input.
    os.write(master, b"LORDX\x7f \r" + b"\x1b[A\x7f\x7fE \r" + b"\x04")
    done = subprocess.run(
        [sys.executable, "-m", "charrnn_runtime.cli.gen", MODEL, "-i", "-n", "20", "-s", "1"],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=command_environment(TERM="xterm", HOME=str(tmp_path)),
        timeout=100,
        check=False,
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the other end of the terminal is closed
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    assert done.returncode == 0, done.stderr.decode()
    first = lstm.stream("LORD ", 20, seed=1)
    texts = ["".join(first)]
    texts.append("".join(lstm.stream("LORE ", 20, seed=1, state=first.state)))
    for text in texts:
        assert text in shown.decode(errors="replace"), shown
    assert list(tmp_path.iterdir()) == []  # no history is kept
