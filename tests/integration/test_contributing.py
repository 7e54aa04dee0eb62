"""The map in CONTRIBUTING.md: what it names is there, and every package of the trainer is on it."""

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


CHANGES = rows(section("Ten changes, and the files that each touches"))


@pytest.mark.parametrize("change", CHANGES, ids=[name for name, _ in CHANGES])
def test_the_files_that_a_change_touches_are_there(change: list[str]) -> None:
    paths = [name for name in re.findall(r"`([^`]+)`", change[1]) if "/" in name or name.endswith(".py")]
    assert paths
    for path in paths:
        assert (TRAINER / path).exists() or (ROOT / path).exists(), path


def test_there_are_ten_changes() -> None:
    assert len(CHANGES) == 10


def test_every_package_of_the_trainer_is_on_the_map_with_a_file_that_is_there() -> None:
    on_the_map = {}
    for package, _, first in rows(section("Where things are")):
        for name in re.findall(r"`([^`]+)`", package):
            on_the_map[name.rstrip("/")] = first.strip("`")
    packages = {path.parent.name for path in TRAINER.glob("*/__init__.py")}
    assert packages <= set(on_the_map)
    for name, first in on_the_map.items():
        assert (TRAINER / name / first).is_file() or (TRAINER / first).is_file(), name
