"""The folder of a run: locking, files and retention of checkpoints.

It contains ``config.toml`` (to repeat the run), ``tokens.safetensors`` (the text as ids, so that the run can
resume without its text), ``history.jsonl`` (one line per step), the checkpoints, and ``.lock``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import WriteError, is_part, remove_parts, write_whole
from charrnn_trainer.runs.checkpoint import read_header
from charrnn_trainer.runs.finding import CONFIG_FILE, checkpoint_files, is_run
from charrnn_trainer.runs.header import CheckpointError, CheckpointHeader
from charrnn_trainer.runs.run_file import RunFile

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TOKENS_FILE: Final = "tokens.safetensors"
HISTORY_FILE: Final = "history.jsonl"
_LOCK_FILE: Final = ".lock"
_MOST_RUNS: Final = 100_000


class Run:
    """A run's folder, locked for this process.

    Use it in a ``with`` statement, which releases the lock at its end; so does the end of the process,
    however it ends. If no ``config.toml`` was written by then, the run did not start, and its files are
    removed.
    """

    def __init__(self, folder: Path, lock: IO[bytes], *, made: bool = False) -> None:
        self.folder = folder
        self._made = made
        self.tokens_path = folder / TOKENS_FILE
        self.config_path = folder / CONFIG_FILE
        self._lock = lock
        self._history: list[str] = []

    @classmethod
    def create(cls, folder: str | Path) -> Run:
        """Lock a new folder, or one that is empty except for leftovers of a killed start.

        Raises:
            SettingError: it is not empty.
            CharRNNError: it cannot be created.
        """
        folder = Path(folder)
        try:
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            _check_empty(folder)
        except OSError as error:
            raise _cannot_create(folder, error) from error
        run = cls(folder, _lock(folder), made=made)
        try:
            _check_empty(folder)  # another process may have used it in the meantime
        except SettingError:
            run.close()
            raise
        run.remove_leftovers()
        return run

    @classmethod
    def create_in(cls, parent: str | Path, name: str) -> Run:
        """Create and lock a new folder for a run: ``parent/name``, or ``name-2`` and so on if that exists.

        Raises:
            CharRNNError: it cannot be created.
        """
        parent = Path(parent)
        for number in range(1, _MOST_RUNS):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)  # fails if it exists, even if two processes try at once
            except FileExistsError:
                continue
            except OSError as error:
                raise _cannot_create(folder, error) from error
            return cls(folder, _lock(folder), made=True)
        raise CharRNNError(f"{parent} has too many runs named {name}; remove some, or give out=FOLDER", "out")

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Lock the folder of a run to resume it.

        Raises:
            CharRNNError: it is not a run, or another process is training in it.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise CharRNNError(f"{folder} is not a run: it has no {CONFIG_FILE}; give a run's folder")
        run = cls(folder, _lock(folder))
        remove_parts(folder)
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.config_path.exists():
            self._discard()
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def remove_leftovers(self) -> None:
        """Remove the leftovers of a run that did not start: its text, or a part of it."""
        remove_parts(self.folder)
        with contextlib.suppress(OSError):
            self.tokens_path.unlink()

    def _discard(self) -> None:
        self.remove_leftovers()
        with contextlib.suppress(OSError):
            (self.folder / _LOCK_FILE).unlink()
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    # --- settings ------------------------------------------------------------------------------------------

    def write_config(self, file: RunFile) -> None:
        """Write ``config.toml``, which makes the folder a run."""
        write_whole(self.config_path, file.to_toml().encode())

    def read_config(self) -> RunFile:
        """Read ``config.toml``."""
        return RunFile.read(self.config_path)

    # --- checkpoints ---------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """The files of the checkpoints, by step."""
        return checkpoint_files(self.folder)

    def remove_superseded(self, best_step: int | None, keep: int = 0) -> None:
        """Remove checkpoints that are no longer needed.

        The best and the last are kept, and the newest ``keep`` scheduled ones (0 for all).
        """
        headers = list(self._headers(self.checkpoints()))
        due = [header.step for header in headers if header.kind == "scheduled"]
        kept = {best_step, *due[-keep:]}
        for header in headers[:-1]:
            if header.step not in kept:
                with contextlib.suppress(OSError):
                    header.path.unlink()

    def _headers(self, paths: list[Path]) -> Iterator[CheckpointHeader]:
        for path in paths:
            with contextlib.suppress(CheckpointError):  # not ours to remove
                yield read_header(path)

    # --- history -------------------------------------------------------------------------------------------

    def note(self, **values: Any) -> None:
        """Add a line to the history; the next `flush_history` writes it to disk."""
        self._history.append(json.dumps(values) + "\n")

    def flush_history(self) -> None:
        """Append the recorded lines to ``history.jsonl``.

        Raises:
            WriteError: it cannot be written.
        """
        if not self._history:
            return
        path = self.folder / HISTORY_FILE
        try:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(self._history)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(path, error) from error
        self._history.clear()

    def cut_history(self, step: int) -> None:
        """Truncate ``history.jsonl`` after the last complete line of a step up to ``step``.

        Raises:
            WriteError: it cannot be written.
        """
        path = self.folder / HISTORY_FILE
        try:
            with path.open("r+b") as file:
                kept = 0
                for line in file:
                    if not line.endswith(b"\n") or not _is_up_to(line, step):
                        break
                    kept += len(line)
                file.truncate(kept)
        except FileNotFoundError:
            return
        except OSError as error:
            raise WriteError(path, error) from error


def check_free(folder: Path) -> None:
    """Check that a run can start in a folder: that it is new, or empty except for leftovers of a killed
    start.

    Raises:
        SettingError: it is not empty.
    """
    if folder.is_dir():
        _check_empty(folder)
    elif os.path.lexists(folder):
        raise SettingError(f"{folder} is not a folder; give a new one")


def check_can_make(folder: Path) -> None:
    """Check that a folder can be created, or exists and is writable, without changing anything.

    Raises:
        CharRNNError: it cannot be created, or is not writable.
    """
    places = (place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    nearest = next(places, folder)
    if not nearest.is_dir():
        raise CharRNNError(f"cannot create the folder {folder}: {nearest} is not a folder")
    read_only = os.name == "posix" and os.statvfs(nearest).f_flag & os.ST_RDONLY
    if read_only or not os.access(nearest, os.W_OK | os.X_OK) or not _makes_folders(nearest):
        what = "write to" if nearest == folder else "create the folder"
        why = os.strerror(errno.EROFS) if read_only else f"{nearest} is not writable"
        raise CharRNNError(f"cannot {what} {folder}: {why}")


def _makes_folders(place: Path) -> bool:
    """Whether folders can be created in one with write permission; root has that everywhere, even in /proc.

    Where they can, a name that is too long for any file system is rejected for its length.
    """
    if os.name != "posix":
        return True
    impossible = place / ("x" * 2_000)
    try:
        impossible.mkdir()
        impossible.rmdir()
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.EPERM, errno.EACCES, errno.EROFS)
    return True


def _check_empty(folder: Path) -> None:
    if is_run(folder):
        raise SettingError(f"{folder} already contains a run; give a new folder, or resume that run")
    leftovers = {_LOCK_FILE, TOKENS_FILE}
    if any(entry.name not in leftovers and not is_part(entry) for entry in folder.iterdir()):
        raise SettingError(f"{folder} is not empty; give a new folder")


def _is_up_to(line: bytes, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _lock(folder: Path) -> IO[bytes]:
    """Lock a folder for this process. The system releases the lock when the process ends, however it ends."""
    path = folder / _LOCK_FILE
    try:
        file = path.open("ab")
    except OSError as error:
        raise CharRNNError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            raise CharRNNError(
                f"another process is training in {folder}; wait until it ends, or use another folder"
            ) from error
        raise CharRNNError(f"cannot lock {folder}: {error.strerror or error}") from error
    return file


def _cannot_create(folder: Path, error: OSError) -> CharRNNError:
    return CharRNNError(f"cannot create the folder {folder}: {error.strerror or error}")
