"""Chooses the device for a model, explains why it is not CUDA, and recognizes out-of-memory errors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from charrnn_runtime.arguments import choice
from charrnn_runtime.errors import CharRNNError, DeviceError, OutOfMemoryError, one_line
from charrnn_runtime.forks import making, skip_exit_handlers_in_children
from charrnn_runtime.format import spec
from charrnn_runtime.process import only_in_commands

_NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"


def _import_onnxruntime() -> Any:
    """Import onnxruntime with telemetry disabled, unless the user or program has decided on it already.

    Since 1.29, its Linux and macOS builds also report processes and sessions, and keep a database for this in
    the home folder. This is decided once per process, by an environment variable that is read at the first
    import. Therefore it is set only during that import, and not inherited by processes started later.
    `disable_telemetry_events` stops the telemetry on Windows. A program that imported onnxruntime, or a
    user who set the variable, has decided already.
    """
    undecided = "onnxruntime" not in sys.modules and _NO_TELEMETRY not in os.environ
    if undecided:
        os.environ[_NO_TELEMETRY] = "1"
    try:
        import onnxruntime
    finally:
        if undecided:
            os.environ.pop(_NO_TELEMETRY, None)
    if undecided:
        onnxruntime.disable_telemetry_events()
    elif os.environ.get(_NO_TELEMETRY) != "1":
        skip_exit_handlers_in_children()
    return onnxruntime


# The other modules import it from here, so that none imports it earlier.
ort: Any = _import_onnxruntime()

# Messages outside of sessions: stderr belongs to the command.
only_in_commands(lambda: ort.set_default_logger_severity(4))

CUDA_PROVIDER: Final = "CUDAExecutionProvider"

_DRIVER: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CUDA: Final = 13
"""The major version of CUDA that onnxruntime builds need if they do not report one."""

_CUDA_REASON: Final = re.compile(r"\b(CU[A-Z]+ (?:failure|error) .*?) *(?:;|$)", re.MULTILINE)
"""As in "CUDA failure 35: CUDA driver version is insufficient ... ; GPU=0 ; hostname=...", or "CUDNN ...".
"""

_TOO_LITTLE_MEMORY: Final = re.compile(
    # WebGPU returns invalid buffers, which are reported on use.
    r"allocat|alloc_failed|bad_alloc|out of memory|exceeds the max buffer size|\[Invalid Buffer|"
    r"larger than the maximum \w+ buffer binding size",
    re.IGNORECASE,
)

_CUDA_BUILD: Final = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
_CUDA_INSTALL: Final = f"{_CUDA_BUILD}, and a recent NVIDIA driver (CUDA 13)"

INT8_IS_FOR_THE_CPU: Final = (
    'this model is int8, which runs on the CPU only; use device="cpu", or export it for the GPU with '
    "charrnn-export --precision fp32 (or fp16)"
)

FORKED_FROM_CUDA: Final = (
    "a process forked from one that uses CUDA cannot use it; start it with multiprocessing's method "
    '"spawn" or "forkserver", or load the model there with device="cpu"'
)

_PRELOADING: Final = threading.Lock()
_began_cuda_in: Final[set[int]] = set()
"""The processes that initialized the CUDA driver, which forked children inherit."""


def choose_device(
    device: str, precision: str, start_cuda: Callable[[], Any], try_cuda: Callable[[Any], str | None]
) -> tuple[str, str]:
    """Choose the device, with a note on why it is not CUDA if that might be expected.

    Args:
        device: the requested device: "auto", "cpu" or "cuda".
        precision: the precision of the model.
        start_cuda: creates a session of the model on CUDA.
        try_cuda: runs a step in that session; returns what is wrong with the result, if anything.

    Raises:
        SettingError: the device is unknown.
        DeviceError: CUDA was requested but cannot be used.
    """
    choice("device", device, spec.DEVICES)
    if device == "cpu":
        return "cpu", ""
    if precision == "int8":
        if device == "cuda":
            raise DeviceError(INT8_IS_FOR_THE_CPU, "device")
        return "cpu", ""
    if device == "auto" and _missing_driver():
        return "cpu", ""  # CUDA is not expected there, and finding the reason would take 18 ms
    missing = cuda_missing()
    if missing is None:
        missing = _cuda_problem(start_cuda, try_cuda)
    if missing is None:
        return "cuda", ""
    if device == "cuda":
        raise DeviceError(f'device="cuda" cannot be used: {missing}', "device")
    return "cpu", missing


def usable_cores() -> int:
    """The number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_missing() -> str | None:
    """Why this machine cannot use CUDA; None if it can."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        if {"onnxruntime", "onnxruntime-gpu"} <= _installed_builds():
            return (
                "onnxruntime and onnxruntime-gpu are both installed, and the first hides the second; fix "
                f"this with: pip uninstall -y onnxruntime onnxruntime-gpu && {_CUDA_BUILD}"
            )
        # Installed beside the plain build, the other one would be hidden.
        return (
            "this build of onnxruntime lacks CUDA; replace it with: pip uninstall -y onnxruntime && "
            f"{_CUDA_INSTALL}"
        )
    return _missing_driver() or _old_driver()


def _cuda_problem(start_cuda: Callable[[], Any], try_cuda: Callable[[Any], str | None]) -> str | None:
    """Why a session on CUDA cannot be created or used; None if it can."""
    missing: list[str] = []
    try:
        missing = _preload_cuda()
        session = start_cuda()
    except Exception as error:
        # Without its libraries, CUDA is silently disabled, and all nodes would run on the CPU.
        if not missing or "default CPU EP" not in str(error):
            return f"onnxruntime cannot start CUDA ({reason_of(error)}); install it with {_CUDA_INSTALL}"
    else:
        if session.get_providers()[0] == CUDA_PROVIDER:
            return _failed_trial(session, try_cuda)
    named = f" ({one_line(', '.join(missing), most=100)})" if missing else ""
    return f"onnxruntime cannot load CUDA's libraries{named}; install them with {_CUDA_INSTALL}"


def _failed_trial(session: Any, try_cuda: Callable[[Any], str | None]) -> str | None:
    """Why a GPU cannot be used although a session starts on it.

    Builds of onnxruntime have kernels for some generations of GPUs only, which shows in the first run.
    """
    try:
        wrong = try_cuda(session)
    except Exception as error:
        wrong = f"does not run on this GPU ({reason_of(error)})"
    return wrong and f'a trial step of this model {wrong}; use device="cpu" on this machine'


def _preload_cuda() -> list[str]:
    """Load CUDA's libraries from pip packages or the system; returns the names of missing ones."""
    said: list[str] = []
    with making(), _PRELOADING:
        # It prints missing libraries. stdout is for a command's results, and other threads may be writing to
        # it, so it is not redirected: onnxruntime's print is replaced instead.
        ort.print = lambda *words, **_: said.append(" ".join(map(str, words)))
        try:
            ort.preload_dlls()
        finally:
            del ort.print
    return sorted(set(re.findall(r"[\w+-]+\.(?:so[.\d]*|dll)", " ".join(said))))


