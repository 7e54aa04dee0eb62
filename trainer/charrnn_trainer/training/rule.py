"""The rule that makes settings of a time budget: from numbers to settings, without measuring anything.

It came from measurements of some minutes on texts of many kinds, and of hours on tinyshakespeare
(docs/tried.md): one layer learns more than two narrower ones, and small batches more than large ones; the
wider the layer, the more steps it needs; and the more often a text is read by the more weights, the more a
network must be kept from overfitting it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from charrnn_trainer.config import MOST_STEPS, ONE_HOT_LIMIT, NetworkConfig
from charrnn_trainer.data.batches import fit_batch
from charrnn_trainer.nn.cells import CELLS
from charrnn_trainer.train_config import TrainConfig

HIDDEN_SIZES: Final = tuple(range(64, 1025, 64))
STEPS_A_UNIT: Final = 20.0
"""A network gets the largest hidden size that leaves it this many steps per unit: at 256 units, 5,120."""

STEPS_A_UNIT_OF_MANY_SYMBOLS: Final = 5.0
"""The same for more than 256 symbols, which take most of a step's time whatever the size."""

BATCH_SIZE: Final = 16
SEQ_LENGTH: Final = 64
LONG_SEQ_LENGTH: Final = 96
"""A batch has 16 rows of 64 characters; of 96 from 768 units on, which learn for hours."""

SHORT_TEXT: Final = 50_000
"""Of a text with fewer characters for training, a batch has half as many rows."""

SMALL_SIZE: Final = 192
"""A network may have this many units whatever the text; the square of more is at most its characters."""

LEARNED_BY_HEART: Final = 200.0
"""From this many weights on per character, times the passes over it, symbols are dropped at the input."""

MOST_PASSES: Final = 150.0
"""A text is read so often at most: what time is left after that would only make the loss rise."""

IDENTITY_LIMIT: Final = 96
EMBEDDING: Final = 64
TIED_EMBEDDING: Final = 256
"""Up to 96 symbols are read through an embedding of as many numbers, which starts as the identity; up to 256
through one of 64 numbers; more through one of 256, to which the output weights are tied."""

FINE_TUNING: Final = 1 / 3
"""How high the learning rate is for a network that has learned another text, as a share of the usual one."""


@dataclass(frozen=True)
class Task:
    """What there is to learn.

    Attributes:
        train_tokens: how many characters the text has for training.
        vocabulary_size: V.
        processes: how many train together.
        fine_tunes: whether the network has learned another text before.
        line_length: of a list, the mean length of a line, with its newline; 0 for other texts.
    """

    train_tokens: int
    vocabulary_size: int
    processes: int = 1
    fine_tunes: bool = False
    line_length: int = 0


class Machine(Protocol):
    """How fast settings run, and for how long: measured, or for a test made up.

    Of the settings that are asked for, everything counts that a step's time depends on: the cell, layers,
    sizes, batch and length. What only the rule derives from the number of steps is not settled by then.
    """

    def seconds_a_step(self, config: TrainConfig) -> float:
        """The time that a step takes with these settings."""

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """The time that is left for steps with these settings, when everything else is subtracted."""


@dataclass(frozen=True)
class Choice:
    """What the rule chose.

    Attributes:
        config: all settings.
        steps: about how many steps they leave time for.
    """

    config: TrainConfig
    steps: float


