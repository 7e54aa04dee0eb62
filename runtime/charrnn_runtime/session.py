"""Runs step graphs with onnxruntime: devices, sessions, bound buffers. The only module that imports it.

Two facts of onnxruntime shape this module. A call costs 1.4 us when all inputs and outputs are bound
beforehand, and 6 us or more otherwise; so a `Lane` binds a whole block of steps once, each step reading the
token that the step before it wrote. And a session plans its memory for the first shape that it runs; so each
number of rows has a session of its own. Where a text is only read, the graph runs without its sampler, which
takes a third of the time of an int8 step of one stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.errors import (
    CharRNNError,
    DeviceError,
    ModelFormatError,
    OutOfMemoryError,
    SettingError,
)
from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import keep_outputs
from charrnn_runtime.format.reader import ModelFile, one_line
from charrnn_runtime.sampling import whole_number

# From 1.29 on, onnxruntime's builds for Linux and macOS, too, report processes and sessions to their maker,
# and keep a database for it in the home folder. This stops all of it if it is set before the import, and
# `disable_telemetry_events` what there is on Windows. A value that the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

DEVICES: Final = ("auto", "cpu", "cuda")
BLOCK: Final = 32
"""How many steps a lane binds: the most that run without Python in between. Even, so that a whole block ends
in the state buffer in which it began."""

_CUDA_PROVIDER: Final = "CUDAExecutionProvider"
_KEPT_SESSIONS: Final = 8
_CUDA_ALIGNMENT: Final = 256
_CUDA_BUILD: Final = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
_CUDA_INSTALL: Final = f"{_CUDA_BUILD}, and a recent NVIDIA driver (CUDA 13)"

_PRELOADING: Final = threading.Lock()

ort.disable_telemetry_events()
ort.set_default_logger_severity(4)  # what it says beside its sessions: stderr is the command's


class Engine:
    """A model on a device. Threads may share it: each takes lanes of its own.

    Attributes:
        info: what the model says of itself.
        threads: how many threads share one step on the CPU.
        device: "cpu" or "cuda", what really runs.
        device_note: why "auto" took the CPU although a CUDA build of onnxruntime is there; else "".
    """

    def __init__(
        self, model: ModelFile, device: str = "auto", threads: int = 1, *, cuda_graphs: bool = False
    ) -> None:
        """Make the model ready on a device, and try one step of two streams.

        Args:
            model: a checked model.
            device: "auto" (CUDA where it can run this model, else the CPU), "cpu" or "cuda".
            threads: how many threads share the work of one step on the CPU.
            cuda_graphs: on CUDA, capture each step once and replay it. Off unless asked for, since nobody has
                measured yet where it is faster.

        Raises:
            SettingError: the device or the number of threads makes no sense.
            DeviceError: CUDA was asked for and cannot be used.
            ModelFormatError: the graph does not run, or gives nonsense.
        """
        if device not in DEVICES:
            raise SettingError(f"device must be auto, cpu or cuda, not {device!r}")
        threads = whole_number("threads", threads)
        if not 1 <= threads <= 1024:
            raise SettingError(f"threads must be between 1 and 1024, not {threads}")
        self.info = model.info
        self._cuda_graphs = cuda_graphs
        self._bytes = model.onnx_bytes
        self.threads = threads
        # Reentrant: while it is held, Python may collect a generator that gives its lane back.
        self._lock = threading.RLock()
        self._sessions: dict[tuple[int, bool], Any] = {}  # by rows, and whether they sample
        self._lanes: dict[tuple[int, bool, int], list[Lane]] = {}  # by their session's key, and kept logits
        self.device, self.device_note = self._choose_device(device)
        self._try_one_step()

    @contextlib.contextmanager
    def lane(self, rows: int, *, logits: int = 0, sample: bool = True) -> Iterator[Lane]:
        """Borrow a lane of exactly ``rows`` rows; its buffers hold whatever the last user left.

        Args:
            rows: the number of streams; `width` says which are best asked for.
            logits: for a lane whose every token is given: how many steps it can run at once, all of whose
                logits it keeps.
            sample: whether it samples; only a lane that keeps logits can do without.

        Raises:
            TooManyRows: memory is too little for so many rows, here or in the block under ``with``.
        """
        key = (rows, sample, logits)
        lane: Lane | None = None
        try:
            with self._lock:
                free = self._lanes.get(key)
                lane = free.pop() if free else None
                if lane is not None:
                    self._sessions[rows, sample] = self._sessions.pop((rows, sample))  # the newest last
            if lane is None:
                lane = self._new_lane(rows, logits, sample)
            yield lane
        except MemoryError:
            if lane is not None:
                lane.release()
                lane = None
            raise TooManyRows(rows) from None
        finally:
            with self._lock:
                # A lane outlives its session's place in the cache only as long as it is in use.
                if lane is not None and (rows, sample) in self._sessions:
                    self._lanes.setdefault(key, []).append(lane)

    def _new_lane(self, rows: int, logits: int, sample: bool) -> Lane:
        sizes = (self.info.state_size, len(self.info.vocabulary), rows, logits, sample)
        try:
            session = self._session(rows, sample)
            if self.device == "cuda":
                return CudaLane(session, *sizes, graphs=self._cuda_graphs)
            return Lane(session, *sizes)
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError from error
            raise CharRNNError(f"onnxruntime cannot make a session: {_first_line(error)}") from error

    def out_of_memory_reading(self, rows: int) -> OutOfMemoryError:
        """The error for texts that could not be read for want of memory."""
        texts = "a text" if rows == 1 else f"{rows:,} texts at once"
        return OutOfMemoryError(
            f"out of memory on {self.device} while reading {texts}: close other programs, or use a "
            "smaller model"
        )

    def out_of_memory(self, rows: int) -> OutOfMemoryError:
        """The error for a batch that did not fit, naming one that does: it is tried here.

        Whoever calls this has let go of the batch before.
        """
        with self._lock:  # what is kept for next time takes memory, too
            self._sessions.clear()
            self._lanes.clear()
        fitting = rows // 2
        while fitting and not self._fits(fitting):
            fitting //= 2
        fits = f"{fitting:,} would fit" if fitting else "not even one would fit"
        return OutOfMemoryError(
            f"out of memory on {self.device} with {rows:,} streams at once; {fits}: run fewer at once "
            "(--batch; rows in Python), or use a smaller model"
        )

    def _fits(self, rows: int) -> bool:
        """Whether so many streams can run: lets them, with what their caller holds of them beside it."""
        try:
            # Streams that wait or end hold states, too; from its second run on, a session plans its memory.
            held = np.ones((4, rows, self.info.state_size), np.float32)
            self._new_lane(width(rows), 0, sample=True).run(4)
        except (MemoryError, CharRNNError):
            return False
        else:
            return held is not None
        finally:
            with self._lock:
                self._sessions.pop((width(rows), True), None)

    def _session(self, rows: int, sample: bool) -> Any:
        with self._lock:
            session = self._sessions.pop((rows, sample), None)
            if session is None:
                session = self._create_session(self.device, sample=sample)
            self._sessions[rows, sample] = session  # the newest last
            while len(self._sessions) > _KEPT_SESSIONS:
                oldest = next(iter(self._sessions))
                del self._sessions[oldest]
                for key in [key for key in list(self._lanes) if key[:2] == oldest]:
                    del self._lanes[key]
            return session

    def _create_session(self, device: str, *, sample: bool = True, optimize: bool = True) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong comes as an exception; stderr is the command's
        options.enable_mem_reuse = False  # measured: 4 to 6 % faster at one stream
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            # TF32 would round the products' operands to 10 bits.
            settings = {"use_tf32": "0", "enable_cuda_graph": "1" if self._cuda_graphs else "0"}
            # One node on the CPU would copy states back and forth at every character: rather none at all. The
            # CPU's provider must not be named then: onnxruntime calls that a contradiction.
            providers = [(_CUDA_PROVIDER, settings)]
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        graph = self._bytes if sample else self._reading_bytes
        # With its fallback, onnxruntime would take the CPU where CUDA fails, and say so on stdout.
        return ort.InferenceSession(graph, sess_options=options, providers=providers, enable_fallback=False)

    @functools.cached_property
    def _reading_bytes(self) -> bytes:
        """The graph without its sampler."""
        return keep_outputs(self._bytes, ("logits", "next_state"))

    def _choose_device(self, device: str) -> tuple[str, str]:
        """The device that runs, and a note on why it is not CUDA where that might be expected."""
        if device == "cpu":
            return "cpu", ""
        if self.info.precision == "int8":
            if device == "cuda":
                raise DeviceError(
                    "this model is int8, which is for the CPU; use --device cpu, or export it with "
                    "--precision fp32 or fp16 for the GPU"
                )
            return "cpu", ""
        if device == "auto" and _driver_problem():
            return "cpu", ""  # nobody expects CUDA there, and why it is missing would take 18 ms to say
        missing = cuda_missing()
        if missing is None:
            missing = self._cuda_refusal()
        if missing is None:
            return "cuda", ""
        if device == "cuda":
            raise DeviceError(f"--device cuda cannot be used: {missing}")
        return "cpu", missing

    def _cuda_refusal(self) -> str | None:
        """Why a session on CUDA cannot be had; None if it can."""
        missing: list[str] = []
        try:
            missing = _preload_cuda()
            session = self._create_session("cuda")
        except Exception as error:
            # Without its libraries CUDA is left out in silence, so that all nodes would go to the CPU.
            if not missing or "default CPU EP" not in str(error):
                return (
                    f"onnxruntime cannot start CUDA ({_first_line(error)}); install it with {_CUDA_INSTALL}"
                )
        else:
            if session.get_providers()[0] == _CUDA_PROVIDER:
                return None
        named = f" ({one_line(', '.join(missing), most=100)})" if missing else ""
        return (
            f"onnxruntime left CUDA out for want of its libraries{named}; install them with {_CUDA_INSTALL}"
        )

    def _try_one_step(self) -> None:
        """Run two streams for one step: the graph must run, with finite logits and tokens in range.

        Raises:
            ModelFormatError: it does not.
        """
        # A session of its own, since the first shape that a session sees decides how it plans its memory.
        info, rows = self.info, 2
        feeds = {
            "token": np.array([info.start_token, len(info.vocabulary) - 1], np.int64),
            "state": np.zeros((rows, info.state_size), np.float32),
            "uniform": np.array([0.0, 1.0 - 2.0**-24], np.float32),
            "temperature": np.ones(rows, np.float32),
            "top_k": np.full(rows, info.top_k_max, np.int64),
            "top_p": np.ones(rows, np.float32),
        }
        try:
            session = self._create_session("cpu", optimize=False)
            logits, tokens, state = session.run([each.name for each in spec.OUTPUTS], feeds)
        except Exception as error:
            raise ModelFormatError(
                f"{info.path} is not a charrnn model that can be run: onnxruntime says {_first_line(error)}"
            ) from error
        wrong = None
        if logits.shape != (rows, len(info.vocabulary)) or state.shape != (rows, info.state_size):
            wrong = "gave outputs of the wrong shape"
        elif not (np.isfinite(logits).all() and np.isfinite(state).all()):
            wrong = "gave logits or states that are not finite"
        elif not ((tokens >= 0) & (tokens < len(info.vocabulary))).all():
            wrong = f"gave the tokens {tokens.tolist()}, which are not in the vocabulary"
        if wrong:
            raise ModelFormatError(
                f"{info.path} is not a charrnn model that can be run: a trial step {wrong}"
            )


class TooManyRows(MemoryError):
    """A lane of so many rows does not fit into memory. It never reaches a caller of the package."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"{rows:,} rows")
        self.rows = rows


