"""Checks the graph of a step model, node by node: known operators, known attributes, types and shapes.

Every value's type and shape is inferred from the inputs on, so that a graph cannot grow a value larger than
its model has any use for, whatever it is made of. Shapes are tuples in which `BATCH` means B.

Indices are checked to be in range too, since not every kernel of a GPU looks: the sampler counts symbols to
find the one that it takes, and a count is bounded by how many are counted (see `Value`).
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
"""What a model may hold in addition to its weights, however small it is."""

_MOST_GATES: Final = max(spec.GATES.values())

_NUMBERS_A_SIZE: Final = 32
"""The values of all nodes together have about 12 numbers for each of a model's gates, states and symbols."""


class Sizes(Record):
    """How much a graph may and must hold, counted in numbers.

    Attributes:
        widest: the most that one value may have for one stream.
        in_all: the most that all computed values may have together, for one stream.
        weights: the least that the initializers must have together: a model that claims to be large has to
            bring its weights along.
        most_weights: the most that they may have: a small model has no use for more.
    """

    widest: int
    in_all: int
    weights: int
    most_weights: int

    @classmethod
    def of_network(cls, cell: str, layers: int, hidden_size: int, state_size: int, symbols: int) -> Sizes:
        """What a network of these sizes needs and may have."""
        gates = layers * spec.GATES[cell] * hidden_size
        return cls(
            widest=max(symbols, _MOST_GATES * hidden_size, state_size),
            in_all=_NUMBERS_A_SIZE * (gates + state_size + symbols),
            weights=gates * hidden_size + hidden_size * symbols,  # recurrent and output weights
            # Besides, a table and input weights; twice that leaves room for biases, scales and constants.
            most_weights=2 * (gates * (2 * hidden_size + symbols) + hidden_size * symbols) + _MORE_NUMBERS,
        )


def check_graph(graph: Any, inputs: dict[str, Value], outputs: dict[str, Value], sizes: Sizes) -> None:
    """Check all nodes of a graph, in order.

    Args:
        graph: the ``GraphProto``.
        inputs: what the specification says of the inputs.
        outputs: what it says of the outputs.
        sizes: how much it may and must hold.

    Raises:
        ModelFormatError: a rule is broken; the message names the node.
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
                    f"{label} makes a value of shape {shape_text(value.shape)}; one stream may need at most "
                    f"{sizes.widest:,} numbers"
                )
            in_all += numbers
            values[name] = value
        if in_all > sizes.in_all:
            raise ModelFormatError(
                f"the values up to {label} have {in_all:,} numbers for one stream; at most "
                f"{sizes.in_all:,} are allowed for a model of its sizes"
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
        raise ModelFormatError(f"{label} is of the foreign domain {node.domain!r}")
    if rule is None:
        raise ModelFormatError(f"{label}: this operator is not on the list of those that export writes")
    attributes = _attributes(node, label)
    missing = [name for name in node.input if name not in values]
    if missing:
        raise ModelFormatError(f"{label} reads {missing[0]!r}, which nothing before it computes")
    if len(node.input) != rule.inputs and not (rule.inputs == MANY and node.input):
        raise ModelFormatError(f"{label} has {len(node.input)} inputs; it must have {rule.inputs}")
    if set(attributes) != set(rule.attributes):
        raise ModelFormatError(
            f"{label} has the attributes {sorted(attributes)}; it must have {sorted(rule.attributes)}"
        )
    for name, allowed in rule.attributes.items():
        if allowed is not None and attributes[name] not in allowed:
            raise ModelFormatError(f"{label}: {name} is {attributes[name]}; allowed is {allowed}")
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
                f"{label}: the attribute {attribute.name!r} has a type that is not used here"
            )
        if attribute.name in found:
            raise ModelFormatError(f"{label}: the attribute {attribute.name!r} occurs twice")
        found[attribute.name] = value
    return found
