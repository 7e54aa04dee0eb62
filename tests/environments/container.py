"""Runs the steps of the Dockerfile without a container engine, as `python3 noxfile.py container` does.

The Python that runs this file, which should have only pip installed, replaces the base image. A folder
replaces the root of the image: it starts empty, COPY copies what .dockerignore allows, and absolute paths in
RUN commands are mapped into the folder. The stages are built in order as by an engine. The commands are then
run in the result of the last one, as the image's user if this process can change its user.

A wrong path, a file that is not copied, a package that is not installed or does not exist: all of them fail
here. The existence of the base image and its contents other than Python are not checked.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "models/lstm.int8.onnx"
NOT_AN_IMAGES = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"}


@dataclass(frozen=True)
class Stage:
    """A FROM and the steps after it: ``steps`` are pairs of an instruction and its arguments, verbatim."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


class WrongStep(Exception):
    """A step that fails or is not supported here."""


def parse(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, words = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            stage = stages[name.strip()] = Stage(name.strip(), base.strip())
        elif stage is None:
            raise WrongStep(f"{instruction} before the first FROM")
        else:
            stage.steps.append((instruction, " ".join(words.split())))
    return stages


def lets_through(patterns: list[str], path: str) -> bool:
    """Whether a .dockerignore allows a path of the context: the last matching pattern decides."""
    parts = PurePosixPath(path).parts
    through = True
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        if wanted.startswith("**/"):
            matches = any(fnmatch.fnmatchcase(part, wanted[3:]) for part in parts)
        else:
            depth = len(PurePosixPath(wanted).parts)
            matches = fnmatch.fnmatchcase("/".join(parts[:depth]), wanted) and len(parts) >= depth
        if matches:
            through = pattern.startswith("!")
    return through


class Builder:
    """Builds stages in a folder: ``root`` is the current image, ``saved`` contains completed ones."""

    def __init__(self, stages: dict[str, Stage], context: Path, folder: Path) -> None:
        self.stages = stages
        self.context = context
        self.root = folder / "root"
        self.saved = folder / "saved"
        self.environments: dict[str, dict[str, str]] = {}
        self.workdirs: dict[str, str] = {}
        self.settings: dict[str, dict[str, str]] = {}
        ignored = context / ".dockerignore"
        lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
        self.patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def build(self, name: str) -> None:
        """Build a stage and its dependencies; its files are in ``root`` afterwards."""
        stage = self.stages[name]
        sources = [re.findall(r"^--from=(\S+)", words) for step, words in stage.steps if step == "COPY"]
        for other in [stage.base, *(source for found in sources for source in found)]:
            if other in self.stages and other not in self.workdirs:
                self.build(other)
        shutil.rmtree(self.root, ignore_errors=True)
        if stage.base in self.stages:
            shutil.copytree(self.saved / stage.base, self.root, symlinks=True)
        else:
            self.root.mkdir(parents=True)
        programs = Path(sys.executable).parent
        self.workdirs[name] = self.workdirs.get(stage.base, "/")
        self.settings[name] = dict(self.settings.get(stage.base, {}))
        self.environments[name] = dict(
            self.environments.get(stage.base, {"PATH": f"{programs}:/usr/bin:/bin"})
        )
        for instruction, words in stage.steps:
            print(f"{name}: {instruction} {words}", file=sys.stderr, flush=True)
            self._step(name, instruction, words)
        shutil.copytree(self.root, self.saved / name, symlinks=True)

    def _step(self, name: str, instruction: str, words: str) -> None:
        if instruction == "WORKDIR":
            self.workdirs[name] = words
            self.inside(name, words).mkdir(parents=True, exist_ok=True)
        elif instruction == "ENV":
            for assignment in shlex.split(words):
                variable, _, value = assignment.partition("=")
                before = self.environments[name].get(variable, "")
                self.environments[name][variable] = self.mapped(value).replace(f"${variable}", before)
        elif instruction == "COPY":
            self._copy(name, shlex.split(words))
        elif instruction == "RUN":
            self._run(name, words)
        elif instruction in ("USER", "ENTRYPOINT", "CMD"):
            self.settings[name][instruction] = words
        else:
            raise WrongStep(f"{instruction} is not known here")

    def inside(self, name: str, path: str) -> Path:
        """Map a path of the image into the folder; a relative one starts from the stage's WORKDIR."""
        return self.root / (PurePosixPath(self.workdirs[name]) / path).relative_to("/")

    def mapped(self, text: str) -> str:
        """A text with ``root`` prepended to the absolute paths of the image."""
        tops = {"opt", *(path.split("/")[1] for path in self.workdirs.values() if path != "/")}
        return re.sub(rf"(?<![\w./])/(?=(?:{'|'.join(sorted(tops))})\b)", f"{self.root}/", text)

    def _copy(self, name: str, words: list[str]) -> None:
        origin = self.context
        if words[0].startswith("--from="):
            origin = self.saved / words.pop(0).removeprefix("--from=")
        *sources, target = words
        for source in sources:
            place = origin / source.lstrip("/")
            at = self.inside(name, target)
            if target.endswith("/"):
                at = at / ("" if place.is_dir() else place.name)
            files = [place] if place.is_file() else sorted(place.rglob("*"))
            if origin == self.context:
                files = [f for f in files if lets_through(self.patterns, f.relative_to(origin).as_posix())]
            if not files:
                raise WrongStep(f"COPY brings no file: {source}")
            for file in files:
                to = at if file == place else at / file.relative_to(place)
                if file.is_dir() and not file.is_symlink():
                    to.mkdir(parents=True, exist_ok=True)
                    continue
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, to, follow_symlinks=False)

    def _run(self, name: str, words: str) -> None:
        kept = {key: value for key, value in os.environ.items() if key not in NOT_AN_IMAGES}
        done = subprocess.run(
            ["/bin/sh", "-ec", self.mapped(words)],
            cwd=self.inside(name, "."),
            env=kept | self.environments[name],
            check=False,
        )
        if done.returncode != 0:
            raise WrongStep(f"RUN ended with {done.returncode}: {words}")

    def command(self, name: str, words: list[str], entrypoint: str | None = None) -> str:
        """The output of the image's command with these arguments, run as by an engine."""
        settings = self.settings[name]
        first = [entrypoint] if entrypoint else json.loads(settings["ENTRYPOINT"])
        command = [*first, *(words or json.loads(settings["CMD"]))]
        environment = self.environments[name]
        path = shutil.which(command[0], path=environment["PATH"])
        if path is None or not path.startswith(str(self.root)):
            raise WrongStep(f"{command[0]} is not in the image")
        user = int(settings["USER"].partition(":")[0])
        if user == 0:
            raise WrongStep("the image's user is root")
        done = subprocess.run(
            [path, *command[1:]],
            cwd=self.inside(name, "."),
            env=environment,
            user=user if can_become(user) else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise WrongStep(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout


def can_become(user: int) -> bool:
    """Whether this process can start Python as another user who can access this Python."""
    if os.name != "posix" or os.geteuid() != 0:
        return False
    try:
        return subprocess.run([sys.executable, "-c", ""], user=user, check=False, cwd="/").returncode == 0
    except PermissionError:
        return False


def main() -> None:
    """Build the given targets (all: cpu cuda), and run their commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", default=["cpu"], help="targets to build (default: cpu)")
    arguments = parser.parse_args()
    stages = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    for target in arguments.targets:
        with tempfile.TemporaryDirectory(prefix="charrnn-image-") as name:
            folder = Path(name).resolve()
            folder.chmod(0o755)  # the image's user must be able to access it
            builder = Builder(stages, ROOT, folder)
            try:
                builder.build(target)
                check(builder, target)
            except WrongStep as error:
                sys.exit(f"{target}: {error}")


def check(builder: Builder, target: str) -> None:
    """Run the image's commands on a model in its working folder, as if mounted."""
    mounted = builder.inside(target, MODEL)
    mounted.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / MODEL, mounted)
    text = builder.inside(target, "my.txt")
    text.write_text("Good morrow, my lord.\n", encoding="utf-8")
    if "charrnn-gen" not in builder.command(target, []):
        raise WrongStep("without words, the image does not show charrnn-gen's help")
    written = builder.command(target, [MODEL, "--prime", "LORD ", "--length", "60", "--seed", "1"])
    if not written.startswith("LORD ") or len(written) < 65:
        raise WrongStep(f"charrnn-gen wrote {written!r}")
    builder.command(target, [MODEL], entrypoint="charrnn-info")
    builder.command(target, [MODEL, "my.txt"], entrypoint="charrnn-score")
    builder.command(target, ["--version"], entrypoint="charrnn-serve")
    builder.command(target, ["-c", "import charrnn_runtime.serve.running"], entrypoint="python")
    programs = builder.inside(target, "/opt/charrnn")
    size = sum(
        file.stat().st_size for file in programs.rglob("*") if file.is_file() and not file.is_symlink()
    )
    user = builder.settings[target]["USER"]
    who = f"as user {user}" if can_become(int(user.partition(":")[0])) else "as this process's user"
    print(f"{target}: built, and its commands ran {who}; {size / 1e6:,.0f} MB in addition to the base image")


if __name__ == "__main__":
    main()
