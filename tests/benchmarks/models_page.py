"""Write models/README.md, the page on the pretrained models, from their runs and files.

    python tests/benchmarks/models_page.py [--check] NAME=COMMAND ...

NAME is a model's name: its files are models/NAME.onnx and, if it exists, models/NAME.int8.onnx; its run is
ckpt/models/NAME. COMMAND is the command that trained it, which is checked first; --check does nothing else.
"""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from charrnn_runtime import CharRNN
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.format.reader import read_model_file
from charrnn_runtime.logprobs import losses_at
from charrnn_runtime.scoring import score_tokens
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.recipes import recipe
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn_trainer.runs.finding import CONFIG_FILE, find_checkpoint
from charrnn_trainer.runs.folder import TOKENS_FILE
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.training.validation import COLD_WINDOW, cold_loss, validation_loss, validation_rows

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = {"length": 300, "seed": 2}
RESOLVED = {"device", "onednn", "embedding_size"}
"""The settings that a command leaves unset and a run resolves."""

HEAD = """# Pretrained models

The models in `models/`, how they were trained, and samples. `charrnn-gen models/NAME.onnx` generates
text with one of them; `charrnn-info models/NAME.onnx` shows its contents. `python3 noxfile.py models`
retrains them from scratch (or resumes an interrupted run), exports them, and writes this page.

All models were trained on the first 90 % of tinyshakespeare (1,115,394 characters, 65 distinct). Losses
are in nats per character on the last 10 %, the validation text. *Carried* is the loss that training
reports: the text is cut into 64 rows, and each row is read after the 512 characters before it. *Cold* is
the loss in windows of 256 characters, each read from a zero state, as models without a state are
measured. Bits per character are the carried loss divided by ln 2. Losses are computed in fp32 with the
trained network; those of int8 models with the exported file. Training losses are means over the steps
since the previous report (200 or fewer).

"""

FOOT = """\
The training text, Shakespeare's plays, is in the public domain. The models are under the MIT licence.
"""


def main() -> None:
    """Write the page, or only check that the runs match their commands."""
    torch.set_num_threads(1)
    only_check = "--check" in sys.argv
    commands = dict(word.split("=", 1) for word in sys.argv[1:] if word != "--check")
    for name, command in commands.items():
        check_settings(name, command)
    if not only_check:
        write_page(commands)


def write_page(commands: dict[str, str]) -> None:
    """Write models/README.md."""
    rows, sections = [], []
    for name, command in commands.items():
        run = ROOT / "ckpt" / "models" / name
        checkpoint = load_checkpoint(find_checkpoint(run))
        last = load_checkpoint(find_checkpoint(run, "last"))
        corpus = Corpus.open(run / TOKENS_FILE)
        network = checkpoint.network().eval()
        start = checkpoint.corpus.train_tokens
        for path in model_files(name):
            info = read_model_file(path).info
            if info.precision == "fp32":
                carried = validation_loss(network, corpus.ids, start)
                cold = cold_loss(network, corpus.ids, start)
            else:
                carried, cold = carried_of(path, corpus, start), cold_of(path, corpus, start)
            rows.append(
                f"| `{path.name}` | {shape(checkpoint)}, {network.parameter_count():,} parameters | "
                f"{info.precision} | {carried:.4f} | {cold:.4f} | "
                f"{carried / math.log(2):.4f} | {info.file_bytes:,} | "
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
    """A short description of the network."""
    network = checkpoint.config.network
    layers = f"{network.layers} layers" if network.layers > 1 else "1 layer"
    reads = f"embedding of {network.embedding_size}" if network.embedding_size else "one-hot input"
    return f"{network.cell.upper()}, {layers} of {network.hidden_size}, {reads}"


def carried_of(path: Path, corpus: Corpus, start: int) -> float:
    """The loss of a model file on the validation text, split and warmed up as in training."""
    rows, length, warm_up = validation_rows(len(corpus), start)
    begins = [start + row * ((len(corpus) - start) // rows) for row in range(rows)]
    texts = (corpus.ids[begin - warm_up : begin + length].astype(np.int64) for begin in begins)
    losses = score_tokens(Engine(read_model_file(path), "cpu"), texts)
    return float(np.concatenate([loss[warm_up:] for loss in losses]).mean(dtype=np.float64))


def cold_of(path: Path, corpus: Corpus, start: int) -> float:
    """The loss of a model file in windows of the validation text from zero states, like `cold_loss`."""
    engine = Engine(read_model_file(path), "cpu")
    total, count = 0.0, (len(corpus) - start - 1) // COLD_WINDOW
    with engine.buffers(1, steps=COLD_WINDOW, sampler=None, keeps_logits=True) as buffers:
        for begin in range(start, start + count * COLD_WINDOW, COLD_WINDOW):
            window = corpus.ids[begin : begin + COLD_WINDOW + 1].astype(np.int64)[:, None]  # (n + 1, 1)
            buffers.write_state([0], np.zeros((1, engine.info.state_size), np.float32))
            buffers.tokens[:-1] = window[:-1]
            buffers.run(COLD_WINDOW)
            total += float(losses_at(buffers.logits, window[1:]).sum(dtype=np.float64))
    return total / (count * COLD_WINDOW)


def check_settings(name: str, command: str) -> None:
    """Check that a run matches its command, whose recipe may have changed since.

    Raises:
        SystemExit: the run does not match.
    """
    words = dict(zip(*[iter(shlex.split(command))] * 2, strict=True))
    wanted = recipe(words.pop("--recipe", "course"))
    for option, value in words.items():
        setting = option.removeprefix("--").replace("-", "_")
        known = wanted.flat()[setting]
        wanted = wanted.replace(**{setting: int(value) if setting == "threads" else type(known)(value)})
    expected = wanted.flat()
    actual = RunFile.read(ROOT / "ckpt" / "models" / name / CONFIG_FILE).config.flat()
    differing = [key for key in expected if expected[key] != actual[key] and key not in RESOLVED]
    if differing:
        changes = ", ".join(f"{key} is {actual[key]} instead of {expected[key]}" for key in differing)
        raise SystemExit(
            f"ckpt/models/{name} is not a run of charrnn-train {command}: {changes}; move it away"
        )


def section(name: str, command: str, checkpoint: Checkpoint, last: Checkpoint) -> str:
    """The part of the page about one model."""
    optimization = last.config.optimization
    lines = [
        f"## {name}",
        "",
        f"`charrnn-train {command}`: {optimization.steps:,} steps; step {checkpoint.step:,} is exported.",
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
