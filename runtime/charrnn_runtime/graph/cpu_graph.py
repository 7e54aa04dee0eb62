"""Rewrites a validated step model to the form that runs fastest on a CPU: the same results with less copying.

The file keeps a stream's state in one row, which its graph splits at the start of a step and concatenates at
the end. Keeping each block in a separate buffer saves both. In int8 files, products read each h as uint8,
which the previous step has already computed for the layer above, and passes on. And samplers read settings
that are prepared once (see `sampler.PREPARED`). The network and weights are unchanged, and all results are
bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import keep_outputs, parse_again
from charrnn_runtime.graph.sampler import PREPARED, Cuts, add_sampler
from charrnn_runtime.graph.sampler_variants import GraphWriter, vocabulary_size
from charrnn_runtime.record import Record

_RANKS: Final = 8


class StatePart(Record):
    """A block of the state that is kept in separate buffers from step to step.

    Attributes:
        start: its first column in a state row.
        size: n, how many columns it has.
        reads: the graph's input, float32 ``[B, n]``; None if the graph reads only the rounded form.
        writes: the graph's output, float32 ``[B, n]``.
        rounded: input and output of the rounded form as uint8, see `rounded`; None if nothing reads it.
    """

    start: int
    size: int
    reads: str | None
    writes: str
    rounded: tuple[str, str] | None = None


def rounded(values: NDArray[np.float32] | float) -> NDArray[np.uint8]:
    """Hidden states rounded as in int8 files, like ONNX's QuantizeLinear: half to even."""
    with np.errstate(over="ignore"):
        steps = np.rint(np.asarray(values, np.float32) / np.float32(spec.ACTIVATION_SCALE))
    whole: NDArray[np.uint8] = np.clip(steps + np.float32(spec.ACTIVATION_ZERO_POINT), 0, 255).astype(
        np.uint8
    )
    return whole


