"""Verifies step models: against torch, and fp16 and int8 also against fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn_runtime.backends.session import Engine
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scoring import score_tokens
from charrnn_trainer.config import DataConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.lines import split_lines
from charrnn_trainer.data.split import ROWS, split_characters, split_text
from charrnn_trainer.export.build import BuiltModel, ExportError
from charrnn_trainer.nn.network import State
from charrnn_trainer.runs.checkpoint import Checkpoint
from charrnn_trainer.runs.folder import TOKENS_FILE
from charrnn_trainer.train_config import TrainConfig

VERIFY_STREAMS: Final = 4
VERIFY_STEPS: Final = 256
FP32_BOUND: Final = 1e-4
"""The largest allowed logit difference between an fp32 export and torch."""

LOSS_BOUND: Final = 0.01
"""The largest allowed relative increase in bits per character of an fp16 or int8 export over fp32."""
LOSS_FLOOR: Final = 1e-3
"""The increase that is always allowed, for losses close to zero."""

_COMPARED_CHARACTERS: Final = 1_000
"""Precisions are compared on at most this many characters of each of 64 rows."""


@dataclass(frozen=True)
class Difference:
    """The largest differences between a step model and torch, over all verified steps; NaN if one is NaN.

    Attributes:
        logits: the largest logit difference.
        state: the largest difference in the next state.
    """

    logits: float
    state: float


def verify(checkpoint: Checkpoint, model: BuiltModel) -> Difference:
    """Compare an fp32 step model with torch.

    Raises:
        ExportError: a logit or a state differs by more than the bound.
    """
    difference = compare_with_torch(checkpoint, model)
    for what, largest in (("logits", difference.logits), ("states", difference.state)):
        if not largest <= FP32_BOUND:  # "not" catches a NaN too
            raise ExportError(
                f"the graph's {what} differ from torch's by up to {largest:.2e}, but at most "
                f"{FP32_BOUND:.0e} is allowed; nothing was written"
            )
    return difference


def compare_with_torch(checkpoint: Checkpoint, model: BuiltModel) -> Difference:
    """Compare a step model with torch on random characters, starting from a zero state.

    Every step of the graph starts from torch's state. Networks, above all of plain RNN cells, may be chaotic:
    without this, rounding would make two correct computations diverge.
    """
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, len(checkpoint.vocabulary), (VERIFY_STEPS, VERIFY_STREAMS))  # (T, B)
    network = checkpoint.network().eval()
    state = network.initial_state(VERIFY_STREAMS)
    engine = Engine(model.file, "cpu")
    logits_apart, states_apart = 0.0, 0.0
    with engine.buffers(VERIFY_STREAMS, steps=1, keeps_logits=True) as buffers, torch.inference_mode():
        for now in tokens:
            buffers.write_state(slice(None), _rows(state))
            buffers.tokens[0] = now
            buffers.run(1)
            logits, state = network(torch.from_numpy(now).unsqueeze(1), state)  # (B) -> (B, 1) -> (B, 1, V)
            logits_apart = _larger(logits_apart, buffers.logits[0], logits[:, 0].numpy())
            states_apart = _larger(states_apart, buffers.read_state(slice(None)), _rows(state))
    return Difference(logits_apart, states_apart)


def _rows(state: State) -> NDArray[np.float32]:
    """Convert a network's state to rows of a step model: ``[L, B, H]`` each -> ``[B, S]``."""
    rows: NDArray[np.float32] = torch.cat([part.transpose(0, 1).flatten(1) for part in state], dim=1).numpy()
    return rows


