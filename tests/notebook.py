"""Runs a notebook's code without Jupyter, and stores the outputs of its cells.

python tests/notebook.py docs/course.ipynb     runs it and stores its outputs in it
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
TEXT = Path(__file__).resolve().parent.parent / "data" / "tinyshakespeare.txt"
PARAMETERS = "parameters"
"""The tag of the cell with replaceable settings."""


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as JSON."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """The code cells."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell: Cell) -> bool:
    """Whether a cell contains the settings."""
    return PARAMETERS in cell["metadata"].get("tags", ())


def run_cells(notebook: dict[str, Any], parameters: str = "") -> Iterator[tuple[Cell, list[dict[str, Any]]]]:
    """Run the code cells in order in the current folder; yield each with its outputs.

    Args:
        notebook: the notebook.
        parameters: code that runs after the cell with the settings, to change them.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        source = "".join(cell["source"])
        if is_parameters(cell):
            source += f"\n{parameters}"
        yield cell, _run(source, namespace, number)


def _run(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run the code of a cell; its outputs are the printed text and the value of the last expression."""
    tree = ast.parse(source, f"cell {number}")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data: dict[str, Any] = {"text/plain": _lines(repr(value))}
        if picture := getattr(value, "_repr_png_", None):
            data["image/png"] = base64.b64encode(picture()).decode()
        outputs.append(
            {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        )
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(path: Path) -> None:
    """Run a notebook in a temporary folder and store its outputs in it."""
    notebook = read_notebook(path)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if TEXT.is_file():
            Path("data").mkdir()
            shutil.copy(TEXT, "data")
        for number, (cell, outputs) in enumerate(run_cells(notebook), start=1):
            print(f"cell {number}", file=sys.stderr)
            cell["outputs"], cell["execution_count"] = outputs, number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