class Lane:
    """Buffers for some rows, bound to a block of steps: step i reads ``tokens[i]``, writes ``tokens[i+1]``.

    The caller fills ``tokens[0]``, ``uniforms`` and the settings, and writes states with `write_state`; `run`
    fills ``tokens[1:]``. In a lane that keeps logits the caller fills all of ``tokens``, and what is sampled
    goes to ``sampled`` instead; one that does not sample needs neither uniforms nor settings. On the CPU
    these arrays are the very memory that onnxruntime reads and writes.

    Attributes:
        rows: R, the number of streams.
        steps: N, how many it can run at once: BLOCK, or as many as it keeps logits of.
        samples: whether it samples.
        tokens: int64 ``[N + 1, R]``.
        sampled: int64 ``[N, R]``, what step i samples: ``tokens[1:]`` itself, but where logits are kept.
        uniforms: float32 ``[N, R]``.
        temperature: float32 ``[R]``.
        top_k: int64 ``[R]``.
        top_p: float32 ``[R]``.
        logits: float32 ``[N, R, V]`` where they are kept, else of length 0.
    """

    def __init__(
        self, session: Any, state_size: int, vocabulary_size: int, rows: int, logits: int, sample: bool
    ) -> None:
        self.rows = rows
        self.samples = sample
        self.steps = steps = logits or BLOCK
        self.tokens = np.zeros((steps + 1, rows), np.int64)
        self.sampled = np.zeros((steps, rows), np.int64) if logits else self.tokens[1:]
        self.uniforms = np.zeros((steps, rows), np.float32)
        self.temperature = np.ones(rows, np.float32)
        self.top_k = np.ones(rows, np.int64)
        self.top_p = np.ones(rows, np.float32)
        self.logits = np.zeros((logits, rows, vocabulary_size), np.float32)
        self._current = 0  # which of the two state buffers holds the streams' states
        self._session = session
        self._run_bound = session._sess.run_with_iobinding
        self._options = _run_options()
        # For each state buffer that slot 0 may read: the slots' bindings, and the options each runs with.
        self._bound: tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]] = ([], [])
        self._allocate(state_size)

    def _allocate(self, state_size: int) -> None:
        self._states = [np.zeros((self.rows, state_size), np.float32) for _ in range(2)]

    def release(self) -> None:
        """Let go of all memory; the lane is of no use any more, whoever still holds it."""
        self.__dict__.clear()

    def write_state(self, rows: Any, states: NDArray[np.float32]) -> None:
        """Set the states of some rows (an index, a slice or an array of indices)."""
        self._states[self._current][rows] = states

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        """A copy of the states of some rows."""
        states: NDArray[np.float32] = self._states[self._current][rows]
        return states.copy()

    def run(
        self,
        steps: int,
        given: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]] | None = None,
        stop_token: int | None = None,
    ) -> int:
        """Run some steps on all rows.

        Args:
            steps: how many, at most `BLOCK`.
            given: for a slot of ``tokens`` from 1 on, the rows whose token is given rather than sampled, and
                those tokens.
            stop_token: end early, after the first step in which some row samples this token.

        Returns:
            How many steps were run. ``sampled[:steps]`` is what they wrote.
        """
        if not given and stop_token is None:
            self._run_straight(steps)
            return steps
        tokens = self.tokens
        for slot in range(steps):
            self._run_straight(slot + 1, first=slot)
            if given and slot + 1 in given:
                rows, values = given[slot + 1]
                tokens[slot + 1][rows] = values
            if stop_token is not None and (tokens[slot + 1] == stop_token).any():
                return slot + 1
        return steps

    def _run_straight(self, end: int, first: int = 0) -> None:
        """Run the steps from slot ``first`` to before ``end`` with nothing in between: the hot loop."""
        start = self._current ^ (first & 1)  # the buffer that slot 0 would read
        bound = self._bound[start]
        while len(bound) < end:
            bound.append(self._bind(len(bound), start ^ (len(bound) & 1)))
        run_bound = self._run_bound
        try:
            for binding, options in bound[first:end]:
                run_bound(binding, options)
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError from error
            raise _cannot_run(error) from error
        self._current ^= (end - first) & 1

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        """Bind the buffers of a slot that reads one of the two state buffers and writes the other."""
        binding = self._session.io_binding()
        inputs = {"token": self.tokens[slot], "state": self._states[reads]}
        outputs = {"next_state": self._states[1 - reads]}
        if self.samples:
            inputs["uniform"] = self.uniforms[slot]
            inputs |= {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
            outputs["next_token"] = self.sampled[slot]
        if len(self.logits):
            outputs["logits"] = self.logits[slot]
        for bind, buffers in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in buffers.items():
                bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return binding._iobinding, self._options


class CudaLane(Lane):
    """A lane whose states, tokens and sampling stay on the GPU; tokens come back a block at a time.

    Each step reads one state buffer and writes the other, so that a step may be run again before it counts,
    as capturing a CUDA graph does.
    """

    device = "cuda"

    def __init__(
        self,
        session: Any,
        state_size: int,
        vocabulary_size: int,
        rows: int,
        logits: int,
        sample: bool,
        *,
        graphs: bool = False,
    ) -> None:
        self._graphs = graphs
        super().__init__(session, state_size, vocabulary_size, rows, logits, sample)

    def _allocate(self, state_size: int) -> None:
        def on_device(shape: list[int], kind: Any) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, self.device, 0)

        rows = self.rows
        # Each slot begins at an aligned address, as kernels that load several numbers at once expect.
        self._uniform_stride = -(-rows * 4 // _CUDA_ALIGNMENT) * _CUDA_ALIGNMENT // 4
        self._device_states = [on_device([rows, state_size], np.float32) for _ in range(2)]
        self._device_tokens = [on_device([rows], np.int64) for _ in range(self.steps + 1)]
        self._device_sampled = self._device_tokens[1:]
        if len(self.logits):
            self._device_sampled = [on_device([rows], np.int64) for _ in range(self.steps)]
        self._device_uniforms = on_device([self.steps, self._uniform_stride], np.float32)
        self._device_settings = {
            name: on_device([rows], kind)
            for name, kind in (("temperature", np.float32), ("top_k", np.int64), ("top_p", np.float32))
        }
        self._device_logits = [on_device(list(self.logits.shape[1:]), np.float32) for _ in self.logits]
        self._staged_uniforms = np.zeros((self.steps, self._uniform_stride), np.float32)
        for value in self._device_states:
            value.update_inplace(np.zeros((rows, state_size), np.float32))

    def write_state(self, rows: Any, states: NDArray[np.float32]) -> None:
        held = self._device_states[self._current]
        everything = np.ascontiguousarray(held.numpy())
        everything[rows] = states
        held.update_inplace(everything)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        states: NDArray[np.float32] = self._device_states[self._current].numpy()[rows]
        return states.copy()

    def run(
        self,
        steps: int,
        given: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]] | None = None,
        stop_token: int | None = None,
    ) -> int:
        given = given or {}
        if self.samples:
            for name, value in self._device_settings.items():
                value.update_inplace(getattr(self, name))
            self._staged_uniforms[:, : self.rows] = self.uniforms
            self._device_uniforms.update_inplace(self._staged_uniforms)
        for slot in range(steps if len(self.logits) else 1):
            self._device_tokens[slot].update_inplace(np.ascontiguousarray(self.tokens[slot]))
        done = 0 if given or stop_token is not None else steps
        self._run_straight(done)
        for slot in range(done, steps):
            done = slot + 1
            self._run_straight(done, first=slot)
            if done in given or stop_token is not None:
                sampled = self._device_tokens[done].numpy()
                if done in given:
                    rows, values = given[done]
                    sampled[rows] = values
                    self._device_tokens[done].update_inplace(sampled)
                if stop_token is not None and (sampled == stop_token).any():
                    break
        for slot in range(done if self.samples else 0):
            self.sampled[slot] = self._device_sampled[slot].numpy()
        for slot in range(min(done, len(self.logits))):
            self.logits[slot] = self._device_logits[slot].numpy()
        return done

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("token", self._device_tokens[slot])
        binding.bind_ortvalue_input("state", self._device_states[reads])
        if self.samples:
            address = self._device_uniforms.data_ptr() + slot * self._uniform_stride * 4
            binding.bind_input("uniform", self.device, 0, np.float32, [self.rows], address)
            for name, value in self._device_settings.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("next_token", self._device_sampled[slot])
        binding.bind_ortvalue_output("next_state", self._device_states[1 - reads])
        if len(self.logits):
            binding.bind_ortvalue_output("logits", self._device_logits[slot])
        # A captured graph has its addresses built in, so each binding has one of its own.
        options = _run_options(next(_graph_ids)) if self._graphs else self._options
        return binding._iobinding, options