def _larger(largest: float, found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore"):  # infinity - infinity
        difference = np.abs(found - expected).max()
    return float(np.maximum(largest, difference))  # keeps NaN, unlike Python's max()


# --- the precisions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrecisionLoss:
    """The loss in quality of a precision.

    Attributes:
        precision: "fp16" or "int8".
        bits: bits per character of the model, and of its fp32 form, on the same text.
        compared_on: a description of that text.
        unit: "character", or at the byte level "byte".
    """

    precision: str
    bits: tuple[float, float]
    compared_on: str
    unit: str = "character"

    @property
    def share(self) -> str:
        """The increase in bits, relative if fp32 needs any."""
        loss = self.bits[0] - self.bits[1]
        return f"{loss / self.bits[1]:+.2%}" if self.bits[1] else f"{loss:+.4f} bits"

    def check(self) -> None:
        """Check that the loss in quality is within the bound.

        Raises:
            ExportError: it is not.
        """
        model, fp32 = self.bits
        if not model - fp32 <= max(LOSS_BOUND * fp32, LOSS_FLOOR):  # "not" catches a NaN too
            raise ExportError(
                f"the {self.precision} model needs {model:.4f} bits per {self.unit} and fp32 {fp32:.4f} "
                f"({self.share}), but at most {LOSS_BOUND:.0%} more is allowed; nothing was written; export "
                "it as fp32"
            )


def compare_precisions(checkpoint: Checkpoint, model: BuiltModel, fp32: BuiltModel) -> PrecisionLoss:
    """Compare an fp16 or int8 model with its fp32 form, on the run's validation text if available."""
    texts, warm_up, what = _comparison_text(checkpoint, fp32)
    bits = []
    for each in (model, fp32):
        losses = score_tokens(Engine(each.file, "cpu"), iter(texts))
        nats = np.concatenate([loss[warm_up:] for loss in losses])
        bits.append(float(nats.mean(dtype=np.float64)) / math.log(2))
    unit = "byte" if checkpoint.vocabulary.level == "byte" else "character"
    return PrecisionLoss(model.file.info.precision, (bits[0], bits[1]), what, unit)


def _comparison_text(checkpoint: Checkpoint, fp32: BuiltModel) -> tuple[list[NDArray[np.int64]], int, str]:
    """Rows of text, the number of warm-up characters in each, and a description of the text.

    It is the run's validation text if the run's tokens are still next to the checkpoint, else text generated
    by the network itself.
    """
    path = checkpoint.path.parent / TOKENS_FILE
    if path.is_file():
        corpus = Corpus.open(path)
        if corpus.sha256 == checkpoint.corpus.sha256 and corpus.vocabulary == checkpoint.vocabulary:
            if checkpoint.config.data.lines:
                return _comparison_lines(corpus, checkpoint.config)
            split, what = (
                split_characters(corpus, checkpoint.config.data),
                "the run's validation text",
            )
            if not split.validation_tokens:
                split, what = split_text(len(corpus), DataConfig()), "the last 10 % of the training text"
            rows = split.rows()
            length = min(rows.length, _COMPARED_CHARACTERS)
            texts = [
                corpus.ids[begin - rows.warm_up : begin + length].astype(np.int64) for begin in rows.begins
            ]
            return texts, rows.warm_up, what
    engine = Engine(fp32.file, "cpu")
    generated = _write_text(engine, streams=16, length=512)
    return generated, 0, "text generated by the network (the run's own text is missing)"


def _comparison_lines(corpus: Corpus, config: TrainConfig) -> tuple[list[NDArray[np.int64]], int, str]:
    """The same for a run on lines: the held-out lines, each with its newline."""
    split = split_lines(corpus, config.data, config.run.seed)
    lines, what = split.validation, "the run's validation lines"
    if not len(lines):
        lines, what = split.training, "lines of the training text"
    texts, left = [], ROWS * _COMPARED_CHARACTERS
    for begin, length in zip(lines.begins.tolist(), lines.lengths.tolist(), strict=True):
        line = np.append(corpus.ids[begin : begin + length], lines.newline).astype(np.int64)
        texts.append(line[:_COMPARED_CHARACTERS])
        left -= len(texts[-1])
        if left <= 0:
            break
    return texts, 0, what


def _write_text(engine: Engine, streams: int, length: int) -> list[NDArray[np.int64]]:
    with engine.buffers(streams) as buffers:
        buffers.write_state(slice(None), 0.0)
        buffers.tokens[0] = engine.info.start_token
        for name, value in Sampling(1.0).inputs(engine.info.top_k_max).items():
            buffers.settings[name][:] = value
        generator = np.random.default_rng(0)
        blocks = []
        for _ in range(0, length, buffers.steps):
            buffers.uniforms[:] = generator.integers(0, 2**24, buffers.uniforms.shape) * 2.0**-24
            buffers.run(buffers.steps)
            blocks.append(buffers.tokens[1:].copy())
            buffers.tokens[0] = buffers.tokens[-1]
        written = np.concatenate(blocks)  # (T, B)
    return list(written.T.copy())
