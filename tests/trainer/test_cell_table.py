"""The tables of cells: they agree with torch, and no other module compares cell names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import charrnn_runtime
import charrnn_trainer
from charrnn_runtime.format import spec
from charrnn_trainer.nn.cells import CELLS

PACKAGES = [Path(str(package.__file__)).parent for package in (charrnn_runtime, charrnn_trainer)]
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

cells = pytest.mark.parametrize("name", sorted(CELLS))


def test_the_cells_are_those_of_the_format() -> None:
    assert tuple(CELLS) == spec.CELLS


@cells
def test_the_states_of_a_cell_are_laid_out_as_in_the_format(name: str) -> None:
    row = [block.name for block in spec.state_layout(name, 2, 8)]
    assert row == [f"{state}{layer}" for state in CELLS[name].states for layer in range(2)]


@cells
def test_the_number_of_gates_matches_the_weights_of_torch(name: str) -> None:
    layers = CELLS[name].layers(3, 8)
    assert layers.weight_hh_l0.shape == (CELLS[name].gates * 8, 8)


@cells
def test_the_functional_form_of_a_cell_matches_its_module(name: str) -> None:
    cell = CELLS[name]
    torch.manual_seed(1)
    layers = cell.layers(3, 8, 2, batch_first=True)
    inputs = torch.randn(4, 5, 3)
    state = tuple(torch.randn(2, 4, 8) for _ in cell.states)
    expected, after = layers(inputs, state if len(state) > 1 else state[0])
    weights = [weight for _, weight in layers.named_parameters()]
    hidden, rest = cell.recur(inputs, state, weights, True, 2, 0.0, False, False, True)
    assert torch.equal(hidden, expected)
    assert len(rest) == len(state)
    for part, wanted in zip(rest, after if isinstance(after, tuple) else (after,), strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("source", SOURCES, ids=[f"{path.parent.name}/{path.stem}" for path in SOURCES])
def test_no_module_compares_with_the_name_of_a_cell(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Subscript):
            counts = ast.unparse(node.value) in ("spec.GATES", "spec.STATES")
        else:
            counts = isinstance(node, ast.Compare)
        if counts and isinstance(node, ast.expr):
            values = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            assert not values & set(CELLS), f"{source}:{node.lineno}"


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_cells_are_named_only_in_tables(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & set(CELLS)
    # The last two hold a default, and the pair that reports compare.
    tables = ["format/spec.py", "nn/cells.py", "export/graph/cells.py", "config.py", "compare/cell_pair.py"]
    (package,) = (package for package in PACKAGES if package in source.parents)
    assert not named or source.relative_to(package).as_posix() in tables
