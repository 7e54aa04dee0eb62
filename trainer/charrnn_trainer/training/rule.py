"""The rule that derives settings from a time budget. It only computes; measuring is done elsewhere.

It is based on runs of some minutes on many kinds of text, and of hours on tinyshakespeare (docs/tried.md):
one layer learns more than two narrower ones, and small batches more than large ones; wider layers need more
steps; and more passes over the text, or more weights, need more regularization against overfitting.
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
STEPS_PER_UNIT: Final = 20.0
"""The hidden size is the largest that leaves this many steps per unit: at 256 units, 5,120."""

STEPS_PER_UNIT_OF_MANY_SYMBOLS: Final = 5.0
"""The same for more than 256 symbols, which take most of a step's time at any hidden size."""

BATCH_SIZE: Final = 16
SEQ_LENGTH: Final = 64
LONG_SEQ_LENGTH: Final = 96
"""A batch has 16 rows of 64 characters; of 96 from 768 units on, which train for hours."""

SHORT_TEXT: Final = 50_000
"""With fewer characters for training, a batch has half as many rows."""

SMALL_SIZE: Final = 192
"""The hidden size may be this large for any text; the square of a larger one must not exceed its length."""

MEMORIZATION: Final = 200.0
"""From this many weights per character, times passes over the text, input dropout is used."""

MOST_PASSES: Final = 150.0
"""The maximum number of passes over the text: further training would only raise the validation loss."""

IDENTITY_LIMIT: Final = 96
EMBEDDING: Final = 64
TIED_EMBEDDING: Final = 256
"""Up to 96 symbols use an embedding of the same size, which starts as the identity; up to 256 use one of size
64; more use one of size 256, to which the output weights are tied."""

FINE_TUNING: Final = 1 / 3
"""The learning rate for fine-tuning, as a share of the usual one."""


@dataclass(frozen=True)
class Task:
    """The training task.

    Attributes:
        train_tokens: the number of characters for training.
        vocabulary_size: V.
        processes: the number of processes that train together.
        fine_tunes: whether the network was trained on another text before.
        line_length: for a list, the mean length of a line, including its newline; 0 for other texts.
    """

    train_tokens: int
    vocabulary_size: int
    processes: int = 1
    fine_tunes: bool = False
    line_length: int = 0


class Machine(Protocol):
    """The speed of a machine: measured, or made up in a test.

    Only settings that determine the step time count: cell, layers, sizes, batch size and sequence length.
    Settings that the rule derives from the number of steps are not final when this is called.
    """

    def seconds_per_step(self, config: TrainConfig) -> float:
        """The step time with these settings."""

    def seconds_for_steps(self, config: TrainConfig) -> float:
        """The time left for steps with these settings, after everything else."""


@dataclass(frozen=True)
class Choice:
    """The choice of the rule.

    Attributes:
        config: all settings.
        steps: the approximate number of steps in the time.
    """

    config: TrainConfig
    steps: float


