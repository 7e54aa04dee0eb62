"""The command charrnn-compare: output, files and exit codes."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import WriteError
from charrnn_trainer.cli.compare import main
from charrnn_trainer.cli.train import main as train_main
from charrnn_trainer.compare import measure, output, report
from charrnn_trainer.compare.comparable import differences, same_split
from charrnn_trainer.compare.output import write_output
from charrnn_trainer.compare.pictures import Picture
from charrnn_trainer.compare.plots import draw_curves, draw_gaps
from charrnn_trainer.compare.records import RunRecord, read_runs
from compared_runs import train_tiny
from tiny_runs import TEXT, TINY_FLAGS, run_program

COURSE = Path(__file__).parent.parent / "data" / "course_losses.csv"
MARKED = b"<!-- charrnn-compare -->"


@dataclass(frozen=True)
class Done:
    """The exit code and output of the command."""

    returncode: int
    stdout: str
    stderr: str


Compare = Callable[..., Done]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs in ``ckpt``."""
    folder = tmp_path_factory.mktemp("work")
    train_tiny(folder / "ckpt" / "lstm", steps=6)
    train_tiny(folder / "ckpt" / "gru", cell="gru", steps=6)
    return folder


@pytest.fixture
def work(folder: Path, tmp_path: Path) -> Path:
    """A writable copy of it."""
    shutil.copytree(folder / "ckpt", tmp_path / "ckpt")
    shutil.copy(COURSE, tmp_path / "losses.csv")
    return tmp_path


Draw = Callable[[Sequence[RunRecord]], Picture | None]
DRAWN: dict[tuple[str, ...], Picture | None] = {}