def _installed_builds() -> set[str]:
    import importlib.metadata  # takes 18 ms, and only an error needs it

    found = set()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.distribution(name)
            found.add(name)
    return found


def _missing_driver() -> str | None:
    """Query the NVIDIA driver directly, which is fast if there is none."""
    if _began_cuda_in and os.getpid() not in _began_cuda_in:
        return FORKED_FROM_CUDA
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver is installed ({_DRIVER} is not found); use device='cpu' on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return 'the NVIDIA driver finds no usable GPU; use device="cpu" on this machine'
    _began_cuda_in.add(os.getpid())
    return None


def _old_driver() -> str | None:
    """Whether the installed driver is too old for onnxruntime's CUDA version."""
    needed = int(str(getattr(ort, "cuda_version", "")).split(".")[0] or _CUDA)
    version = ctypes.c_int(0)
    if ctypes.CDLL(_DRIVER).cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value >= 1000 * needed:
        return None
    major, minor = divmod(version.value, 1000)
    return (
        f"the NVIDIA driver is too old: it supports CUDA up to {major}.{minor // 10}, but this onnxruntime "
        f'needs CUDA {needed}; install a newer driver, or use device="cpu" on this machine'
    )


def error_of(error: BaseException, action: str, device: str, rows: int) -> CharRNNError:
    """Convert an exception of onnxruntime, or a MemoryError.

    Args:
        error: the exception.
        action: what failed, such as "run a step of the model".
        device: the device.
        rows: the number of concurrent streams.
    """
    if isinstance(error, MemoryError) or _is_out_of_memory(str(error)):
        _release_memory(error)
        fewer = "lower max_batch_size" if rows > 1 else "close other programs"
        streams = "one stream" if rows == 1 else f"{rows:,} streams"
        return OutOfMemoryError(
            f"out of memory on {device} in a batch of {streams}: {fewer}, or use a smaller model",
            "max_batch_size",
        )
    return CharRNNError(f"onnxruntime cannot {action}: {reason_of(error)}")


def _is_out_of_memory(said: str) -> bool:
    """Whether a message reports too little memory, for which onnxruntime has no exception type."""
    # Search the whole message, but ignore source locations such as cuda_allocator.cc.
    reasons: list[str] = _CUDA_REASON.findall(said)
    said = " ".join(reasons) or re.sub(r"\S+\.(?:cc|cu|h)\b", "", said)
    return _TOO_LITTLE_MEMORY.search(said) is not None


def _release_memory(error: BaseException | None) -> None:
    """Free memory that the traceback of an error keeps alive through local variables."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def reason_of(error: BaseException) -> str:
    """The message of an error as one line of limited length.

    For errors of CUDA's libraries, only the reason: onnxruntime surrounds it with hundreds of characters of
    source locations and machine details.
    """
    said = str(error).strip()
    reason = _CUDA_REASON.search(said)
    if reason is not None:
        said = reason[1]
    return one_line((said.splitlines() or [type(error).__name__])[0], most=300)
