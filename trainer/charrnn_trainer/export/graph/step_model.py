"""Builds the complete step graph of a network in one precision."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx

from charrnn_runtime.format import spec
from charrnn_runtime.graph.sampler import add_sampler
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.builder import GraphBuilder
from charrnn_trainer.export.graph.cells import LayerState, stack
from charrnn_trainer.export.graph.quantize import products_for
from charrnn_trainer.export.graph.weights import StepWeights


def build_step_model(
    weights: StepWeights,
    vocabulary: Vocabulary,
    training: dict[str, Any],
    precision: str = "fp32",
    *,
    lines: bool = False,
) -> onnx.ModelProto:
    """Build the step model of a network.

    Args:
        weights: the folded weights.
        vocabulary: the symbols by id.
        training: the model's provenance, written into the metadata as JSON.
        precision: "fp32", "fp16" or "int8".
        lines: whether the model was trained on independent lines, each from a zero state.
    """
    cell, layers, hidden_size = weights.cell, len(weights.layers), weights.hidden_size
    layout = spec.state_layout(cell, layers, hidden_size)
    builder = GraphBuilder()
    products = products_for(precision, builder)

    states = _split_state(builder, cell, layers, hidden_size)
    top, after = stack(builder, products, weights, "token", states)
    blocks = [state.h for state in after] + [state.c for state in after if state.c is not None]
    if len(blocks) > 1:
        builder.node("Concat", *blocks, name="next_state", axis=1)  # L or 2L x (B, H) -> (B, S)
    else:
        builder.node("Identity", blocks[0], name="next_state")
    product = products.affine(top, weights.output, weights.output_bias, "output")
    logits = builder.rename(product, "logits")  # (B, V)
    add_sampler(builder, logits, weights.vocabulary_size)

    metadata = {
        "format": spec.FORMAT,
        "version": str(spec.VERSION),
        "cell": cell,
        "layers": str(layers),
        "hidden_size": str(hidden_size),
        "level": vocabulary.level,
        "vocabulary": json.dumps(vocabulary.symbols),
        "state_layout": json.dumps([[block.name, block.start, block.size] for block in layout]),
        "start_token": str(vocabulary.start_token),
        "lines": "true" if lines else "false",
        "top_k_max": str(spec.top_k_max(weights.vocabulary_size)),
        "precision": precision,
        "training": json.dumps(training, sort_keys=True),
    }
    sizes = {
        "state_size": spec.state_size(cell, layers, hidden_size),
        "vocab": weights.vocabulary_size,
    }
    return builder.model(sizes, metadata, contrib=precision == "int8")


def _split_state(builder: GraphBuilder, cell: str, layers: int, hidden_size: int) -> list[LayerState]:
    blocks = len(spec.state_layout(cell, layers, hidden_size))
    if blocks == 1:
        return [LayerState("state")]
    sizes = builder.constant("split", np.full(blocks, hidden_size, np.int64))
    names = builder.nodes("Split", "state", sizes, outputs=blocks, axis=1)  # (B, S) -> blocks x (B, H)
    return [LayerState(*names[layer::layers]) for layer in range(layers)]  # all h come first, then all c
