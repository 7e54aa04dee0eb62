"""The examples of docs/server.md work against a server started as described there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """The address of the server."""
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", "models/lstm.onnx", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stderr is not None
        found = re.search(r"at http://(\S+)", server.stderr.readline())
        assert found is not None
        yield found[1]
        server.terminate()
        server.stderr.read()
    assert server.returncode == 0


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "server.md").read_text(encoding="utf-8")


def _fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_its_curl_examples_work(page: str, address: str) -> None:
    lines = [line for block in _fenced(page, "sh") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) >= 2
    for line in lines:
        line = line.replace("127.0.0.1:8000", address).replace("curl ", "curl --fail --silent ")
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done
        assert '"text_completion"' in done.stdout


def test_its_examples_for_the_openai_package_work(page: str, address: str) -> None:
    pytest.importorskip("openai")
    (program,) = _fenced(page, "py")
    program = program.replace("127.0.0.1:8000", address)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 200


def test_every_limit_option_is_listed_with_its_default(page: str) -> None:
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "charrnn_runtime.cli.serve", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    text = " ".join(text.split())
    rows = re.findall(r"^\| `(--[\w-]+)` \|.*\| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) >= 8
    for option, default in rows:
        shown = re.search(rf"{option} .*?\[default: ([\d.]+)\]", text)
        assert shown is not None, option
        assert float(shown[1]) == float(default.replace(",", "")), option
