"""GPUs of any maker, through onnxruntime's WebGPU plugin: its sessions, and why one cannot be had.

The plugin reaches them through Vulkan, Metal or Direct3D 12. All sessions of a process share one device and
its commands, and two threads that use it at once crash (onnxruntime's issue 32561): all use is in turns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from charrnn_runtime.backends.device import FORKED_FROM_CUDA, INT8_IS_FOR_THE_CPU, ort, reason_of
from charrnn_runtime.errors import DeviceError
from charrnn_runtime.forks import keep_for_ever, making, renew_after_fork

WEBGPU_PROVIDER: Final = "WebGpuExecutionProvider"

FORKED_FROM_WEBGPU: Final = FORKED_FROM_CUDA.replace("CUDA", "WebGPU")

_PLUGIN: Final = "onnxruntime-ep-webgpu"
_OLDEST: Final = (1, 31)  # the onnxruntime that takes its values
_OPTIONS: Final = {
    "enableInt64": "1",  # tokens are int64
    "preserveDevice": "1",  # and what was compiled for it, though no session may be left for a moment
}


class _Turns:
    """The right to use WebGPU, which one thread has at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.gone: deque[dict[str, Any]] = deque()  # what nobody needs any more, and is still to be freed
        self.began_in: set[int] = set()  # the processes that use WebGPU, of which a fork inherits all
        renew_after_fork(self)

    def _after_fork(self) -> None:
        """In a forked child, where no one may use or free what the parent has on the GPU."""
        keep_for_ever(self.gone)
        self.lock, self.gone = threading.RLock(), deque()


_turns: Final = _Turns()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """While no other thread uses WebGPU. Whoever needs an engine's lock, too, takes the turn before it."""
    with _turns.lock:
        _turns.gone.clear()
        try:
            yield
        finally:
            _turns.gone.clear()


def free_in_turn(thing: object) -> None:
    """Let what a thing's attributes refer to be freed in turn, too, when nobody needs the thing any more."""
    weakref.finalize(thing, free, vars(thing)).atexit = False


def free(attributes: dict[str, Any]) -> None:
    """Free what some attributes refer to: at once, or when the thread that uses WebGPU just now is through.

    It never waits, since Python may collect something anywhere, whatever locks are held there.
    """
    _turns.gone.append(dict(attributes))
    attributes.clear()
    if _turns.lock.acquire(blocking=False):
        try:
            _turns.gone.clear()
        finally:
            _turns.lock.release()


def new_session(graph: bytes, options: Any) -> Any:
    """A session whose nodes all run through WebGPU.

    Raises:
        DeviceError: there is no GPU for it.
        Exception: what onnxruntime raises where it cannot make one.
    """
    missing = webgpu_missing()
    if missing is not None:
        raise DeviceError(f'device="webgpu" cannot be used: {missing}', "device")
    # One node on the CPU would copy states back and forth at every character: rather none at all.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with turn(), making():
        options.add_provider_for_devices(_devices()[:1], _OPTIONS)  # it takes one, and chooses the GPU itself
        session = ort.InferenceSession(graph, sess_options=options, enable_fallback=False)
    free_in_turn(session)
    return session


def choose_webgpu(
    device: str, precision: str, start: Callable[[], Any], try_step: Callable[[Any], str | None]
) -> tuple[str, str]:
    """The device, "webgpu", and an empty note, if a model runs there; as `device.choose_device` for others.

    Args:
        device: "webgpu".
        precision: the model's.
        start: makes a session of the model there.
        try_step: runs a step in that session; says what is wrong with what came of it, if anything is.

    Raises:
        DeviceError: it does not.
    """
    if precision == "int8":
        raise DeviceError(INT8_IS_FOR_THE_CPU, "device")
    try:
        with turn():
            wrong = try_step(start())
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(f'device="webgpu" cannot be used: {_told_by(error)}', "device") from error
    if wrong is not None:
        raise DeviceError(
            f'device="webgpu" cannot be used: a trial step of this model {wrong}; use device="cpu" on this '
            "machine",
            "device",
        )
    return device, ""


def webgpu_missing() -> str | None:
    """Why this process cannot use WebGPU, as far as that shows before there is a session; None if it can."""
    if _turns.began_in and os.getpid() not in _turns.began_in:
        return FORKED_FROM_WEBGPU
    try:
        import onnxruntime_ep_webgpu as plugin
    except ImportError:
        return (
            f"its plugin is not installed; install it with: pip install {_PLUGIN} (the extra webgpu of "
            "charrnn-runtime)"
        )
    if tuple(map(int, ort.__version__.split(".")[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return f"it needs onnxruntime {oldest} or newer, and this is {ort.__version__}; install a newer one"
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libvulkan.so.1")  # the plugin would only print that it is missing
        except OSError:
            return (
                "the Vulkan loader is not installed (libvulkan.so.1 is not found); install your "
                "distribution's package of it (libvulkan1 on Debian and Ubuntu) and the GPU's Vulkan driver"
            )
    try:
        with turn(), making():
            _register(plugin)
            there = bool(_devices())
    except Exception as error:
        return f"onnxruntime cannot load its plugin ({reason_of(error)}); install a newer {_PLUGIN}"
    return None if there else 'onnxruntime finds no GPU; use device="cpu" on this machine'


def _register(plugin: Any) -> None:
    """Make the plugin known to onnxruntime, once in a process, unless its host has."""
    if os.getpid() in _turns.began_in:
        return
    if not _devices():
        ort.register_execution_provider_library(_PLUGIN, plugin.get_library_path())
    _turns.began_in.add(os.getpid())


def _devices() -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == WEBGPU_PROVIDER]


def _told_by(error: Exception) -> str:
    """Why a session or its first run failed, and what to do."""
    said = str(error)
    if "Failed to get a WebGPU adapter" in said:
        return 'no driver offers a GPU to it; install the GPU\'s driver, or use device="cpu" on this machine'
    if "requires f16" in said:
        return (
            "this GPU or its driver has no 16-bit numbers, which fp16 models need; export the model with "
            'charrnn-export --precision fp32, or use device="cpu"'
        )
    return f'this GPU does not run this model ({reason_of(error)}); use device="cpu" on this machine'
