"""Kills the commands while they run, and checks that no file is incomplete and no earlier data is lost.

    python tests/kills.py                          200 kills
    python tests/kills.py --kills 20 --seed 7
    python tests/kills.py --seed 7 --only 31       one try again, with its folder kept

The commands run in separate processes and are killed with SIGKILL at a random moment: training, resuming,
export, generation into a file, and the preparation of a text of some megabytes. Half of the kills come at a
uniformly random moment of the work; the other half wait until a file is being written, and follow within a
millisecond.

PyTorch takes seconds to import, so most tries are forks of this process, which has imported everything: a
child calls the command's own ``main()`` with a command line, as its console script does. (Files
are kept in memory if possible; a fork waits 10 ms more at each flush, as it would for a disk.) One round in
six starts new processes (``python -m ...``).

After every kill, each file under its final name is compared byte for byte with the output of an uninterrupted
command. The killed command is started again, and killed again up to three times; a resumed training must end
with exactly the bytes of an uninterrupted one. If a fault is found, the try's folder is kept and printed, and
the exit code is 1. Ctrl-C ends the tries early and prints the results so far.
The random numbers of a try derive only from the seed and its number; the exact moments vary by machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

Files = dict[str, bytes]
"""Files by name."""

PLACES: Final = ("before the first write", "in a write", "between writes", "after the last write")
LONGEST: Final = 300.0
"""Seconds after which a running command is a fault; most take a second."""

FRESH_EVERY: Final = 6
"""One round of tries in this many starts new processes, including imports."""

MOST_AGAIN: Final = 3
"""The maximum number of times that a killed command is restarted and killed again."""

MEMORY: Final = "/dev/shm"

TRAIN: Final = (
    *("--layers", "1", "--hidden-size", "48", "--batch-size", "4", "--seq-length", "16", "--steps", "12"),
    *("--dropout", "0.2", "--weight-drop", "0.1", "--reset-chance", "0.1", "--random-start"),
    *("--eval-every", "1", "--save-every", "3", "--log-every", "2", "--schedule", "cosine"),
    *("--precision", "fp32", "--no-onednn", "--threads", "1", "--device", "cpu"),
)
"""A training run that validates at every step and saves at almost every one, as each is a new best."""

PREPARE: Final = (
    *("--layers", "1", "--hidden-size", "8", "--batch-size", "4", "--seq-length", "16", "--steps", "1"),
    *("--val-fraction", "0", "--precision", "fp32", "--no-onednn", "--threads", "1", "--device", "cpu"),
)
TEXT_CHARACTERS: Final = 12_000
LONG_TEXT_CHARACTERS: Final = 4_000_000
GENERATE: Final = ("--length", "4000", "--seed", "3", "--device", "cpu")

TRAINER: Final = "charrnn_trainer.cli.train"
EXPORTER: Final = "charrnn_trainer.cli.export"
GENERATOR: Final = "charrnn_runtime.cli.gen"
PRELOADED: Final = (
    *(TRAINER, EXPORTER, GENERATOR, "charrnn_trainer.cli.display", "charrnn_trainer.training.api"),
    *("charrnn_trainer.export.api", "charrnn_runtime.model"),
)


class Fault(Exception):
    """An incomplete file, lost data, or a command that does not continue."""


# --- processes ---------------------------------------------------------------------------------------------


class Child:
    """A command in a separate process, running in a folder; its output goes to two files next to it."""

    def __init__(self, module: str, words: tuple[str, ...], folder: Path, *, fresh: bool) -> None:
        self.folder = folder
        self._said = folder.parent / f"{folder.name}.err"
        self._code: int | None = None
        sys.stdout.flush()
        with self._said.open("wb") as said, Path(f"{folder}.out").open("wb") as out:
            if fresh:
                command = [sys.executable, "-m", module, *words]
                options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": said}
                self._process = subprocess.Popen(command, cwd=folder, env=_environment(), **options)  # type: ignore[call-overload]
                self.pid = self._process.pid
            else:
                self.pid = os.fork()
                if self.pid == 0:
                    _become(module, words, folder, out.fileno(), said.fileno())

    def has_ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def kill(self) -> bool:
        """Kill it; return whether it was still running."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)  # its process id is not reused until it has been waited for
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code == -signal.SIGKILL

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def finish(self) -> None:
        """Wait until it exits, and check that it succeeded."""
        deadline = time.monotonic() + LONGEST
        while not self.has_ended():
            if time.monotonic() > deadline:
                self.kill()
                raise Fault(f"no end within {LONGEST:.0f} seconds; it said: {self.said()!r}")
            time.sleep(0.002)
        if self._code != 0:
            raise Fault(f"exit code {self._code}; it said: {self.said()!r}")


