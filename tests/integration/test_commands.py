"""Every command in the READMEs and --help runs unchanged, and so does every Python example."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from marks import first_daily

Shell = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = (
    *("README.md", "runtime/README.md", "CONTRIBUTING.md"),
    *(
        "trainer/README.md",
        "docs/cookbook.md",
        "docs/format.md",
        "docs/fine-tuning.md",
        "docs/server.md",
        "docs/page.md",
        "docs/view.md",
    ),
)
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
COMMANDS = sorted(
    script.name for script in entry_points(group="console_scripts") if script.name.startswith("charrnn-")
)

ELSEWHERE = ("git clone ", "cd ", "python3 -m venv ", ". ", "source ")
"""Lines that set up a shell in a clone, which the tests skip."""

TYPED = "LORD \nKING\n"
"""The input for commands that read stdin."""


def fenced(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language in a Markdown text."""
    for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield block[1]


def shown_commands(text: str) -> list[str]:
    """The command lines of a Markdown text: the lines after ``$`` in its console blocks."""
    joined = (block.replace("\\\n", " ") for block in fenced(text, "console"))
    return [line[2:].strip() for block in joined for line in block.splitlines() if line.startswith("$ ")]


def shown_examples(help_text: str) -> list[str]:
    """The command lines below "Examples:" in the output of --help."""
    _, _, below = help_text.partition("Examples:\n")
    return [line.strip() for line in below.splitlines() if line.strip()]


def assert_it_ran(done: subprocess.CompletedProcess[str], line: str) -> None:
    told = f"$ {line}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    # bash returns only the last exit code of a pipe.
    assert not re.search(r"^charrnn-\w+: error|^Traceback|command not found", done.stderr, re.MULTILINE), told


@pytest.fixture(scope="session")
def jobs() -> dict[str, str]:
    """The sessions of noxfile.py and their descriptions, as it lists them."""
    command = [sys.executable, str(ROOT / "noxfile.py"), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^[*-] (\w+) -> (.+)$", listed, re.MULTILINE))


@pytest.mark.parametrize("document", first_daily(DOCUMENTS, 3))
def test_every_command_of_a_document_runs(
    document: str, clone: Path, shell: Shell, jobs: dict[str, str]
) -> None:
    """In document order and in one folder, as a reader would; see `is_setup` for set-up commands."""
    for line in shown_commands((ROOT / document).read_text(encoding="utf-8")):
        if line.startswith(ELSEWHERE) or is_setup(line, shell, jobs):
            continue
        assert_it_ran(shell(line, clone, TYPED), line)


def is_setup(line: str, shell: Shell, jobs: dict[str, str]) -> bool:
    """Check a line that installs packages or starts a session of noxfile.py; return whether it is one.

    The tests already run in such a session and installation, so only check that pip accepts the line
    (without downloads) and that the session exists.
    """
    words = shlex.split(line, comments=True)
    if words[:2] == ["python3", "noxfile.py"] or words[:2] == ["nox", "-s"]:
        assert words[2] == "--list" or words[2] in jobs, line
        return True
    if words[:2] == ["pip", "install"]:
        if not any(word.startswith(".") for word in words[2:]):  # from an index, and not from this folder
            packages = words[2 : words.index("--index-url")] if "--index-url" in words else words[2:]
            assert all(re.search(rf"^{word}==", CONSTRAINTS, re.MULTILINE) for word in packages), line
            return True
        options = ["--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
        command = [sys.executable, "-m", *words[:2], *options, *words[2:]]
        assert_it_ran(shell(shlex.join(command), ROOT), line)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_python_example_of_a_document_runs(document: str, used_clone: Path, shell: Shell) -> None:
    """Each separately, run twice, in a clone with a trained model."""
    for number, block in enumerate(fenced((ROOT / document).read_text(encoding="utf-8"), "python")):
        script = used_clone / f"example{number}.py"
        script.write_text(f"{block}\n{block}", encoding="utf-8")
        assert_it_ran(shell(f"python {script.name}", used_clone), block)


def test_every_command_has_examples_to_run() -> None:
    assert {"charrnn-train", "charrnn-export", "charrnn-gen", "charrnn-info"} <= set(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=[pytest.mark.nightly] * (each == "charrnn-train")) for each in COMMANDS],
)
def test_every_example_of_help_runs(command: str, used_clone: Path, shell: Shell) -> None:
    """In order and in one folder: a clone with a trained model."""
    shown = shell(f"{command} --help", used_clone)
    examples = shown_examples(shown.stdout)
    assert len(examples) >= 2
    for line in examples:
        assert_it_ran(shell(line, used_clone, TYPED, real_start=line == examples[0]), line)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_its_version_and_supports_completion(
    command: str, tmp_path: Path, shell: Shell
) -> None:
    version = shell(f"{command} --version", tmp_path, real_start=True)
    assert re.fullmatch(r"charrnn-(runtime|trainer) \d+\.\d+\.\d+\n", version.stdout), version
    # Like --show-completion, which first detects its shell; there is none here.
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    completion = shell(f"{variable}=source_bash {command}", tmp_path)
    assert command in completion.stdout, completion
    for option in ("--debug", "--quiet", "--show-completion"):
        assert option in shell(f"{command} --help", tmp_path).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_line_is_one_line_on_stderr_and_exit_code_2(
    command: str, tmp_path: Path, shell: Shell
) -> None:
    done = shell(f"{command} --no-such-option", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"{command}: error: .*--no-such-option.*\n", done.stderr)


def test_the_nox_sessions_are_the_expected_ones(jobs: dict[str, str]) -> None:
    assert set(jobs) == {
        *("demo", "tests", "runtime_tests", "lint", "docs", "build", "models", "bench"),
        *("mutations", "fuzz", "kills", "minimums", "platforms", "container", "picture", "nightly"),
        "comparison",
        *("cpp", "triton"),
        "gpu_software",
        *("serve_clients", "serve_fuzz"),
        "ray",
        *("javascript", "demo_page"),
        "cuda_standin",
    }


# --- parsing of documents ----------------------------------------------------------------------------------


def test_commands_are_read_only_from_console_blocks() -> None:
    text = (
        "```console\n$ a b\noutput\n$ c \\\n    d\n```\n\n    $ no\n\n"
        "```bash\n$ no\n```\n```console\n$ e\n```\n"
    )
    assert shown_commands(text) == ["a b", "c      d", "e"]


def test_examples_are_read_only_from_below_their_heading() -> None:
    assert shown_examples("Usage: a\n\n  Examples:\n    a b\n    c | a d\n") == ["a b", "c | a d"]
    assert shown_examples("Usage: a\n") == []
