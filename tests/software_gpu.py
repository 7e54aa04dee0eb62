"""A software GPU for tests: SwiftShader, the Vulkan driver for CPUs that comes with Chromium.

    python tests/software_gpu.py

prints the environment variables with which WebGPU uses it. If Chromium is missing, it first downloads
Debian's package and unpacks it without installing it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

DRIVER = "vk_swiftshader_icd.json"
LOADER = "libvulkan.so.1"

PACKAGE = "chromium-common"  # Debian's package, 27 MB
FETCHED = Path(__file__).resolve().parent.parent / ".nox" / PACKAGE

FOLDERS = (
    "/usr/lib/chromium",  # Debian
    "/usr/lib/chromium-browser",
    "/usr/lib64/chromium-browser",  # Fedora
    "/opt/google/chrome",
    FETCHED / "usr/lib/chromium",
)
"""The folders of Chromium, with its Vulkan driver and loader."""

VARIABLE = "CHARRNN_TESTS_SWIFTSHADER"
"""The variable that names another folder with both."""


def missing() -> str | None:
    """Why WebGPU tests cannot run here; None if they can."""
    if sys.platform != "linux":
        return "SwiftShader is looked for on Linux alone"
    if find_spec("onnxruntime_ep_webgpu") is None:
        return "needs onnxruntime's WebGPU plugin (pip install onnxruntime-ep-webgpu)"
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 31):
        return f"WebGPU needs onnxruntime 1.31 or newer, and this is {onnxruntime.__version__}"
    if _folder() is None:
        return (
            "needs SwiftShader, which Chromium brings: python3 noxfile.py gpu_software fetches it on Debian"
        )
    return None


def environment() -> dict[str, str]:
    """The environment variables with which a new process uses SwiftShader."""
    folder = _folder()
    assert folder is not None
    variables = {
        "VK_ICD_FILENAMES": str(folder / DRIVER),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }
    if not _has_loader():
        paths = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return variables


def load_here() -> None:
    """Load the Vulkan loader into this process, for which an environment variable would be too late."""
    folder = _folder()
    assert folder is not None
    if not _has_loader():
        ctypes.CDLL(str(folder / LOADER))


def fetch() -> None:
    """Download and unpack Debian's package if Chromium is missing.

    Raises:
        subprocess.CalledProcessError: there is no such package.
    """
    if _folder() is not None or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, stdout=sys.stderr)
        (file,) = Path(folder).glob("*.deb")
        partial = FETCHED.with_suffix(".part")
        partial.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", file, partial], check=True)
    shutil.rmtree(FETCHED, ignore_errors=True)
    partial.rename(FETCHED)


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    folders = [Path(folder) for folder in ([named] if named else FOLDERS)]
    return next((folder for folder in folders if (folder / DRIVER).is_file()), None)


def _has_loader() -> bool:
    try:
        ctypes.CDLL(LOADER)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    fetch()
    reason = missing()
    if reason:
        sys.exit(reason)
    print("\n".join(f"{name}={value}" for name, value in environment().items()))
