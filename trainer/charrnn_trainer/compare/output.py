"""Write the files of a report without replacing other files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import WriteError, write_whole

MARK: Final = b"charrnn-compare"
"""Appears in the first bytes of every file of a report."""
_MARKED: Final = 1_024


def check_output(folder: Path, names: list[str], *, force: bool) -> None:
    """Check in advance that files may be written to a folder.

    Raises:
        CharRNNError: the folder is a file, or one of the files exists and is not part of a report.
    """
    if folder.exists() and not folder.is_dir():
        raise CharRNNError(f"{folder} is a file; give the folder of the report")
    for path in (folder / name for name in names):
        if path.is_dir():
            raise CharRNNError(
                f"{path} is a folder, but the report has a file of that name; give another --out"
            )
        if not force and path.exists() and not _is_ours(path):
            raise CharRNNError(
                f"{path} exists and was not written by charrnn-compare; give another --out, or "
                "--force to replace it"
            )


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK in file.read(_MARKED)
    except OSError:
        return False


def write_output(folder: Path, files: Mapping[str, bytes], *, force: bool) -> list[Path]:
    """Write files to a folder atomically: all are complete before the first is moved into place.

    A new folder appears with all its files. In an existing folder, other files are kept, and the files are
    moved into place one by one.

    Args:
        folder: the folder.
        files: the content of each file, by its name; each holds `MARK` near its start.
        force: also replace files that are not part of a report.

    Raises:
        CharRNNError: see `check_output`, or the files cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # write to a symlink's target and keep the symlink
    check_output(folder, list(files), force=force)
    there = folder.exists()
    stage = (folder if there else folder.parent) / f".{folder.name[:40]}.{os.urandom(6).hex()}.part"
    try:
        stage.mkdir(parents=True)
        for name, content in files.items():
            assert MARK in content[:_MARKED], name
            write_whole(stage / name, content)
        if there:
            for name in files:
                os.replace(stage / name, folder / name)
        else:
            os.rename(stage, folder)
    except OSError as error:
        raise WriteError(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(stage, ignore_errors=True)
    return [folder / name for name in files]
