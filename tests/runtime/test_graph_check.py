"""The rules of the graph: known operators, known attributes, types, shapes and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from charrnn_runtime import CharRNN
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import check_model_bytes
from hostile_files import INT8, LSTM, add_node, add_tensor, changed, node, refusal, tensor

F4, F2, I8, I4, U1, S1 = np.float32, np.float16, np.int64, np.int32, np.uint8, np.int8


# --- operators ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operator",
    [
        *(
            "If",
            "Loop",
            "Scan",
            "SequenceMap",
            "Expand",
            "Tile",
            "ConstantOfShape",
            "Constant",
            "Range",
            "Pad",
        ),
        *("ArgMax", "GatherND", "GatherElements", "ReduceMax", "ScatterElements", "Where", "Squeeze"),
        *("Shape", "Einsum", "Conv", "Gemm", "LSTM", "GRU", "RNN", "RandomUniform", "Multinomial"),
        *(
            "OneHot",
            "EyeLike",
            "Resize",
            "StringNormalizer",
            "Optional",
            "Tanh ",
            "tanh",
            "",
            "Tanh\x1b[2J\n",
        ),
    ],
)
def test_operators_that_export_does_not_write_are_rejected(operator: str) -> None:
    message = refusal(changed(lambda model: add_node(model, operator, ["state"])))
    assert "this operator is not used in step models" in message
    assert operator.strip("\x1b[2J\n") in message


def test_qgemm_is_rejected_in_the_standard_domain() -> None:
    message = refusal(changed(lambda model: add_node(model, "QGemm", ["state"]), INT8))
    assert "(QGemm) has the unknown domain ''" in message


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx", "ai.onnx.ml", "evil", " "])
def test_operators_of_foreign_domains_are_rejected(domain: str) -> None:
    message = refusal(changed(lambda model: add_node(model, "Tanh", ["state"], domain=domain)))
    assert f"has the unknown domain {domain!r}" in message


def test_a_substituted_operator_is_rejected() -> None:
    def change(model: Any) -> None:
        node(model, "logits").op_type = "Expand"

    assert "(Expand): this operator is not used in step models" in refusal(changed(change))


# --- inputs and outputs of nodes ---------------------------------------------------------------------------


def test_a_node_that_reads_itself_is_rejected() -> None:
    data = changed(lambda model: add_node(model, "Tanh", ["made"], ["made"]))
    assert "reads 'made', which no earlier node computes" in refusal(data)


def test_a_cycle_is_rejected() -> None:
    def change(model: Any) -> None:
        add_node(model, "Tanh", ["second"], ["first"])
        add_node(model, "Tanh", ["first"], ["second"])

    assert "reads 'second', which no earlier node computes" in refusal(changed(change))


def test_reading_a_later_value_is_rejected() -> None:
    assert "which no earlier node computes" in refusal(changed(lambda model: model.graph.node.reverse()))


def test_reading_nothing_is_rejected() -> None:
    assert "reads '', which no earlier node computes" in refusal(
        changed(lambda model: add_node(model, "Add", ["state", ""]))
    )


@pytest.mark.parametrize("taken", ["state", "table", "logits", "Softmax"])
def test_duplicate_value_names_are_rejected(taken: str) -> None:
    data = changed(lambda model: add_node(model, "Tanh", ["state"], [taken]))
    assert f"the output name {taken!r} is empty or already taken" in refusal(data)


def test_an_output_needs_a_name() -> None:
    assert "the output name '' is empty" in refusal(
        changed(lambda model: add_node(model, "Tanh", ["state"], [""]))
    )


@pytest.mark.parametrize("name", ["state", "table", ""])
def test_a_tensor_needs_a_unique_name(name: str) -> None:
    data = changed(lambda model: add_tensor(model, name, np.zeros((1, 1), F4)))
    assert f"the name {name!r} of a tensor is empty or already taken" in refusal(data)


@pytest.mark.parametrize("outputs", [[], ["one", "two"], ["one"] * 100])
def test_a_node_has_as_many_outputs_as_its_operator(outputs: list[str]) -> None:
    data = changed(lambda model: add_node(model, "Tanh", ["state"], outputs))
    assert f"has {len(outputs)} outputs; it must have 1" in refusal(data)


@pytest.mark.parametrize("name", ["logits", "next_token", "next_state"])
def test_every_output_is_computed_by_a_node(name: str) -> None:
    def rename(model: Any) -> None:
        found = node(model, name)
        found.output[list(found.output).index(name)] = "other"
        for other in model.graph.node:
            for index, read in enumerate(other.input):
                if read == name:
                    other.input[index] = "other"

    assert f"no node computes the output {name!r}" in refusal(changed(rename))


def test_an_output_cannot_be_a_constant() -> None:
    def change(model: Any) -> None:
        node(model, "next_token").output[0] = "other"
        add_tensor(model, "next_token", np.zeros(1, I8))

    assert "no node computes the output 'next_token'" in refusal(changed(change))


def test_an_output_has_the_shape_that_is_declared() -> None:
    def change(model: Any) -> None:
        del node(model, "next_state").input[-1:]

    message = refusal(changed(change))
    assert "output 'next_state' is computed with type 1 and shape [batch, 36]" in message
    assert "expected type 1 and shape [batch, 48]" in message


def test_next_tokens_must_be_selected_from_the_symbols() -> None:
    # A computed number can have any value; a stream would read an invalid symbol.
    def change(model: Any) -> None:
        node(model, "next_token").output[0] = "other"
        add_node(model, "Cast", ["temperature"], ["next_token"], {"to": spec.INT64})

    assert "output 'next_token' is not computed as an index below 65" in refusal(changed(change))


# --- attributes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "change", "message"),
    [
        ("Gather", lambda a: setattr(a, "i", 2), "axis is 2; expected [0, 1]"),
        ("Split_0", lambda a: setattr(a, "i", -1), "axis is -1; expected [1]"),
        ("Softmax", lambda a: setattr(a, "i", 0), "axis is 0; expected [1]"),
        ("TopK_0", lambda a: setattr(a, "i", 2**63 - 1), "axis is 9223372036854775807; expected [1]"),
        ("TopK_1_0", lambda a: setattr(a, "i", 0), "axis is 0; expected [1]"),
        ("Cast", lambda a: setattr(a, "i", 8), "to is 8; expected [1, 10, 7]"),
        (
            "Softmax",
            lambda a: setattr(a, "name", "axes"),
            "has the attributes ['axes']; it must have ['axis']",
        ),
        (
            "Softmax",
            lambda a: setattr(a, "type", 0),
            "the attribute 'axis' has a type that is not used in step models",
        ),
        (
            "Softmax",
            lambda a: setattr(a, "type", 5),
            "the attribute 'axis' has a type that is not used in step models",
        ),
        (
            "Softmax",
            lambda a: setattr(a, "type", 7),
            "the attribute 'axis' has a type that is not used in step models",
        ),
        (
            "Softmax",
            lambda a: a.ints.append(1),
            "the attribute 'axis' has a type that is not used in step models",
        ),
    ],
)
def test_attributes_have_the_values_that_export_writes(
    output: str, change: Callable[[Any], object], message: str
) -> None:
    assert message in refusal(changed(lambda model: change(node(model, output).attribute[0])))


def test_missing_extra_and_duplicate_attributes_are_rejected() -> None:
    def missing(model: Any) -> None:
        del node(model, "Softmax").attribute[:]

    assert "has the attributes []; it must have ['axis']" in refusal(changed(missing))

    def further(model: Any) -> None:
        node(model, "TopK_0").attribute.add(name="largest", type=2)

    assert "has the attributes ['axis', 'largest']; it must have ['axis']" in refusal(changed(further))

    def double(model: Any) -> None:
        node(model, "Softmax").attribute.add(name="axis", i=1, type=2)

    assert "the attribute 'axis' appears twice" in refusal(changed(double))


# --- tensors -----------------------------------------------------------------------------------------------


def _table(**fields: Any) -> bytes:
    def change(model: Any) -> None:
        table = tensor(model, "table")
        for name, value in fields.items():
            if name == "dims":
                del table.dims[:]
                table.dims.extend(value)
            else:
                setattr(table, name, value)

    return changed(change)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([65, 49], "of shape (65, 49) needs 12,740 bytes, but has 12,480"),
        ([64, 48], "needs 12,288 bytes, but has 12,480"),
        ([], "of shape () needs 4 bytes, but has 12,480"),
        ([3120], "Gather"),
        ([48, 65], "(Gather) does not fit its inputs"),
        ([2**40, 2**20], "needs 4,611,686,018,427,387,904 bytes, but has 12,480"),
        ([2**62, 2**62], "but has 12,480"),
        ([65, -48], "every size must be 1 or more"),
        ([-65, -48], "every size must be 1 or more"),
        ([0, 48], "every size must be 1 or more"),
        ([2**63 - 1, 0], "every size must be 1 or more"),
        ([65, 48, 1], "has 3 axes; at most 2 are allowed"),
        ([1] * 70, "has 70 axes; at most 2 are allowed"),
    ],
)
def test_a_tensor_has_the_bytes_that_its_shape_needs(dims: list[int], message: str) -> None:
    assert message in refusal(_table(dims=dims))


@pytest.mark.parametrize("kind", [0, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 17, 23, 99, -1])
def test_a_tensor_has_one_of_the_types_in_use(kind: int) -> None:
    assert f"tensor 'table' has the unsupported element type {kind}" in refusal(_table(data_type=kind))


def test_a_tensor_without_numbers_is_rejected() -> None:
    assert "needs 12,480 bytes, but has 0" in refusal(_table(raw_data=b""))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [F4, F2])
def test_numbers_that_are_not_finite_are_rejected(number: float, kind: type) -> None:
    numbers: NDArray[Any] = np.zeros((3, 5), kind)
    numbers[2, 4] = number
    message = refusal(changed(lambda model: add_tensor(model, "extra", numbers)))
    assert "tensor 'extra' has numbers that are not finite (NaN or infinity)" in message


# --- shapes and types, operator by operator ----------------------------------------------------------------

CONSTANTS: dict[str, NDArray[Any]] = {
    "f_scalar": np.array(0.5, F4),
    "f_negative": np.array(-0.5, F4),
    "f_row": np.ones(48, F4),
    "f_one": np.ones((1, 1), F4),
    "f_column": np.ones((5, 1), F4),
    "f_square": np.ones((48, 48), F4),
    "f_half": np.ones((48, 48), F2),
    "f_small": np.ones((3, 4), F4),
    "i_scalar0": np.array(0, I8),
    "i_scalar1": np.array(1, I8),
    "i_0": np.array([0], I8),
    "i_1": np.array([1], I8),
    "i_49": np.array([49], I8),
    "i_minus": np.array([-1], I8),
    "i_split": np.array([24, 24], I8),
    "i_split_low": np.array([24, 23], I8),
    "i_split_negative": np.array([50, -2], I8),
    "i_split_zero": np.array([48, 0], I8),
    "i_split_wraps": np.array([2**62, 2**62, 2**62, 2**62, 48], I8),
    "i_matrix": np.array([[24, 24]], I8),
    "u_scalar": np.array(128, U1),
    "u_row": np.array([128], U1),
    "s_square": np.ones((48, 48), S1),
    "s_small": np.ones((3, 4), S1),
    "s_scalar": np.array(0, S1),
    "n_row": np.ones(48, I4),
    "n_short": np.ones(47, I4),
}

VALUES = """
b     Less        logits logits
i     Cast        state                     to=7
h     Cast        state                     to=10
b1    Less        uniform uniform
col   Unsqueeze   uniform i_1
icol  Unsqueeze   top_k i_1
itok  Unsqueeze   token i_1
"""

WRONG: list[tuple[str, str, dict[str, int | list[int]], str]] = [
    ("Add", "state", {}, "has 1 inputs; it must have 2"),
    ("Add", "state state state", {}, "has 3 inputs; it must have 2"),
    ("Add", "state i", {}, "expected float32 values"),
    ("Add", "h h", {}, "expected float32 values"),
    ("Add", "state logits", {}, "shapes [batch, 48], [batch, 65]: expected shapes that broadcast"),
    ("Mul", "state f_small", {}, "expected shapes that broadcast"),
    ("Mul", "col f_column", {}, "expected shapes that broadcast"),
    ("Add", "col uniform", {}, "shapes [batch, 1], [batch]: expected the batch on the first axis only"),
    ("Sub", "uniform col", {}, "expected the batch on the first axis only"),
    ("Div", "uniform f_one", {}, "expected the batch on the first axis only"),
    ("Less", "col temperature", {}, "expected the batch on the first axis only"),
    ("Mul", "f_column f_row", {}, "produces a value of shape [5, 48]; the limit per stream is 65 numbers"),
    ("Less", "state i", {}, "expected two values of one type"),
    ("Less", "b b", {}, "expected float32 or int64 values"),
    ("GreaterOrEqual", "h h", {}, "expected float32 or int64 values"),
    ("LessOrEqual", "b b1", {}, "expected float32 or int64 values"),
    ("Max", "state state h", {}, "expected float32 values"),
    ("Max", "state state logits", {}, "expected shapes that broadcast"),
    ("Max", "col col uniform", {}, "expected the batch on the first axis only"),
    ("Max", "", {}, "has 0 inputs; it must have"),
    ("Min", "state", {}, "has 1 inputs; it must have 2"),
    ("Min", "i icol", {}, "expected float32 values"),
    ("Tanh", "i", {}, "expected a float32 value"),
    ("Sigmoid", "h", {}, "expected a float32 value"),
    ("Softmax", "b", {"axis": 1}, "expected a float32 value"),
    ("Identity", "i", {}, "expected a float32 value"),
    ("Cast", "state", {"to": 6}, "to is 6; expected"),
    ("Gather", "state token", {"axis": 0}, "expected a constant of type 1"),
    ("Gather", "f_row token", {"axis": 0}, "expected a table of two axes"),
    ("Gather", "f_half token", {"axis": 0}, "expected a table of float32 or int32"),
    ("Gather", "table i_0", {"axis": 0}, "expected int64 [batch] indices"),
    ("Gather", "table itok", {"axis": 0}, "expected int64 [batch] indices"),
    ("Gather", "table uniform", {"axis": 0}, "expected int64 [batch] indices"),
    ("Gather", "table top_k", {"axis": 0}, "expected indices below 65"),
    ("Gather", "f_small token", {"axis": 0}, "expected indices below 3"),
    ("Split", "state i_split_low", {"axis": 1}, "expected positive sizes that sum to 48"),
    ("Split", "state i_split_negative", {"axis": 1}, "expected positive sizes that sum to 48"),
    ("Split", "state i_split_zero", {"axis": 1}, "expected positive sizes that sum to 48"),
    ("Split", "state i_split_wraps", {"axis": 1}, "expected positive sizes that sum to 48"),
    ("Split", "state i_matrix", {"axis": 1}, "expected positive sizes that sum to 48"),
    ("Split", "state top_k", {"axis": 1}, "expected a constant of type 7"),
    ("Split", "state i_split", {"axis": 1}, "has 1 outputs; it must have 2"),
    ("Split", "uniform i_split", {"axis": 1}, "expected a value of shape [batch, width]"),
    ("Concat", "", {"axis": 1}, "has 0 inputs; it must have"),
    ("Concat", "state h", {"axis": 1}, "expected one of the types (1,)"),
    ("Concat", "i i", {"axis": 1}, "expected float or uint8 values"),
    ("Concat", "state uniform", {"axis": 1}, "expected a value of shape [batch, width]"),
    ("Concat", "state f_square", {"axis": 1}, "expected a value of shape [batch, width]"),
    ("Concat", "state state", {"axis": 1}, "of shape [batch, 96]; the limit per stream is 65 numbers"),
    ("Concat", "state " * 1000, {"axis": 1}, "of shape [batch, 48000]; the limit per stream is 65"),
    ("MatMul", "state state", {}, "expected a constant of type 1"),
    ("MatMul", "f_square f_square", {}, "expected a value of shape [batch, width]"),
    ("MatMul", "state f_small", {}, "expected a constant matrix of 48 rows"),
    ("MatMul", "state f_row", {}, "expected a constant matrix of 48 rows"),
    ("MatMul", "state f_half", {}, "expected a constant of type 1"),
    ("MatMul", "h f_square", {}, "expected a constant of type 10"),
    ("MatMul", "i f_square", {}, "expected one of the types (1, 10)"),
    ("Unsqueeze", "uniform i_0", {}, "expected axes [1]"),
    ("Unsqueeze", "state i_1", {}, "expected a value of shape [batch]"),
    ("Unsqueeze", "uniform i_split", {}, "expected a constant of shape (1,)"),
    ("Unsqueeze", "uniform token", {}, "expected a constant of type 7"),
    ("TopK", "state i_0", {"axis": 1}, "expected k between 1 and 48"),
    ("TopK", "state i_49", {"axis": 1}, "expected k between 1 and 48"),
    ("TopK", "state top_k", {"axis": 1}, "expected a constant of type 7"),
    ("TopK", "i i_1", {"axis": 1}, "expected one of the types (1,)"),
    ("CumSum", "state i_scalar0", {}, "expected axis 1"),
    ("CumSum", "state i_1", {}, "expected a constant of shape ()"),
    ("CumSum", "uniform i_scalar1", {}, "expected a value of shape [batch, width]"),
    ("Gather", "state i_49", {"axis": 1}, "expected a column below 48"),
    ("Gather", "state i_minus", {"axis": 1}, "expected a column below 48"),
    ("Gather", "state top_k", {"axis": 1}, "expected a constant of type 7"),
    ("Gather", "state token", {"axis": 1}, "expected a constant of type 7"),
    ("Gather", "state i_scalar1", {"axis": 1}, "expected a constant of shape (1,)"),
    ("Gather", "state i_split", {"axis": 1}, "expected a constant of shape (1,)"),
    ("Gather", "i i_1", {"axis": 1}, "expected one of the types (1,)"),
    ("Gather", "f_square i_1", {"axis": 1}, "expected a value of shape [batch, width]"),
    ("Gather", "uniform i_0", {"axis": 1}, "expected a value of shape [batch, width]"),
    ("Reshape", "state i_minus", {}, "expected a value of shape [batch, 1]"),
    ("Reshape", "icol i_minus", {}, "expected one of the types (1,)"),
    ("Reshape", "uniform i_minus", {}, "expected a value of shape [batch, width]"),
    ("Reshape", "col i_1", {}, "expected the shape [-1]"),
    ("Reshape", "col i_split", {}, "expected a constant of shape (1,)"),
    ("Reshape", "col token", {}, "expected a constant of type 7"),
    (
        "QGemm",
        "state f_scalar u_scalar s_square f_scalar s_scalar n_row",
        {},
        "expected one of the types (2,)",
    ),
    ("QGemm", "q f_negative u_scalar s_square f_scalar s_scalar n_row", {}, "expected a positive scale"),
    ("QGemm", "q f_scalar u_row s_square f_scalar s_scalar n_row", {}, "expected a constant of shape ()"),
    ("QGemm", "q f_scalar u_scalar f_square f_scalar s_scalar n_row", {}, "expected a constant of type 3"),
    ("QGemm", "q f_scalar u_scalar s_small f_scalar s_scalar n_row", {}, "a constant matrix of 48 rows"),
    (
        "QGemm",
        "q f_scalar u_scalar s_square f_negative s_scalar n_row",
        {},
        "expected a positive weight scale",
    ),
    ("QGemm", "q f_scalar u_scalar s_square f_scalar u_scalar n_row", {}, "expected a constant of type 3"),
    ("QGemm", "q f_scalar u_scalar s_square f_scalar s_scalar n_short", {}, "a constant of shape (48,)"),
    ("QGemm", "q f_scalar u_scalar s_square f_scalar s_scalar f_row", {}, "expected a constant of type 6"),
    ("QGemm", "q f_scalar u_scalar s_square f_scalar s_scalar state", {}, "expected one of the types (6,)"),
    ("QGemm", "q f_scalar u_scalar s_square f_scalar s_scalar", {}, "has 6 inputs; it must have 7"),
    ("QuantizeLinear", "state f_negative u_scalar", {}, "expected a positive scale"),
    ("QuantizeLinear", "state f_row u_scalar", {}, "expected a constant of shape ()"),
    ("QuantizeLinear", "state f_scalar i_scalar0", {}, "expected a constant of type 2"),
    ("QuantizeLinear", "uniform f_scalar u_scalar", {}, "expected a value of shape [batch, width]"),
]


def _with_values(model: Any) -> None:
    """Adds constants and values of all types and shapes, each allowed by every rule."""
    for name, numbers in CONSTANTS.items():
        add_tensor(model, name, numbers)
    for line in filter(None, VALUES.splitlines()):
        name, operator, *rest = line.split()
        attributes: dict[str, int | list[int]] = {"to": int(rest.pop()[3:])} if "=" in line else {}
        add_node(model, operator, rest, [name], attributes)
    add_node(model, "QuantizeLinear", ["state", "f_scalar", "u_scalar"], ["q"])


def test_the_valid_counterparts_of_the_next_test_are_accepted() -> None:
    assert check_model_bytes(changed(_with_values, INT8), "x").info.precision == "int8"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "message"), WRONG, ids=[f"{c[0]} {c[1][:40]}" for c in WRONG]
)
def test_a_node_that_does_not_fit_its_inputs_is_rejected(
    operator: str, inputs: str, attributes: dict[str, int | list[int]], message: str
) -> None:
    def change(model: Any) -> None:
        _with_values(model)
        domain = spec.CONTRIB_DOMAIN if operator == "QGemm" else ""
        add_node(model, operator, inputs.split(), attributes=attributes, domain=domain)

    found = refusal(changed(change, INT8))
    assert f"node 'added {operator}' ({operator})" in found
    assert message in found


# --- the selected token ------------------------------------------------------------------------------------


def _numbers(output: str, index: int, numbers: NDArray[Any]) -> Callable[[Any], None]:
    """Replaces a constant of a node."""

    def change(model: Any) -> None:
        add_tensor(model, "changed", numbers)
        node(model, output).input[index] = "changed"

    return change


def _read(output: str, index: int, name: str) -> Callable[[Any], None]:
    """Replaces an input of a node."""

    def change(model: Any) -> None:
        node(model, output).input[index] = name

    return change


COUNT = "MatMul_3"
"""The product that counts the symbols before the selected one."""


def _counted(*last: float) -> NDArray[Any]:
    counted = np.ones((65, 1), F4)
    counted[65 - len(last) :, 0] = last
    return counted


OUT_OF_RANGE: dict[str, Callable[[Any], None]] = {
    "all symbols counted": _numbers(COUNT, 1, _counted(1)),
    "counts by the thousand": _numbers(COUNT, 1, _counted(1000)),
    "counts below zero": _numbers(COUNT, 1, _counted(-1)),
    "counts in halves": _numbers(COUNT, 1, _counted(0.5)),
    "counts of what is neither 0 nor 1": _read(COUNT, 0, "Softmax"),
    "a number that was given": _read("next_token", 0, "temperature"),
    "a number that was computed": _read("Reshape", 0, "Mul_9"),
}


@pytest.mark.parametrize("change", OUT_OF_RANGE)
def test_a_token_that_might_be_out_of_range_is_rejected(change: str) -> None:
    # GPU kernels may not check, and would read out of bounds.
    message = refusal(changed(OUT_OF_RANGE[change]))
    assert "output 'next_token' is not computed as an index below 65" in message


def test_symbols_can_be_counted_with_any_weights_within_range() -> None:
    counts = np.ones((65, 1), F4)
    counts[30:] = 0
    for numbers in (counts, np.zeros((65, 1), F4)):
        assert check_model_bytes(changed(_numbers(COUNT, 1, numbers)), "x").info.cell == "lstm"


@pytest.mark.parametrize("setting", ["uniform", "temperature", "top_p", "min_p"])
def test_logits_that_depend_on_sampling_inputs_are_rejected(setting: str) -> None:
    def change(model: Any) -> None:
        first = next(each for each in model.graph.node if each.op_type == "Add" and "Gather" in each.input)
        made = [type(each).FromString(each.SerializeToString()) for each in model.graph.node]
        place = [each.output[0] for each in made].index(first.output[0]) + 1
        del model.graph.node[:]
        model.graph.node.extend(made[:place])
        model.graph.node[-1].output[0] = "sum"
        add_node(model, "Unsqueeze", [setting, "column"], ["the setting"])
        add_node(model, "Mul", ["sum", "the setting"], [first.output[0]])
        model.graph.node.extend(made[place:])

    message = f"its logits or next_state depend on {setting}; they may depend only on token and state"
    assert message in refusal(changed(change))


# --- memory ------------------------------------------------------------------------------------------------


def test_repeated_doubling_of_a_value_is_rejected() -> None:
    def change(model: Any) -> None:
        last = "uniform_column"
        add_node(model, "Unsqueeze", ["uniform", "column"], [last])
        for i in range(40):
            add_node(model, "Concat", [last, last], [f"twice{i}"], {"axis": 1})
            last = f"twice{i}"

    assert "produces a value of shape [batch, 128]; the limit per stream is 65 numbers" in refusal(
        changed(change)
    )


def test_products_between_streams_are_rejected(tmp_path: Any) -> None:
    # [batch, 1] times [batch] would be [batch, batch]: at 8,192 streams, 256 MiB for each such node.
    def change(model: Any) -> None:
        add_node(model, "Unsqueeze", ["uniform", "column"], ["u"])
        add_node(model, "Mul", ["u", "uniform"], ["pairs"])

    assert "the batch on the first axis only" in refusal(changed(change))


def test_long_or_hostile_names_never_make_a_long_message() -> None:
    def change(model: Any) -> None:
        model.graph.node[0].name = "\n\x1b[31m" * 100_000

    assert check_model_bytes(changed(change), "x").info.cell == "lstm"  # names are arbitrary

    def break_it(model: Any) -> None:
        change(model)
        model.graph.node[0].op_type = "If"

    refusal(changed(break_it))


def test_dead_nodes_are_checked_and_allowed_ones_change_nothing(tmp_path: Any, lstm: CharRNN) -> None:
    path = tmp_path / "more.onnx"
    path.write_bytes(changed(lambda model: add_node(model, "Tanh", ["state"]), LSTM))
    model = CharRNN.load(path, device="cpu")
    assert model.generate("LORD ", 50, seed=1) == lstm.generate("LORD ", 50, seed=1)