def _become(module: str, words: tuple[str, ...], folder: Path, out: int, said: int) -> None:
    """Turn a forked child into the command; never returns."""
    code = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(said, 2)
        os.fsync = _flush_as_a_busy_disk  # type: ignore[assignment]
        sys.argv = [module, *words]
        importlib.import_module(module).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _flush_as_a_busy_disk(handle: int, flush: Callable[[int], None] = os.fsync) -> None:
    """Flush a file in memory as slowly as a disk would, so that kills can hit the moment of replacement."""
    flush(handle)
    time.sleep(0.01)


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(str(ROOT / part) for part in ("runtime", "trainer"))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def _preload() -> None:
    """Import what the commands need, so that a fork starts its work immediately."""
    sys.path[:0] = [str(ROOT / part) for part in ("runtime", "trainer")]
    os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
    for module in PRELOADED:
        importlib.import_module(module)


# --- a single kill -----------------------------------------------------------------------------------------


@dataclass
class Pace:
    """The duration of a command's work and the number of its files, as observed so far."""

    seconds: list[float] = field(default_factory=list)
    writes: int = 1

    def span(self) -> float:
        return statistics.median(self.seconds[-9:])


@dataclass(frozen=True)
class Work:
    """A command line, its output folder and the names of its files."""

    module: str
    words: tuple[str, ...]
    folder: Path
    written: Path
    finals: frozenset[str]
    fresh: bool = False

    def start(self) -> Child:
        return Child(self.module, self.words, self.folder, fresh=self.fresh)

    def parts(self) -> set[str]:
        """The files being written, including those left by a kill."""
        return {name for name in _names(self.written) if name.endswith(".part")}

    def wait_until_it_works(self, child: Child) -> None:
        """Wait until its imports are done, as shown by its first output or file."""
        deadline = time.monotonic() + LONGEST
        before = _names(self.written)
        while not (child.has_ended() or child.said() or _names(self.written) - before):
            if time.monotonic() > deadline:
                child.kill()
                raise Fault(f"it said and wrote nothing for {LONGEST:.0f} seconds")
            time.sleep(0.002)


def kill_somewhere(work: Work, pace: Pace, random_: random.Random) -> str | None:
    """Start a command and kill it at a random moment.

    Returns:
        the phase of the kill, one of `PLACES`; None if the command had already finished successfully.
    """
    before, parts = _stamps(work), work.parts()
    child = work.start()
    work.wait_until_it_works(child)
    if random_.random() < 0.5:
        time.sleep(random_.uniform(0.0, pace.span()))
    else:
        _wait_for_write(work, child, parts, random_.randint(1, pace.writes))
        time.sleep(random_.uniform(0.0, 0.001))
    if not child.kill():
        child.finish()
        return None
    if work.parts() - parts:
        return "in a write"
    after = _stamps(work)
    done = {name for name in work.finals if name in after and after[name] != before.get(name)}
    if not done:
        return "before the first write"
    return "after the last write" if done == work.finals else "between writes"


def _wait_for_write(work: Work, child: Child, known: set[str], number: int) -> None:
    """Wait until the command writes its ``number``-th file, or has ended."""
    seen: set[str] = set()
    while len(seen) < number and not child.has_ended():
        seen |= work.parts() - known
        time.sleep(0.0001)


