"""Fetches the dependencies of examples/cpp and prints CMake options for them, one per line.

The onnxruntime library is that of the installed Python package, so both hosts run the same one. Its headers,
and those of nlohmann's JSON, are in no Python package; they come from Debian 13 packages, which are unpacked
into a folder and not installed. Headers of an older onnxruntime are compatible with a newer library.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime

PACKAGES = ("libonnxruntime-dev", "nlohmann-json3-dev")
SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def main() -> None:
    """Print the options; the only argument is the working folder."""
    folder = Path(sys.argv[1]).resolve()
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing; give CMake's options after --, such as -DONNXRUNTIME_ROOT=FOLDER")
    headers = folder / "debian" / "usr"
    if not (headers / "include" / "nlohmann").is_dir():
        fetch(folder)
    library = link_library(folder / "lib")
    print(f"-DCMAKE_PREFIX_PATH={headers}")
    print(f"-DONNXRUNTIME_INCLUDE_DIR={headers / 'include' / 'onnxruntime'}")
    print(f"-DONNXRUNTIME_LIBRARY={library}")


def link_library(folder: Path) -> Path:
    """Link the package's library under the names expected by the linker and the loader."""
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*.*.*")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(library)
    return folder / "libonnxruntime.so"


def fetch(folder: Path) -> None:
    """Download the Debian 13 packages from this machine's mirror and unpack them."""
    apt = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial", "sources"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    source = (
        "Types: deb",
        f"URIs: {mirror()}",
        f"Suites: {SUITE}",
        "Components: main",
        f"Signed-By: {KEYRING}",
    )
    (apt / "sources" / "debian.sources").write_text("\n".join([*source, ""]), encoding="utf-8")
    options = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={apt / 'sources'}"]
    options += ["-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"]
    options += ["-o", "APT::Sandbox::User=root"]  # the folder may be inaccessible to other users
    for words in (["update"], ["download", *PACKAGES]):
        subprocess.run(["apt-get", *options, *words], cwd=apt, stdout=sys.stderr, check=True)
    for package in apt.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, folder / "debian"], check=True)


def mirror() -> str:
    """The address of this machine's Debian mirror."""
    fields = "$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if not listed:
        sys.exit("apt-get has no Debian mirror; run apt-get update, or give CMake's options after --")
    return listed[0]


if __name__ == "__main__":
    main()
