"""Mutated model files: rejected with one line, or they run; files that once broke the reader no longer do.

Only a few run here; ``nox -s mutations`` tries 10,000.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from charrnn_runtime import CharRNN, ModelFormatError
from mutation_workers import LONGEST, Tally, try_seeds
from mutations import Draw, changed_model, read_fields, written
from subjects import MODELS, read_model

FOUND = Path(__file__).resolve().parent.parent / "data" / "found" / "models"

needs_posix = pytest.mark.skipif(os.name != "posix", reason="the processes report through a POSIX pipe")


@needs_posix
def test_mutated_models_are_rejected_or_run() -> None:
    tally = try_seeds("subjects:try_model", 0, 200)
    assert tally.faults == []
    assert tally.outcomes.total() == 200
    assert tally.outcomes["refused"] > 100
    assert tally.outcomes["works"] > 10


def test_models_truncated_at_200_places_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    for data in MODELS:
        for place in range(0, len(data), len(data) // 200 + 1):
            path.write_bytes(data[:place])
            with pytest.raises(ModelFormatError) as caught:
                CharRNN.load(path, device="cpu")
            assert str(caught.value).isprintable(), place


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_models_that_once_broke_the_reader_are_rejected_or_run(path: Path) -> None:
    assert read_model(path) in ("refused", "works")


def test_parsing_and_serializing_a_file_changes_nothing() -> None:
    for data in MODELS:
        assert written(read_fields(data)) == data


def test_a_seed_always_gives_the_same_file_and_other_seeds_give_others() -> None:
    first, again = ([changed_model(MODELS[0], MODELS[1], Draw(seed)) for seed in range(50)] for _ in range(2))
    assert first == again
    assert len({*first, MODELS[0]}) > 45


# --- detection of faults -----------------------------------------------------------------------------------


def tried(subject: str, count: int = 8, longest: float = LONGEST) -> Tally:
    return try_seeds(f"faulty_subjects:{subject}", 0, count, workers=2, longest=longest)


@needs_posix
@pytest.mark.nightly
def test_successes_are_counted() -> None:
    tally = tried("well", 10)
    assert (dict(tally.outcomes), tally.faults) == ({"works": 5, "refused": 5}, [])
    assert 2**20 < tally.peak < 2**30


@needs_posix
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("subject", "seeds", "what"),
    [
        ("raises_at_3", [3], "KeyError: 'a\\nname'"),
        ("crashes_at_3_and_4", [3, 4], "the process died (-11): last words"),
        ("prints_at_3_and_4", [3, 4], "it printed to stdout"),
        ("takes_memory_at_3", [3], "it took 1,1"),
        ("says_nonsense_at_3", [3], "it said ''"),
    ],
)
def test_a_fault_is_reported_with_its_seed_and_the_others_continue(
    subject: str, seeds: list[int], what: str
) -> None:
    tally = tried(subject)
    assert [seed for seed, _ in tally.faults] == seeds
    assert all(why.startswith(what) for _, why in tally.faults), tally.faults
    assert tally.outcomes.total() == 8 - len(seeds)


@needs_posix
@pytest.mark.nightly
def test_a_hang_is_killed_and_reported() -> None:
    tally = tried("hangs_at_3", longest=10.0)
    assert tally.faults == [(3, "no answer within 10 seconds")]
    assert tally.outcomes["works"] == 7
