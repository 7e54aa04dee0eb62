"""Prints the oldest allowed version of each dependency, as constraints for pip.

`python3 noxfile.py minimums` tests with these versions, which detects a wrong lower bound.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = "charrnn-runtime"


def oldest(part: str) -> list[str]:
    """A line for each dependency of a part, including extras: its name, its lower bound, its marker."""
    table = tomllib.loads((ROOT / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = table.get("optional-dependencies", {})
    asked = [Requirement(text) for group in (table["dependencies"], *extras.values()) for text in group]
    lines = []
    for requirement in asked:
        if requirement.name == OWN:
            continue
        bounds = [item.version for item in requirement.specifier if item.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{part}/pyproject.toml: {requirement} needs one lower bound (>=)")
        marker = f"; {requirement.marker}" if requirement.marker else ""
        lines.append(f"{requirement.name}=={bounds[0]}{marker}")
    return lines


if __name__ == "__main__":
    print("\n".join(sorted({line for part in sys.argv[1:] for line in oldest(part)})))
