"""Tied weights in training, in checkpoints and in exported files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from charrnn_runtime import CharRNN
from charrnn_runtime.format import spec
from charrnn_trainer.config import NetworkConfig, OptimizationConfig
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.export.graph.weights import fold_weights
from charrnn_trainer.nn.network import CharNetwork
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn_trainer.runs.finding import checkpoint_files, find_checkpoint
from charrnn_trainer.runs.header import CheckpointError
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.events import Event, Stepped
from charrnn_trainer.training.precision import ComputeMode
from charrnn_trainer.training.step import TrainStep
from charrnn_trainer.training.time_budget import plan_for_minutes
from reference import naive_step
from step_graphs import Stepper
from tiny_runs import TEXT, TINY

CELLS = ("lstm", "gru", "rnn")
HIDDEN, VOCABULARY = 5, 7
SIZES = (HIDDEN, 3, 9)
"""Embedding sizes equal to, below and above the hidden size (also above the number of symbols)."""

CORPUS = Corpus.from_text(TEXT, name="hamlet")
TIED = TINY.replace(tie_weights=True)


def network_of(cell: str, embedding_size: int, layers: int = 1) -> CharNetwork:
    torch.manual_seed(0)
    network = CharNetwork(NetworkConfig(cell, layers, HIDDEN, embedding_size, tie_weights=True), VOCABULARY)
    with torch.no_grad():
        for weight in network.parameters():
            weight.uniform_(-0.7, 0.7)
    return network


def untied(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of an equivalent network without tied weights."""
    weights = dict(weights)
    weights["embedding.weight"] = weights["output.weight"] * np.sqrt(weights["output.weight"].shape[1])
    if "projection.weight" in weights:
        weights["output.weight"] = weights["output.weight"] @ weights.pop("projection.weight")
    return weights


def arrays(network: CharNetwork) -> dict[str, np.ndarray]:
    return {name: weight.numpy() for name, weight in network.state_dict().items()}


# --- the network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding_size", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_symbols_are_read_and_predicted_by_the_same_matrix(cell: str, embedding_size: int) -> None:
    network = network_of(cell, embedding_size, layers=2)
    weights = untied(arrays(network))
    tokens = np.random.RandomState(1).randint(0, VOCABULARY, 20)
    with torch.no_grad():
        logits, _ = network(torch.from_numpy(tokens)[None], network.initial_state(1))
    row = np.zeros(spec.state_size(cell, 2, HIDDEN))
    for step, token in enumerate(tokens.tolist()):
        expected, row = naive_step(cell, 2, weights, token, row)
        np.testing.assert_allclose(logits[0, step].numpy(), expected, atol=2e-5)


def test_both_uses_of_the_matrix_contribute_gradients() -> None:
    network = network_of("lstm", 3)
    tokens = torch.tensor([[0, 1, 2]])
    weight = network.output.weight

    def gradient(*, reads: bool, predicts: bool) -> torch.Tensor:
        held = weight.detach().clone()
        own = torch.nn.functional.embedding(tokens, weight if reads else held)
        hidden, _ = network.rnn(own * 3**0.5, network.initial_state(1))
        logits = network.projection(hidden) @ (weight if predicts else held).t() + network.output.bias
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        return torch.autograd.grad(loss, weight)[0]

    loss, _ = network(tokens, network.initial_state(1), tokens)
    (found,) = torch.autograd.grad(loss, weight)
    both = gradient(reads=True, predicts=False) + gradient(reads=False, predicts=True)
    torch.testing.assert_close(found, both)


def test_the_matrix_is_one_parameter() -> None:
    recurrent = 4 * 16 * (16 + 16 + 2)
    same = CharNetwork(NetworkConfig("lstm", 1, 16, tie_weights=True), 50)
    assert same.config.embedding_size == 16
    assert same.parameter_count() == recurrent + 50 * 16 + 50
    assert set(same.state_dict()) >= {"output.weight", "output.bias"}
    assert not {"embedding.weight", "projection.weight"} & set(same.state_dict())
    apart = CharNetwork(NetworkConfig("lstm", 1, 16, 6, tie_weights=True), 50)
    assert apart.parameter_count() == 4 * 16 * (6 + 16 + 2) + 50 * 6 + 50 + 6 * 16


