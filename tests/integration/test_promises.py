"""The page of guarantees names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "promises.md"
TEST = re.compile(r"`(tests/[\w/]+\.py|js/test/\w+\.test\.js)::([^`]+)`")


def promises() -> list[tuple[str, str]]:
    """The promises, each with its tests."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [row for row in rows if row != ("guarantee", "tests")]


@cache
def named_in(file: str) -> set[str]:
    """The tests of a file, which is not imported, since some need optional packages.

    Tests of the npm package have titles, which can start with a parameter.
    """
    if file.endswith(".js"):
        text = (ROOT / file).read_text(encoding="utf-8")
        return set(re.findall(r"""test\(\s*["`](?:[^"`]*\} )?([^"`]+)["`]""", text))
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    }


def test_there_are_promises() -> None:
    assert len(promises()) > 30


@pytest.mark.parametrize(("promise", "shown_by"), promises())
def test_every_promise_names_tests_and_they_exist(promise: str, shown_by: str) -> None:
    named = TEST.findall(shown_by)
    assert named, promise
    assert ", ".join(f"`{file}::{test}`" for file, test in named) == shown_by
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert test in named_in(file), f"{file}::{test}"


def test_the_named_tests_are_in_tested_folders() -> None:
    files = {file for _, shown_by in promises() for file, _ in TEST.findall(shown_by)}
    assert {Path(file).parent.as_posix() for file in files} <= {
        "tests/runtime",
        "tests/trainer",
        "tests/integration",
        "js/test",
    }
