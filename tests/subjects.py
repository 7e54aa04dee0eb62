"""The subjects of mutation tests: `try_model` and `try_checkpoint`, each for a path and a seed.

Both return "refused" or "works"; anything else is an exception.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from charrnn_runtime import CharRNN, ModelFormatError
from checkpoint_files import changed_checkpoint
from mutations import Draw, changed_model

MODELS = tuple(
    path.read_bytes() for path in sorted((Path(__file__).resolve().parent / "models").glob("*.onnx"))
)


def try_model(path: Path, seed: int) -> str:
    """Mutate a small model and load it; one that loads must generate."""
    draw = Draw(seed)
    data, donor = MODELS[seed % len(MODELS)], MODELS[draw.randint(len(MODELS))]
    path.write_bytes(changed_model(data, donor, draw))
    return read_model(path, seed)


def read_model(path: Path, seed: int = 0) -> str:
    """Load an arbitrary file as a model; one that loads must generate."""
    try:
        model = CharRNN.load(path, device="cpu")
    except ModelFormatError as error:
        _check_message(str(error))
        return "refused"
    for temperature in (1.0, 50.0):
        texts = model.generate(["", ""], 20, seed=seed, temperature=temperature)
        # At the byte level, several bytes can form one character.
        assert all(1 <= len(text) <= 20 for text in texts), texts
    return "works"


def try_checkpoint(path: Path, seed: int) -> str:
    """Mutate a small checkpoint and load it; one that loads must make a network that computes."""
    draw = Draw(seed)
    checkpoints = small_checkpoints()
    content = checkpoints[seed % len(checkpoints)]
    donor = checkpoints[draw.randint(len(checkpoints))]
    path.write_bytes(changed_checkpoint(content, donor, draw))
    return read_checkpoint(path)


def prepare_try_checkpoint() -> None:
    """Train the checkpoints, and import what the reader needs."""
    with tempfile.TemporaryDirectory() as folder:
        for index, content in enumerate(small_checkpoints()):
            path = Path(folder) / str(index)
            path.write_bytes(content)
            read_checkpoint(path)


def read_checkpoint(path: Path) -> str:
    """Load an arbitrary file as a checkpoint; one that loads must make a network that computes."""
    import torch

    from charrnn_trainer.runs.checkpoint import load_checkpoint, read_header
    from charrnn_trainer.runs.header import CheckpointError

    try:
        read_header(path)
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        _check_message(str(error))
        return "refused"
    network = checkpoint.network()
    torch.Generator().set_state(checkpoint.tensors["random.cpu"])
    with torch.inference_mode():
        logits, _ = network(torch.zeros(2, 3, dtype=torch.int64), network.initial_state(2))
    assert tuple(logits.shape) == (2, 3, len(checkpoint.vocabulary))
    return "works"


def _check_message(message: str) -> None:
    assert "\n" not in message, message
    assert message.isprintable(), message
    assert len(message) < 1000, message


@functools.cache
def small_checkpoints() -> tuple[bytes, ...]:
    """Checkpoints of an LSTM, a GRU, an RNN and LSTMs with an embedding, each trained briefly."""
    from charrnn_trainer.data.corpus import Corpus
    from charrnn_trainer.runs.finding import find_checkpoint
    from charrnn_trainer.training.api import train
    from tiny_runs import TEXT, TINY

    tiny = TINY.replace(hidden_size=6, batch_size=3, steps=2, eval_every=1, save_every=2, log_every=1)
    settings: tuple[dict[str, Any], ...] = (
        {"cell": "lstm"},
        {"cell": "gru"},
        {"cell": "rnn"},
        {"embedding_size": 3},
        {"embedding_size": 3, "tie_weights": True},
    )
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for index, setting in enumerate(settings):
            train(tiny.replace(**setting), Corpus.from_text(TEXT, name="hamlet"), out=f"{folder}/{index}")
            made.append(find_checkpoint(f"{folder}/{index}", "last").read_bytes())
    return tuple(made)