def test_the_optimizer_holds_and_decays_the_matrix_once() -> None:
    network = network_of("gru", 3)
    train_step = TrainStep(
        network,
        OptimizationConfig(learning_rate=0.01, weight_decay=1.0, clip=0.0),
        ComputeMode("fp32", False),
        torch.device("cpu"),
    )
    before = network.output.weight.detach().clone()
    bias = network.output.bias.detach().clone()
    tokens = torch.tensor([[0, 1, 2]])
    loss, _ = network(tokens, network.initial_state(1), tokens)
    (gradient, by_bias) = torch.autograd.grad(loss, [network.output.weight, network.output.bias])
    train_step.learn(tokens, tokens, network.initial_state(1))
    names = {name.rsplit(".", 1)[0] for name in train_step.optimizer.tensors()}
    assert names == set(network.state_dict())
    # AdamW's first step is the rate times the gradient's sign, after the decay.
    expected = before * (1 - 0.01) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(network.output.weight.detach(), expected)
    torch.testing.assert_close(network.output.bias.detach(), bias - 0.01 * by_bias / (by_bias.abs() + 1e-8))


def test_the_matrix_is_initialized_small_so_that_initial_predictions_are_nearly_uniform() -> None:
    torch.manual_seed(0)
    network = CharNetwork(NetworkConfig("lstm", 1, 64, 64, tie_weights=True), 5_000).eval()
    tokens = torch.randint(5_000, (4, 30))
    with torch.no_grad():
        loss, _ = network(tokens, network.initial_state(4), tokens)
    assert float(loss) == pytest.approx(np.log(5_000), abs=0.1)
    read = network._read(torch.arange(5_000)[None])
    assert float(read.detach().std()) == pytest.approx(1.0, rel=0.02)


def test_a_small_vocabulary_is_never_initialized_to_the_identity() -> None:
    network = CharNetwork(NetworkConfig("lstm", 1, 16, 16, tie_weights=True), 10)
    assert float(network.output.weight.detach().abs().mean()) < 0.5


# --- runs --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Has the same effect on disk as a kill: nothing catches it."""


@pytest.mark.parametrize(
    ("cell", "embedding_size"),
    [
        *[("lstm", 5), ("gru", None), ("rnn", 5)],
        *(
            pytest.param(*each, marks=pytest.mark.nightly)
            for each in [("lstm", None), ("gru", 5), ("rnn", None)]
        ),
    ],
)
def test_resume_after_a_kill_is_bit_identical_with_tied_weights(
    tmp_path: Path, cell: str, embedding_size: int | None
) -> None:
    config = TIED.replace(cell=cell, embedding_size=embedding_size)

    def kill(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 8:
            raise Killed

    train(config, CORPUS, out=tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, CORPUS, kill, out=tmp_path / "run")
    resume(tmp_path / "run")
    files = checkpoint_files(tmp_path / "whole")
    assert [path.name for path in files] == [path.name for path in checkpoint_files(tmp_path / "run")]
    for path in files:
        assert path.read_bytes() == (tmp_path / "run" / path.name).read_bytes()


def test_a_checkpoint_holds_the_matrix_once_and_restores_the_network(tmp_path: Path) -> None:
    result = train(TIED.replace(embedding_size=5), CORPUS, out=tmp_path / "run")
    checkpoint = load_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert checkpoint.weights["output.weight"].shape == (len(CORPUS.vocabulary), 5)
    assert checkpoint.weights["projection.weight"].shape == (5, 8)
    assert "embedding.weight" not in checkpoint.weights
    network = checkpoint.network()
    for name, weight in result.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name


def test_a_run_starts_from_tied_weights(tmp_path: Path) -> None:
    train(TIED.replace(learning_rate=0.02), CORPUS, out=tmp_path / "run")

    def first_loss(init_from: Path | None) -> float:
        losses: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Stepped):
                losses.append(event.loss or 0.0)

        train(TIED.replace(steps=1), CORPUS, listen, init_from=init_from)
        return losses[0]

    assert first_loss(find_checkpoint(tmp_path / "run", "last")) < first_loss(None) - 0.1


