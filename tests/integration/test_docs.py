"""The documentation: valid links, tables that match the figures, and a complete reference."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import charrnn_runtime
import charrnn_trainer
from benchmarks import table

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *(ROOT / folder / "README.md" for folder in ("data", "js", "models", "runtime", "trainer")),
]
LINK = re.compile(r"\[[^\]]*\]\((?![a-z]+:)([^)\s]+)\)")

Shell = Callable[..., subprocess.CompletedProcess[str]]


def tool(name: str) -> ModuleType:
    """A module of docs/tools, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_in_the_repository_resolves(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_benchmark_named_on_a_page_exists() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    found = re.search(r"^BENCHMARKS = (\{.*?^\})", noxfile, re.MULTILINE | re.DOTALL)
    assert found is not None
    benchmarks = set(ast.literal_eval(found[1]))
    named = {
        name for page in PAGES for name in re.findall(r"bench -- (\w+)", page.read_text(encoding="utf-8"))
    }
    assert {"hosts", "javascript", "scoring", "serve"} <= named <= benchmarks
    for name in benchmarks:
        assert any(ROOT.glob(f"tests/benchmarks/*{name}*.py")), name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1_200


@pytest.mark.parametrize("package", [charrnn_runtime, charrnn_trainer], ids=["runtime", "trainer"])
def test_the_reference_describes_every_public_name(package: ModuleType) -> None:
    name = package.__name__
    page = ROOT / "docs" / "api" / f"{name.removeprefix('charrnn_')}.md"
    described = re.findall(rf"^::: {name}\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    elsewhere = {"__version__", "Event"}  # a union of what is described
    if package is charrnn_trainer:
        elsewhere |= set(charrnn_trainer.__all__) & set(charrnn_runtime.__all__)
    assert sorted(described) == sorted(set(package.__all__) - elsewhere)


def test_the_speed_tables_match_the_recorded_figures() -> None:
    pages = [ROOT / "README.md", ROOT / "docs" / "performance.md"]
    before = [page.read_text(encoding="utf-8") for page in pages]
    assert [table.with_tables(page, text) for page, text in zip(table.PAGES, before, strict=True)] == before


def test_the_example_host_of_the_format_page_matches_charrnn_gen(clone: Path, shell: Shell) -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    (host,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"`(charrnn-gen [^`]+)`", page)
    (clone / "host.py").write_text(host, encoding="utf-8")
    assert shell("python host.py", clone).stdout == shell(f"{command} --quiet", clone).stdout + "\n"


def test_links_are_rewritten_for_the_site() -> None:
    rewrite_links = tool("pages").rewrite_links
    for page, link, rewritten in (
        ("index.md", "docs/format.md#sampling", "format.md#sampling"),
        ("index.md", "SECURITY.md", "security.md"),
        ("index.md", "docs/train.svg", "train.svg"),
        ("models.md", "../docs/tried.md", "tried.md"),
        ("platforms.md", "../runtime/README.md", "runtime.md"),
        ("api/runtime.md", "../cookbook.md", "../cookbook.md"),
        ("index.md", "#training", "#training"),
        ("index.md", "https://example.org/README.md", "https://example.org/README.md"),
    ):
        assert rewrite_links(f"[a]({link}), [b](#c)", page) == f"[a]({rewritten}), [b](#c)"


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="other.html#there">a</a> <a href="https://example.org">b</a> <h1 id="x">c</h1>', None),
        ('<h1 id="x">a</h1> <a href="#x">b</a> <a href="./">c</a> <a href="/other.html">d</a>', None),
        ('<a href="missing.html">a</a>', "index.html links to missing.html, which does not exist"),
        ('<img src="missing.png">', "index.html links to missing.png, which does not exist"),
        ('<a href="other.html#x">a</a>', "index.html links to other.html#x, which has no such anchor"),
        ('<a href="#y">a</a>', "index.html links to #y, which has no such anchor"),
        ('<script src="https://example.org/a.js"></script>', "index.html loads https://example.org/a.js"),
        ('<link href="//example.org/a.css">', "index.html loads //example.org/a.css"),
    ],
)
def test_a_site_with_broken_links_or_external_resources_is_rejected(
    page: str, fault: str | None, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    (tmp_path / "other.html").write_text('<h1 id="there">a</h1>', encoding="utf-8")
    assert tool("check_site").check_site(tmp_path) == ([] if fault is None else [fault])
