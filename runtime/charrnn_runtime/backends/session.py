"""Sessions of onnxruntime: makes and keeps them, with the buffers that are bound to them.

A session plans its memory for the first shape that it runs, so each number of rows has a session of its own.
The sampler of the file takes a third of the time of an int8 step of one stream. So the graph runs with one
that does less where that serves all streams of a batch, and without any where a text is only read.
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
from charrnn_runtime.forks import keep_for_ever, making, renew_after_fork
from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import keep_outputs, part_tensors
from charrnn_runtime.format.reader import ModelFile
from charrnn_runtime.graph.cpu_graph import StatePart, cpu_graph
from charrnn_runtime.graph.gates_apart import gates_apart
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.graph.sampler_variants import with_sampler
from charrnn_runtime.sampling import Sampling

_KEPT_SESSIONS: Final = 8

_NEAR: Final = 1e-3
_NEAR_FP16: Final = 0.05
"""How far apart a trial step's logits and states on a GPU and on the CPU may be, as a share of the largest:
what the order of sums changes is 1,000 times less, and a kernel that does not run gives anything."""

_GATES_APART: Final = 32
"""From how many rows on int8 products are computed gate by gate: 4 to 9 % faster at 64 (measured)."""


class Engine:
    """A model on a device. Threads may share it: each takes buffers of its own.

    Attributes:
        info: the model's metadata.
        file: the model.
        asked: device, threads and CUDA graphs, as they were asked for.
        threads: how many threads run streams on the CPU.
        device: "cpu", "cuda" or "webgpu", the device in use.
        device_note: why "auto" took the CPU although a CUDA build of onnxruntime is there; else "".
    """

    def __init__(
        self,
        model: ModelFile,
        device: str = "auto",
        threads: int | None = None,
        *,
        cuda_graphs: bool = False,
    ) -> None:
        """Make the model ready on a device, and try one step of two streams.

        Args:
            model: a checked model.
            device: "auto" (CUDA where it can run this model, else the CPU), "cpu", "cuda" or "webgpu".
            threads: how many threads run streams on the CPU, where there are enough streams for them; None
                for as many as the process may use cores.
            cuda_graphs: on CUDA, capture each step once and replay it. Off unless asked for, since it has
                not been measured where it is faster.

        Raises:
            SettingError: the device or the number of threads is invalid.
            DeviceError: CUDA or WebGPU was asked for and cannot be used.
            ModelFormatError: the graph does not run, or gives nonsense.
        """
        self.threads = (
            usable_cores() if threads is None else whole_number_from("threads", threads, 1, spec.MAX_THREADS)
        )
        self.info = model.info
        self.file = model
        self.asked = {"device": device, "threads": threads, "cuda_graphs": cuda_graphs}
        self._cuda_graphs = switch("cuda_graphs", cuda_graphs)
        self._file = model.onnx_bytes
        # By their samplers, and whether they compute gates apart; without large tensors.
        self._graphs: dict[tuple[Cuts | None, bool], bytes] = {}
        self._parts: tuple[StatePart, ...] = ()  # in which graphs for the CPU keep states
        # Reentrant: while it is held, Python may collect a generator that gives its buffers back.
        self._lock = threading.RLock()
        self._sessions: dict[tuple[int, Cuts | None], Any] = {}  # by rows and sampler
        self._free: dict[Sizes, list[Buffers]] = {}
        self._in_use: set[Buffers] = set()
        self._device_is_the_parents = False
        choice("device", device, spec.DEVICES)
        expected = self._try_one_step()
        choose, gpu = (choose_webgpu, "webgpu") if device == "webgpu" else (choose_device, "cuda")
        self.device, self.device_note = choose(
            device, self.info.precision, partial(self._start_gpu, gpu), partial(self._unlike, expected)
        )
        renew_after_fork(self)  # now that it is complete

    def _after_fork(self) -> None:
        """In a forked child, make sessions again when they are needed."""
        keep_for_ever((self._sessions, self._free))
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
        """Borrow buffers of exactly these `Sizes`; they hold whatever the last user left.

        Args:
            rows: the number of streams.
            steps: how many can run at once.
            sampler: which settings the graph samples by; None to read only. "any" is the file's own graph.
            keeps_logits: whether the logits of every step are kept.

        Raises:
            OutOfMemoryError: not enough memory for this many rows, here or in the block under ``with``.
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
                    self._sessions[key] = self._sessions.pop(key)  # the newest last
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
                    # Memory was too little: what is kept for the next time goes, too.
                    self._sessions.pop(key, None)
                    self._free = {each: kept for each, kept in self._free.items() if each.key != key}
                elif key in self._sessions:
                    # Buffers outlive their session's place in the cache only as long as they are in use.
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
                # The turn comes before the engine's lock, which a thread that has a turn may need for a
                # moment: for the buffers of a generator that Python collects there.
                with turns.shared():
                    session = self._session(sizes.rows, sizes.sampler)
                return (GraphBuffers if self._cuda_graphs else CudaBuffers)(session, sizes)
            session = self._session(sizes.rows, sizes.sampler)
            if self.device == "webgpu":
                return WebGpuBuffers(session, sizes)
            return Buffers(session, sizes, self._parts)
        except Exception as error:
            session = None  # its memory is free again, however long somebody keeps the error
            raise error_of(error, "make a session", self.device, sizes.rows) from error

    def sampler(self, wanted: Cuts | None) -> Cuts | None:
        """The sampler to run where another is wanted: the same, unless the device has no use for it."""
        # GPUs cannot run the greedy one; on the CPU any other ranks no more than is needed, too.
        return "any" if wanted == ("few" if self.device == "cpu" else "greedy") else wanted

    def _session(self, rows: int, sampler: Cuts | None) -> Any:
        with self._lock:
            session = self._sessions.pop((rows, sampler), None)
            if session is None:
                session = self._create_session(self.device, self._graph(rows, sampler))
            self._sessions[rows, sampler] = session  # the newest last
            while len(self._sessions) > _KEPT_SESSIONS:
                oldest = next(iter(self._sessions))
                del self._sessions[oldest]
                self._free = {each: kept for each, kept in self._free.items() if each.key != oldest}
            return session

    def _create_session(self, device: str, graph: bytes, *, optimize: bool = True) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # more pay less than as many batches with a thread each
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong comes as an exception; stderr is the command's
        options.enable_mem_reuse = False  # measured: 4 to 6 % faster at one stream
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if device == "webgpu":
            return new_session(graph, options)
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            # TF32 would round the products' operands to 10 bits.
            settings = {"use_tf32": "0", "enable_cuda_graph": "1" if self._cuda_graphs else "0"}
            # One node on the CPU would copy states back and forth at every character: rather none at all. The
            # CPU's provider must not be named then: onnxruntime calls that a contradiction.
            providers = [(CUDA_PROVIDER, settings)]
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # With its fallback, onnxruntime would take the CPU where CUDA fails, and say so on stdout.
        with making(), turns.shared() if device == "cuda" else contextlib.nullcontext():
            return ort.InferenceSession(
                graph, sess_options=options, providers=providers, enable_fallback=False
            )

    def _graph(self, rows: int, sampler: Cuts | None) -> bytes:
        """The file's graph as the device runs it for some rows, with a sampler or without one."""
        on_cpu = self.device == "cpu"
        apart = on_cpu and self.info.precision == "int8" and rows >= _GATES_APART
        small, large, names = self._parted_apart if apart else self._parted
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
    def _parted(self) -> tuple[bytes, list[bytes | memoryview], list[str]]:
        return part_tensors(self._file)

    @cached_property
    def _parted_apart(self) -> tuple[bytes, list[bytes | memoryview], list[str]]:
        return part_tensors(gates_apart(self._file))

    def _try_one_step(self) -> list[NDArray[Any]]:
        """Run two streams for a step on the CPU: the graph must run, with finite logits and tokens in range.

        Returns:
            Logits, tokens and states.

        Raises:
            ModelFormatError: it does not.
        """
        path = self.info.path
        try:
            # A session of its own, since the first shape that one sees decides how it plans its memory.
            outputs = self._trial_step(self._create_session("cpu", self._file, optimize=False))
        except Exception as error:
            raise ModelFormatError(
                f"{path} is not a charrnn model that can be run: onnxruntime says {reason_of(error)}"
            ) from error
        wrong = self._nonsense(outputs)
        if wrong:
            raise ModelFormatError(f"{path} is not a charrnn model that can be run: a trial step {wrong}")
        return outputs

    def _trial_step(self, session: Any) -> list[NDArray[Any]]:
        """Logits, tokens and states of two streams after a step."""
        info, rows = self.info, 2
        feeds: dict[str, NDArray[Any]] = {
            "token": np.array([info.start_token, len(info.vocabulary) - 1], np.int64),
            # States other than zeros, so that every product counts.
            "state": np.linspace(-1, 1, rows * info.state_size, dtype=np.float32).reshape(rows, -1),
            "uniform": np.array([0.0, 1.0 - 2.0**-24], np.float32),
        }
        for name, value in Sampling(1.0).inputs(info.top_k_max).items():
            feeds[name] = np.full(rows, value, SETTING_TYPES[name])
        feeds["top_k"][0] = 1  # the first stream takes the most likely symbol, which devices agree on
        outputs: list[NDArray[Any]] = session.run(
            [each.name for each in spec.OUTPUTS], feeds, run_options(-1)
        )
        return outputs

    def _nonsense(self, outputs: list[NDArray[Any]]) -> str | None:
        """What is wrong with the outputs of a trial step, whatever the weights."""
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

    def _unlike(self, expected: list[NDArray[Any]], session: Any) -> str | None:
        """What is wrong with a trial step in a session on a GPU, where the CPU gave ``expected``."""
        with turns.shared():
            outputs = self._trial_step(session)
        wrong = self._nonsense(outputs)
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
    """The rows of the buffers for some streams: exact up to 16, then with at most an eighth idle, so that
    few sizes are needed.
    """
    if streams <= 16:
        return streams
    step = 1 << (streams.bit_length() - 4)
    return -(-streams // step) * step