def mass_limits(
    top_k: NDArray[np.int64], top_p: NDArray[np.float32], vocabulary_size: int
) -> NDArray[np.float32]:
    """The ``top_p`` of `PREPARED` for the settings of some streams: float32 ``[B, n]``.

    The number of ranked symbols is what the largest top_k needs, rounded up to a multiple of `_RANKS`, so
    that few widths occur.
    """
    most = spec.top_k_max(vocabulary_size)
    ranked = min(-(-int(top_k.max()) // _RANKS) * _RANKS, most)
    limits = np.where(top_p < 1, top_p, np.float32(2))[:, np.newaxis].repeat(ranked, axis=1)
    ends = np.where(top_k < most, top_k, most + 1)[:, np.newaxis]  # the rank at which the kept symbols end
    limits[np.arange(1, ranked + 1) >= ends] = -1
    return limits


class PreparedSettings:
    """The inputs of prepared samplers (see `PREPARED`) for the settings of rows, which may change.

    Attributes:
        greedy: the rows whose uniform numbers must be 0.
    """

    def __init__(self, settings: dict[str, NDArray[Any]], vocabulary_size: int) -> None:
        self.greedy = np.zeros(0, np.int64)
        self._settings = settings
        self._vocabulary_size = vocabulary_size
        self._limits = np.zeros((0, 0), np.float32)
        self._ranked = np.zeros(1, np.int64)
        self._made_of = b""

    def renew(self) -> bool:
        """Update the inputs if the settings have changed; returns whether the inputs are new arrays."""
        top_k, top_p = self._settings["top_k"], self._settings["top_p"]
        made_of = top_k.tobytes() + top_p.tobytes()
        if made_of == self._made_of:
            return False
        self._made_of = made_of
        self.greedy = np.flatnonzero(top_k == 1)
        limits = mass_limits(top_k, top_p, self._vocabulary_size)
        if limits.shape == self._limits.shape:
            self._limits[:] = limits
            return False
        self._limits, self._ranked = limits, np.array([limits.shape[1]], np.int64)
        return True

    def inputs(self, uniforms: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The inputs by name, for steps with these uniform numbers: float32 ``[B]``."""
        columns = {"uniform": uniforms, **self._settings}
        prepared = {name: array[:, np.newaxis] for name, array in columns.items()}
        return prepared | {"top_k": self._ranked, "top_p": self._limits}


def cpu_graph(
    small: bytes, taken: Iterable[str], layout: Sequence[spec.StateBlock], sampler: Cuts | None
) -> tuple[bytes, tuple[StatePart, ...]]:
    """Rewrite a model for the CPU.

    Args:
        small: a validated model without its large tensors (see `separate_tensors`).
        taken: the names of the large tensors.
        layout: the blocks of the state.
        sampler: the settings to sample with; None to only read.

    Returns:
        The model, again without its large tensors, and the parts of its state, which are the same for every
        sampler. If the graph is not as export writes it, the state may be kept whole.

    Raises:
        MemoryError: there is too little memory.
    """
    model = parse_again(keep_outputs(small, ("logits", "next_state")))
    graph = model.graph
    if sampler is not None:
        writer = GraphWriter(graph, (*taken, *PREPARED))
        add_sampler(writer, "logits", vocabulary_size(graph), sampler, prepared=True)
        read = {name for node in graph.node for name in node.input}
        for name, (kind, axes) in PREPARED.items():
            if name in read:
                _add_value(graph.input, name, kind, axes)
        _add_value(graph.output, "next_token", spec.INT64, (spec.BATCH_AXIS,))
    parts = _Network(graph).part_state(layout)
    data: bytes = model.SerializeToString()
    return data, parts


class _Network:
    """A parsed graph, indexed by the producers and consumers of its values."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in {*node.input}:
                self._readers.setdefault(name, []).append(node)

    def part_state(self, layout: Sequence[spec.StateBlock]) -> tuple[StatePart, ...]:
        """Make each block of the state a separate input and output, if the graph splits and joins it."""
        reads = self._blocks_read(layout)
        writes = self._blocks_written(reads)
        if not writes:
            return (StatePart(0, sum(block.size for block in layout), "state", "next_state"),)
        gone = {"next_state", *(reads if reads != ["state"] else ())}  # outputs of nodes to remove
        parts = []
        for block, read, written in zip(layout, reads, writes, strict=True):
            carried = self._rounded_alike(read, written) if block.name.startswith("h") else None
            if carried is not None:
                gone.add(carried[0])
            left = any(gone.isdisjoint(node.output) for node in self._readers.get(read, ()))
            parts.append(StatePart(block.start, block.size, read if left else None, written, carried))
        self._replace(gone, parts)
        return tuple(parts)

    def _blocks_read(self, layout: Sequence[spec.StateBlock]) -> list[str]:
        """The values that the state is split into, one per block; empty if it is not split."""
        if len(layout) == 1:
            return ["state"]
        readers = self._readers.get("state", [])
        sizes = np.array([block.size for block in layout], "<i8").tobytes()
        if len(readers) != 1 or readers[0].op_type != "Split" or self._axis(readers[0]) != 1:
            return []
        parted = [*readers[0].output]
        given = self._tensors.get(readers[0].input[1]) if len(readers[0].input) > 1 else None
        return parted if given is not None and given.raw_data == sizes else []

    def _blocks_written(self, reads: list[str]) -> list[str]:
        """The values that the next state is concatenated from; empty if they are not independent."""
        joined = self._makers["next_state"]
        whole = joined.op_type == "Identity" or (joined.op_type == "Concat" and self._axis(joined) == 1)
        writes = [*joined.input]
        made = set(self._makers) - self._outputs - {*reads}
        alone = made.issuperset(writes) and len({*writes}) == len(writes) == len(reads)
        return writes if whole and alone and "next_state" not in self._readers else []

    def _rounded_alike(self, read: str, written: str) -> tuple[str, str] | None:
        """The values that a block is rounded to before and after a step, if done as the format specifies."""
        before, after = self._rounding(read), self._rounding(written)
        if before is None or after is None or not self._rounds_by_the_format(before):
            return None
        return (before.output[0], after.output[0]) if before.input[1:] == after.input[1:] else None

    def _rounding(self, name: str) -> Any:
        readers = self._readers.get(name, ())
        return next((node for node in readers if node.op_type == "QuantizeLinear"), None)

    def _rounds_by_the_format(self, node: Any) -> bool:
        given = [self._tensors.get(name) for name in node.input[1:]]
        found = [tensor and (tensor.data_type, [*tensor.dims], tensor.raw_data) for tensor in given]
        return found == [
            (spec.FLOAT, [], np.array(spec.ACTIVATION_SCALE, "<f4").tobytes()),
            (spec.UINT8, [], bytes([spec.ACTIVATION_ZERO_POINT])),
        ]

    def _axis(self, node: Any) -> int:
        return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)

    def _replace(self, gone: set[str], parts: list[StatePart]) -> None:
        """Remove nodes by their outputs, and make the parts of the state inputs and outputs instead."""
        graph = self._graph
        for index in reversed(range(len(graph.node))):
            if not gone.isdisjoint(graph.node[index].output):
                del graph.node[index]
        for values, name in ((graph.input, "state"), (graph.output, "next_state")):
            index = next(index for index, value in enumerate(values) if value.name == name)
            del values[index]
        for part in parts:
            axes = (spec.BATCH_AXIS, part.size)
            if part.reads is not None:
                _add_value(graph.input, part.reads, spec.FLOAT, axes)
            _add_value(graph.output, part.writes, spec.FLOAT, axes)
            if part.rounded is not None:
                _add_value(graph.input, part.rounded[0], spec.UINT8, axes)
                _add_value(graph.output, part.rounded[1], spec.UINT8, axes)


def _add_value(values: Any, name: str, kind: int, axes: tuple[int | str, ...]) -> None:
    """Add an input or output to a graph."""
    tensor = values.add(name=name).type.tensor_type
    tensor.elem_type = kind
    for axis in axes:
        tensor.shape.dim.add(**{"dim_param" if isinstance(axis, str) else "dim_value": axis})
