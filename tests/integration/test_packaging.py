"""The content of the distributions, and the imports of the runtime."""

from __future__ import annotations

import email
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import charrnn_runtime
import charrnn_trainer

COMMANDS = {
    "runtime": {
        *("charrnn-gen", "charrnn-info", "charrnn-quality", "charrnn-score", "charrnn-serve"),
        *("charrnn-triton", "charrnn-view"),
    },
    "trainer": {"charrnn-compare", "charrnn-export", "charrnn-train"},
}
VERSIONS = {"runtime": charrnn_runtime.__version__, "trainer": charrnn_trainer.__version__}

parts = pytest.mark.parametrize("part", ["runtime", "trainer"])


@pytest.fixture(scope="session")
def dist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels and sdists of all three distributions."""
    folder = tmp_path_factory.mktemp("dist")
    for project in (root / "runtime", root / "trainer", root):
        build(project, folder, "--sdist", "--wheel")
    return folder


def build(project: Path, outdir: Path, *options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(outdir),
        *options,
        str(project),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(dist: Path, name: str) -> zipfile.ZipFile:
    (wheel,) = dist.glob(f"{name}-*-py3-none-any.whl")
    return zipfile.ZipFile(wheel)


def sdist_names(dist: Path, name: str) -> set[str]:
    (sdist,) = dist.glob(f"{name}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {member.partition("/")[2] for member in archive.getnames()}


def metadata_of(wheel: zipfile.ZipFile) -> email.message.Message:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(path))


def modules(root: Path, part: str) -> set[str]:
    """All modules of a part, its templates, its page and its py.typed marker."""
    source = root / part
    package = source / f"charrnn_{part}"
    paths = [*package.rglob("*.py"), *package.rglob("templates/*"), *package.rglob("static/*")]
    return {path.relative_to(source).as_posix() for path in paths} | {f"charrnn_{part}/py.typed"}


@parts
def test_a_wheel_holds_every_module_and_nothing_else(dist: Path, root: Path, part: str) -> None:
    wheel = wheel_of(dist, f"charrnn_{part}")
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == modules(root, part)


@parts
def test_a_wheel_carries_licence_readme_version_and_commands(dist: Path, part: str, root: Path) -> None:
    wheel = wheel_of(dist, f"charrnn_{part}")
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Version"] == VERSIONS[part]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (root / part / "README.md").read_text(encoding="utf-8")
    info = next(name for name in wheel.namelist() if name.endswith("/METADATA")).rpartition("/")[0]
    assert "the charrnn authors" in wheel.read(f"{info}/licenses/LICENSE").decode()
    scripts = wheel.read(f"{info}/entry_points.txt").decode()
    for command in COMMANDS[part]:
        assert f"{command} = charrnn_{part}.cli." in scripts


@parts
def test_the_version_module_imports_nothing(root: Path, part: str) -> None:
    with (root / part / "pyproject.toml").open("rb") as file:
        path = tomllib.load(file)["tool"]["hatch"]["version"]["path"]
    assert path == f"charrnn_{part}/version.py"
    text = (root / part / path).read_text(encoding="utf-8")
    assert f'__version__ = "{VERSIONS[part]}"' in text
    assert "import" not in text


def test_the_trainer_contains_the_template_of_its_report(dist: Path) -> None:
    names = set(wheel_of(dist, "charrnn_trainer").namelist())
    assert {f"charrnn_trainer/compare/templates/report.{ending}" for ending in ("html", "css")} <= names


def test_the_runtime_contains_the_page_of_its_server(dist: Path) -> None:
    names = set(wheel_of(dist, "charrnn_runtime").namelist())
    assert {f"charrnn_runtime/serve/static/{name}" for name in ("index.html", "page.css", "page.js")} <= names


@parts
def test_an_sdist_contains_everything_that_a_wheel_is_built_from(dist: Path, root: Path, part: str) -> None:
    names = sdist_names(dist, f"charrnn_{part}")
    assert modules(root, part) | {"pyproject.toml", "README.md", "LICENSE"} <= names


@parts
def test_wheels_built_from_the_sdist_and_from_the_checkout_are_identical(
    dist: Path, tmp_path: Path, part: str
) -> None:
    (sdist,) = dist.glob(f"charrnn_{part}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path, "--wheel")
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == (dist / again.name).read_bytes()


def test_the_metapackage_requires_both_parts_and_contains_no_code(dist: Path, root: Path) -> None:
    wheel = wheel_of(dist, "charrnn")
    assert all(".dist-info/" in name for name in wheel.namelist())
    needed = metadata_of(wheel).get_all("Requires-Dist", [])
    always = [line for line in needed if "extra ==" not in line]
    assert always == [f"charrnn-{part} @ {(root / part).as_uri()}" for part in ("runtime", "trainer")]


def test_the_metapackage_has_the_extras_of_both_parts(dist: Path, root: Path) -> None:
    extras = {
        extra: part
        for part in ("trainer", "runtime")
        for extra in metadata_of(wheel_of(dist, f"charrnn_{part}")).get_all("Provides-Extra", [])
        if extra != "cuda"  # PyTorch brings CUDA's libraries
    }
    assert extras["compare"] == "trainer"
    whole = metadata_of(wheel_of(dist, "charrnn"))
    assert set(whole.get_all("Provides-Extra", [])) == set(extras)
    needed = {line for line in whole.get_all("Requires-Dist", []) if "extra ==" in line}
    assert needed == {
        f"charrnn-{part}[{extra}] @ {(root / part).as_uri()} ; extra == '{extra}'"
        for extra, part in extras.items()
    }


def test_the_sdist_of_the_metapackage_contains_the_sources_of_both_parts(dist: Path, root: Path) -> None:
    names = sdist_names(dist, "charrnn")
    for part in ("runtime", "trainer"):
        files = modules(root, part) | {"pyproject.toml", "README.md", "LICENSE"}
        assert {f"{part}/{name}" for name in files} <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_runtime_requires_neither_torch_nor_onnx(dist: Path) -> None:
    needed = metadata_of(wheel_of(dist, "charrnn_runtime")).get_all("Requires-Dist", [])
    names = {re.split(r"[^\w-]", line)[0] for line in needed if "extra ==" not in line}
    assert names == {"numpy", "onnxruntime", "onnxruntime-gpu", "protobuf", "rich", "typer"}


@parts
def test_all_licences_are_identical(root: Path, part: str) -> None:
    assert (root / part / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()


@parts
def test_the_installed_commands_are_those_of_the_project(part: str) -> None:
    installed = importlib.metadata.entry_points(group="console_scripts")
    names = {script.name for script in installed if script.value.startswith(f"charrnn_{part}.")}
    assert names == COMMANDS[part]


def modules_after(statement: str) -> set[str]:
    """The top-level modules imported by a new Python process after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_runtime_imports_neither_the_command_line_nor_training() -> None:
    loaded = modules_after("import charrnn_runtime")
    assert "charrnn_runtime" in loaded
    assert not loaded & {"typer", "click", "rich", "torch", "onnx", "charrnn_trainer"}


def test_the_runtime_commands_do_not_import_training() -> None:
    loaded = modules_after("import charrnn_runtime.cli.gen, charrnn_runtime.cli.info")
    assert "typer" in loaded
    assert not loaded & {"torch", "onnx", "charrnn_trainer"}
