"""Replaces the sampler of a validated step model by one that supports fewer settings and is faster.

The network's nodes and weights are unchanged, and so are the inputs and outputs; the nodes between ``logits``
and ``next_token`` are written anew by `sampler`, as export does for the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import keep_outputs, parse_again
from charrnn_runtime.graph.sampler import Cuts, add_sampler

_ELEMENT_TYPES: Final = {np.dtype(np.float32): spec.FLOAT, np.dtype(np.int64): spec.INT64}
_INT_ATTRIBUTE: Final = 2  # AttributeProto.AttributeType


_SERVED: Final[dict[Cuts, set[Cuts]]] = {
    "none": {"none"},
    "greedy": {"greedy"},
    "min_p": {"none", "min_p"},
    "few": {"greedy", "few"},
}
"""The settings supported by each sampler except the file's own, cheapest first."""


def sampler_for(rows: Iterable[Cuts]) -> Cuts:
    """The cheapest sampler that supports all rows of a batch.

    Args:
        rows: the result of `Sampling.cuts` for each row, or for each kind of row.

    Examples:
        >>> sampler_for(["none", "min_p", "none"]), sampler_for(["none", "greedy"])
        ('min_p', 'any')
    """
    wanted = set(rows)
    return next((cuts for cuts, served in _SERVED.items() if wanted <= served), "any")


def serves(sampler: Cuts | None, wanted: Cuts | None) -> bool:
    """Whether a sampler supports everything that another one does; None only reads."""
    if sampler is None or wanted is None:
        return wanted is None
    return sampler_for((sampler, wanted)) == sampler


def with_sampler(small: bytes, taken: Iterable[str], cuts: Cuts) -> bytes:
    """Replace the sampler of a model.

    Args:
        small: a validated model without its large tensors (see `separate_tensors`).
        taken: the names of the large tensors.
        cuts: the settings to support; all inputs are kept, even unused ones.

    Raises:
        MemoryError: there is too little memory.
    """
    graph = parse_again(small).graph
    model = parse_again(keep_outputs(small, ("logits", "next_state")))
    for kept, all_of_them in ((model.graph.input, graph.input), (model.graph.output, graph.output)):
        del kept[:]
        kept.extend(all_of_them)
    add_sampler(GraphWriter(model.graph, taken), "logits", vocabulary_size(graph), cuts)
    data: bytes = model.SerializeToString()
    return data


def vocabulary_size(graph: Any) -> int:
    """V, from the shape of a parsed graph's logits."""
    logits = next(value for value in graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)


class GraphWriter:
    """Adds nodes and constants to a parsed graph, under unique names."""

    def __init__(self, graph: Any, taken: Iterable[str]) -> None:
        """``taken`` are further names that must not be used."""
        self._graph = graph
        self._taken = {*taken}
        self._taken.update(value.name for value in (*graph.input, *graph.output, *graph.initializer))
        self._taken.update(name for node in graph.node for name in node.output)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        unique = self._unique(name)
        self._graph.initializer.add(
            name=unique,
            dims=values.shape,
            data_type=_ELEMENT_TYPES[values.dtype],
            raw_data=values.astype(values.dtype.newbyteorder("<")).tobytes(),
        )
        return unique

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self._add(operator, inputs, [name or self._unique(operator)], attributes)[0]

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        return self._add(operator, inputs, [self._unique(operator) for _ in range(outputs)], attributes)

    def _add(
        self, operator: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, int]
    ) -> list[str]:
        node = self._graph.node.add(op_type=operator, input=inputs, output=outputs, name=outputs[0])
        for name, value in attributes.items():
            node.attribute.add(name=name, i=value, type=_INT_ATTRIBUTE)
        return outputs

    def _unique(self, name: str) -> str:
        number, unique = 0, f"sampler/{name}"
        while unique in self._taken:
            number += 1
            unique = f"sampler/{name}_{number}"
        self._taken.add(unique)
        return unique
