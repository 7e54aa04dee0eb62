"""The choices of the rule for time budgets, for measured texts and machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.rule import (
    FINE_TUNING,
    MOST_PASSES,
    Choice,
    Task,
    choose,
    derived,
    passes_over_text,
)


@dataclass
class Machine:
    """Takes this many seconds for a step of 256 LSTM units and 16 x 64 characters; scales with the work."""

    seconds: float
    gru: float = 0.65
    minutes: float = 3.0

    def seconds_per_step(self, config: TrainConfig) -> float:
        work = (
            (config.network.hidden_size / 256) ** 2 * config.data.batch_size * config.data.seq_length / 1_024
        )
        return self.seconds * work * (self.gru if config.network.cell == "gru" else 1.0)

    def seconds_for_steps(self, config: TrainConfig) -> float:
        return 0.9 * 60.0 * self.minutes


QUIET = Machine(0.020)
BUSY = Machine(0.080)
BF16 = Machine(0.012, gru=0.95)
"""Two free cores, one that is shared, and cores that are as fast with LSTM cells as with GRU cells."""

SHAKESPEARE, HAMLET, SONNETS = (1_003_854, 65), (156_547, 65), (18_000, 59)
NAMES, CODE, RUSSIAN, CHINESE = (191_539, 27), (4_500_000, 219), (1_825_659, 165), (897_530, 6_128)


def choice(text: tuple[int, int], machine: Machine, **given: Any) -> Choice:
    config = TrainConfig().replace(minutes=machine.minutes, **given)
    return choose(config, set(given), Task(*text), machine)


@pytest.mark.parametrize(
    ("text", "machine", "cell", "hidden", "embedding", "tied"),
    [
        (SHAKESPEARE, QUIET, "gru", 320, 65, False),
        (SHAKESPEARE, BUSY, "gru", 192, 65, False),
        (SHAKESPEARE, BF16, "lstm", 320, 65, False),
        (HAMLET, QUIET, "gru", 320, 65, False),
        (HAMLET, BUSY, "gru", 192, 65, False),
        (SONNETS, QUIET, "gru", 192, 59, False),
        (NAMES, QUIET, "gru", 320, 27, False),
        (CODE, QUIET, "gru", 320, 64, False),
        (RUSSIAN, BF16, "lstm", 320, 64, False),
        (CHINESE, QUIET, "gru", 512, 256, True),
    ],
)
def test_cell_and_sizes_depend_on_the_text_and_the_machine(
    text: tuple[int, int], machine: Machine, cell: str, hidden: int, embedding: int, tied: bool
) -> None:
    network = choice(text, machine).config.network
    assert (network.cell, network.layers, network.hidden_size) == (cell, 1, hidden)
    assert (network.embedding_size, network.tie_weights) == (embedding, tied)


@pytest.mark.parametrize(
    ("text", "steps", "hidden", "dropout", "weight_drop"),
    [  # the best or nearly best values in docs/tried.md
        (HAMLET, 3_000, 256, 0.3, 0.1),
        (HAMLET, 9_000, 256, 0.5, 0.2),
        (NAMES, 3_000, 256, 0.3, 0.1),
        (SHAKESPEARE, 1_600, 512, 0.1, 0.0),
        (SONNETS, 2_000, 192, 0.6, 0.35),
    ],
)
def test_dropout_is_close_to_the_best_measured_values(
    text: tuple[int, int], steps: int, hidden: int, dropout: float, weight_drop: float
) -> None:
    given = {"cell": "gru", "layers": 1, "hidden_size": hidden, "batch_size": 16, "seq_length": 64}
    config = TrainConfig().replace(embedding_size=text[1], **given)
    chosen = derived(config, steps, Task(*text))
    assert chosen["dropout"] == pytest.approx(dropout, abs=0.12)
    assert chosen["weight_drop"] == pytest.approx(weight_drop, abs=0.1)


def test_large_vocabularies_default_to_a_dropout_of_one_half() -> None:
    assert choice(CHINESE, BUSY).config.network.dropout == 0.5
    assert choice(CHINESE, BUSY, tie_weights=False).config.network.dropout < 0.3
    assert choice(CHINESE, BUSY, dropout=0.1).config.network.dropout == 0.1


def test_passes_over_a_short_text_are_limited() -> None:
    for minutes in (10.0, 60.0):
        made = choice(SONNETS, Machine(0.020, minutes=minutes))
        passes = passes_over_text(made.config, made.config.optimization.steps, Task(*SONNETS))
        assert passes == pytest.approx(MOST_PASSES, rel=0.01)
        assert made.steps == pytest.approx(made.config.optimization.steps, rel=0.01)
    assert choice(SHAKESPEARE, QUIET).config.optimization.steps == MOST_STEPS
    assert choice(SONNETS, QUIET, steps=123).config.optimization.steps == 123


def test_more_time_never_gives_a_smaller_network_or_less_dropout() -> None:
    for text in (SHAKESPEARE, HAMLET, SONNETS, NAMES, CODE, RUSSIAN, CHINESE):
        made = [choice(text, Machine(0.020, minutes=minutes)) for minutes in (0.5, 1.0, 3.0, 10.0, 60.0)]
        sizes = [each.config.network.hidden_size for each in made]
        assert sizes == sorted(sizes)
        dropped = [each.config.network.dropout for each in made]
        assert dropped == sorted(dropped)


def test_fine_tuning_uses_a_lower_learning_rate() -> None:
    given = {"cell": "gru", "layers": 1, "hidden_size": 256}
    config = TrainConfig().replace(embedding_size=65, **given)
    new, known = (
        derived(config, 1_000, Task(*HAMLET, fine_tunes=fine_tunes))["learning_rate"]
        for fine_tunes in (False, True)
    )
    assert known == pytest.approx(new * FINE_TUNING, rel=0.05)
