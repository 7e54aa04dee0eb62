"""The buffers of a batch on a CUDA device."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.buffers import Buffers, Given, Sizes, run_options
from charrnn_runtime.backends.cuda_turns import in_graph_thread, session_lock, turns
from charrnn_runtime.backends.device import ort
from charrnn_runtime.forks import keep_forever

_ALIGNMENT: Final = 256
"""The alignment of slots in bytes, as vectorized kernels expect."""

_WORTH_A_COPY: Final = 1 << 16
"""Gaps between rows of up to this many bytes are copied along, to avoid a separate copy. Not measured on a
GPU."""

_graph_ids = itertools.count(1)
"""Ids of CUDA graphs, each used once per process."""


class CudaBuffers(Buffers):
    """Buffers whose states, tokens and sampling stay on the GPU; tokens are fetched block by block.

    Each step reads one state buffer and writes the other, so a step can be repeated before it counts, as
    capturing a CUDA graph requires.
    """

    device = "cuda"

    def __init__(self, session: Any, sizes: Sizes) -> None:
        """Allocate in the memory of the session."""
        self._both_options = _both_options()
        with turns.shared(), session_lock(session):
            super().__init__(session, sizes)

    def _allocate(self) -> None:
        rows, sizes = self.rows, self.sizes
        memory = self._memory = _DeviceMemory(self._session, self.device)
        self._device_tokens = _Slots(memory, self.steps + 1, [rows], np.int64)
        self._device_uniforms = _Slots(memory, self.steps, [rows], np.float32)
        self._device_logits = _Slots(memory, len(self.logits), [rows, sizes.vocabulary_size], np.float32)
        self.tokens, self.uniforms = self._device_tokens.on_host, self._device_uniforms.on_host
        self.logits = self._device_logits.on_host
        self._device_states = [memory.new([rows, sizes.state_size], np.float32) for _ in range(2)]
        self._far = 2 + _WORTH_A_COPY // (sizes.state_size * 4)  # more distant rows are copied separately
        self._has_states = False  # the memory is uninitialized
        self._device_settings = {
            name: memory.new([rows], array.dtype.type) for name, array in self.settings.items()
        }
        self._sent_settings: dict[str, bytes] = {}

    def after_fork(self, make_session: Callable[[], Any]) -> None:
        keep_forever(dict(self.__dict__))  # GPU memory belongs to the parent
        self.release()

    # --- states ----------------------------------------------------------------------------------------

    def write_state(self, rows: Any, states: NDArray[np.float32] | float) -> None:
        with turns.shared():
            self._write_state(np.atleast_1d(np.arange(self.rows)[rows]), states)

    def _write_state(self, rows: NDArray[np.intp], states: NDArray[np.float32] | float) -> None:
        if not self._has_states:
            everything = np.zeros((self.rows, self.sizes.state_size), np.float32)
            if not _is_zero(states):
                everything[rows] = states
            self._device_states[self._current].update_inplace(everything)
            self._has_states = True
            return
        order, spans = self._spans(rows)
        each = np.broadcast_to(np.asarray(states, np.float32), (len(rows), self.sizes.state_size))
        for first, end in spans:
            inside = order[first:end]
            low, high = int(rows[inside[0]]), int(rows[inside[-1]]) + 1
            held = self._rows_of_states(low, high)
            if not _is_range(rows[inside], low):
                block = held.numpy()
                block[rows[inside] - low] = each[inside]
            elif _is_zero(states):
                block = np.zeros((high - low, self.sizes.state_size), np.float32)
            else:
                block = each[inside]
            held.update_inplace(block)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        with turns.shared():
            return self._read_state(np.arange(self.rows)[rows])

    def _read_state(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        order, spans = self._spans(rows)
        states = np.empty((len(rows), self.sizes.state_size), np.float32)
        for first, end in spans:
            inside = order[first:end]
            low, high = int(rows[inside[0]]), int(rows[inside[-1]]) + 1
            block: NDArray[np.float32] = self._rows_of_states(low, high).numpy()
            if len(inside) == len(rows) and _is_range(rows, low):
                return block  # in the requested order
            states[inside] = block[rows[inside] - low]
        return states

    def _spans(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], list[tuple[int, int]]]:
        """The order of the rows in memory, and the ranges to copy at once."""
        order = np.argsort(rows, kind="stable")
        cuts = (np.flatnonzero(np.diff(rows[order]) >= self._far) + 1).tolist()
        return order, list(zip([0, *cuts], [*cuts, len(rows)], strict=True)) if len(rows) else []

    def _rows_of_states(self, low: int, high: int) -> Any:
        held = self._device_states[self._current]
        if (low, high) == (0, self.rows):
            return held
        size = self.sizes.state_size
        return self._memory.view(held.data_ptr() + low * size * 4, [high - low, size], np.float32)

    # --- running ---------------------------------------------------------------------------------------

    def run(self, steps: int, given: Given | None = None, stops: Callable[[int], bool] | None = None) -> int:
        with self._turn(steps):
            return super().run(steps, given, stops)

    def _turn(self, steps: int) -> contextlib.AbstractContextManager[None]:
        """The right to run steps."""
        return turns.shared()

    def _run_straight(self, first: int, end: int) -> None:
        # The memory of unfinished steps must not be reused by another thread.
        session = self._session
        try:
            with session_lock(session):
                super()._run_straight(first, end)
        except BaseException:
            with contextlib.suppress(Exception):
                session.io_binding().synchronize_outputs()
            del session  # the traceback would keep its memory alive
            raise

    def _in_a_row(self, bound: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        # The host waits for the GPU only after the last step.
        last = len(bound) - 1
        return [(binding, options[index < last]) for index, (binding, options) in enumerate(bound)]

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        binding = self._session.io_binding()
        self._device_tokens.bind(binding.bind_input, "token", slot)
        binding.bind_ortvalue_input("state", self._device_states[reads])
        if self.sizes.samples:
            self._device_uniforms.bind(binding.bind_input, "uniform", slot)
            for name, value in self._device_settings.items():
                binding.bind_ortvalue_input(name, value)
            self._device_tokens.bind(binding.bind_output, "next_token", slot + 1)
        binding.bind_ortvalue_output("next_state", self._device_states[1 - reads])
        if len(self.logits):
            self._device_logits.bind(binding.bind_output, "logits", slot)
        return binding._iobinding, self._both_options

    def _send(self, steps: int) -> None:
        if not self._has_states:
            self._write_state(np.arange(0), 0.0)
        if self.sizes.samples:
            for name, value in self._device_settings.items():
                settings = self.settings[name].tobytes()
                if self._sent_settings.get(name) != settings:
                    value.update_inplace(self.settings[name])
                    self._sent_settings[name] = settings
            self._device_uniforms.send(0, steps)
        self._device_tokens.send(0, 1 if self.sizes.samples else steps)

    def _send_tokens(self, slot: int) -> None:
        self._device_tokens.send(slot, slot + 1)

    def _fetch_tokens(self, first: int, end: int) -> None:
        if self.sizes.samples:
            self._device_tokens.fetch(first + 1, end + 1)

    def _fetch_logits(self, steps: int) -> None:
        self._device_logits.fetch(0, min(steps, len(self.logits)))


class GraphBuffers(CudaBuffers):
    """Buffers whose steps are captured once as CUDA graphs, and then replayed.

    Everything runs in one thread of the process, which the captured graphs belong to.
    """

    def __init__(self, session: Any, sizes: Sizes) -> None:
        in_graph_thread(super().__init__, session, sizes)

    def write_state(self, rows: Any, states: NDArray[np.float32] | float) -> None:
        in_graph_thread(super().write_state, rows, states)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        return in_graph_thread(super().read_state, rows)

    def run(self, steps: int, given: Given | None = None, stops: Callable[[int], bool] | None = None) -> int:
        return in_graph_thread(super().run, steps, given, stops)

    def _turn(self, steps: int) -> contextlib.AbstractContextManager[None]:
        captures = len(self._bound[self._current]) < steps
        return turns.alone() if captures else turns.shared()

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        binding, _ = super()._bind(slot, reads)
        # A captured graph contains its addresses, so each binding has its own graph.
        return binding, _both_options(next(_graph_ids))


def _both_options(graph: int | None = None) -> tuple[Any, Any]:
    """The run options of steps with and without synchronization."""
    waiting, not_waiting = run_options(graph), run_options(graph)
    not_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return waiting, not_waiting


class _DeviceMemory:
    """Creates values on a session's device."""

    def __init__(self, session: Any, device: str) -> None:
        self._session, self.device = session, device

    def new(self, shape: list[int], kind: Any) -> Any:
        """A value in the memory of the session: freed with it, and reused for later values."""
        create = getattr(self._session, "create_ortvalue_from_shape_and_type", None)
        if create is None:  # onnxruntime older than 1.31
            create = ort.OrtValue.ortvalue_from_shape_and_type
        return create(shape, kind, self.device, 0)

    def view(self, address: int, shape: list[int], kind: Any) -> Any:
        """A value that is a part of another one, to copy separately."""
        # A binding can wrap any address as an output; nothing is written here.
        binding = self._session.io_binding()
        binding.bind_output("next_state", self.device, 0, kind, shape, address)
        return binding.get_outputs()[0]