def drawn_once(draw: Draw) -> Draw:
    """Draw a picture of the same runs once for all tests, since drawing is slow."""

    def drawn(runs: Sequence[RunRecord]) -> Picture | None:
        key = (draw.__name__, *(run.name for run in runs))
        if key not in DRAWN:
            DRAWN[key] = draw(runs)
        return DRAWN[key]

    return drawn


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short texts to measure the speed, and cached pictures; neither matters here."""
    monkeypatch.setattr(measure, "SPEED_LENGTH", 50)
    for draw in (draw_curves, draw_gaps):
        monkeypatch.setattr(report, draw.__name__, drawn_once(draw))


@pytest.fixture
def compare(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Compare:
    """The command in that folder and in this process, without importing torch again."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.chdir(work)
        monkeypatch.setattr(sys, "argv", ["charrnn-compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capfd.readouterr())

    return run


def fails(done: Done, code: int, *words: str) -> None:
    """Check the exit code, a one-line error with these words, and an empty stdout."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("charrnn-compare: error: ")
    assert "Traceback" not in done.stderr
    assert "a bug in charrnn" not in last
    for word in words:
        assert word in last


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- output ------------------------------------------------------------------------------------------------


def test_the_command_writes_a_report_and_prints_its_path(work: Path) -> None:
    done = run_program(
        "-m", "charrnn_trainer.cli.compare", "ckpt", "--length", "20", "--prime", "to", cwd=work
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == f"{Path('report', 'report.html')}\n"
    assert names(work / "report") == ["curves.png", "gap.png", "report.html"]
    said = done.stderr.decode().splitlines()
    assert said[0] == "gru, step 6: generating 20 characters"
    assert said[-1] == "drawing the plots"
    assert names(work) == ["ckpt", "losses.csv", "report"]


def test_the_suggested_command_trains_a_run_that_differs_only_in_its_cell(
    compare: Compare, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "my text.txt").write_text(TEXT)
    flags = (*TINY_FLAGS, "--steps", "6", "--learning-rate", "0.01", "--quiet")
    monkeypatch.chdir(work)
    train(monkeypatch, "my text.txt", *flags, "--out", "a run")
    assert compare("a run", "--length", "5").returncode == 0
    page = html.unescape((work / "report" / "report.html").read_text())
    advised = re.search(r"charrnn-train (--config .* --cell gru)", page)
    assert advised, page
    train(monkeypatch, *shlex.split(advised[1]))
    gru, lstm = read_runs(["ckpt/gru-2", "a run"])
    assert (gru.cell, lstm.cell) == ("GRU", "LSTM")
    assert same_split([gru, lstm])
    assert not differences([gru, lstm])


def test_no_command_is_suggested_if_the_settings_do_not_name_the_text(compare: Compare, work: Path) -> None:
    assert compare("ckpt/lstm", "--length", "5").returncode == 0  # of a text read from memory
    page = (work / "report" / "report.html").read_text()
    assert "train another cell on the same text with the same settings" in page
    assert "charrnn-train" not in page


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run charrnn-train in this process."""
    monkeypatch.setattr(sys, "argv", ["charrnn-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        train_main()
    assert ended.value.code == 0


def test_a_report_is_replaced_and_other_files_are_kept(compare: Compare, work: Path) -> None:
    assert compare("ckpt", "--out", "r", "--length", "5").returncode == 0
    (work / "r" / "notes.txt").write_text("mine")
    before = (work / "r" / "report.html").read_bytes()
    assert compare("ckpt/lstm", "--out", "r", "--length", "5", "-q").stderr == ""
    assert (work / "r" / "report.html").read_bytes() != before
    assert names(work / "r") == ["curves.png", "gap.png", "notes.txt", "report.html"]
    assert (work / "r" / "notes.txt").read_text() == "mine"


def test_a_file_that_is_not_part_of_a_report_is_replaced_only_with_force(
    compare: Compare, work: Path
) -> None:
    for name in ("report.html", "curves.png", "gap.png"):
        (work / name).mkdir()
        (work / name / name).write_text("mine")
        fails(compare("ckpt", "--out", name, "--length", "5"), 1, f"{name} exists", "--force")
        assert names(work / name) == [name]
        assert (work / name / name).read_text() == "mine"
        shutil.copytree(work / name, work / "mine", dirs_exist_ok=True)
    assert compare("ckpt", "--out", "mine", "--length", "5", "--force").returncode == 0
    assert len(names(work / "mine")) == 3
    assert all(path.read_bytes() != b"mine" for path in (work / "mine").iterdir())


def test_a_page_with_a_reference_is_reproduced_by_the_command_that_it_shows(
    compare: Compare, work: Path
) -> None:
    arguments = (
        "ckpt",
        "--reference",
        "losses.csv",
        "--reference-name",
        "the course",
        "--out",
        "docs/course.md",
    )
    done = compare(*arguments, "--title", "Beside it")
    assert (done.returncode, done.stdout) == (0, f"{Path('docs/course.md')}\n"), done.stderr
    assert "there is nothing to compare from step 1,000 on" in done.stderr
    assert names(work / "docs") == ["course.md", "course.png"]
    text = (work / "docs" / "course.md").read_text(encoding="utf-8")
    assert "# Beside it\n" in text
    assert "The reference is the course." in text
    assert "| 4,600 | - | 1.1727 | - |" in text
    assert f"charrnn-compare {' '.join(arguments[:4])} 'the course'".split(" 'the")[0] in text
    assert "](course.png)" in text
    again = compare(*arguments, "--title", "Beside it")
    assert again.returncode == 0
    assert (work / "docs" / "course.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("written", ["reference.md", "reference.png"])
def test_a_page_never_replaces_its_reference(compare: Compare, work: Path, written: str) -> None:
    (work / "losses.csv").rename(work / written)
    before = (work / written).read_bytes()
    fails(
        compare("ckpt", "--reference", written, "--force"), 2, f"--out {written} would replace an input file"
    )
    assert (work / written).read_bytes() == before


def test_a_reference_cell_without_a_run_is_reported(compare: Compare) -> None:
    done = compare("ckpt/gru", "--reference", "losses.csv")
    assert done.returncode == 0
    assert "warning: the reference's losses of lstm are ignored" in done.stderr
    assert done.stdout == "reference.md\n"


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("RUN", "--help")),
        (("ckpt", "--no-such"), ("--no-such", "--help")),
        (("ckpt", "ckpt/lstm"), ("lstm is given twice",)),
        (("ckpt", "--title", "x"), ("--title needs --reference",)),
        (("ckpt", "--reference-name", "x"), ("--reference-name needs --reference",)),
        (("ckpt", "--reference", "losses.csv", "--out", "docs"), ("--out must be a .md file", "not docs")),
        (("ckpt", "--temperature", "-1"), ("--temperature",)),
        (("ckpt", "--checkpoints", "0"), ("--checkpoints must be between 1 and 50, not 0",)),
        (("ckpt", "--length", "-1"), ("length",)),
    ],
)
def test_an_invalid_option_is_an_error_with_exit_code_2(
    compare: Compare, work: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = compare(*arguments)
    fails(done, 2, *words)
    assert "top-k" not in done.stderr  # not an option of this command
    assert names(work) == ["ckpt", "losses.csv"]


def test_invalid_requests_are_errors_and_write_nothing(compare: Compare, work: Path) -> None:
    for arguments, words in [
        (("nowhere",), "nowhere does not exist"),
        (("ckpt", "--prime", "Ω"), "--prime 'Ω'"),
        (("ckpt", "--out", "losses.csv"), "losses.csv is a file"),
        (("ckpt", "--reference", "nowhere.csv"), "cannot read the reference nowhere.csv"),
        (("ckpt", "--out", "losses.csv/x"), "losses.csv"),
    ]:
        fails(compare(*arguments), 1, words)
    assert names(work) == ["ckpt", "losses.csv"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("matplotlib",), "a comparison needs matplotlib; install with: pip install matplotlib"),
        (("jinja2",), "a comparison needs Jinja2; install with: pip install Jinja2"),
        (
            ("matplotlib", "jinja2"),
            "needs matplotlib and Jinja2; install with: pip install matplotlib Jinja2",
        ),
    ],
)
def test_a_missing_dependency_of_reports_is_one_line_with_the_install_command(
    compare: Compare, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], words: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "charrnn_trainer.compare.find_spec",
        lambda name: None if name in missing else found(name),
    )
    done = compare("ckpt")
    fails(done, 1, words)
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(CharRNNError, match="a comparison needs"):
        from charrnn_trainer.compare import compare_runs  # noqa: F401