def choose(config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine) -> Choice:
    """The settings that give the best network in the time that a machine has.

    The rule, where a setting is not fixed: one layer, of GRU cells where these are clearly faster than
    LSTM's (`Cell.taken_below`), else of LSTM cells; batches of 16 rows by 64 characters, of 8 for a
    `SHORT_TEXT`; the largest of `HIDDEN_SIZES` that leaves `STEPS_A_UNIT` steps for each of its units (for
    many symbols `STEPS_A_UNIT_OF_MANY_SYMBOLS`), and whose square is not above the number of characters (a
    short text teaches no large network, but one of `SMALL_SIZE`); at most `MOST_PASSES` passes over the text;
    AdamW's weight decay 0.05, the clip 1; passes start anywhere, and a stream forgets with a chance of 0.2 %.
    `derived` tells what follows from the number of steps.

    Args:
        config: settings, of which those named in ``fixed`` stay.
        fixed: the names of settings that were given.
        task: what there is to learn. Batches have the next number of rows that its processes can share
            equally.
        machine: how fast it is learned.
    """
    rows = BATCH_SIZE if task.train_tokens >= SHORT_TEXT else BATCH_SIZE // 2
    base = {
        "layers": 1,
        **_reading(config.network, fixed, task.vocabulary_size),
        "batch_size": task.processes * math.ceil(rows / task.processes),
        "random_start": True,
        "reset_chance": 0.002,
        "steps": MOST_STEPS,
        "schedule": "cosine",
        "weight_decay": 0.05,
        "clip": 1.0,
    }
    config = replace_open(config, fixed, base)
    largest = max(SMALL_SIZE, math.isqrt(task.train_tokens))
    sizes = [size for size in HIDDEN_SIZES if size <= largest]
    if "hidden_size" in fixed:
        sizes = [config.network.hidden_size]
    if "cell" not in fixed:
        middle = _with_size(config, sizes[len(sizes) // 2], fixed, task)
        config = config.replace(cell=_cell(middle, machine))
    config = _largest_that_fits(sizes, config, fixed, task, machine)
    steps = _steps(config, task, machine)
    if steps < config.optimization.steps:
        most = _steps_in_most_passes(config, task)
        config = replace_open(config, fixed, {"steps": round(most)} if steps >= most else {})
    return Choice(replace_open(config, fixed, derived(config, steps, task)), steps)


def _reading(network: NetworkConfig, fixed: Collection[str], symbols: int) -> dict[str, Any]:
    """How a network with this many symbols reads them, and whether its output weights are tied to that."""
    tied = network.tie_weights if "tie_weights" in fixed else symbols > ONE_HOT_LIMIT
    if tied:
        return {"tie_weights": True, "embedding_size": TIED_EMBEDDING if symbols > ONE_HOT_LIMIT else None}
    if symbols > ONE_HOT_LIMIT:
        return {"embedding_size": None}
    return {"embedding_size": symbols if symbols <= IDENTITY_LIMIT else EMBEDDING}


def derived(config: TrainConfig, steps: float, task: Task) -> dict[str, Any]:
    """The settings that follow from how many steps a network gets, by name; they can change in mid-run.

    What is dropped follows from how often the text is read, times the weights that there are for each of its
    characters (z): dropout before the output is 0.1 log2(1 + z / 2), at most 0.6; the drop of recurrent
    weights 0.06 log2(z / 8), from none to 0.35; and 0.05 of the symbols from `LEARNED_BY_HEART` on. Where
    output weights are tied to the embedding, dropout is a half from the start: most of thousands of symbols
    are rare, and soon memorized. The learning rate is 3.1 / H, at most 0.006 (for tanh cells a quarter,
    for a network that has learned before `FINE_TUNING`), after 3 % warm-up, along the schedule to the end.
    """
    network = config.network
    weights = _weights(network, task.vocabulary_size)
    z = passes_over_text(config, steps, task) * weights / task.train_tokens
    rate = min(0.006, 3.1 / network.hidden_size) * CELLS[network.cell].rate
    rate *= FINE_TUNING if task.fine_tunes else 1.0
    return {
        "dropout": 0.5 if network.tie_weights else round(min(0.6, 0.1 * math.log2(1.0 + z / 2.0)), 2),
        "weight_drop": round(min(0.35, max(0.0, 0.06 * math.log2(max(z, 1.0) / 8.0))), 2),
        "input_dropout": 0.05 if z >= LEARNED_BY_HEART else 0.0,
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": max(1, round(0.03 * steps)),
    }


def recurrent_weights(network: NetworkConfig, symbols: int) -> int:
    """How many weights its recurrent layers have, for what they read and for their states."""
    hidden, read = network.hidden_size, network.resolve(symbols).embedding_size or symbols
    return CELLS[network.cell].gates * hidden * (hidden * (2 * network.layers - 1) + read)


def _weights(network: NetworkConfig, symbols: int) -> int:
    """How many weights a network has, but for biases."""
    hidden, read = network.hidden_size, network.resolve(symbols).embedding_size or symbols
    recurrent = recurrent_weights(network, symbols)
    if not network.tie_weights:
        return recurrent + symbols * (read + hidden)
    return recurrent + symbols * read + hidden * read * (read != hidden)


def passes_over_text(config: TrainConfig, steps: float, task: Task) -> float:
    """How often the text for training is read in this many steps."""
    return steps * config.data.batch_size * config.data.seq_length / task.train_tokens


def replace_open(config: TrainConfig, fixed: Collection[str], values: dict[str, Any]) -> TrainConfig:
    """The settings with ``values`` put in, but for those that are fixed."""
    return config.replace(**{name: value for name, value in values.items() if name not in fixed})


def _cell(config: TrainConfig, machine: Machine) -> str:
    """The first cell of the table, or one that is fast enough to be taken instead (`Cell.taken_below`)."""
    usual, *others = CELLS.values()
    seconds = machine.seconds_a_step(config.replace(cell=usual.name))
    for cell in others:
        if cell.taken_below:
            taken = machine.seconds_a_step(config.replace(cell=cell.name))
            if taken <= cell.taken_below * seconds:
                return cell.name
    return usual.name


def _largest_that_fits(
    sizes: list[int], config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine
) -> TrainConfig:
    """The settings with the largest hidden size that leaves enough steps."""
    steps_a_unit = STEPS_A_UNIT_OF_MANY_SYMBOLS if task.vocabulary_size > ONE_HOT_LIMIT else STEPS_A_UNIT
    low, high = 0, len(sizes)  # the first size is taken in any case; from index high on, none fits
    while high - low > 1:
        middle = (low + high) // 2
        steps = _steps(_with_size(config, sizes[middle], fixed, task), task, machine)
        if steps >= steps_a_unit * sizes[middle]:
            low = middle
        else:
            high = middle
    return _with_size(config, sizes[low], fixed, task)


def _with_size(config: TrainConfig, hidden: int, fixed: Collection[str], task: Task) -> TrainConfig:
    """The settings with a hidden size, and batches that go with it and that the text fills."""
    length = LONG_SEQ_LENGTH if hidden >= 768 else SEQ_LENGTH
    if "seq_length" in fixed:
        length = config.data.seq_length
    batch, length = fit_batch(task.train_tokens, config.data.batch_size, length)
    return config.replace(hidden_size=hidden, batch_size=batch, seq_length=length)


def _steps(config: TrainConfig, task: Task, machine: Machine) -> float:
    """How many steps there are time and text for."""
    in_time = machine.seconds_for_steps(config) / machine.seconds_a_step(config)
    if config.optimization.steps < MOST_STEPS:  # they were given
        return min(config.optimization.steps, in_time)
    return min(_steps_in_most_passes(config, task), in_time)


def _steps_in_most_passes(config: TrainConfig, task: Task) -> float:
    """How many steps `MOST_PASSES` passes over the text have."""
    return MOST_PASSES / passes_over_text(config, 1.0, task)