_graph_ids = itertools.count(1)
"""Numbers for CUDA graphs, each used once in the process."""


def _run_options(graph: int | None = None) -> Any:
    options = ort.RunOptions()
    options.log_severity_level = 4
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def width(streams: int) -> int:
    """The rows of the lane for some streams: exact up to 16, then with at most an eighth idle, so that few
    sizes are needed.
    """
    if streams <= 16:
        return streams
    step = 1 << (streams.bit_length() - 4)
    return -(-streams // step) * step


def cuda_missing() -> str | None:
    """What stands in the way of running on CUDA on this machine; None if nothing does."""
    if _CUDA_PROVIDER not in ort.get_available_providers():
        if {"onnxruntime", "onnxruntime-gpu"} <= _installed_builds():
            return (
                "onnxruntime and onnxruntime-gpu are both installed, and the first hides the second; repair "
                f"it with: pip uninstall -y onnxruntime onnxruntime-gpu && {_CUDA_BUILD}"
            )
        # Beside the plain build, the other one would be hidden.
        return (
            "this onnxruntime is a build without CUDA; replace it with: pip uninstall -y onnxruntime && "
            f"{_CUDA_INSTALL}"
        )
    return _driver_problem()


def _preload_cuda() -> list[str]:
    """Load CUDA's libraries from where pip or the system put them; gives the names of those missing."""
    said: list[str] = []
    with _PRELOADING:
        # It prints what it misses. stdout is the product of a command, and other threads may be writing to
        # it, so it is not redirected: onnxruntime gets a print of its own meanwhile.
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


def _driver_problem() -> str | None:
    """Asks the NVIDIA driver itself, which takes no time where there is none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is installed ({library} is not found); use --device cpu on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU that it can use; use --device cpu on this machine"
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """onnxruntime has no exception of its own for it."""
    said = str(error)  # all of it: the telling words may come late
    return isinstance(error, MemoryError) or any(
        words in said for words in ("allocat", "bad_alloc", "out of memory")
    )


def _cannot_run(error: BaseException) -> CharRNNError:
    return CharRNNError(f"onnxruntime cannot run a step of the model: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0], most=300)
