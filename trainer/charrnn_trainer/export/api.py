"""Exports a checkpoint: builds the step model, verifies it and writes it.

A model is written only after the runtime's own loader has read it back and it has been compared with torch,
step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import write_whole
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelInfo, read_model_file
from charrnn_trainer.export.build import build
from charrnn_trainer.export.verify import (
    FP32_BOUND,
    LOSS_BOUND,
    VERIFY_STEPS,
    VERIFY_STREAMS,
    compare_precisions,
    compare_with_torch,
    verify,
)
from charrnn_trainer.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        info: the metadata of the written file.
        logit_difference: the largest logit difference from torch, over all verified steps.
        bits_per_character: of the file and of fp32 on the same text; None for fp32.
        compared_on: a description of that text.
        fp32_bytes: the size of the same model in fp32.
        replaced: a description of the replaced file, if any.
    """

    info: ModelInfo
    logit_difference: float
    bits_per_character: tuple[float, float] | None
    compared_on: str
    fp32_bytes: int
    replaced: str | None


def export_checkpoint(
    checkpoint: Checkpoint,
    destination: str | Path,
    *,
    precision: str = "fp32",
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> ExportReport:
    """Export a checkpoint's network as a step model.

    Args:
        checkpoint: the checkpoint.
        destination: the file to write. An existing charrnn model is replaced; any other file only with
            ``force``.
        precision: "fp32", "fp16" (for the GPU) or "int8" (for the CPU).
        force: replace any existing file.
        report: called with a line for each step of the export.

    Returns:
        What was written, and how much it differs from torch.

    Raises:
        SettingError: the precision is unknown.
        ExportError: the graph differs from torch by more than the bound; nothing was written.
        CharRNNError: the destination is another kind of file, or cannot be written.

    Examples:
        Export the best checkpoint of a run, and generate text with it::

            from charrnn_runtime import CharRNN
            from charrnn_trainer import export_checkpoint, find_checkpoint, load_checkpoint

            checkpoint = load_checkpoint(find_checkpoint("ckpt/lstm"))
            export_checkpoint(checkpoint, "my.onnx")
            print(CharRNN.load("my.onnx").generate("LORD ", 200))
    """
    if precision not in spec.PRECISIONS:
        raise SettingError(f"precision must be {' or '.join(spec.PRECISIONS)}, not {precision!r}")
    destination = Path(destination)
    replaced = _describe_existing(destination, force=force)
    fp32 = build(checkpoint, "fp32")
    difference = verify(checkpoint, fp32).logits
    report(
        f"verified against torch: {VERIFY_STEPS} steps of {VERIFY_STREAMS} streams, largest logit difference "
        f"{difference:.1e} (bound {FP32_BOUND:.0e})"
    )
    model, loss = fp32, None
    if precision != "fp32":
        model = build(checkpoint, precision)
        difference = compare_with_torch(checkpoint, model).logits
        loss = compare_precisions(checkpoint, model, fp32)
        report(
            f"{precision}: {loss.bits[0]:.4f} bits per {loss.unit} on {loss.compared_on}, fp32 "
            f"{loss.bits[1]:.4f} ({loss.share}, bound {LOSS_BOUND:+.0%}); largest logit difference "
            f"{difference:.1e}"
        )
        loss.check()
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharRNNError(f"cannot create the folder {destination.parent}: {error.strerror}") from error
    write_whole(destination, model.data)
    return ExportReport(
        info=read_model_file(destination).info,
        logit_difference=difference,
        bits_per_character=loss.bits if loss else None,
        compared_on=loss.compared_on if loss else "",
        fp32_bytes=len(fp32.data),
        replaced=replaced,
    )


def _describe_existing(destination: Path, *, force: bool) -> str | None:
    """Describe the file that an export would replace; None if there is none.

    Raises:
        CharRNNError: it may not be replaced.
    """
    if destination.is_dir():
        raise CharRNNError(
            f"{destination} is a folder; give the file to write, such as {destination / 'lstm.onnx'}"
        )
    if not destination.exists():
        return None
    if not destination.is_file():
        raise CharRNNError(f"{destination} is a device or a pipe, not a regular file; give another name")
    try:
        info = read_model_file(destination).info
    except CharRNNError:
        if not force:
            raise CharRNNError(
                f"{destination} exists and is not a charrnn model; give another name, or force=True "
                "to replace it",
                "force",
            ) from None
        return "another kind of file"
    step = info.training.get("step", "?")
    return f"a charrnn model ({info.cell} {info.layers}x{info.hidden_size} {info.precision}, step {step})"
