"""Resolves both distributions for every supported platform and Python with uv, and prints a table.

`python3 noxfile.py platforms` runs this. Nothing is installed and no package is built: for each platform and
Python, uv finds versions that satisfy the pyproject.toml files and that have wheels for it. It needs a
package index, and fails if the result differs from docs/platforms.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux Arm64": "aarch64-manylinux_2_28",
    "Windows x86-64": "x86_64-pc-windows-msvc",
    "Windows Arm64": "aarch64-pc-windows-msvc",
    "macOS Arm64": "aarch64-apple-darwin",
    "macOS x86-64": "x86_64-apple-darwin",
}
"""The platform names of uv. Linux means glibc 2.28 or newer, macOS 14 or newer."""

UNSUPPORTED = {
    "runtime": {("macOS x86-64", "3.14")},
    "trainer": {(name, python) for name in ("Windows Arm64", "macOS x86-64") for python in PYTHONS},
}
"""Combinations that do not resolve, because onnxruntime or torch has no wheels for them."""

SHOWN = {"runtime": ("onnxruntime-gpu", "onnxruntime"), "trainer": ("torch",)}


def requirements(part: str) -> list[str]:
    """The requirements of a distribution; the trainer's include the runtime's."""
    table = tomllib.loads((ROOT / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [text for text in table["dependencies"] if Requirement(text).name != "charrnn-runtime"]
    return asked if part == "runtime" else asked + requirements("runtime")


def resolve(asked: list[str], platform: str, python: str) -> str:
    """The versions that uv finds, one per line; empty if there are none."""
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-platform", platform, "--python-version", python, "-"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        command, input="\n".join(asked), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):  # 1: no resolution exists
        sys.exit(f"uv ended with {done.returncode}: {done.stderr}")
    if done.returncode == 1 and "No solution found" not in done.stderr:
        sys.exit(f"uv cannot resolve anything: {done.stderr}")
    return done.stdout


def main() -> int:
    """Resolve everything and print the table; return the exit code."""
    wrong = []
    for part, shown in SHOWN.items():
        asked = requirements(part)
        print(f"\n| charrnn-{part} | {' | '.join(f'Python {python}' for python in PYTHONS)} |")
        print("|---" * (len(PYTHONS) + 1) + "|", flush=True)
        for name, platform in PLATFORMS.items():
            cells = []
            for python in PYTHONS:
                found = re.findall(rf"^({'|'.join(shown)})==(\S+)", resolve(asked, platform, python), re.M)
                cells.append(" ".join(found[0]) if found else "none")
                if bool(found) == ((name, python) in UNSUPPORTED[part]):
                    wrong.append(f"charrnn-{part}, {name}, Python {python}: {cells[-1]}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for line in wrong:
        print(f"differs from docs/platforms.md: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
