"""The buffers of a batch on a CUDA device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.buffers import Buffers, Sizes, run_options
from charrnn_runtime.device import ort
from charrnn_runtime.forks import keep_for_ever

_CUDA_ALIGNMENT: Final = 256

_graph_ids = itertools.count(1)
"""Numbers for CUDA graphs, each used once in the process."""


class CudaBuffers(Buffers):
    """Buffers whose states, tokens and sampling stay on the GPU; tokens come back a block at a time.

    Each step reads one state buffer and writes the other, so that a step may be run again before it counts,
    as capturing a CUDA graph does.
    """

    device = "cuda"

    def __init__(self, session: Any, sizes: Sizes, *, graphs: bool = False) -> None:
        """Allocate and bind; with ``graphs``, each slot is captured as a CUDA graph of its own."""
        self._graphs = graphs
        super().__init__(session, sizes)

    def _allocate(self) -> None:
        rows = self.rows
        # Each slot begins at an aligned address, as kernels that load several numbers at once expect.
        self._uniform_stride = -(-rows * 4 // _CUDA_ALIGNMENT) * _CUDA_ALIGNMENT // 4
        self._device_states = [self._new([rows, self.sizes.state_size], np.float32) for _ in range(2)]
        self._device_tokens = [self._new([rows], np.int64) for _ in range(self.steps + 1)]
        self._device_uniforms = self._new([self.steps, self._uniform_stride], np.float32)
        self._device_settings = {
            name: self._new([rows], array.dtype.type) for name, array in self.settings.items()
        }
        self._sent_settings: dict[str, bytes] = {}
        self._device_logits = [self._new(list(self.logits.shape[1:]), np.float32) for _ in self.logits]
        self._staged_uniforms = np.zeros((self.steps, self._uniform_stride), np.float32)
        for value in self._device_states:
            value.update_inplace(np.zeros((rows, self.sizes.state_size), np.float32))

    def after_fork(self, make_session: Callable[[], Any]) -> None:
        keep_for_ever(dict(self.__dict__))  # what is on the GPU is the parent's
        self.release()

    def _new(self, shape: list[int], kind: Any) -> Any:
        """A value on the device, of the session's own memory: freed with it, and free for what comes next."""
        create = getattr(self._session, "create_ortvalue_from_shape_and_type", None)
        if create is None:  # before onnxruntime 1.31
            create = ort.OrtValue.ortvalue_from_shape_and_type
        return create(shape, kind, self.device, 0)

    def write_state(self, rows: Any, states: NDArray[np.float32] | float) -> None:
        held = self._device_states[self._current]
        everything = np.ascontiguousarray(held.numpy())
        everything[rows] = states
        held.update_inplace(everything)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        states: NDArray[np.float32] = self._device_states[self._current].numpy()[rows]
        return states.copy()

    def _send(self, steps: int) -> None:
        if self.sizes.samples:
            for name, value in self._device_settings.items():
                settings = self.settings[name].tobytes()
                if self._sent_settings.get(name) != settings:
                    value.update_inplace(self.settings[name])
                    self._sent_settings[name] = settings
            self._staged_uniforms[:, : self.rows] = self.uniforms
            self._device_uniforms.update_inplace(self._staged_uniforms)
        for slot in range(1 if self.sizes.samples else steps):
            self._send_tokens(slot)

    def _send_tokens(self, slot: int) -> None:
        self._device_tokens[slot].update_inplace(np.ascontiguousarray(self.tokens[slot]))

    def _fetch_tokens(self, first: int, end: int) -> None:
        for slot in range(first + 1, end + 1 if self.sizes.samples else 0):
            self.tokens[slot] = self._device_tokens[slot].numpy()

    def _fetch_logits(self, steps: int) -> None:
        for slot in range(min(steps, len(self.logits))):
            self.logits[slot] = self._device_logits[slot].numpy()

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("token", self._device_tokens[slot])
        binding.bind_ortvalue_input("state", self._device_states[reads])
        if self.sizes.samples:
            address = self._device_uniforms.data_ptr() + slot * self._uniform_stride * 4
            binding.bind_input("uniform", self.device, 0, np.float32, [self.rows], address)
            for name, value in self._device_settings.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output("next_token", self._device_tokens[slot + 1])
        binding.bind_ortvalue_output("next_state", self._device_states[1 - reads])
        if len(self.logits):
            binding.bind_ortvalue_output("logits", self._device_logits[slot])
        # A captured graph has its addresses built in, so each binding has one of its own.
        options = run_options(next(_graph_ids)) if self._graphs else self._options
        return binding._iobinding, options