class _Slots:
    """An array for each step of a block, contiguous on the device, with a copy on the host.

    Attributes:
        shape: the shape of one array.
        kind: the element type.
        on_host: all arrays, concatenated.
    """

    def __init__(self, memory: _DeviceMemory, count: int, shape: list[int], kind: Any) -> None:
        self.shape, self.kind = shape, kind
        size, each = prod(shape), np.dtype(kind).itemsize
        stride = -(-size * each // _ALIGNMENT) * _ALIGNMENT // each
        self._slots = np.zeros((count, stride), kind)
        self.on_host: NDArray[Any] = self._slots[:, :size].reshape(count, *shape)
        self._memory = memory
        self._on_device: Any = memory.new([count, stride], kind) if count else None
        self._parts: dict[tuple[int, int], tuple[Any, Any]] = {}

    def bind(self, bind_value: Callable[..., None], name: str, slot: int) -> None:
        """Bind a slot to an input or output of a step."""
        bind_value(name, self._memory.device, 0, self.kind, self.shape, self.address(slot))

    def address(self, slot: int) -> int:
        """The address of a slot on the device."""
        address: int = self._on_device.data_ptr()
        return address + slot * self._slots.strides[0]

    def send(self, first: int, end: int) -> None:
        """Copy some slots to the device."""
        self._part(first, end)[0].update_inplace(self._slots[first:end])

    def fetch(self, first: int, end: int) -> None:
        """Copy some slots from the device."""
        if first < end:
            on_device, on_host = self._part(first, end)
            try:
                on_host.update_inplace(on_device)
            except TypeError:  # older onnxruntime versions copy only from NumPy
                self._slots[first:end] = on_device.numpy()

    def _part(self, first: int, end: int) -> tuple[Any, Any]:
        """Some slots, on the device and on the host."""
        part = self._parts.get((first, end))
        if part is None:
            slots = self._slots[first:end]
            on_device = self._memory.view(self.address(first), list(slots.shape), self.kind)
            part = self._parts[first, end] = on_device, ort.OrtValue.ortvalue_from_numpy(slots)
        return part


def _is_range(rows: NDArray[np.intp], first: int) -> bool:
    """Whether rows are consecutive from ``first`` on."""
    return bool((rows == np.arange(first, first + len(rows))).all())


def _is_zero(states: NDArray[np.float32] | float) -> bool:
    return isinstance(states, float) and states == 0.0