@pytest.mark.parametrize(
    "lie",
    [
        {"tie_weights": False},
        {"tie_weights": 1},
        {"tie_weights": None},
        {"embedding_size": 0},
        {"embedding_size": 8},
        {"embedding_size": 6},
        {"hidden_size": 5},
    ],
)
def test_a_false_header_about_tied_weights_is_rejected(tmp_path: Path, lie: dict[str, object]) -> None:
    train(TIED.replace(embedding_size=5, steps=1), CORPUS, out=tmp_path / "run")
    path = find_checkpoint(tmp_path / "run", "last")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + size])
    about = json.loads(table["__metadata__"]["charrnn"])
    about["config"]["network"].update(lie)
    table["__metadata__"]["charrnn"] = json.dumps(about)
    header = json.dumps(table).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("given", [set(), {"embedding_size"}])
def test_a_plan_with_tied_weights_matches_embedding_and_hidden_size_unless_given(given: set[str]) -> None:
    config = TrainConfig().replace(
        minutes=0.01, tie_weights=True, embedding_size=8 if given else None, precision="fp32", onednn=False
    )
    network = plan_for_minutes(config, {"tie_weights", *given}, 2_000, 65).config.network.resolve(65)
    assert network.tie_weights
    assert network.embedding_size == (8 if given else network.hidden_size)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding_size", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_folding_matches_an_untied_network_of_the_same_weights(cell: str, embedding_size: int) -> None:
    weights = arrays(network_of(cell, embedding_size, 2))
    folded = fold_weights(cell, 2, weights, True)
    expected = fold_weights(cell, 2, untied(weights))
    np.testing.assert_allclose(folded.table, expected.table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.output, expected.output, rtol=1e-4, atol=1e-6)
    assert folded.output.shape == (HIDDEN, VOCABULARY)


Trained = Callable[[str, int | None], Checkpoint]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains a network of a cell once, with or without a projection; returns its checkpoint."""
    folder = tmp_path_factory.mktemp("tied")

    @cache
    def trained(cell: str, size: int | None) -> Checkpoint:
        run = folder / f"{cell}-{size}"
        settings = TIED.replace(cell=cell, embedding_size=size, learning_rate=0.02, steps=60, eval_every=60)
        train(settings, CORPUS, out=run)
        return load_checkpoint(find_checkpoint(run, "last"))

    return trained


@pytest.mark.parametrize(
    "precision",
    [pytest.param(name, marks=[pytest.mark.nightly] * (name == "fp16")) for name in spec.PRECISIONS],
)
@pytest.mark.parametrize("embedding_size", [pytest.param(None, marks=pytest.mark.nightly), 5])
@pytest.mark.parametrize("cell", CELLS)
def test_exports_in_all_precisions_are_verified_against_torch(
    trained: Trained,
    tmp_path: Path,
    cell: str,
    embedding_size: int | None,
    precision: str,
) -> None:
    checkpoint = trained(cell, embedding_size)
    path = tmp_path / "m.onnx"
    report = export_checkpoint(checkpoint, path, precision=precision)
    assert report.logit_difference < {"fp32": 1e-5, "fp16": 0.05, "int8": 1.0}[precision]
    assert report.info.training["config"]["network"]["tie_weights"] is True
    weights = untied({name: weight.numpy() for name, weight in checkpoint.weights.items()})
    stepper = Stepper(onnx.load(path))
    state = np.zeros(spec.state_size(cell, 2, 8))
    if precision == "fp32":
        found_state = state[np.newaxis].astype(np.float32)
        for token in checkpoint.vocabulary.encode(TEXT[:60]).tolist():
            expected, state = naive_step(cell, 2, weights, token, state)
            logits, _, found_state = stepper.step([token], found_state)
            np.testing.assert_allclose(logits[0], expected, atol=1e-5)
    model = CharRNN.load(path, device="cpu")
    assert len(model.generate("to ", 20, seed=1)) == 23


def test_an_untied_network_of_the_same_weights_exports_the_same_graph(
    trained: Trained, tmp_path: Path
) -> None:
    export_checkpoint(trained("lstm", 5), tmp_path / "tied.onnx")
    train(TINY.replace(embedding_size=5, steps=1), CORPUS, out=tmp_path / "run")
    export_checkpoint(load_checkpoint(find_checkpoint(tmp_path / "run")), tmp_path / "untied.onnx")
    tied, other = (onnx.load(tmp_path / f"{name}.onnx").graph for name in ("tied", "untied"))
    assert [node.op_type for node in tied.node] == [node.op_type for node in other.node]
    assert [list(item.dims) for item in tied.initializer] == [list(item.dims) for item in other.initializer]