def _stamps(work: Work) -> dict[str, tuple[int, int]]:
    """The timestamps and inode that distinguish a file from its replacement."""
    stamps = {}
    for name in _names(work.written):
        status = (work.written / name).stat()
        stamps[name] = (status.st_ino, status.st_mtime_ns)
    return stamps


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


# --- output of uninterrupted commands ----------------------------------------------------------------------


class Workshop:
    """A folder with two texts and all outputs of uninterrupted commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paces: dict[str, Pace] = {}
        self.text = folder / "text.txt"
        self.long_text = folder / "long.txt"
        words = random.Random(0)
        self.text.write_text(_prose(words, TEXT_CHARACTERS), encoding="utf-8")
        self.long_text.write_text(_prose(words, LONG_TEXT_CHARACTERS), encoding="utf-8")

    def learn(self, kind: str) -> None:
        """Run the command once without interruption to record its files and duration, unless known."""
        if kind not in self.paces:
            if kind in ("export", "generate"):
                self.learn("train" if kind == "export" else "export")
            getattr(self, f"_learn_{kind}")()

    def training(self, folder: Path, *, fresh: bool = False) -> Work:
        words = (str(self.text), *TRAIN, "--out", "run")
        return Work(TRAINER, words, folder, folder / "run", frozenset({*self.checkpoints_kept()}), fresh)

    def going_on(self, folder: Path, *, fresh: bool = False) -> Work:
        there = frozenset(_names(folder / "run"))
        finals = frozenset(self.checkpoints_kept()) - there
        return Work(TRAINER, ("--resume", "run"), folder, folder / "run", finals, fresh)

    def exporting(self, folder: Path, step: str = "last", *, fresh: bool = False) -> Work:
        words = (str(self.run), "model.onnx", "--checkpoint", step)
        return Work(EXPORTER, words, folder, folder, frozenset({"model.onnx"}), fresh)

    def generating(self, folder: Path, *extra: str, fresh: bool = False) -> Work:
        words = (str(self.model), *GENERATE, "--output", "out.txt", *extra)
        return Work(GENERATOR, words, folder, folder, frozenset({"out.txt"}), fresh)

    def preparing(self, folder: Path, *, fresh: bool = False) -> Work:
        run = folder / "ckpt" / "lstm"
        return Work(
            TRAINER,
            (str(self.long_text), *PREPARE),
            folder,
            run,
            frozenset({"tokens.safetensors", "config.toml"}),
            fresh,
        )

    def checkpoints_kept(self) -> list[str]:
        return [name for name in self.end if "-step" in name]

    def _learn_train(self) -> None:
        """One run in which every saved checkpoint is copied, and two to measure the pace."""
        modules: list[Any] = [
            importlib.import_module(f"charrnn_trainer.training.{name}") for name in ("saving", "validator")
        ]
        kept = _fresh_folder(self.folder / "every")
        save = modules[0].save_checkpoint

        def save_and_copy(header, tensors):  # type: ignore[no-untyped-def]
            save(header, tensors)
            shutil.copy(header.path, kept / header.path.name)

        place = _fresh_folder(self.folder / "reference")
        self.run = place / "run"
        self.end: Files = {}  # a placeholder until its files are known
        for module in modules:
            module.save_checkpoint = save_and_copy
        try:
            self.training(place).start().finish()
        finally:
            for module in modules:
                module.save_checkpoint = save
        self.end = content(self.run)
        self.checkpoints = {path.name: path.read_bytes() for path in kept.iterdir()}
        self.tokens = self.end["tokens.safetensors"]
        for name in ("train", "resume"):
            self.paces[name] = Pace(writes=len(self.checkpoints) + 2)
        for number in range(2):
            work = self.training(_fresh_folder(self.folder / f"pace-{number}"))
            self._measure("train", work)
            if content(work.written) != self.end:
                raise Fault("two uninterrupted training runs do not write the same bytes")
        self.paces["resume"].seconds = self.paces["train"].seconds

    def _learn_export(self) -> None:
        models = {}
        self.paces["export"] = Pace()
        for step in ("3", "last"):
            place = _fresh_folder(self.folder / f"export-{step}")
            self._measure("export", self.exporting(place, step))
            models[step] = (place / "model.onnx").read_bytes()
        self.model = place / "model.onnx"
        self.old_model, self.new_model = models["3"], models["last"]
        assert self.old_model != self.new_model

    def _learn_generate(self) -> None:
        self.paces["generate"] = Pace()
        for number in range(2):
            place = _fresh_folder(self.folder / f"generate-{number}")
            self._measure("generate", self.generating(place))
        self.generated = (place / "out.txt").read_bytes()

    def _learn_prepare(self) -> None:
        self.paces["prepare"] = Pace(writes=3)  # tokens, settings, a checkpoint
        for number in range(2):
            work = self.preparing(_fresh_folder(self.folder / f"prepare-{number}"))
            self._measure("prepare", work)
        self.prepared = content(work.written)

    def _measure(self, name: str, work: Work) -> None:
        child = work.start()
        work.wait_until_it_works(child)
        begin = time.monotonic()
        child.finish()
        self.paces[name].seconds.append(time.monotonic() - begin)


def content(run: Path) -> Files:
    """All files of a run, with the times removed from its history."""
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}
    lines = [json.loads(line) for line in files["history.jsonl"].splitlines()]
    files["history.jsonl"] = json.dumps([{**line, "seconds": 0} for line in lines]).encode()
    return files


def _prose(random_: random.Random, characters: int) -> str:
    words = ["".join(random_.choices("etaoinshrdlu", k=random_.randint(1, 9))) for _ in range(500)]
    line = " ".join(random_.choices(words, k=2_000)) + ".\n"
    return (line * (characters // len(line) + 1))[:characters]


def _fresh_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


# --- invariants after a kill -------------------------------------------------------------------------------


def check_run(run: Path, shop: Workshop, saved_before: set[str]) -> None:
    """Check the invariants of a run's folder after a kill."""
    from charrnn_trainer.runs.checkpoint import load_checkpoint

    if not (run / "config.toml").is_file():
        if any(".safetensors" in name and "-step" in name for name in _visible(run)):
            raise Fault("there are checkpoints, and no config.toml")
        if "tokens.safetensors" in _visible(run):
            _check_same(run / "tokens.safetensors", shop.tokens)
        return
    for name in _visible(run):
        if name in ("config.toml", "tokens.safetensors"):
            _check_same(run / name, shop.end[name])
        elif name == "history.jsonl":
            _check_history(run / name)
        elif name in shop.checkpoints:
            _check_same(run / name, shop.checkpoints[name])
        else:
            raise Fault(f"{name} is not a file of an uninterrupted run")
    if "tokens.safetensors" not in _visible(run):
        raise Fault("config.toml is there, and the tokens are not")
    steps = sorted(_step(name) for name in _visible(run) if "-step" in name)
    if not steps:
        if saved_before:
            raise Fault(f"lost: {sorted(saved_before)}")
        return
    every = int(TRAIN[TRAIN.index("--save-every") + 1])
    missing = set(range(every, steps[-1] + 1, every)) - set(steps)
    newest = load_checkpoint(next(run / name for name in _visible(run) if _step(name) == steps[-1]))
    best = min(newest.evaluations, key=lambda item: item.validation_loss)
    if missing or best.step not in steps:
        raise Fault(f"of the best ({best.step}) and those by --save-every, only {steps} are there")
    if saved_before and steps[-1] < max(map(_step, saved_before)):
        raise Fault(f"the newest of {sorted(saved_before)} was lost")


