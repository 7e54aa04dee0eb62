"""Collects the nodes and weights of an ONNX graph, and names every value."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from charrnn_runtime.format import spec


class GraphBuilder:
    """Collects nodes and initializers in the order in which they are added.

    Names consist of a prefix and a counter, so the same calls give the same bytes.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._counts: dict[str, int] = {}

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer; return its name, made unique."""
        unique = self._unique(name)
        self._initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), unique))
        return unique

    def node(self, operator: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name.

        Args:
            operator: the ONNX operator.
            inputs: the names of its inputs; "" for an omitted optional one.
            name: the output's name if it matters, as for an output of the graph.
            domain: the operator's domain, "" for the standard one.
            attributes: the node's attributes.
        """
        return self.nodes(operator, *inputs, outputs=1, names=(name,), domain=domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        *inputs: str,
        outputs: int,
        names: tuple[str, ...] = (),
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs; return their names."""
        base = self._unique(operator)
        given = list(names) + [""] * (outputs - len(names))
        made = [given[i] or (base if outputs == 1 else f"{base}_{i}") for i in range(outputs)]
        self._nodes.append(
            helper.make_node(operator, list(inputs), made, name=base, domain=domain, **attributes)
        )
        return made

    def rename(self, value: str, name: str) -> str:
        """Rename the output of the last node, for example to an output of the graph."""
        outputs = self._nodes[-1].output
        assert list(outputs) == [value]
        outputs[0] = name
        return name

    def model(self, sizes: dict[str, int], metadata: dict[str, str], *, contrib: bool) -> onnx.ModelProto:
        """Build the model, with the format's inputs, outputs and versions.

        Args:
            sizes: the size of each named axis except the batch: ``state_size`` and ``vocab``.
            metadata: the metadata, keys without their prefix.
            contrib: whether onnxruntime's contrib operators are used.
        """
        graph = helper.make_graph(
            self._nodes,
            "charrnn",
            [_value_info(each, sizes) for each in spec.INPUTS],
            [_value_info(each, sizes) for each in spec.OUTPUTS],
            initializer=self._initializers,
        )
        opsets = [helper.make_opsetid("", spec.OPSET)]
        if contrib:
            opsets.append(helper.make_opsetid(spec.CONTRIB_DOMAIN, spec.CONTRIB_VERSION))
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=spec.IR_VERSION, producer_name="charrnn"
        )
        helper.set_model_props(model, {spec.METADATA_PREFIX + key: value for key, value in metadata.items()})
        return model

    def _unique(self, name: str) -> str:
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return f"{name}_{count}" if count else name


def _value_info(each: spec.TensorSpec, sizes: dict[str, int]) -> onnx.ValueInfoProto:
    shape = [sizes.get(axis, axis) for axis in each.axes]
    return helper.make_tensor_value_info(each.name, each.element_type, shape)
