"""GPUs of any vendor, through onnxruntime's WebGPU plugin.

The plugin uses Vulkan, Metal or Direct3D 12. All sessions of a process share one device and its command
queue, and concurrent use by two threads crashes (onnxruntime's issue 32561), so all use is serialized.
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
from charrnn_runtime.forks import keep_forever, making, renew_after_fork

WEBGPU_PROVIDER: Final = "WebGpuExecutionProvider"

FORKED_FROM_WEBGPU: Final = FORKED_FROM_CUDA.replace("CUDA", "WebGPU")

_PLUGIN: Final = "onnxruntime-ep-webgpu"
_OLDEST: Final = (1, 31)  # the first onnxruntime that accepts its values
_OPTIONS: Final = {
    "enableInt64": "1",  # tokens are int64
    "preserveDevice": "1",  # keeps the device and compiled shaders even while there is no session
}


class _Turns:
    """The right to use WebGPU, held by one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.gone: deque[dict[str, Any]] = deque()  # unused objects that are still to be freed
        self.began_in: set[int] = set()  # the processes that use WebGPU, which forked children inherit
        renew_after_fork(self)

    def _after_fork(self) -> None:
        """In a forked child, which must neither use nor free the parent's GPU objects."""
        keep_forever(self.gone)
        self.lock, self.gone = threading.RLock(), deque()


_turns: Final = _Turns()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Use WebGPU exclusively. Take the turn before an engine's lock if both are needed."""
    with _turns.lock:
        _turns.gone.clear()
        try:
            yield
        finally:
            _turns.gone.clear()


def free_in_turn(thing: object) -> None:
    """Free what an object's attributes refer to in turn, too, when the object is garbage collected."""
    weakref.finalize(thing, free, vars(thing)).atexit = False


def free(attributes: dict[str, Any]) -> None:
    """Free what some attributes refer to: immediately, or after the current turn of another thread.

    It never waits, since garbage collection may happen anywhere, whatever locks are held.
    """
    _turns.gone.append(dict(attributes))
    attributes.clear()
    if _turns.lock.acquire(blocking=False):
        try:
            _turns.gone.clear()
        finally:
            _turns.lock.release()


def new_session(graph: bytes, options: Any) -> Any:
    """Create a session whose nodes all run through WebGPU.

    Raises:
        DeviceError: there is no usable GPU.
        Exception: onnxruntime cannot create the session.
    """
    missing = webgpu_missing()
    if missing is not None:
        raise DeviceError(f'device="webgpu" cannot be used: {missing}', "device")
    # A single node on the CPU would copy states back and forth for every character; disallow it.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with turn(), making():
        options.add_provider_for_devices(_devices()[:1], _OPTIONS)  # takes one device; chooses the GPU itself
        session = ort.InferenceSession(graph, sess_options=options, enable_fallback=False)
    free_in_turn(session)
    return session


def choose_webgpu(
    device: str, precision: str, start: Callable[[], Any], try_step: Callable[[Any], str | None]
) -> tuple[str, str]:
    """Return "webgpu" and an empty note if a model runs there; compare `device.choose_device`.

    Args:
        device: "webgpu".
        precision: the precision of the model.
        start: creates a session of the model there.
        try_step: runs a step in that session; returns what is wrong with the result, if anything.

    Raises:
        DeviceError: the model does not run there.
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
    """Why this process cannot use WebGPU, as far as can be told without a session; None if it can."""
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
        return f"it requires onnxruntime {oldest} or newer, but this is {ort.__version__}; upgrade it"
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libvulkan.so.1")  # otherwise the plugin only prints that it is missing
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
    """Register the plugin with onnxruntime, once per process, unless the program has."""
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
        return 'no driver provides a GPU; install the GPU\'s driver, or use device="cpu" on this machine'
    if "requires f16" in said:
        return (
            "this GPU or its driver does not support 16-bit floats, which fp16 models need; export the model "
            'with charrnn-export --precision fp32, or use device="cpu"'
        )
    return f'this GPU cannot run this model ({reason_of(error)}); use device="cpu" on this machine'
