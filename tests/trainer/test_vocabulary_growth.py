"""Starting from a network on a text with new characters: known ones are kept, missing ones added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn_runtime import CharRNN
from charrnn_runtime.vocabulary import Vocabulary
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.vocabulary_growth import grow_vocabulary, words_on_growth
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.runs.checkpoint import Checkpoint, load_checkpoint
from charrnn_trainer.runs.finding import checkpoint_files, find_checkpoint
from charrnn_trainer.runs.header import CheckpointError
from charrnn_trainer.runs.weight_growth import grow_weights
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.events import Event, Stepped
from marks import first_daily
from tiny_runs import TEXT, TINY

CORPUS = Corpus.from_text(TEXT, name="hamlet")
KNOWN = CORPUS.vocabulary
MORE = "¿Ser o no ser? Ésa es la cuestión, ~ 是\n" * 30
LARGER = grow_vocabulary(KNOWN, MORE)
ADDED = sorted(set(LARGER.symbols) - set(KNOWN.symbols))
NETWORKS: dict[str, dict[str, Any]] = {
    "one-hot": {},
    "embedding": {"embedding_size": 5},
    "identity": {"embedding_size": len(KNOWN)},
    "tied": {"tie_weights": True},
    "projected": {"tie_weights": True, "embedding_size": 5},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A checkpoint of each kind of network."""
    made = {}
    for name, settings in NETWORKS.items():
        run = tmp_path_factory.mktemp(name) / "run"
        train(TINY.replace(learning_rate=0.02, **settings), CORPUS, out=run)
        made[name] = load_checkpoint(find_checkpoint(run, "last"))
    return made


def encoded(text: str, vocabulary: Vocabulary) -> Corpus:
    return Corpus.from_ids(vocabulary.encode(text), vocabulary)


# --- vocabularies ------------------------------------------------------------------------------------------


def test_a_vocabulary_grows_in_code_point_order_and_keeps_its_symbols() -> None:
    assert grow_vocabulary(Vocabulary("db"), "cabc").symbols == ("a", "b", "c", "d")
    assert set(LARGER.symbols) == set(TEXT) | set(MORE)
    assert list(LARGER.symbols) == sorted(LARGER.symbols)


def test_a_complete_vocabulary_is_unchanged_in_any_order() -> None:
    vocabulary = Vocabulary("ba")
    assert grow_vocabulary(vocabulary, "aab") is vocabulary
    of_bytes = Vocabulary.of_bytes()
    assert grow_vocabulary(of_bytes, "é") is of_bytes


def test_added_symbols_are_reported_in_one_line() -> None:
    assert words_on_growth("more.txt", KNOWN, KNOWN) is None
    one = words_on_growth("more.txt", Vocabulary("ab"), Vocabulary("a\nb"))
    assert one == "more.txt has 1 new character, added to the vocabulary: '\\n'"
    many = words_on_growth("more.txt", KNOWN, grow_vocabulary(KNOWN, map(chr, range(0x4E00, 0x4E00 + 3_000))))
    assert many is not None
    assert many.startswith("more.txt has 3,000 new characters, added to the vocabulary: '一', ")
    assert many.endswith(" and 2,980 more")


# --- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_known_symbols_are_read_and_predicted_as_before(trained: dict[str, Checkpoint], kind: str) -> None:
    before = trained[kind].network().eval()
    grown = grow_weights(trained[kind], LARGER, seed=3)
    after = grown.network().eval()
    assert after.vocabulary_size == len(LARGER)
    text = TEXT[:300]
    with torch.no_grad():
        expected, _ = before(torch.from_numpy(KNOWN.encode(text))[None], before.initial_state(1))
        found, _ = after(torch.from_numpy(LARGER.encode(text))[None], after.initial_state(1))
    places = torch.from_numpy(LARGER.encode("".join(KNOWN.symbols)))
    torch.testing.assert_close(found[:, :, places], expected)
    # New symbols are as likely as an average one, and so have little effect.
    new = torch.from_numpy(LARGER.encode("".join(ADDED)))
    share = found.softmax(2)[:, :, new].sum(2).mean()
    assert 0 < float(share) < len(ADDED) / len(LARGER)