def _check_history(path: Path) -> None:
    """Check that its lines parse; the last may be incomplete, and is truncated by the next writer."""
    *lines, rest = path.read_bytes().split(b"\n")
    try:
        values = [json.loads(line) for line in lines]
    except ValueError as error:
        raise Fault(f"a line of the history is broken: {error}") from error
    if any("step" not in line for line in values) or rest.startswith(b"\0"):
        raise Fault("the history holds something else")


def _check_same(path: Path, *allowed: bytes) -> None:
    found = path.read_bytes()
    if found not in allowed:
        raise Fault(f"{path.name} has {len(found):,} bytes that nobody wrote whole")


def _visible(folder: Path) -> set[str]:
    return {name for name in _names(folder) if not name.startswith(".")}


def _step(name: str) -> int:
    return int(name.removesuffix(".safetensors").rpartition("-step")[2]) if "-step" in name else -1


# --- tries -------------------------------------------------------------------------------------------------


Kills = Iterator[tuple[str, str | None]]
"""The killed command and the phase of the kill."""


def try_training(shop: Workshop, folder: Path, random_: random.Random, fresh: bool) -> Kills:
    """Kill a training run and those that resume it; the last one runs to the end."""
    run = folder / "run"
    yield "train", kill_somewhere(shop.training(folder, fresh=fresh), shop.paces["train"], random_)
    check_run(run, shop, set())
    for _ in range(random_.randint(0, MOST_AGAIN)):
        if not (run / "config.toml").is_file():
            break
        before = {name for name in _visible(run) if "-step" in name}
        yield "resume", kill_somewhere(shop.going_on(folder, fresh=fresh), shop.paces["resume"], random_)
        check_run(run, shop, before)
    if not (run / "config.toml").is_file():
        # Nothing was saved yet. A new run needs an empty folder, so it gets another one.
        shutil.rmtree(run, ignore_errors=True)
        shop.training(folder).start().finish()
    else:
        shop.going_on(folder).start().finish()
    found = content(run)
    if found.keys() != shop.end.keys():
        raise Fault(f"the run holds {sorted(found)} at its end, not {sorted(shop.end)}")
    differing = [name for name in found if found[name] != shop.end[name]]
    if differing:
        raise Fault(f"bytes differ from those of an uninterrupted run: {differing}")


