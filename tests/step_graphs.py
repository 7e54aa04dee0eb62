"""Creates step graphs for the tests of graph and export, and runs them with plain onnxruntime.

The runtime's own engine is deliberately not used, so that an error in it cannot hide one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from charrnn_runtime.format import spec
from charrnn_runtime.graph.sampler import Cuts, add_sampler
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.export.graph.builder import GraphBuilder
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import fold_weights
from reference import random_weights

SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz.é中"
"""A small vocabulary; its first symbol is the newline."""


@dataclass(frozen=True)
class Network:
    """The sizes of a network with random weights."""

    cell: str = "lstm"
    layers: int = 2
    hidden_size: int = 12
    embedding_size: int = 0
    symbols: str = SYMBOLS
    seed: int = 3

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        return random_weights(
            self.cell, self.layers, self.hidden_size, len(self.symbols), self.embedding_size, self.seed
        )

    @property
    def state_size(self) -> int:
        return spec.state_size(self.cell, self.layers, self.hidden_size)

    def model(self, precision: str = "fp32", training: dict[str, Any] | None = None) -> onnx.ModelProto:
        folded = fold_weights(self.cell, self.layers, self.weights)
        return build_step_model(folded, Vocabulary(self.symbols), training or {}, precision)

    def random_states(self, rows: int, seed: int = 0) -> NDArray[np.float32]:
        """Plausible states: h within [-1, 1], c in a slightly larger range."""
        states = np.random.RandomState(seed).uniform(-1, 1, (rows, self.state_size)).astype(np.float32)
        if self.cell == "lstm":
            states[:, self.state_size // 2 :] *= 2
        return states


class Stepper:
    """A step graph that runs on the CPU."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def step(
        self,
        token: NDArray[Any] | list[int],
        state: NDArray[np.float32],
        uniform: float | NDArray[Any] = 0.5,
        temperature: float | NDArray[Any] = 1.0,
        top_k: int | NDArray[Any] = 1 << 62,
        top_p: float | NDArray[Any] = 1.0,
        min_p: float | NDArray[Any] = 0.0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """One character: logits [B, V], next tokens [B] and next states [B, S]; scalars apply to all rows."""
        rows = len(token)

        def row(values: Any, kind: Any) -> NDArray[Any]:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(values, kind), (rows,)))

        feeds = {
            "token": np.asarray(token, np.int64),
            "state": state,
            "uniform": row(uniform, np.float32),
            "temperature": row(temperature, np.float32),
            "top_k": row(top_k, np.int64),
            "top_p": row(top_p, np.float32),
            "min_p": row(min_p, np.float32),
        }
        logits, tokens, after = self._session.run([each.name for each in spec.OUTPUTS], feeds)
        return logits, tokens, after

    def read(
        self, tokens: NDArray[Any], state: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Read tokens [B, T], carrying the state: logits [B, T, V], and the states after the last."""
        all_logits = []
        for column in tokens.T:
            logits, _, state = self.step(column, state)
            all_logits.append(logits)
        return np.stack(all_logits, axis=1), state


class SamplerGraph:
    """A step graph that only samples: its logits are the row ``logits[token]`` of a given array."""

    def __init__(self, logits: NDArray[np.float32], cuts: Cuts = "any") -> None:
        builder = GraphBuilder()
        rows, vocabulary_size = logits.shape
        builder.node("Gather", builder.constant("rows", logits), "token", name="logits", axis=0)
        builder.node("Identity", "state", name="next_state")
        add_sampler(builder, "logits", vocabulary_size, cuts)
        self.rows = rows
        self.model = builder.model({"state_size": 1, "vocab": vocabulary_size}, {}, contrib=False)
        self._stepper = Stepper(self.model)

    def sample(
        self,
        uniform: Any,
        temperature: Any = 1.0,
        top_k: Any = 1 << 62,
        top_p: Any = 1.0,
        min_p: Any = 0.0,
        row: int | None = None,
    ) -> NDArray[np.int64]:
        """The next token for every row of logits; with ``row``, for that row and every uniform number."""
        tokens = np.arange(self.rows) if row is None else np.full(len(uniform), row)
        state = np.zeros((len(tokens), 1), np.float32)
        return self._stepper.step(tokens, state, uniform, temperature, top_k, top_p, min_p)[1]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model, with full keys."""
    return {entry.key: entry.value for entry in model.metadata_props}


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The constants of a model by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def element_types(model: onnx.ModelProto) -> Mapping[str, int]:
    """The element type of every value of a graph, as the onnx package infers it."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values: Iterable[Any] = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
