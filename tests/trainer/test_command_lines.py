"""The options of all commands: names, help and error messages."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

from charrnn_runtime.cli import option_names
from charrnn_runtime.cli.option_values import Choice, Number
from charrnn_runtime.errors import SettingError

MODULES = {
    script.name: script.value.partition(":")[0]
    for script in entry_points(group="console_scripts")
    if script.name.startswith("charrnn-")
}

commands = pytest.mark.parametrize("name", sorted(MODULES))


def command(name: str) -> tuple[Any, Any]:
    """A command, and a context to parse in."""
    found: Any = typer.main.get_command(importlib.import_module(MODULES[name]).app)
    return found, found.context_class(found, info_name=name)


def options(name: str) -> dict[str, Any]:
    found, context = command(name)
    return dict(found.options(context))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Shows the help of a command at a width, as lines."""

    def show(name: str, columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        found, context = command(name)
        return str(found.get_help(context)).split("\n")

    return show


def test_there_are_ten_commands() -> None:
    assert len(MODULES) == 10


def test_an_option_has_the_same_short_forms_in_every_command() -> None:
    forms = defaultdict(set)
    for name in MODULES:
        for option in options(name).values():
            forms[max(option.opts, key=len)].add(frozenset(option.opts))
    assert {name: found for name, found in forms.items() if len(found) > 1} == {}
    assert forms["--temperature"] == {frozenset(("--temperature", "--temp", "-t"))}
    assert forms["--seed"] == {frozenset(("--seed", "-s"))}


@commands
def test_help_shows_the_values_of_each_option(name: str, shown: Any) -> None:
    for option in options(name).values():
        if not option.is_flag:
            assert option.metavar, option.opts
            if isinstance(getattr(option.type, "func", None), Choice):
                assert option.metavar == "|".join(option.type.func.choices)
    assert not [line for line in shown(name, 80) if re.search(r"<\w+( range)?>|x[<>]=", line)]


@commands
@pytest.mark.parametrize("columns", [64, 80, 200])
def test_help_separates_a_default_by_one_space_and_never_wraps_it(
    name: str, shown: Any, columns: int
) -> None:
    lines = shown(name, columns)
    assert not [line for line in lines if re.search(r"[.;)\w]  \[", line)]
    assert not [line for line in lines if line.endswith("[default:")]


def read(option: Any) -> Any:
    """The parser of an option's value, if it is a `Number` or `Choice`."""
    return getattr(option.type, "func", None)


def answered(name: str, *words: str) -> str:
    """The error of a command line, after all required arguments."""
    found, context = command(name)
    arguments = [each.metavar for each in found.params if each.param_type_name == "argument"]
    with pytest.raises(SettingError) as caught:
        found.parse_args(context, [*arguments, *words])
    return str(caught.value)


@commands
def test_an_invalid_choice_is_rejected_with_the_valid_ones(name: str) -> None:
    for option in options(name).values():
        if isinstance(read(option), Choice):  # a setting's choices are checked by the table
            said = answered(name, option.opts[0], "nonsense")
            assert re.fullmatch(rf"{option.opts[0]} must be .* or .*, not 'nonsense'", said)
            assert all(choice in said for choice in option.metavar.split("|"))


@commands
def test_a_value_that_is_not_a_number_is_rejected_with_the_allowed_range(name: str) -> None:
    for option in options(name).values():
        if isinstance(read(option), Number):
            longest = max(option.opts, key=len)
            said = answered(name, option.opts[-1], "abc")
            assert re.fullmatch(rf"{longest} must be a (whole )?number (from|above) .*, not 'abc'", said)
        else:
            assert option.type.name not in ("int", "float", "int range", "float range"), option.opts


@commands
def test_missing_and_extra_arguments_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(MODULES[name])
    arguments = [each for each in module_params(name) if each.param_type_name == "argument"]
    lines: list[tuple[list[str], str]] = [([], r".* is missing")] if arguments[0].required else []
    if all(each.nargs == 1 for each in arguments):
        lines.append((["a", "b", "c", "d"], r"unexpected argument '.*d'; .*"))
    for words, message in lines:
        monkeypatch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as ended:
            module.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert re.fullmatch(rf"{name}: error: {message} \(see {name} --help\)\n", said)
        assert arguments[0].metavar in said or "--prime" in said


def module_params(name: str) -> list[Any]:
    return list(command(name)[0].params)


def test_every_synonym_suggests_an_existing_option() -> None:
    known = {each for name in MODULES for each in options(name)}
    for synonym, meant in option_names.SYNONYMS.items():
        assert set(meant) <= known, synonym


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("name", "words", "offered"),
    [
        ("charrnn-gen", ["--device", ""], ["auto", "cpu", "cuda", "webgpu"]),
        ("charrnn-export", ["--precision", "fp"], ["fp32", "fp16"]),
    ],
)
def test_bash_completes_the_choices_of_an_option(
    tmp_path: Path, name: str, words: list[str], offered: list[str]
) -> None:
    script = subprocess.run(
        [sys.executable, "-m", MODULES[name]],
        env={**os.environ, f"_{name.upper().replace('-', '_')}_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    function = re.search(r"^(\w+)\(\) \{", script, re.MULTILINE)
    assert function is not None
    program = tmp_path / name
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {MODULES[name]} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    line = " ".join(map(shlex.quote, [name, *words]))
    asked = f"""{script}
COMP_WORDS=({line}); COMP_CWORD={len(words)}; {function[1]} {program}; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered, done
