"""The map in CONTRIBUTING.md: its files exist, and it covers every package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINER = ROOT / "trainer" / "charrnn_trainer"


def section(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def rows(text: str) -> list[list[str]]:
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells[2:]]


CHANGES = rows(section("Common changes"))


@pytest.mark.parametrize("change", CHANGES, ids=[name for name, _ in CHANGES])
def test_the_listed_files_of_each_change_exist(change: list[str]) -> None:
    paths = [name for name in re.findall(r"`([^`]+)`", change[1]) if "/" in name or name.endswith(".py")]
    assert paths
    for path in paths:
        assert (TRAINER / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("change", CHANGES, ids=[name for name, _ in CHANGES])
def test_a_change_of_the_format_touches_python_and_javascript(change: list[str]) -> None:
    assert ("format/spec.py" in change[1]) == ("js/src/format/spec.js" in change[1])


def test_ten_changes_are_listed() -> None:
    assert len(CHANGES) == 10


@pytest.mark.parametrize("source", ["runtime/charrnn_runtime", "trainer/charrnn_trainer"])
def test_every_package_is_on_the_map_with_existing_files(source: str) -> None:
    table = section("Code layout").split(f"In `{source}`:\n\n")[1].split("\n\n")[0]
    folder, on_the_map = ROOT / source, set()
    for package, _, first in rows(table):
        names = re.findall(r"`([^`]+)`", package)
        assert all((folder / name).exists() for name in names), names
        on_the_map |= {name.rstrip("/") for name in names}
        for file in re.findall(r"`([^`]+)`", first):
            assert (folder / names[0] / file).is_file() or (folder / file).is_file(), file
    assert {path.parent.name for path in folder.glob("*/__init__.py")} <= on_the_map
