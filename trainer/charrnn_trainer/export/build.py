"""Builds the step model of a checkpoint in memory: fold the weights, build the graph, read it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, check_model_bytes
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import check_step_model_fits, fold_weights
from charrnn_trainer.runs.checkpoint import Checkpoint

FP16_LARGEST: Final = 65_504.0
"""The largest finite number in half precision."""


class ExportError(CharRNNError):
    """The exported graph does not compute what the network computes; nothing was written."""


@dataclass(frozen=True)
class BuiltModel:
    """A step model in memory.

    Attributes:
        data: the bytes of the file.
        file: the same, read by the runtime's loader.
    """

    data: bytes
    file: ModelFile


def build(checkpoint: Checkpoint, precision: str) -> BuiltModel:
    """Build the step model of a checkpoint, and read it back with the runtime's loader."""
    network = checkpoint.config.network
    check_step_model_fits(network, len(checkpoint.vocabulary))  # before folding, which doubles the memory
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    folded = fold_weights(network.cell, network.layers, weights, network.tie_weights)
    if precision == "fp16" and folded.largest_factor > FP16_LARGEST:
        raise ExportError(
            f"the network has weights of up to {folded.largest_factor:,.0f}, but fp16 holds at most "
            f"{FP16_LARGEST:,.0f}; nothing was written; export it as fp32"
        )
    model = build_step_model(
        folded,
        checkpoint.vocabulary,
        training_metadata(checkpoint),
        precision,
        lines=checkpoint.config.data.lines,
    )
    data = model.SerializeToString(deterministic=True)
    if len(data) > spec.MAX_FILE_BYTES:
        raise ExportError(
            f"the model would have {len(data):,} bytes, but at most {spec.MAX_FILE_BYTES:,} can be "
            "loaded; train with a smaller hidden_size, or with level=byte",
            "hidden_size",
            "level",
        )
    return BuiltModel(data, check_model_bytes(data, "the exported model"))


def training_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The provenance of a model, for its metadata. Nothing in it depends on a clock or a path."""
    corpus, config = checkpoint.corpus, checkpoint.config
    return {
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "characters": corpus.characters,
            "trained_on": corpus.train_tokens,
        },
        "step": checkpoint.step,
        "train_loss": checkpoint.train_loss,
        "validation_loss": (
            checkpoint.validation_loss if checkpoint.whole_loss is None else checkpoint.whole_loss
        ),
        "config": config.to_dict(),
        "trainer_version": checkpoint.trainer_version,
    }
