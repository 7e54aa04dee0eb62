"""Environments: the container file, supported platforms, lower bounds, and advisories."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import shutil
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from environments import advisories, container, oldest, platforms

# --- the Dockerfile ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stages(root: Path) -> dict[str, container.Stage]:
    return container.parse((root / "Dockerfile").read_text(encoding="utf-8"))


def chain(stages: dict[str, container.Stage], name: str) -> list[tuple[str, str]]:
    """All steps of a stage, starting with those of its bases."""
    stage = stages.get(name)
    return [] if stage is None else chain(stages, stage.base) + stage.steps


def test_the_last_stage_is_the_cpu_image(stages: dict[str, container.Stage]) -> None:
    assert list(stages)[-1] == "cpu"
    assert "cuda" in stages


def test_base_images_are_pinned_by_tag(stages: dict[str, container.Stage]) -> None:
    images = {stage.base for stage in stages.values() if stage.base not in stages}
    assert images
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_starts_charrnn_gen_as_an_unprivileged_user(
    stages: dict[str, container.Stage], target: str
) -> None:
    steps = dict(chain(stages, target))
    assert json.loads(steps["ENTRYPOINT"]) == ["charrnn-gen"]
    user, group = map(int, steps["USER"].split(":"))
    assert user > 999
    assert group > 999


def test_the_cpu_image_names_the_runtimes_dependencies_with_the_plain_onnxruntime(
    stages: dict[str, container.Stage], root: Path
) -> None:
    (line,) = (words for step, words in stages["build-cpu"].steps if step == "RUN")
    first = line.partition("&&")[0].partition("constraints.txt")[2]
    table = tomllib.loads((root / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
    texts = table["project"]["dependencies"] + table["project"]["optional-dependencies"]["serve"]
    needed = {Requirement(text).name for text in texts} - {"onnxruntime-gpu"}
    assert {Requirement(text).name for text in shlex.split(first)} == needed


def test_the_build_context_contains_exactly_the_copied_files(
    stages: dict[str, container.Stage], root: Path, tmp_path: Path
) -> None:
    builder = container.Builder(stages, root, tmp_path)
    for path in ("constraints.txt", "runtime/pyproject.toml", "runtime/charrnn_runtime/cli/gen.py"):
        assert container.lets_through(builder.patterns, path)
    for path in (
        ".git/config",
        "ckpt/lstm/config.toml",
        "data/a.txt",
        "runtime/charrnn_runtime/__pycache__/a",
    ):
        assert not container.lets_through(builder.patterns, path)


BUILT = """
# a comment
FROM image:1 AS first
WORKDIR /source
COPY a.txt ./
COPY folder kept/folder
RUN mkdir -p /opt/charrnn/bin \\
    && cp a.txt kept/folder/b.txt /opt/charrnn \\
    && printf '#!/bin/sh\\necho "$GREETING" "$@" "$(pwd)"' > /opt/charrnn/bin/hello \\
    && chmod 755 /opt/charrnn/bin/hello

FROM image:1 AS second
ENV PATH=/opt/charrnn/bin:$PATH GREETING=hello
WORKDIR /files
USER 10001:10001
ENTRYPOINT ["hello"]
CMD ["world"]
COPY --from=first /opt/charrnn /opt/charrnn
"""


@pytest.fixture
def context() -> Iterator[Path]:
    """A small context in a folder accessible to other users."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        fill(folder / "context")
        yield folder / "context"


def fill(folder: Path) -> None:
    (folder / "folder").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "folder" / "b.txt").write_text("b")
    (folder / "folder" / "c.txt").write_text("c")
    (folder / ".dockerignore").write_text("*\n!a.txt\n!folder\n**/c.txt\n")


def built(context: Path, text: str) -> container.Builder:
    images = context.parent / "images"
    shutil.rmtree(images, ignore_errors=True)
    builder = container.Builder(container.parse(text), context, images)
    builder.build("second")
    return builder


def test_the_steps_of_a_container_file_run_without_an_engine(context: Path) -> None:
    builder = built(context, BUILT)
    assert builder.command("second", []) == f"hello world {builder.root}/files\n"
    assert builder.command("second", ["you"]).startswith("hello you")
    assert builder.inside("second", "/opt/charrnn/b.txt").read_text() == "b"
    assert not builder.inside("second", "/source").exists()
    assert not (builder.saved / "first" / "source" / "kept" / "folder" / "c.txt").exists()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("COPY a.txt", "COPY absent.txt"),
        ("COPY folder kept", "COPY folder/c.txt kept"),
        ("cp a.txt kept", "cp a.txt absent"),
        ("--from=first /opt/charrnn", "--from=first /opt/absent"),
        ("chmod 755", "no-such-program"),
    ],
)
def test_a_wrong_path_in_a_container_file_is_found(context: Path, right: str, wrong: str) -> None:
    assert right in BUILT
    with pytest.raises(container.WrongStep):
        built(context, BUILT.replace(right, wrong))


