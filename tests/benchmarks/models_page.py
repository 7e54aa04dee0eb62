"""Writes the page of the models that ship, models/README.md, from the runs and the files themselves.

    python tests/benchmarks/models_page.py NAME=COMMAND ...

NAME is a model's name: its files are models/NAME.onnx and, where it is there, models/NAME.int8.onnx, its run
is ckpt/models/NAME. COMMAND is what trained it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch

from charrnn_runtime import CharRNN
from charrnn_runtime.model_file import read_model_file
from charrnn_runtime.scoring import score_tokens
from charrnn_runtime.session import Engine
from charrnn_trainer.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from charrnn_trainer.corpus import Corpus
from charrnn_trainer.evaluation import cold_loss, validation_loss, validation_rows
from charrnn_trainer.network import CharNetwork
from charrnn_trainer.runs import TOKENS_FILE

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = {"length": 300, "seed": 2}

HEAD = """# The models that ship

Any of them runs with `charrnn-gen models/NAME.onnx --prime "LORD "`, and `charrnn-info models/NAME.onnx`
shows all that it says of itself. `python3 noxfile.py models` makes them again from nothing, goes on where
that was stopped, and writes this page from the runs and the files.

All learned tinyshakespeare (1,115,394 characters, 65 distinct), the first 90 %; the last 10 % is the
validation text. Losses are nats per character on that text. *Carried* is what training reports: 64 rows, each
warmed on the 512 characters before it. *Cold* reads windows of 256 characters from nothing, as models without
a state are measured. Bits per character are the carried loss by ln 2, for int8 computed from the file itself.

"""

FOOT = """Trained on public-domain text (Shakespeare's plays); the models are under the project's MIT licence.
"""


def main() -> None:
    """Write the page."""
    torch.set_num_threads(1)
    commands = dict(word.split("=", 1) for word in sys.argv[1:])
    rows, sections = [], []
    for name, command in commands.items():
        run = ROOT / "ckpt" / "models" / name
        checkpoint = load_checkpoint(find_checkpoint(run))
        last = load_checkpoint(find_checkpoint(run, "last"))
        corpus = Corpus.open(run / TOKENS_FILE)
        network = CharNetwork.from_checkpoint(checkpoint).eval()
        start = checkpoint.corpus.train_tokens
        carried = validation_loss(network, corpus.ids, start)
        cold = cold_loss(network, corpus.ids, start)
        for path in model_files(name):
            info = read_model_file(path).info
            bits = carried / math.log(2) if info.precision == "fp32" else bits_of(path, corpus, start)
            rows.append(
                f"| `{path.name}` | {shape(checkpoint)}, {network.parameter_count():,} parameters | "
                f"{info.precision} | {carried:.4f} | {cold:.4f} | {bits:.4f} | {info.file_bytes:,} | "
                f"`{info.sha256}` |"
            )
        sections.append(section(name, command, checkpoint, last))
    table = [
        "| file | network | precision | carried | cold | bits per character | bytes | SHA-256 |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    page = HEAD + "\n".join(table) + "\n\n" + "\n".join(sections) + "\n" + FOOT
    (ROOT / "models" / "README.md").write_text(page, encoding="utf-8")
    print(page)


def model_files(name: str) -> list[Path]:
    """The files of a model."""
    paths = [ROOT / "models" / f"{name}.onnx", ROOT / "models" / f"{name}.int8.onnx"]
    return [path for path in paths if path.exists()]


def shape(checkpoint: Checkpoint) -> str:
    """What the network is, in words."""
    network = checkpoint.config.network
    layers = f"{network.layers} layers" if network.layers > 1 else "1 layer"
    reads = f"embedding of {network.embedding_size}" if network.embedding_size else "one-hot input"
    return f"{network.cell.upper()}, {layers} of {network.hidden_size}, {reads}"


def bits_of(path: Path, corpus: Corpus, start: int) -> float:
    """Bits per character of a model file on the validation text, cut and warmed as in training."""
    rows, length, warm_up = validation_rows(len(corpus), start)
    begins = [start + row * ((len(corpus) - start) // rows) for row in range(rows)]
    texts = [corpus.ids[begin - warm_up : begin + length].astype(np.int64) for begin in begins]
    losses = score_tokens(Engine(read_model_file(path), "cpu"), iter(texts))
    return float(np.concatenate([loss[warm_up:] for loss in losses]).mean(dtype=np.float64)) / math.log(2)


def section(name: str, command: str, checkpoint: Checkpoint, last: Checkpoint) -> str:
    """The part of the page about one model."""
    optimization = last.config.optimization
    lines = [
        f"## {name}",
        "",
        f"`charrnn-train {command}`: {optimization.steps:,} steps; exported is step {checkpoint.step:,}.",
        "",
        "| step | training loss | validation loss | bits per character |",
        "|---|---|---|---|",
    ]
    every = last.config.run.save_every
    for item in last.evaluations:
        if item.step % every == 0 or item.step in (checkpoint.step, last.step):
            train = "" if item.train_loss is None else f"{item.train_loss:.4f}"
            best = ", exported" if item.step == checkpoint.step else ""
            lines.append(
                f"| {item.step:,}{best} | {train} | {item.validation_loss:.4f} | "
                f"{item.validation_loss / math.log(2):.4f} |"
            )
    model = CharRNN.load(ROOT / "models" / f"{name}.onnx", device="cpu")
    sample = model.generate("LORD ", SAMPLE["length"], seed=SAMPLE["seed"])
    shown = (
        f'charrnn-gen models/{name}.onnx --prime "LORD " --length {SAMPLE["length"]} --seed {SAMPLE["seed"]}'
    )
    return "\n".join([*lines, "", f"`{shown}`:", "", "```text", sample.rstrip("\n"), "```", ""])


if __name__ == "__main__":
    main()