def test_help_does_not_import_the_dependencies_of_reports() -> None:
    program = "import sys, charrnn_trainer.cli.compare; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = run_program("-c", program)
    assert done.stdout == b"set()\n", done.stderr.decode()


# --- atomic writes -----------------------------------------------------------------------------------------


def test_a_new_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    write_output(tmp_path / "a" / "b", {"x": MARKED + b"1", "y": MARKED + b"2"}, force=False)
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == ["x", "y"]


@pytest.mark.parametrize("there", [False, True])
def test_if_one_file_cannot_be_written_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    target = tmp_path / "report"
    if there:
        write_output(target, {"x": MARKED, "y": MARKED}, force=False)

    def full(path: Path, content: bytes) -> None:
        if path.name == "y":
            raise WriteError(path, OSError(28, "No space left on device"))
        path.write_bytes(content)

    monkeypatch.setattr(output, "write_whole", full)
    with pytest.raises(WriteError, match="No space left"):
        write_output(target, {"x": MARKED + b"new", "y": MARKED + b"new"}, force=False)
    assert names(tmp_path) == (["report"] if there else [])
    if there:
        assert names(target) == ["x", "y"]
        assert (target / "x").read_bytes() == MARKED


def test_ctrl_c_leaves_no_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_output(tmp_path / "report", {"x": MARKED}, force=False)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_a_symlink_to_a_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_output(tmp_path / "link", {"x": MARKED}, force=False)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["x"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        write_output(tmp_path / "report", {"x": MARKED}, force=False)


def test_a_report_is_written_despite_a_closed_stdout(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.chdir(work)
        patch.setattr(sys, "argv", ["charrnn-compare", "ckpt", "--length", "5"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    assert len(names(work / "report")) == 3
