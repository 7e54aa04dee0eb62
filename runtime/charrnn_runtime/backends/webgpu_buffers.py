"""The buffers of a batch on a GPU, through WebGPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.buffers import Buffers, Given, Sizes
from charrnn_runtime.backends.device import error_of, ort
from charrnn_runtime.backends.webgpu import free, free_in_turn, turn
from charrnn_runtime.forks import keep_forever


class WebGpuBuffers(Buffers):
    """Buffers whose states, tokens and sampling stay on the GPU; tokens are fetched block by block.

    GPU memory has no addresses here, so each slot has separate values.
    """

    device = "webgpu"

    def __init__(self, session: Any, sizes: Sizes) -> None:
        """Allocate in the memory of the session."""
        free_in_turn(self)
        with turn():
            super().__init__(session, sizes)

    def _allocate(self) -> None:
        rows, new = self.rows, self._new
        self._on_host = np.zeros((2, rows, self.sizes.state_size), np.float32)
        self._states_there = _Copies(rows, new, self._on_host)
        self._tokens_there = _Copies(rows, new, self.tokens)
        self._uniforms_there = _Copies(rows, new, self.uniforms if self.sizes.samples else ())
        self._settings_there = _Copies(rows, new, self.settings.values() if self.sizes.samples else ())
        self._logits_there = _Copies(rows, new, self.logits)
        self._sent_settings = b""
        self._states_there.send(0, 2)

    def _new(self, array: NDArray[Any]) -> Any:
        """A value on the GPU for an array, in the memory of the session: freed with it."""
        return self._session.create_ortvalue_from_shape_and_type(
            list(array.shape), array.dtype.type, "webgpu", 0
        )

    def after_fork(self, make_session: Callable[[], Any]) -> None:
        keep_forever(dict(self.__dict__))  # GPU memory belongs to the parent
        super().release()

    def release(self) -> None:
        free(self.__dict__)
        self.is_released = True

    def write_state(self, rows: Any, states: NDArray[np.float32] | float) -> None:
        current = self._current
        with turn():
            if not (isinstance(rows, slice) and rows == slice(None)):
                self._states_there.fetch(current, current + 1)
            self._on_host[current, rows] = states
            self._states_there.send(current, current + 1)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        current = self._current
        with turn():
            self._states_there.fetch(current, current + 1)
        states: NDArray[np.float32] = self._on_host[current, rows]
        return states.copy()

    def run(self, steps: int, given: Given | None = None, stops: Callable[[int], bool] | None = None) -> int:
        with turn():
            return super().run(steps, given, stops)

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        binding = self._session.io_binding()
        inputs = {"token": self._tokens_there[slot], "state": self._states_there[reads]}
        outputs = {"next_state": self._states_there[1 - reads]}
        if self.sizes.samples:
            inputs["uniform"] = self._uniforms_there[slot]
            inputs |= {name: self._settings_there[index] for index, name in enumerate(self.settings)}
            outputs["next_token"] = self._tokens_there[slot + 1]
        if len(self.logits):
            outputs["logits"] = self._logits_there[slot]
        for bind, values in (
            (binding.bind_ortvalue_input, inputs),
            (binding.bind_ortvalue_output, outputs),
        ):
            for name, value in values.items():
                bind(name, value)
        return binding._iobinding, self._options

    def _send(self, steps: int) -> None:
        if self.sizes.samples:
            settings = b"".join(array.tobytes() for array in self.settings.values())
            if settings != self._sent_settings:
                self._settings_there.send(0, len(self.settings))
                self._sent_settings = settings
            self._uniforms_there.send(0, steps)
        self._tokens_there.send(0, 1 if self.sizes.samples else steps)

    def _send_tokens(self, slot: int) -> None:
        self._tokens_there.send(slot, slot + 1)

    def _fetch_tokens(self, first: int, end: int) -> None:
        if self.sizes.samples:
            self._tokens_there.fetch(first + 1, end + 1)

    def _fetch_logits(self, steps: int) -> None:
        self._logits_there.fetch(0, min(steps, len(self.logits)))


class _Copies:
    """Arrays on the host, each with a value on the GPU."""

    def __init__(self, rows: int, new: Callable[[NDArray[Any]], Any], arrays: Iterable[NDArray[Any]]) -> None:
        arrays = list(arrays)
        self._rows = rows
        self._here = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]  # shares memory
        self._there = [new(array) for array in arrays]

    def __getitem__(self, index: int) -> Any:
        return self._there[index]

    def send(self, first: int, end: int) -> None:
        """Copy some to the GPU."""
        self._copy(self._here[first:end], self._there[first:end])

    def fetch(self, first: int, end: int) -> None:
        """Copy some from the GPU, after waiting for pending work."""
        self._copy(self._there[first:end], self._here[first:end])

    def _copy(self, source: list[Any], target: list[Any]) -> None:
        if not source:
            return
        try:
            ort.copy_tensors(source, target)
        except Exception as error:
            raise error_of(error, "copy to or from the GPU", "webgpu", self._rows) from error