def try_export(shop: Workshop, folder: Path, random_: random.Random, fresh: bool) -> Kills:
    """Kill an export, to a new file or over an earlier model; then export again."""
    old = random_.random() < 0.5
    yield from _try_file(
        shop.exporting(folder, fresh=fresh),
        "export",
        shop,
        random_,
        "model.onnx",
        shop.old_model if old else None,
        shop.new_model,
    )
    from charrnn_runtime.format.reader import read_model_file

    read_model_file(folder / "model.onnx")


def try_generation(shop: Workshop, folder: Path, random_: random.Random, fresh: bool) -> Kills:
    """Kill a generation into a new or (with --force) an existing file; then generate again."""
    old = random_.random() < 0.5
    work = shop.generating(folder, *(["--force"] if old else []), fresh=fresh)
    before = b"what was there before\n" if old else None
    yield from _try_file(work, "generate", shop, random_, "out.txt", before, shop.generated)


def _try_file(
    work: Work, kind: str, shop: Workshop, random_: random.Random, name: str, old: bytes | None, new: bytes
) -> Kills:
    path, bystander = work.folder / name, work.folder / "bystander"
    bystander.write_bytes(b"not yours")
    if old is not None:
        path.write_bytes(old)
    for _ in range(random_.randint(1, 1 + MOST_AGAIN)):
        yield kind, kill_somewhere(work, shop.paces[kind], random_)
        if path.exists():
            _check_same(path, new, *([] if old is None else [old]))
        elif old is not None:
            raise Fault(f"the earlier {name} is gone")
        if _visible(work.folder) - {name} != {"bystander"}:
            raise Fault(f"there is something else: {sorted(_visible(work.folder))}")
        _check_same(bystander, b"not yours")
        if path.exists() and path.read_bytes() == new:
            return
    Child(work.module, work.words, work.folder, fresh=False).finish()
    _check_same(path, new)