def test_an_image_that_runs_as_root_or_lacks_its_command_is_found(context: Path) -> None:
    with pytest.raises(container.WrongStep, match="root"):
        built(context, BUILT.replace("10001:10001", "0:0")).command("second", [])
    with pytest.raises(container.WrongStep, match="bye is not in the image"):
        built(context, BUILT.replace('["hello"]', '["bye"]')).command("second", [])


# --- platforms and versions --------------------------------------------------------------------------------


def test_the_platforms_page_lists_what_is_checked(root: Path) -> None:
    page = (root / "docs" / "platforms.md").read_text(encoding="utf-8")
    table = page.partition("<!-- resolved")[2].partition("<!-- end")[0]
    stated = dict(re.findall(r"^\| (\w+ [\w-]+) \| (.+) \|$", table, re.MULTILINE))

    def supported(part: str, name: str, *pythons: str) -> str:
        unsupported = [(name, python) in platforms.UNSUPPORTED[part] for python in pythons]
        assert len(set(unsupported)) == 1
        return "no" if unsupported[0] else "yes"

    assert stated == {
        name: " | ".join(
            (
                supported("runtime", name, *platforms.PYTHONS[:3]),
                supported("runtime", name, "3.14"),
                supported("trainer", name, *platforms.PYTHONS),
            )
        )
        for name in platforms.PLATFORMS
    }


@pytest.mark.parametrize("part", ["runtime", "trainer"])
def test_every_stated_python_version_is_checked(root: Path, part: str) -> None:
    table = tomllib.loads((root / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(table["classifiers"]))
    assert tuple(named) == platforms.PYTHONS
    assert table["requires-python"] == f">={platforms.PYTHONS[0]}"


@pytest.mark.parametrize("part", ["runtime", "trainer"])
def test_every_dependency_has_a_lower_bound_satisfied_by_its_pinned_version(root: Path, part: str) -> None:
    pins = dict(advisories.pinned_versions((root / "constraints.txt").read_text(encoding="utf-8")))
    lines = oldest.oldest(part)
    table = tomllib.loads((root / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(text) for text in table["dependencies"]]
    assert {Requirement(line).name for line in lines} >= {item.name for item in asked} - {"charrnn-runtime"}
    for requirement in asked:
        if requirement.name != "charrnn-runtime":
            assert requirement.specifier.contains(pins[requirement.name]), requirement


# --- advisories --------------------------------------------------------------------------------------------

PINS = "# pinned\nnumpy==2.4.6\nonnxruntime==1.32.0; python_version < '4'\n"


@contextmanager
def service(status: int, answer: bytes) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A local service that returns a fixed response, and the queries that it received."""
    asked: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = tmp_path / "constraints.txt"
    path.write_text(PINS)
    return str(path)


def test_a_version_with_an_advisory_is_named_and_fails(pins: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"results": [{}, {"vulns": [{"id": "PYSEC-1"}, {"id": "GHSA-2"}]}]}
    with service(200, json.dumps(answer).encode()) as (address, asked):
        assert advisories.main(pins, address) == 1
    assert "onnxruntime 1.32.0 is vulnerable: PYSEC-1, GHSA-2" in capsys.readouterr().out
    assert asked == [
        {"package": {"name": "numpy", "ecosystem": "PyPI"}, "version": "2.4.6"},
        {"package": {"name": "onnxruntime", "ecosystem": "PyPI"}, "version": "1.32.0"},
    ]


def test_versions_without_advisories_pass(pins: str, capsys: pytest.CaptureFixture[str]) -> None:
    with service(200, b'{"results": [{}, {}]}') as (address, _):
        assert advisories.main(pins, address) == 0
    assert "none for the 2 versions" in capsys.readouterr().out


def test_an_irrelevant_advisory_is_ignored(pins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(advisories.IGNORED, "PYSEC-1", "only on the moon")
    with service(200, b'{"results": [{"vulns": [{"id": "PYSEC-1"}]}, {}]}') as (address, _):
        assert advisories.main(pins, address) == 0


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (403, b"no"),
        (500, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"results": [{}]}'),
        (200, b'{"results": [1, 2]}'),
        (200, b'{"results": [{"vulns": [{}]}, {}]}'),
    ],
)
def test_an_unusable_response_is_reported_as_unchecked_and_does_not_fail(
    pins: str, capsys: pytest.CaptureFixture[str], status: int, answer: bytes
) -> None:
    with service(status, answer) as (address, _):
        assert advisories.main(pins, address) == 0
    assert "NOT CHECKED" in capsys.readouterr().out


def test_an_unreachable_service_is_reported_as_unchecked_and_does_not_fail(
    pins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(200, b"") as (address, _):
        pass
    assert advisories.main(pins, address) == 0
    assert "NOT CHECKED" in capsys.readouterr().out
