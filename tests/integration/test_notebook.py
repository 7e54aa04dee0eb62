"""The notebook of the course exercise runs, and its stored outputs are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from notebook import code_cells, is_parameters, read_notebook, run_cells

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = ROOT / "docs" / "course.ipynb"

SHORT = """
HIDDEN_SIZE, BATCH_SIZE, SEQ_LENGTH, STEPS, SAVE_EVERY, LENGTH = 8, 4, 16, 8, 4, 30
"""
TEXT = (
    "LORD OF THE MANOR:\nTo be, or not to be, that is the question:\nWhether 'tis nobler in the mind.\n\n"
    * 20
)


def shown(outputs: list[dict[str, object]]) -> str:
    """The printed output of a cell."""
    return "".join("".join(output["text"]) for output in outputs if "text" in output)  # type: ignore[arg-type]


@pytest.mark.nightly
def test_every_cell_runs_in_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    ran = list(run_cells(read_notebook(NOTEBOOK), f"TEXT = 'text.txt'\n{SHORT}"))
    printed = [shown(outputs) for _, outputs in ran]
    everything = "\n".join(printed)
    assert f"{len(TEXT):,} characters" in everything
    for cell in ("lstm", "gru"):
        assert (tmp_path / "ckpt" / cell / f"{cell}-2x8-step8.safetensors").exists()
        assert f"--- {cell}, step 8\nLORD " in everything
        assert f"--- {cell}, step 4\nLORD " in everything
    assert "GRU against LSTM: " in everything
    pictures = [
        output["data"] for _, outputs in ran for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt", "text.txt"]


def test_its_first_cells_show_the_numbers_of_the_exercise(
    tinyshakespeare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_cells(read_notebook(NOTEBOOK), f"TEXT = {str(tinyshakespeare)!r}")
    printed = ""
    for cell, outputs in ran:
        printed += shown(outputs)
        if "get_batches" in "".join(cell["source"]):
            break
    assert "1,115,394 characters" in printed
    assert "65 distinct characters" in printed
    assert "[[18 47 56 57 58  1 15 47 58 47]" in printed
    assert "[[47 56 57 58  1 15 47 58 47 64]" in printed


def test_its_saved_outputs_come_from_one_complete_run_in_order() -> None:
    cells = code_cells(read_notebook(NOTEBOOK))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "execute_result"}
        assert kinds or is_parameters(cell)
    printed = "".join(shown(cell["outputs"]) for cell in cells)
    assert "1,115,394 characters" in printed
    assert "[[18 47 56 57 58  1 15 47 58 47]" in printed
    assert str(ROOT) not in printed
