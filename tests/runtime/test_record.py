"""Values with named fields that never change."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import charrnn_runtime
from charrnn_runtime.record import Record


class Point(Record):
    x: Any
    y: Any = 0


class Named(Point):
    name: str = "origin"


class Positive(Record):
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("not positive")


@dataclasses.dataclass(frozen=True)
class DataPoint:
    x: Any
    y: Any = 0


values = st.none() | st.integers() | st.text() | st.tuples(st.integers())


@given(values, values, values)
def test_a_record_behaves_like_a_frozen_dataclass(x: Any, y: Any, other: Any) -> None:
    point, same = Point(x, y), DataPoint(x, y)
    assert repr(point) == repr(same).replace("DataPoint", "Point")
    assert (point == Point(x, y=other)) == (same == DataPoint(x, y=other))
    assert point == Point(y=y, x=x)
    assert hash(point) == hash(Point(x, y))
    assert (Point(x) == point) == (DataPoint(x) == same)


def test_a_subclass_extends_the_fields_of_its_parent() -> None:
    named = Named(1, name="here")
    assert (named.x, named.y, named.name) == (1, 0, "here")
    assert repr(named) == "Named(x=1, y=0, name='here')"


def test_records_of_different_classes_are_never_equal() -> None:
    assert Named(1) != Point(1)
    assert Point(1) != (1, 0)


def test_a_field_can_neither_be_set_nor_deleted() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="z cannot be set"):
        point.z = 2
    with pytest.raises(AttributeError, match="x cannot be deleted"):
        del point.x
    assert point == Point(1)


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((), {"y": 1}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})],
    ids=["none", "a-missing-one", "too-many", "one-twice", "an-unknown-one"],
)
def test_invalid_fields_are_an_error_that_names_the_valid_ones(
    given: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match="Point takes each of x, y once"):
        Point(*given, **named)


def test_a_subclass_can_validate_its_fields() -> None:
    assert Positive(1).number == 1
    with pytest.raises(ValueError, match="not positive"):
        Positive(0)


def test_copies_and_pickles_are_equal() -> None:
    point = Point("a", (1, 2))
    for again in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert again == point


def runtime_modules() -> list[str]:
    return [item.name for item in pkgutil.walk_packages(charrnn_runtime.__path__, "charrnn_runtime.")]


@pytest.mark.parametrize("name", runtime_modules())
def test_no_class_of_the_runtime_is_generated_at_import(name: str) -> None:
    module = importlib.import_module(name)
    classes = [item for item in vars(module).values() if isinstance(item, type)]
    assert not [item.__name__ for item in classes if dataclasses.is_dataclass(item)]


def test_generating_imports_no_unused_modules(lstm_path: Path) -> None:
    program = (
        "import sys\n"
        "from charrnn_runtime.cli.gen import main\n"
        "sys.argv[1:] = [sys.argv[1], '-n', '5', '-q']\n"
        "try:\n    main()\n"
        "finally:\n    print('\\nmodules:', *sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(lstm_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.partition("modules:")[2].split()}
    assert {"onnxruntime", "typer"} <= loaded
    assert not loaded & {
        "rich",
        "torch",
        "onnx",
        "pygments",
        "pydantic",
        "sympy",
        "email",
        "importlib_metadata",
    }
