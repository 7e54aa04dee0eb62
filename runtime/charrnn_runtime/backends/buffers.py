"""The buffers of a batch, bound to a session on the CPU or a GPU.

A call of onnxruntime takes 1.4 us if all inputs and outputs are bound beforehand, and 6 us or more otherwise.
Therefore buffers bind a whole block of steps once; each step reads the token that the previous step wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.device import error_of, ort
from charrnn_runtime.errors import OutOfMemoryError
from charrnn_runtime.forks import keep_forever
from charrnn_runtime.format import spec
from charrnn_runtime.graph.cpu_graph import PreparedSettings, StatePart, rounded
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.record import Record

BLOCK: Final = 32
"""The default number of steps that run without returning to Python. Even, so that a whole block ends in the
state buffer in which it started."""

SETTING_TYPES: Final[dict[str, Any]] = {
    each.name: {spec.FLOAT: np.float32, spec.INT64: np.int64}[each.element_type] for each in spec.SETTINGS
}
"""The types of the sampling inputs."""


class Sizes(Record):
    """The sizes of a batch's buffers.

    Attributes:
        rows: R, the number of streams.
        state_size: S.
        vocabulary_size: V.
        steps: N, the number of steps to bind.
        sampler: the settings that the graph samples with; None if it only reads.
        keeps_logits: whether to keep the logits of every step.
    """

    rows: int
    state_size: int
    vocabulary_size: int
    steps: int = BLOCK
    sampler: Cuts | None = "any"
    keeps_logits: bool = False

    @property
    def key(self) -> tuple[int, Cuts | None]:
        """What determines a session: the number of rows, and the sampler."""
        return self.rows, self.sampler

    @property
    def samples(self) -> bool:
        """Whether the graph samples tokens."""
        return self.sampler is not None


class Given(Record):
    """Tokens that are read rather than sampled, for the first steps of a block.

    Attributes:
        mask: bool ``[n, R]``, where the token after step i is given.
        tokens: int64 ``[n, R]``, those tokens.
    """

    mask: NDArray[np.bool_]
    tokens: NDArray[np.int64]


class Buffers:
    """Buffers for some rows, bound to a block of steps: step i reads ``tokens[i]``, writes ``tokens[i+1]``.

    The caller fills ``tokens[0]``, ``uniforms`` and ``settings``, and writes states with `write_state`; `run`
    fills ``tokens[1:]``. If the buffers do not sample, the caller fills all of ``tokens`` instead, and
    uniforms and settings are ignored. On the CPU, onnxruntime reads and writes these arrays directly.

    Attributes:
        sizes: see `Sizes`.
        rows: R, the number of streams.
        steps: N, the maximum number of steps per run.
        tokens: int64 ``[N + 1, R]``.
        uniforms: float32 ``[N, R]``.
        settings: for each of `spec.SETTINGS` an array ``[R]``.
        logits: float32 ``[N, R, V]`` if they are kept, otherwise of length 0.
    """

    device = "cpu"
    is_released = False

    def __init__(self, session: Any, sizes: Sizes, parts: Sequence[StatePart] = ()) -> None:
        """Allocate and bind, to a session of a graph from `cpu_graph` with states in ``parts``.

        Raises:
            MemoryError: there is too little memory; or whatever onnxruntime raises then.
        """
        self.sizes = sizes
        self.rows, self.steps = sizes.rows, sizes.steps
        self.tokens = np.zeros((self.steps + 1, self.rows), np.int64)
        self.uniforms = np.zeros((self.steps, self.rows), np.float32)
        self.settings = {name: np.ones(self.rows, kind) for name, kind in SETTING_TYPES.items()}
        kept = self.steps if sizes.keeps_logits else 0
        self.logits = np.zeros((kept, self.rows, sizes.vocabulary_size), np.float32)
        self._parts = tuple(parts) or (StatePart(0, sizes.state_size, "state", "next_state"),)
        self._current = 0  # the index of the state buffer with the current states
        self._use(session)
        self._options = run_options()
        # For each state buffer that slot 0 may read: the bindings of the slots, with their run options.
        self._bound: tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]] = ([], [])
        self._allocate()

    def _use(self, session: Any) -> None:
        self._session = session
        self._run_bound = session._sess.run_with_iobinding
        self._make_session: Callable[[], Any] | None = None

    def after_fork(self, make_session: Callable[[], Any]) -> None:
        """In a forked child, continue with another session, which is created on first use."""
        keep_forever((self._session, self._run_bound, self._bound, self._options))
        self._options = run_options()
        self._bound = ([], [])
        self._make_session = make_session

    def _allocate(self) -> None:
        parts = self._parts
        self._states = [[np.zeros((self.rows, part.size), np.float32) for part in parts] for _ in range(2)]
        self._rounded = [[np.zeros((self.rows, part.size), np.uint8) for part in parts] for _ in range(2)]
        self._prepared = PreparedSettings(self.settings, self.sizes.vocabulary_size)

    def release(self) -> None:
        """Free all memory; the buffers cannot be used afterwards."""
        self.__dict__.clear()
        self.is_released = True

    def write_state(self, rows: Any, states: NDArray[np.float32] | float) -> None:
        """Set the states of some rows (an index, a slice or an array of indices)."""
        for index, part in enumerate(self._parts):
            block = states if isinstance(states, float) else states[..., part.start : part.start + part.size]
            self._states[self._current][index][rows] = block
            if part.rounded is not None:
                self._rounded[self._current][index][rows] = rounded(block)

    def read_state(self, rows: Any) -> NDArray[np.float32]:
        """A copy of the states of some rows."""
        return np.concatenate([block[rows] for block in self._states[self._current]], axis=-1)

    def run(self, steps: int, given: Given | None = None, stops: Callable[[int], bool] | None = None) -> int:
        """Run some steps on all rows.

        Args:
            steps: the number of steps, at most N.
            given: tokens to read rather than sample.
            stops: called after each step with the number of steps so far; return True to stop. The tokens
                written so far are in ``tokens`` by then.

        Returns:
            The number of steps run. ``tokens[1 : steps + 1]`` holds the results.

        Raises:
            OutOfMemoryError: the device has too little memory.
            CharRNNError: onnxruntime cannot run the graph.
        """
        self._send(steps)
        singly = steps if stops is not None else min(steps, 0 if given is None else len(given.mask))
        for slot in range(singly):
            self._run_straight(slot, slot + 1)
            self._fetch_tokens(slot, slot + 1)
            if given is not None and slot < len(given.mask):
                np.copyto(self.tokens[slot + 1], given.tokens[slot], where=given.mask[slot])
                self._send_tokens(slot + 1)
            if stops is not None and stops(slot + 1):
                self._fetch_logits(slot + 1)
                return slot + 1
        self._run_straight(singly, steps)
        self._fetch_tokens(singly, steps)
        self._fetch_logits(steps)
        return steps

    def _run_straight(self, first: int, end: int) -> None:
        """Run steps from slot ``first`` to before ``end`` without interruption: the hot loop."""
        start = self._current ^ (first & 1)  # the buffer that slot 0 would read
        bound = self._bound[start]
        while len(bound) < end:
            bound.append(self._bind(len(bound), start ^ (len(bound) & 1)))
        run_bound = self._run_bound
        try:
            for binding, options in self._in_a_row(bound[first:end]):
                run_bound(binding, options)
        except Exception as error:
            device, rows = self.device, self.rows
            # The traceback keeps these alive, too: the memory of the session.
            del bound, binding, options, run_bound
            try:
                raise error_of(error, "run a step of the model", device, rows) from error
            except OutOfMemoryError:
                self.release()
                raise
        self._current ^= (end - first) & 1

    def _in_a_row(self, bound: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """The bindings and options of steps that run without interruption, from those of single steps."""
        return bound

    def _bind(self, slot: int, reads: int) -> tuple[Any, Any]:
        """Bind the buffers of a slot that reads one of the two state buffers and writes the other."""
        if self._make_session is not None:
            self._use(self._make_session())
        binding = self._session.io_binding()
        inputs: dict[str, NDArray[Any]] = {"token": self.tokens[slot]}
        outputs: dict[str, NDArray[Any]] = {}
        for index, part in enumerate(self._parts):
            if part.reads is not None:
                inputs[part.reads] = self._states[reads][index]
            outputs[part.writes] = self._states[1 - reads][index]
            if part.rounded is not None:
                inputs[part.rounded[0]] = self._rounded[reads][index]
                outputs[part.rounded[1]] = self._rounded[1 - reads][index]
        if self.sizes.samples:
            prepared = self._prepared.inputs(self.uniforms[slot])
            read = (value.name for value in self._session.get_inputs())  # the inputs that the sampler reads
            inputs |= {name: prepared[name] for name in read if name in prepared}
            outputs["next_token"] = self.tokens[slot + 1]
        if len(self.logits):
            outputs["logits"] = self.logits[slot]
        for bind, buffers in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in buffers.items():
                bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return binding._iobinding, self._options

    # Transfers between the arrays and the device, if they are separate.

    def _send(self, steps: int) -> None:
        """Send the inputs of the next steps; on the CPU, prepare the settings."""
        if self.sizes.sampler in ("any", "few"):
            if self._prepared.renew():
                self._bound = ([], [])
            self.uniforms[:steps, self._prepared.greedy] = 0.0

    def _send_tokens(self, slot: int) -> None:
        """Send the tokens of a slot."""

    def _fetch_tokens(self, first: int, end: int) -> None:
        """Fetch the tokens sampled by the steps from ``first`` to before ``end``."""

    def _fetch_logits(self, steps: int) -> None:
        """Fetch the logits of the first steps."""


def run_options(graph: int | None = None) -> Any:
    """Run options; with the id of a CUDA graph to capture or replay (-1 for none)."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
