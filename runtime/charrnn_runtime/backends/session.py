"""Creates and caches onnxruntime sessions and the buffers bound to them.

A session plans its memory for the first shape that it runs, so each number of rows has its own session. The
sampler of the file takes a third of the time of an int8 step with one stream. Therefore a cheaper sampler is
used if it suffices for all streams of a batch, and none if a text is only read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import choice, switch, whole_number_from
from charrnn_runtime.backends.buffers import BLOCK, SETTING_TYPES, Buffers, Sizes, run_options
from charrnn_runtime.backends.cuda_buffers import CudaBuffers, GraphBuffers
from charrnn_runtime.backends.cuda_turns import turns
from charrnn_runtime.backends.device import (
    CUDA_PROVIDER,
    FORKED_FROM_CUDA,
    choose_device,
    error_of,
    ort,
    reason_of,
    usable_cores,
)
from charrnn_runtime.backends.webgpu import FORKED_FROM_WEBGPU, choose_webgpu, new_session, turn
from charrnn_runtime.backends.webgpu_buffers import WebGpuBuffers
from charrnn_runtime.errors import DeviceError, ModelFormatError
from charrnn_runtime.forks import keep_forever, making, renew_after_fork
from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import keep_outputs, separate_tensors
from charrnn_runtime.format.reader import ModelFile
from charrnn_runtime.graph.cpu_graph import StatePart, cpu_graph
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.graph.sampler_variants import with_sampler
from charrnn_runtime.graph.separate_gates import separate_gates
from charrnn_runtime.sampling import Sampling

_KEPT_SESSIONS: Final = 8

_NEAR: Final = 1e-3
_NEAR_FP16: Final = 0.05
"""The tolerance of a trial step's logits and states on a GPU, relative to the largest value on the CPU.
Summation order causes differences 1,000 times smaller; a kernel that does not run causes arbitrary ones."""

_SEPARATE_GATES: Final = 32
"""The number of rows from which int8 products are computed per gate: 4 to 9 % faster at 64 (measured)."""


class Engine:
    """A model on a device. Threads can share it: each borrows its own buffers.

    Attributes:
        info: the model's metadata.
        file: the model.
        options: the requested device, threads and CUDA graphs.
        threads: the number of threads that run streams on the CPU.
        device: the device in use: "cpu", "cuda" or "webgpu".
        device_note: why "auto" chose the CPU although a CUDA build of onnxruntime is installed; otherwise "".
    """

    def __init__(
        self,
        model: ModelFile,
        device: str = "auto",
        threads: int | None = None,
        *,
        cuda_graphs: bool = False,
    ) -> None:
        """Prepare the model for a device, and run a trial step of two streams.

        Args:
            model: a validated model.
            device: "auto" (CUDA if it can run this model, otherwise the CPU), "cpu", "cuda" or "webgpu".
            threads: the number of threads that run streams on the CPU, if there are enough streams; None for
                the number of cores available to the process.
            cuda_graphs: on CUDA, capture each step once and replay it. Off by default, since it has not been
                measured where this is faster.

        Raises:
            SettingError: the device or the number of threads is invalid.
            DeviceError: CUDA or WebGPU was requested but cannot be used.
            ModelFormatError: the graph does not run, or gives invalid results.
        """
        self.threads = (
            usable_cores() if threads is None else whole_number_from("threads", threads, 1, spec.MAX_THREADS)
        )
        self.info = model.info
        self.file = model
        self.options = {"device": device, "threads": threads, "cuda_graphs": cuda_graphs}
        self._cuda_graphs = switch("cuda_graphs", cuda_graphs)
        self._file = model.onnx_bytes
        # By sampler, and whether gates are computed separately; without large tensors.
        self._graphs: dict[tuple[Cuts | None, bool], bytes] = {}
        self._parts: tuple[StatePart, ...] = ()  # the parts of the state in graphs for the CPU
        # Reentrant: Python may garbage collect a generator that returns its buffers while it is held.
        self._lock = threading.RLock()
        self._sessions: dict[tuple[int, Cuts | None], Any] = {}  # by rows and sampler
        self._free: dict[Sizes, list[Buffers]] = {}
        self._in_use: set[Buffers] = set()
        self._device_is_the_parents = False
        choice("device", device, spec.DEVICES)
        expected = self._try_one_step()
        choose, gpu = (choose_webgpu, "webgpu") if device == "webgpu" else (choose_device, "cuda")
        self.device, self.device_note = choose(
            device, self.info.precision, partial(self._start_gpu, gpu), partial(self._difference, expected)
        )
        renew_after_fork(self)  # only when fully constructed

    def _after_fork(self) -> None:
        """In a forked child, recreate sessions on first use."""
        keep_forever((self._sessions, self._free))
        self._lock = threading.RLock()
        self._sessions, self._free = {}, {}
        self._device_is_the_parents = self.device != "cpu"
        for buffers in self._in_use:
            if not buffers.is_released:
                buffers.after_fork(partial(self._session, *buffers.sizes.key))

    @contextlib.contextmanager
    def buffers(
        self, rows: int, *, steps: int = BLOCK, sampler: Cuts | None = "any", keeps_logits: bool = False
    ) -> Iterator[Buffers]:
        """Borrow buffers of exactly these `Sizes`; their contents are undefined.

        Args:
            rows: the number of streams.
            steps: the maximum number of steps per run.
            sampler: the settings that the graph samples with; None to only read. "any" is the file's graph.
            keeps_logits: whether to keep the logits of every step.

        Raises:
            OutOfMemoryError: too little memory for this many rows, here or in the block under ``with``.
        """
        sizes = Sizes(
            rows=rows,
            state_size=self.info.state_size,
            vocabulary_size=len(self.info.vocabulary),
            steps=steps,
            sampler=sampler,
            keeps_logits=keeps_logits,
        )
        key = sizes.key
        buffers: Buffers | None = None
        try:
            with self._lock:
                free = self._free.get(sizes)
                buffers = free.pop() if free else None
                if buffers is not None:
                    self._sessions[key] = self._sessions.pop(key)  # most recently used last
            if buffers is None:
                buffers = self._new_buffers(sizes)
            self._in_use.add(buffers)
            yield buffers
        except MemoryError as error:
            if buffers is not None:
                buffers.release()
            raise error_of(error, "", self.device, sizes.rows) from error
        finally:
            with self._lock:
                if buffers is not None:
                    self._in_use.discard(buffers)
                if buffers is None or buffers.is_released:
                    # Out of memory: free the cached buffers, too.
                    self._sessions.pop(key, None)
                    self._free = {each: kept for each, kept in self._free.items() if each.key != key}
                elif key in self._sessions:
                    # Buffers whose session was evicted are not cached.
                    self._free.setdefault(sizes, []).append(buffers)

    def _new_buffers(self, sizes: Sizes) -> Buffers:
        webgpu = self.device == "webgpu"
        if self._device_is_the_parents:
            raise DeviceError(FORKED_FROM_WEBGPU if webgpu else FORKED_FROM_CUDA, "device")
        with turn() if webgpu else contextlib.nullcontext():
            return self._make_buffers(sizes)

    def _make_buffers(self, sizes: Sizes) -> Buffers:
        session = None
        try:
            if self.device == "cuda":
                # Take the turn before the engine's lock, which a thread that has the turn may need briefly:
                # to return the buffers of a generator that Python garbage collects there.
                with turns.shared():
                    session = self._session(sizes.rows, sizes.sampler)
                return (GraphBuffers if self._cuda_graphs else CudaBuffers)(session, sizes)
            session = self._session(sizes.rows, sizes.sampler)
            if self.device == "webgpu":
                return WebGpuBuffers(session, sizes)
            return Buffers(session, sizes, self._parts)
        except Exception as error:
            session = None  # frees its memory, even if the error is kept
            raise error_of(error, "create a session", self.device, sizes.rows) from error

    def sampler(self, wanted: Cuts | None) -> Cuts | None:
        """The sampler to run for a requested one: the same, unless it does not pay on this device."""
        # GPUs cannot run the greedy one; on the CPU, other samplers also rank only the symbols needed.
        return "any" if wanted == ("few" if self.device == "cpu" else "greedy") else wanted

    def _session(self, rows: int, sampler: Cuts | None) -> Any:
        with self._lock:
            session = self._sessions.pop((rows, sampler), None)
            if session is None:
                session = self._create_session(self.device, self._graph(rows, sampler))
            self._sessions[rows, sampler] = session  # most recently used last
            while len(self._sessions) > _KEPT_SESSIONS:
                oldest = next(iter(self._sessions))
                del self._sessions[oldest]
                self._free = {each: kept for each, kept in self._free.items() if each.key != oldest}
            return session

    def _create_session(self, device: str, graph: bytes, *, optimize: bool = True) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # parallel batches pay more than parallel operators
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised as exceptions; stderr belongs to the command
        options.enable_mem_reuse = False  # measured: 4 to 6 % faster at one stream
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if device == "webgpu":
            return new_session(graph, options)
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            # TF32 would round the operands of products to 10 bits.
            settings = {"use_tf32": "0", "enable_cuda_graph": "1" if self._cuda_graphs else "0"}
            # A single node on the CPU would copy states back and forth for every character; disallow it. The
            # CPU provider must not be listed then: onnxruntime rejects that as a contradiction.
            providers = [(CUDA_PROVIDER, settings)]
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # With its fallback, onnxruntime would use the CPU if CUDA fails, and print this to stdout.
        with making(), turns.shared() if device == "cuda" else contextlib.nullcontext():
            return ort.InferenceSession(
                graph, sess_options=options, providers=providers, enable_fallback=False
            )

    def _graph(self, rows: int, sampler: Cuts | None) -> bytes:
        """The file's graph as the device runs it for this many rows, with a sampler or without."""
        on_cpu = self.device == "cpu"
        apart = on_cpu and self.info.precision == "int8" and rows >= _SEPARATE_GATES
        small, large, names = self._separate_gates if apart else self._separate
        key = sampler, apart
        if key not in self._graphs:
            if on_cpu:
                layout = self.info.state_layout
                self._graphs[key], self._parts = cpu_graph(small, names, layout, sampler)
            elif sampler is None:
                self._graphs[key] = keep_outputs(small, ("logits", "next_state"))
            else:
                self._graphs[key] = small if sampler == "any" else with_sampler(small, names, sampler)
        return b"".join((self._graphs[key], *large))

    @cached_property
    def _separate(self) -> tuple[bytes, list[bytes | memoryview], list[str]]:
        return separate_tensors(self._file)

    @cached_property
    def _separate_gates(self) -> tuple[bytes, list[bytes | memoryview], list[str]]:
        return separate_tensors(separate_gates(self._file))

    def _try_one_step(self) -> list[NDArray[Any]]:
        """Run two streams for a step on the CPU: the graph must run, with finite logits and tokens in range.

        Returns:
            Logits, tokens and states.

        Raises:
            ModelFormatError: the graph does not run, or its results are invalid.
        """
        path = self.info.path
        try:
            # Use a separate session, since the first shape determines a session's memory plan.
            outputs = self._trial_step(self._create_session("cpu", self._file, optimize=False))
        except Exception as error:
            raise ModelFormatError(
                f"{path} is not a valid charrnn model: onnxruntime reports {reason_of(error)}"
            ) from error
        wrong = self._defect(outputs)
        if wrong:
            raise ModelFormatError(f"{path} is not a valid charrnn model: a trial step {wrong}")
        return outputs

    def _trial_step(self, session: Any) -> list[NDArray[Any]]:
        """The logits, tokens and states of two streams after a step."""
        info, rows = self.info, 2
        feeds: dict[str, NDArray[Any]] = {
            "token": np.array([info.start_token, len(info.vocabulary) - 1], np.int64),
            # Not zeros, so that every product counts.
            "state": np.linspace(-1, 1, rows * info.state_size, dtype=np.float32).reshape(rows, -1),
            "uniform": np.array([0.0, 1.0 - 2.0**-24], np.float32),
        }
        for name, value in Sampling(1.0).inputs(info.top_k_max).items():
            feeds[name] = np.full(rows, value, SETTING_TYPES[name])
        feeds["top_k"][0] = 1  # greedy for the first stream, where all devices agree
        outputs: list[NDArray[Any]] = session.run(
            [each.name for each in spec.OUTPUTS], feeds, run_options(-1)
        )
        return outputs

    def _defect(self, outputs: list[NDArray[Any]]) -> str | None:
        """What is wrong with the outputs of a trial step, whatever the weights; None if nothing."""
        logits, tokens, state = outputs
        rows, symbols = 2, len(self.info.vocabulary)
        if logits.shape != (rows, symbols) or state.shape != (rows, self.info.state_size):
            return "gave outputs of the wrong shape"
        if not (np.isfinite(logits).all() and np.isfinite(state).all()):
            return "gave logits or states that are not finite"
        if not ((tokens >= 0) & (tokens < symbols)).all():
            return f"gave the tokens {tokens.tolist()}, which are not in the vocabulary"
        return None

    def _start_gpu(self, gpu: str) -> Any:
        with turns.shared():
            return self._create_session(gpu, self._file)

    def _difference(self, expected: list[NDArray[Any]], session: Any) -> str | None:
        """How a trial step on a GPU differs from the result ``expected`` of the CPU; None if it does not."""
        with turns.shared():
            outputs = self._trial_step(session)
        wrong = self._defect(outputs)
        if wrong:
            return f"{wrong}, on this GPU"
        near = _NEAR if self.info.precision == "fp32" else _NEAR_FP16
        for name, cpu, gpu in zip(("logits", "", "states"), expected, outputs, strict=True):
            scale = max(1.0, float(np.abs(cpu).max()))
            apart = float(np.abs(cpu - gpu).max())
            if name and apart > near * scale:
                return f"gave {name} on this GPU that differ by {apart:.2g} from the CPU's"
        logits, token = outputs[0][0], int(outputs[1][0])
        if logits[token] < logits.max() - near * max(1.0, float(np.abs(logits).max())):
            return f"took the symbol {token} on this GPU where {int(logits.argmax())} is the most likely"
        return None


def width(streams: int) -> int:
    """The number of rows for some streams: exact up to 16, then with at most an eighth idle, so that few
    sizes are needed.
    """
    if streams <= 16:
        return streams
    step = 1 << (streams.bit_length() - 4)
    return -(-streams // step) * step
