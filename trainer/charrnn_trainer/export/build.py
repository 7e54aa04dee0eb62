"""From a checkpoint to a step model: build the graph, verify it, write it.

Nothing is written that was not read back by the runtime's own loader and compared with torch, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import write_whole
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelFile, ModelInfo, check_model_bytes, read_model_file
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scoring import score_tokens
from charrnn_runtime.session import Engine
from charrnn_trainer.config import DataConfig, TrainConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.lines import split_lines
from charrnn_trainer.data.split import ROWS, split_text
from charrnn_trainer.export.graph.step_model import build_step_model
from charrnn_trainer.export.graph.weights import check_step_model_fits, fold_weights
from charrnn_trainer.nn.network import CharNetwork, State
from charrnn_trainer.runs.checkpoint import Checkpoint
from charrnn_trainer.runs.folder import TOKENS_FILE

VERIFY_STREAMS: Final = 4
VERIFY_STEPS: Final = 256
FP32_BOUND: Final = 1e-4
"""The largest difference of a logit to torch's that an fp32 export may have."""
LOSS_BOUND: Final = 0.01
"""How much more bits per character, as a share, an fp16 or int8 export may need than fp32."""
LOSS_FLOOR: Final = 1e-3
"""How much more bits per character it may need in any case: of next to nothing, a share is nothing."""
FP16_LARGEST: Final = 65_504.0
"""The largest number that half precision holds."""

_COMPARED_CHARACTERS: Final = 1_000
"""How many characters of each of 64 rows the precisions are compared on, at most."""


class ExportError(CharRNNError):
    """The exported graph does not compute what the network computes; nothing was written."""


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        info: what the written file says of itself.
        logit_difference: the largest difference of a logit to torch's, over all proof steps.
        bits_per_character: of the file and of fp32 on the same text, where the precision is another.
        compared_on: what that text was.
        fp32_bytes: the size of the same model in fp32.
        replaced: what was there before, if anything.
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
    """Write a checkpoint's network as a step model.

    Args:
        checkpoint: what to export.
        destination: the file to write. A charrnn model there is replaced; anything else only with ``force``.
        precision: "fp32", "fp16" (for the GPU) or "int8" (for the CPU).
        force: replace whatever file is there.
        report: called with a line for each thing that was done.

    Returns:
        What was written, and how much it differs from torch.

    Raises:
        SettingError: the precision is none of these.
        ExportError: the graph differs from torch by more than it may; nothing was written.
        CharRNNError: the file is something else, or cannot be written.

    Example:
        Export the best checkpoint of a run, and let the model write::

            from charrnn_runtime import CharRNN
            from charrnn_trainer import export_checkpoint, find_checkpoint, load_checkpoint

            checkpoint = load_checkpoint(find_checkpoint("ckpt/lstm"))
            export_checkpoint(checkpoint, "my.onnx")
            print(CharRNN.load("my.onnx").generate("LORD ", 200))
    """
    if precision not in spec.PRECISIONS:
        raise SettingError(f"precision must be {' or '.join(spec.PRECISIONS)}, not {precision!r}")
    destination = Path(destination)
    replaced = _what_is_there(destination, force=force)
    fp32 = build(checkpoint, "fp32")
    difference = verify(checkpoint, fp32).logits
    report(
        f"verified against torch: {VERIFY_STEPS} steps of {VERIFY_STREAMS} streams, largest logit difference "
        f"{difference:.1e} (bound {FP32_BOUND:.0e})"
    )
    model, bits, compared_on = fp32, None, ""
    if precision != "fp32":
        model = build(checkpoint, precision)
        difference = compare_with_torch(checkpoint, model).logits
        bits, compared_on = _compare(checkpoint, model, fp32)
        loss = bits[0] - bits[1]
        report(
            f"{precision}: {bits[0]:.4f} bits per character on {compared_on}, fp32 {bits[1]:.4f} "
            f"({_share(loss, bits[1])}, bound {LOSS_BOUND:+.0%}); largest logit difference {difference:.1e}"
        )
        if not loss <= max(LOSS_BOUND * bits[1], LOSS_FLOOR):
            raise ExportError(
                f"the {precision} model needs {bits[0]:.4f} bits per character and fp32 {bits[1]:.4f} "
                f"({_share(loss, bits[1])}), and at most {LOSS_BOUND:.0%} more is allowed; nothing was "
                "written: export it as fp32"
            )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharRNNError(f"cannot make the folder {destination.parent}: {error.strerror}") from error
    write_whole(destination, model.data)
    return ExportReport(
        info=read_model_file(destination).info,
        logit_difference=difference,
        bits_per_character=bits,
        compared_on=compared_on,
        fp32_bytes=len(fp32.data),
        replaced=replaced,
    )


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
    """The step model of a checkpoint, read back by the loader that users' programs have."""
    network = checkpoint.config.network
    check_step_model_fits(network, len(checkpoint.vocabulary))  # before folding takes twice as much memory
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    folded = fold_weights(network.cell, network.layers, weights, network.tie_weights)
    if precision == "fp16" and folded.largest_factor > FP16_LARGEST:
        raise ExportError(
            f"the network has weights of up to {folded.largest_factor:,.0f}, and fp16 holds at most "
            f"{FP16_LARGEST:,.0f}; nothing was written: export it as fp32"
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
            f"the model would have {len(data):,} bytes, and at most {spec.MAX_FILE_BYTES:,} can be "
            "loaded; train with a smaller --hidden-size, or with --level byte"
        )
    return BuiltModel(data, check_model_bytes(data, "the exported model"))


