"""Validates the graph of a step model node by node: operators, attributes, types and shapes.

The type and shape of every value are inferred from the inputs, so that no graph can create a value larger
than its model needs. Shapes are tuples in which `BATCH` stands for B.

Indices are also checked to be in range, since some GPU kernels do not: the sampler counts symbols to find the
one to select, and a count is bounded by the number of counted values (see `Value`).
"""

from __future__ import annotations

import math
from typing import Any, Final

from charrnn_runtime.errors import ModelFormatError
from charrnn_runtime.format import spec
from charrnn_runtime.format.operators import MANY, RULES, Mismatch
from charrnn_runtime.format.values import BATCH, Value, read_tensor, shape_text
from charrnn_runtime.record import Record

_INT_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 7  # AttributeProto.AttributeType

_MORE_NUMBERS: Final = 100_000
"""The numbers that a model may contain in addition to its weights, however small it is."""

_NUMBERS_A_SIZE: Final = 32
"""A bound on all values, as a multiple of gates, states and symbols; the actual factor is about 12."""


class Sizes(Record):
    """The limits on the size of a graph, counted in numbers.

    Attributes:
        widest: the maximum for one value, per stream.
        in_all: the maximum for all computed values together, per stream.
        weights: the minimum for the initializers together: a model that claims to be large must contain the
            weights.
        most_weights: the maximum for the initializers together: a small model does not need more.
    """

    widest: int
    in_all: int
    weights: int
    most_weights: int

    @classmethod
    def of_network(cls, cell: str, layers: int, hidden_size: int, state_size: int, symbols: int) -> Sizes:
        """The limits for a network of these sizes."""
        gates = layers * spec.GATES[cell] * hidden_size
        return cls(
            widest=max(symbols, spec.GATES["lstm"] * hidden_size, state_size),
            in_all=_NUMBERS_A_SIZE * (gates + state_size + symbols),
            weights=gates * hidden_size + hidden_size * symbols,  # recurrent and output weights
            # Plus a table and input weights; twice that leaves room for biases, scales and constants.
            most_weights=2 * (gates * (2 * hidden_size + symbols) + hidden_size * symbols) + _MORE_NUMBERS,
        )


def check_graph(graph: Any, inputs: dict[str, Value], outputs: dict[str, Value], sizes: Sizes) -> None:
    """Validate all nodes of a graph, in order.

    Args:
        graph: the ``GraphProto``.
        inputs: the inputs according to the specification.
        outputs: the outputs according to the specification.
        sizes: the limits.

    Raises:
        ModelFormatError: the graph is invalid; the message names the node.
    """
    values = dict(inputs)
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in values:
            raise ModelFormatError(f"the name {tensor.name!r} of a tensor is empty or already taken")
        values[tensor.name] = read_tensor(tensor)
    weights = sum(value.constant.size for value in values.values() if value.constant is not None)
    if weights < sizes.weights:
        raise ModelFormatError(
            f"its tensors have {weights:,} numbers; a model of its layers, hidden size and vocabulary has at "
            f"least {sizes.weights:,}"
        )
    if weights > sizes.most_weights:
        raise ModelFormatError(
            f"its tensors have {weights:,} numbers; a model of its layers, hidden size and vocabulary has at "
            f"most {sizes.most_weights:,}"
        )
    in_all = 0
    for node in graph.node:
        label = f"node {node.name!r} ({node.op_type})"
        made = _infer(node, label, values)
        if len(made) != len(node.output):
            raise ModelFormatError(f"{label} has {len(node.output)} outputs; it must have {len(made)}")
        for name, value in zip(node.output, made, strict=True):
            if not name or name in values:
                raise ModelFormatError(f"{label}: the output name {name!r} is empty or already taken")
            numbers = math.prod(size for size in value.shape if size != BATCH)
            if numbers > sizes.widest:
                raise ModelFormatError(
                    f"{label} produces a value of shape {shape_text(value.shape)}; the limit per stream is "
                    f"{sizes.widest:,} numbers"
                )
            in_all += numbers
            values[name] = value
        if in_all > sizes.in_all:
            raise ModelFormatError(
                f"the values up to {label} have {in_all:,} numbers for one stream; at most "
                f"{sizes.in_all:,} are allowed for a model of this size"
            )
    for name, wanted in outputs.items():
        found = values.get(name)
        if found is None or name in inputs or found.constant is not None:
            raise ModelFormatError(f"no node computes the output {name!r}")
        if (found.element_type, found.shape) != (wanted.element_type, wanted.shape):
            raise ModelFormatError(
                f"output {name!r} is computed with type {found.element_type} and shape "
                f"{shape_text(found.shape)}; expected type {wanted.element_type} and shape "
                f"{shape_text(wanted.shape)}"
            )
        if wanted.below is not None and (found.below is None or found.below > wanted.below):
            raise ModelFormatError(
                f"output {name!r} is not computed as an index below {wanted.below:,}, as a count is"
            )


def _infer(node: Any, label: str, values: dict[str, Value]) -> list[Value]:
    rule = RULES.get(node.op_type)
    if node.domain != (rule.domain if rule else ""):
        raise ModelFormatError(f"{label} has the unknown domain {node.domain!r}")
    if rule is None:
        raise ModelFormatError(f"{label}: this operator is not used in step models")
    attributes = _attributes(node, label)
    missing = [name for name in node.input if name not in values]
    if missing:
        raise ModelFormatError(f"{label} reads {missing[0]!r}, which no earlier node computes")
    if len(node.input) != rule.inputs and not (rule.inputs == MANY and node.input):
        raise ModelFormatError(f"{label} has {len(node.input)} inputs; it must have {rule.inputs}")
    if set(attributes) != set(rule.attributes):
        raise ModelFormatError(
            f"{label} has the attributes {sorted(attributes)}; it must have {sorted(rule.attributes)}"
        )
    for name, allowed in rule.attributes.items():
        if allowed is not None and attributes[name] not in allowed:
            raise ModelFormatError(f"{label}: {name} is {attributes[name]}; expected {allowed}")
    try:
        return rule.infer([values[name] for name in node.input], attributes)
    except Mismatch as mismatch:
        shapes = ", ".join(shape_text(values[name].shape) for name in node.input)
        raise ModelFormatError(f"{label} does not fit its inputs of shapes {shapes}: {mismatch}") from None


def _attributes(node: Any, label: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == _INT_ATTRIBUTE and not attribute.ints:
            value: Any = attribute.i
        elif attribute.type == _INTS_ATTRIBUTE and not attribute.i:
            value = list(attribute.ints)
        else:
            raise ModelFormatError(
                f"{label}: the attribute {attribute.name!r} has a type that is not used in step models"
            )
        if attribute.name in found:
            raise ModelFormatError(f"{label}: the attribute {attribute.name!r} appears twice")
        found[attribute.name] = value
    return found