@pytest.mark.parametrize("kind", NETWORKS)
def test_new_symbols_lead_to_different_states(trained: dict[str, Checkpoint], kind: str) -> None:
    network = grow_weights(trained[kind], LARGER, seed=3).network().eval()
    new = torch.from_numpy(LARGER.encode("".join(ADDED)))
    with torch.no_grad():
        _, state = network(new[:, None], network.initial_state(len(new)))
    assert torch.pdist(state[0][0]).min() > 1e-4


def test_the_seed_determines_the_initial_weights_of_new_symbols(trained: dict[str, Checkpoint]) -> None:
    drawn = [grow_weights(trained["one-hot"], LARGER, seed=seed).weights for seed in (1, 1, 2)]
    for name in ("rnn.weight_ih_l0", "output.weight", "output.bias"):
        assert torch.equal(drawn[0][name], drawn[1][name])
        assert not torch.equal(drawn[0][name], drawn[2][name])
    assert torch.equal(drawn[0]["rnn.weight_hh_l0"], trained["one-hot"].weights["rnn.weight_hh_l0"])


def test_the_checkpoint_is_unchanged(trained: dict[str, Checkpoint]) -> None:
    held = {name: tensor.clone() for name, tensor in trained["tied"].tensors.items()}
    grow_weights(trained["tied"], LARGER, seed=1)
    assert trained["tied"].vocabulary == KNOWN
    assert all(torch.equal(held[name], tensor) for name, tensor in trained["tied"].tensors.items())
    assert grow_weights(trained["tied"], KNOWN, seed=1) is trained["tied"]


@pytest.mark.parametrize("vocabulary", [Vocabulary(KNOWN.symbols[1:]), Vocabulary.of_bytes()])
def test_a_text_whose_vocabulary_lacks_symbols_of_the_network_is_rejected(
    trained: dict[str, Checkpoint], vocabulary: Vocabulary
) -> None:
    with pytest.raises(
        CheckpointError, match=r"vocabulary of the text lacks characters of .*; encode the text"
    ):
        grow_weights(trained["one-hot"], vocabulary, seed=0)


# --- runs --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Has the same effect on disk as a kill: nothing catches it."""


@pytest.mark.parametrize("kind", first_daily(NETWORKS))
def test_a_run_with_new_characters_exports_and_resumes_bit_identically(
    trained: dict[str, Checkpoint], tmp_path: Path, kind: str
) -> None:
    config = TINY.replace(embedding_size=trained[kind].config.network.embedding_size)
    config = config.replace(tie_weights=kind in ("tied", "projected"), batch_size=4)
    corpus, start = encoded(MORE, LARGER), trained[kind].path
    train(config, corpus, out=tmp_path / "whole", init_from=start)
    for step in (2, 8):  # before the first checkpoint, and after it

        def kill(event: Event, at: int = step) -> None:
            if isinstance(event, Stepped) and event.step == at:
                raise Killed

        with pytest.raises(Killed):
            train(config, corpus, kill, out=tmp_path / f"run{step}", init_from=start)
        resume(tmp_path / f"run{step}")
        for path in checkpoint_files(tmp_path / "whole"):
            assert path.read_bytes() == (tmp_path / f"run{step}" / path.name).read_bytes()
    last = load_checkpoint(find_checkpoint(tmp_path / "whole", "last"))
    assert last.vocabulary == LARGER
    export_checkpoint(last, tmp_path / "m.onnx")
    model = CharRNN.load(tmp_path / "m.onnx", device="cpu")
    assert len(model.generate("Ésa be", 10, seed=1)) == 16