def try_preparation(shop: Workshop, folder: Path, random_: random.Random, fresh: bool) -> Kills:
    """Kill the preparation of a long text; then resume the run, or start another if there is none."""
    work = shop.preparing(folder, fresh=fresh)
    yield "prepare", kill_somewhere(work, shop.paces["prepare"], random_)
    run = work.written
    for name in _visible(run) - {"history.jsonl"}:
        _check_same(run / name, shop.prepared[name])
    if (run / "config.toml").is_file():
        Child(TRAINER, ("--resume", str(run)), folder, fresh=False).finish()
    else:
        shop.preparing(folder).start().finish()
        run = run if (run / "config.toml").is_file() else run.with_name("lstm-2")
    if content(run) != shop.prepared:
        raise Fault(f"{run.name} ended with other bytes than an uninterrupted run")


TRIES: Final[dict[str, Callable[[Workshop, Path, random.Random, bool], Kills]]] = {
    "train": try_training,
    "export": try_export,
    "generate": try_generation,
    "prepare": try_preparation,
}


# --- repeated tries ----------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The outcome of many tries.

    Attributes:
        kills: the number of kills by command and phase.
        fresh: the number of kills of newly started processes.
        late: the number of tries in which the command had already finished.
        faults: the numbers of failed tries, with their faults.
    """

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    fresh: int = 0
    late: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)

    def table(self) -> str:
        """A row per kind."""
        kinds = sorted({kind for kind, _ in self.kills})
        lines = [f"{'killed':<10}" + "".join(f"{place:>24}" for place in PLACES) + f"{'all':>8}"]
        for kind in kinds:
            counts = [self.kills[kind, place] for place in PLACES]
            lines.append(f"{kind:<10}" + "".join(f"{count:>24,}" for count in counts) + f"{sum(counts):>8,}")
        totals = [sum(self.kills[kind, place] for kind in kinds) for place in PLACES]
        lines.append(f"{'all':<10}" + "".join(f"{count:>24,}" for count in totals) + f"{sum(totals):>8,}")
        return "\n".join(lines)


def kill_many(shop: Workshop, folder: Path, kills: int, seed: int, only: int | None = None) -> Tally:
    """Try until the number of kills is reached, or run the single requested try."""
    tally = Tally()
    number = 0 if only is None else only
    while only is not None or tally.kills.total() < kills:
        place = _fresh_folder(folder / f"try-{number}")
        name = list(TRIES)[number % len(TRIES)]
        fresh = number // len(TRIES) % FRESH_EVERY == FRESH_EVERY - 1
        random_ = random.Random(f"{seed}/{number}")
        try:
            shop.learn(name)
            for kind, where in TRIES[name](shop, place, random_, fresh):
                if where is None:
                    tally.late += 1
                else:
                    tally.kills[kind, where] += 1
                    tally.fresh += fresh
        except Fault as fault:
            tally.faults.append((number, f"{name}: {fault}"))
            print(f"FAULT in try {number} ({name}), kept in {place}: {fault}", flush=True)
        except KeyboardInterrupt:
            break  # report the results so far
        else:
            if only is None:
                shutil.rmtree(place)
        number += 1
        if only is not None:
            break
        if number % 20 == 0:
            print(f"{tally.kills.total():,} kills, {len(tally.faults)} faults", file=sys.stderr, flush=True)
    return tally


def main(words: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="number of kills (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments (default: 1)")
    parser.add_argument("--only", type=int, help="repeat the try with this number; its folder is kept")
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary one, in memory)")
    chosen = parser.parse_args(words)
    _preload()
    # Files in memory survive the kill of a process as on a disk, without waits for a busy disk.
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="charrnn-kills-", dir=chosen.folder or memory))
    tally = kill_many(
        Workshop(_fresh_folder(folder / "shop")), folder, chosen.kills, chosen.seed, chosen.only
    )
    print(tally.table())
    print(
        f"seed {chosen.seed}: {tally.kills.total():,} kills, {tally.fresh:,} of them of new processes; "
        f"{tally.late:,} came too late; {len(tally.faults):,} faults"
    )
    for number, fault in tally.faults:
        print(f"again: python tests/kills.py --seed {chosen.seed} --only {number}   ({fault})")
    if tally.faults or chosen.only is not None:
        print(f"the faults are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