def training_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a model comes from, for its metadata. Nothing in it derives from a clock or a path."""
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


@dataclass(frozen=True)
class Difference:
    """The largest differences of a step model to torch, over all proof steps; NaN where one is no number.

    Attributes:
        logits: of a logit.
        state: of a number of the next state.
    """

    logits: float
    state: float


def verify(checkpoint: Checkpoint, model: BuiltModel) -> Difference:
    """Compare an fp32 step model with torch.

    Raises:
        ExportError: a logit or a state differs by more than it may.
    """
    difference = compare_with_torch(checkpoint, model)
    for what, largest in (("logits", difference.logits), ("states", difference.state)):
        if not largest <= FP32_BOUND:  # "not" catches a NaN too
            raise ExportError(
                f"the graph's {what} differ from torch's by up to {largest:.2e}, and at most "
                f"{FP32_BOUND:.0e} is allowed; nothing was written"
            )
    return difference


def compare_with_torch(checkpoint: Checkpoint, model: BuiltModel) -> Difference:
    """Compare a step model with torch on random characters, from zero state on.

    Every step of the graph begins with the state that torch has there. A network may be chaotic, above all
    one of plain RNN cells: left to themselves, two right computations of it would drift apart by rounding.
    """
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, len(checkpoint.vocabulary), (VERIFY_STEPS, VERIFY_STREAMS))  # (T, B)
    network = CharNetwork.from_checkpoint(checkpoint).eval()
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
    """A network's state as the rows of a step model: ``[L, B, H]`` each -> ``[B, S]``."""
    rows: NDArray[np.float32] = torch.cat([part.transpose(0, 1).flatten(1) for part in state], dim=1).numpy()
    return rows


def _larger(largest: float, found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore"):  # infinity - infinity
        difference = np.abs(found - expected).max()
    return float(np.maximum(largest, difference))  # a NaN stays, which Python's max() would lose


def _share(loss: float, bits: float) -> str:
    return f"{loss / bits:+.2%}" if bits else f"{loss:+.4f} bits"


def _compare(checkpoint: Checkpoint, model: BuiltModel, fp32: BuiltModel) -> tuple[tuple[float, float], str]:
    """Bits per character of a model and of its fp32 form, on the same text, and what that text was."""
    texts, warm_up, what = _comparison_text(checkpoint, fp32)
    bits = []
    for each in (model, fp32):
        losses = score_tokens(Engine(each.file, "cpu"), iter(texts))
        nats = np.concatenate([loss[warm_up:] for loss in losses])
        bits.append(float(nats.mean(dtype=np.float64)) / math.log(2))
    return (bits[0], bits[1]), what


def _comparison_text(checkpoint: Checkpoint, fp32: BuiltModel) -> tuple[list[NDArray[np.int64]], int, str]:
    """Rows of text, how many characters of each only warm up, and what the text is.

    It is the run's validation text where the run's tokens still lie beside the checkpoint, else text that the
    network writes itself.
    """
    path = checkpoint.path.parent / TOKENS_FILE
    if path.is_file():
        corpus = Corpus.open(path)
        if corpus.sha256 == checkpoint.corpus.sha256 and corpus.vocabulary == checkpoint.vocabulary:
            if checkpoint.config.data.lines:
                return _comparison_lines(corpus, checkpoint.config)
            split, what = split_text(len(corpus), checkpoint.config.data), "the run's validation text"
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
    return generated, 0, "text that the network wrote (the run's own text is gone)"


def _comparison_lines(corpus: Corpus, config: TrainConfig) -> tuple[list[NDArray[np.int64]], int, str]:
    """The same for a run on lines: those that were held back, each with its newline."""
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


def _what_is_there(destination: Path, *, force: bool) -> str | None:
    """What an export would replace; None if nothing.

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
        raise CharRNNError(f"{destination} is no regular file (but a device or a pipe); give another name")
    try:
        info = read_model_file(destination).info
    except CharRNNError:
        if not force:
            raise CharRNNError(
                f"{destination} is already there and is no charrnn model; give another name, or --force to "
                "replace it"
            ) from None
        return "a file that was no charrnn model"
    step = info.training.get("step", "?")
    return f"a charrnn model ({info.cell} {info.layers}x{info.hidden_size} {info.precision}, step {step})"
