"""Rewrites an int8 step model to compute one product per gate, instead of splitting a product for all gates.

For many streams, splitting the sums of all gates costs more than three additional calls. The sums are of
integers, so the results are bit-identical however the columns of a matrix are divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_runtime.format.proto import parse_again

_ITEM_TYPES = {spec.FLOAT: "<f4", spec.INT8: "i1", spec.INT32: "<i4", spec.INT64: "<i8"}
_WEIGHT, _ADDED = 3, 6  # inputs of QGemm


def separate_gates(data: bytes) -> bytes:
    """Rewrite a model to compute products separately instead of splitting their results.

    Args:
        data: a validated model.

    Raises:
        MemoryError: there is too little memory.
    """
    model = parse_again(data)
    _Parting(model.graph).run()
    parted: bytes = model.SerializeToString()
    return parted


class _Parting:
    """The nodes of a graph during the rewrite."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
        self._readers: dict[str, int] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers[name] = self._readers.get(name, 0) + 1
        self._taken = {*self._tensors, *(value.name for value in graph.input)}
        self._taken.update(name for node in self._nodes for name in node.output)

    def run(self) -> None:
        for split in [node for node in self._nodes if node.op_type == "Split"]:
            self._part(split)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        for index in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[index].name not in read:
                del self._graph.initializer[index]

    def _part(self, split: Any) -> None:
        """Replace a split, and the node whose output it splits, by nodes that compute its outputs."""
        made = self._alone(split.input[0])
        if made is None:
            return
        if made.op_type == "Sigmoid":
            pieces = [self._name(f"{made.input[0]}/part") for _ in split.output]
            inner = self._node("Split", [made.input[0], split.input[1]], pieces, split.attribute)
            pairs = zip(pieces, split.output, strict=True)
            self._replace(made, split, [inner, *(self._node("Sigmoid", [x], [y]) for x, y in pairs)])
            self._part(inner)
        elif made.op_type == "QGemm":
            ends = np.cumsum(self._numbers(split.input[1]))[:-1]
            products = self._products(made, split.output, ends)
            if products:
                self._replace(made, split, products)

    def _products(self, whole: Any, outputs: Sequence[str], ends: NDArray[np.int64]) -> list[Any]:
        """A product per output; none if the added row is neither constant nor gathered."""
        weight, added = whole.input[_WEIGHT], whole.input[_ADDED]
        gathered = None
        if added not in self._tensors:
            gathered = self._alone(added)
            if gathered is None or gathered.op_type != "Gather":
                return []
            added = gathered.input[0]
        nodes = []
        matrices = np.split(self._numbers(weight), ends, axis=1)
        rows = np.split(self._numbers(added), ends, axis=-1)
        for output, matrix, row in zip(outputs, matrices, rows, strict=True):
            inputs = [*whole.input]
            inputs[_WEIGHT], inputs[_ADDED] = self._constant(weight, matrix), self._constant(added, row)
            if gathered is not None:
                looked_up = [inputs[_ADDED], gathered.input[1]]
                inputs[_ADDED] = self._name(f"{output}/row")
                nodes.append(self._node("Gather", looked_up, inputs[_ADDED:], gathered.attribute))
            nodes.append(self._node("QGemm", inputs, [output], domain=whole.domain))
        self._nodes = [node for node in self._nodes if node is not gathered]
        return nodes

    def _alone(self, name: str) -> Any:
        """The node that produces a value with a single reader that is not an output; otherwise None."""
        if self._readers.get(name) != 1 or name in self._outputs:
            return None
        return next((node for node in self._nodes if name in node.output), None)

    def _replace(self, made: Any, split: Any, nodes: list[Any]) -> None:
        """Replace a split by nodes, and remove the node that produced its input."""
        place = next(index for index, node in enumerate(self._nodes) if node is split)
        self._nodes[place : place + 1] = nodes
        self._nodes = [node for node in self._nodes if node is not made]
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, 1)

    def _numbers(self, name: str) -> NDArray[Any]:
        tensor = self._tensors[name]
        return np.frombuffer(tensor.raw_data, _ITEM_TYPES[tensor.data_type]).reshape(tuple(tensor.dims))

    def _constant(self, name: str, numbers: NDArray[Any]) -> str:
        unique = self._name(f"{name}/part")
        self._tensors[unique] = self._graph.initializer.add(
            name=unique,
            dims=numbers.shape,
            data_type=self._tensors[name].data_type,
            raw_data=np.ascontiguousarray(numbers).tobytes(),
        )
        return unique

    def _node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Iterable[Any] = (),
        domain: str = "",
    ) -> Any:
        node = type(self._nodes[0])(op_type=operator, input=inputs, output=outputs, domain=domain)
        node.name = outputs[0]
        node.attribute.extend(attributes)
        return node

    def _name(self, name: str) -> str:
        unique, number = name, 0
        while unique in self._taken:
            number += 1
            unique = f"{name}{number}"
        self._taken.add(unique)
        return unique
