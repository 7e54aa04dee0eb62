"""Fuzzes the readers of models and checkpoints, guided by code coverage.

    python tests/fuzzing.py                        both, two minutes in all
    python tests/fuzzing.py models --minutes 30

It needs atheris (Google's fuzzer for Python: libFuzzer, with Python's bytecode counted), which has wheels for
Linux on x86-64. Half of the new files come from libFuzzer itself, the other half from `mutations` and
`checkpoint_files`, which keep a file's outer form.

A file that breaks a reader (an unexpected exception, a crash, more than a minute or a gigabyte) is kept in
tests/data/found/SUBJECT, where regression tests read it. Files that reach new code are kept in the folder
--corpus, so that the next search continues from there.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from mutation_workers import ROOT, worker_environment

# charrnn is imported in the search, under atheris, which instruments what it imports.

FOUND: Final = Path(__file__).resolve().parent / "data" / "found"

MOST_BYTES: Final = 65_536
"""The maximum size of a file in bytes; the small models have 20,000 to 30,000."""

SUBJECTS: Final = ("models", "checkpoints")


def main() -> int:
    """Search for the given time; return 1 if something was found."""
    if sys.argv[1:2] == ["search"]:
        search(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("subjects", nargs="*", help=f"{' or '.join(SUBJECTS)}; default: both")
    parser.add_argument("--minutes", type=float, default=2.0, help="for all subjects together")
    parser.add_argument("--corpus", type=Path, help="default: a temporary folder")
    options = parser.parse_args()
    chosen = options.subjects or list(SUBJECTS)
    if unknown := set(chosen) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, not {options.minutes}")
    _require_atheris()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen:
            corpus = (options.corpus or Path(temporary)) / name
            failed = _searched(name, corpus, options.minutes * 60 / len(chosen)) or failed
    return int(failed)


def _require_atheris() -> Any:
    try:
        import atheris
    except ImportError as error:
        sys.exit(
            f"fuzzing needs atheris, and it cannot be imported here ({error}); install it with: pip install "
            "atheris (it has wheels for Linux on x86-64; elsewhere it is built with clang)"
        )
    return atheris


def _searched(name: str, corpus: Path, seconds: float) -> bool:
    """Search in a separate process, which ends at the first fault; return whether there was one."""
    corpus.mkdir(parents=True, exist_ok=True)
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    import subjects

    seeds = subjects.MODELS if name == "models" else subjects.small_checkpoints()
    for index, content in enumerate(seeds):
        (corpus / f"seed{index}").write_bytes(content)
    limits = [f"-max_total_time={max(1, round(seconds))}", "-timeout=60", "-rss_limit_mb=1024"]
    words = [*limits, f"-max_len={MOST_BYTES}", f"-artifact_prefix={found}/"]
    words += ["-report_slow_units=60", "-print_final_stats=1"]
    ended = subprocess.run(
        [sys.executable, __file__, "search", name, str(corpus), *words, str(corpus)],
        env=worker_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    new = sorted(set(found.iterdir()) - before)
    for path in new:
        print(f"{name}: FOUND {path.relative_to(ROOT)}: see the trace above")
    sys.stdout.write(ended.stdout.decode(errors="replace"))  # atheris writes the traceback of a fault there
    if ended.stdout and not new:
        print(f"{name}: a reader printed to stdout: see above")
    if ended.returncode and not new:
        print(f"{name}: the search ended with exit code {ended.returncode}: see above")
    if not (new or ended.stdout or ended.returncode):
        print(f"{name}: nothing was found; the corpus has {len(list(corpus.iterdir())):,} files")
    return bool(new or ended.stdout or ended.returncode)


def search(name: str, corpus: Path, words: list[str]) -> None:
    """Run libFuzzer in this process; it exits the process at the end."""
    atheris = _require_atheris()
    with atheris.instrument_imports(include=["charrnn_runtime", "charrnn_trainer"]):
        import subjects
        from checkpoint_files import changed_checkpoint
        from mutations import Draw, changed_model

        if name == "checkpoints":
            importlib.import_module("charrnn_trainer.runs.checkpoint")
    read, change = {
        "models": (subjects.read_model, changed_model),
        "checkpoints": (subjects.read_checkpoint, changed_checkpoint),
    }[name]
    donors = [path.read_bytes() for path in sorted(corpus.glob("seed*"))]
    path = Path(tempfile.mkdtemp()) / "fuzzed"

    path.write_bytes(donors[0])
    read(path)  # lazy imports must not count towards the time of a file

    def try_file(content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        draw = Draw(seed)
        if draw.randint(2):
            try:
                changed = change(content, donors[draw.randint(len(donors))], draw)
            except Exception:
                changed = None  # not every file of the corpus is well formed
            if changed and len(changed) <= most:
                return changed
        mutated: bytes = atheris.Mutate(content, most)
        return mutated

    atheris.Setup([__file__, *words], try_file, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