def choose(config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine) -> Choice:
    """Choose the settings for the best network within the machine's time.

    The rule, for settings that are not fixed: one layer, of GRU cells if these are clearly faster than LSTM
    cells (`Cell.taken_below`), else of LSTM cells; batches of 16 rows by 64 characters, 8 rows for a
    `SHORT_TEXT`; the largest of `HIDDEN_SIZES` that leaves `STEPS_PER_UNIT` steps for each unit (for many
    symbols `STEPS_PER_UNIT_OF_MANY_SYMBOLS`), and whose square does not exceed the number of characters (up
    to `SMALL_SIZE` units are always allowed); at most `MOST_PASSES` passes over the text; weight decay 0.05
    and gradient norm 1; passes start anywhere, and a stream's state is reset with a probability of 0.2 %.
    `derived` gives the settings that follow from the number of steps.

    Args:
        config: settings, of which those named in ``fixed`` stay.
        fixed: the names of the settings that were given.
        task: the training task. The number of rows is rounded up so that its processes can share it equally.
        machine: the speed of the machine.
    """
    rows = BATCH_SIZE if task.train_tokens >= SHORT_TEXT else BATCH_SIZE // 2
    base = {
        "layers": 1,
        **_input_settings(config.network, fixed, task.vocabulary_size),
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


def _input_settings(network: NetworkConfig, fixed: Collection[str], symbols: int) -> dict[str, Any]:
    """The embedding and weight-tying settings for this many symbols."""
    tied = network.tie_weights if "tie_weights" in fixed else symbols > ONE_HOT_LIMIT
    if tied:
        return {"tie_weights": True, "embedding_size": TIED_EMBEDDING if symbols > ONE_HOT_LIMIT else None}
    if symbols > ONE_HOT_LIMIT:
        return {"embedding_size": None}
    return {"embedding_size": symbols if symbols <= IDENTITY_LIMIT else EMBEDDING}


def derived(config: TrainConfig, steps: float, task: Task) -> dict[str, Any]:
    """The settings that follow from the number of steps, by name. They can change during a run.

    Regularization depends on z, the number of passes over the text times the weights per character: dropout
    is 0.1 log2(1 + z / 2), at most 0.6; weight drop 0.06 log2(z / 8), between 0 and 0.35; input dropout 0.05
    from `MEMORIZATION` on. With tied weights, dropout is 0.5 from the start: of thousands of symbols most are
    rare and soon memorized. The peak learning rate is 3.1 / H, at most 0.006 (times 0.25 for tanh cells,
    times `FINE_TUNING` for a pretrained network), after a warm-up of 3 % of the steps.
    """
    network = config.network
    weights = _weights(network, task.vocabulary_size)
    z = passes_over_text(config, steps, task) * weights / task.train_tokens
    rate = min(0.006, 3.1 / network.hidden_size) * CELLS[network.cell].rate
    rate *= FINE_TUNING if task.fine_tunes else 1.0
    return {
        "dropout": 0.5 if network.tie_weights else round(min(0.6, 0.1 * math.log2(1.0 + z / 2.0)), 2),
        "weight_drop": round(min(0.35, max(0.0, 0.06 * math.log2(max(z, 1.0) / 8.0))), 2),
        "input_dropout": 0.05 if z >= MEMORIZATION else 0.0,
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": max(1, round(0.03 * steps)),
    }


def recurrent_weights(network: NetworkConfig, symbols: int) -> int:
    """The number of weights of the recurrent layers, without biases."""
    hidden, read = network.hidden_size, network.resolve(symbols).embedding_size or symbols
    return CELLS[network.cell].gates * hidden * (hidden * (2 * network.layers - 1) + read)


def _weights(network: NetworkConfig, symbols: int) -> int:
    """The number of weights of a network, without biases."""
    hidden, read = network.hidden_size, network.resolve(symbols).embedding_size or symbols
    recurrent = recurrent_weights(network, symbols)
    if not network.tie_weights:
        return recurrent + symbols * (read + hidden)
    return recurrent + symbols * read + hidden * read * (read != hidden)


def passes_over_text(config: TrainConfig, steps: float, task: Task) -> float:
    """The number of passes over the training text in this many steps."""
    return steps * config.data.batch_size * config.data.seq_length / task.train_tokens


def replace_open(config: TrainConfig, fixed: Collection[str], values: dict[str, Any]) -> TrainConfig:
    """The settings with ``values`` replaced, except those that are fixed."""
    return config.replace(**{name: value for name, value in values.items() if name not in fixed})


def _cell(config: TrainConfig, machine: Machine) -> str:
    """The first cell of the table, or one that is fast enough to be taken instead (`Cell.taken_below`)."""
    usual, *others = CELLS.values()
    seconds = machine.seconds_per_step(config.replace(cell=usual.name))
    for cell in others:
        if cell.taken_below:
            taken = machine.seconds_per_step(config.replace(cell=cell.name))
            if taken <= cell.taken_below * seconds:
                return cell.name
    return usual.name


def _largest_that_fits(
    sizes: list[int], config: TrainConfig, fixed: Collection[str], task: Task, machine: Machine
) -> TrainConfig:
    """The settings with the largest hidden size that leaves enough steps."""
    steps_per_unit = (
        STEPS_PER_UNIT_OF_MANY_SYMBOLS if task.vocabulary_size > ONE_HOT_LIMIT else STEPS_PER_UNIT
    )
    low, high = 0, len(sizes)  # the first size is always allowed; from index high on, none fits
    while high - low > 1:
        middle = (low + high) // 2
        steps = _steps(_with_size(config, sizes[middle], fixed, task), task, machine)
        if steps >= steps_per_unit * sizes[middle]:
            low = middle
        else:
            high = middle
    return _with_size(config, sizes[low], fixed, task)


def _with_size(config: TrainConfig, hidden: int, fixed: Collection[str], task: Task) -> TrainConfig:
    """The settings with a hidden size, and with batches that suit it and that the text fills."""
    length = LONG_SEQ_LENGTH if hidden >= 768 else SEQ_LENGTH
    if "seq_length" in fixed:
        length = config.data.seq_length
    batch, length = fit_batch(task.train_tokens, config.data.batch_size, length)
    return config.replace(hidden_size=hidden, batch_size=batch, seq_length=length)


def _steps(config: TrainConfig, task: Task, machine: Machine) -> float:
    """The number of steps that time and text allow."""
    in_time = machine.seconds_for_steps(config) / machine.seconds_per_step(config)
    if config.optimization.steps < MOST_STEPS:  # given
        return min(config.optimization.steps, in_time)
    return min(_steps_in_most_passes(config, task), in_time)


def _steps_in_most_passes(config: TrainConfig, task: Task) -> float:
    """The number of steps in `MOST_PASSES` passes over the text."""
    return MOST_PASSES / passes_over_text(config, 1.0, task)
