"""Compare the best LSTM and the best GRU among some runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from charrnn_trainer.compare.comparable import WINDOW, Noise, noise_of, same_batches, same_split, same_text
from charrnn_trainer.compare.figures import batch_time, nats, share, signed, size
from charrnn_trainer.compare.measure import ModelMeasures
from charrnn_trainer.compare.records import RunRecord

COMPARED: Final = ("lstm", "gru")
"""The two cells that are compared."""

LEVEL_SHARE: Final = 0.03
"""Times, speeds and sizes that differ by less than this share are level."""

Better = Literal["LSTM", "GRU", "level", "-"]
"""Which of the two is better by a figure; "-" if the figure alone does not decide it."""


@dataclass(frozen=True)
class Row:
    """A figure of both runs.

    Attributes:
        figure: the figure's name.
        lstm: the LSTM's value.
        gru: the GRU's value.
        change: the GRU's value minus the LSTM's (losses), or as a share of it (all other figures).
        better: which of the two is better.
    """

    figure: str
    lstm: str
    gru: str
    change: str
    better: Better


@dataclass(frozen=True, eq=False)
class CellPair:
    """An LSTM and a GRU side by side.

    Attributes:
        lstm: the best LSTM among the runs.
        gru: the best GRU.
        rows: the figures, losses first.
    """

    lstm: RunRecord
    gru: RunRecord
    rows: tuple[Row, ...]


def compare_cells(runs: Sequence[RunRecord], models: Sequence[ModelMeasures]) -> CellPair | None:
    """The best LSTM and the best GRU by validation loss; None if one of the two is missing."""
    best = {}
    for cell in COMPARED:
        found = [pair for pair in zip(runs, models, strict=True) if pair[0].config.network.cell == cell]
        if not found:
            return None
        best[cell] = min(found, key=lambda pair: _rank(pair[0]))
    (lstm, lstm_model), (gru, gru_model) = (best[cell] for cell in COMPARED)
    rows = [*_losses(lstm, gru, noise_of(runs)), *_costs(lstm, lstm_model, gru, gru_model)]
    return CellPair(lstm, gru, tuple(rows))


def _rank(run: RunRecord) -> tuple[bool, float]:
    """Runs with a validation loss come first, by that loss; the others by their training loss."""
    return (True, run.last_train_loss(WINDOW)) if run.best is None else (False, run.best.loss)


def _losses(lstm: RunRecord, gru: RunRecord, noise: Noise) -> list[Row]:
    pair = [lstm, gru]
    if not same_text(pair):
        return []  # losses on different texts say nothing about the cells
    rows = []
    if lstm.best is not None and gru.best is not None and same_split(pair):
        rows.append(_loss("validation loss", lstm.best.loss, gru.best.loss, noise))
    if same_batches(pair):
        step = min(run.step for run in pair)
        one, other = lstm.train_loss(step, WINDOW), gru.train_loss(step, WINDOW)
        if one is not None and other is not None:
            rows.append(_loss(f"training loss after {step:,} steps", one, other, noise))
    one, other = _gap(lstm), _gap(gru)
    if one is not None and other is not None:
        # Not judged: a network that is better on both texts may have the larger gap.
        figure = "validation minus training loss at the end"
        rows.append(Row(figure, nats(one), nats(other), signed(other - one), "-"))
    return rows


def _loss(figure: str, lstm: float, gru: float, noise: Noise) -> Row:
    better: Better = "level" if noise.level(lstm, gru) else "GRU" if gru < lstm else "LSTM"
    return Row(figure, nats(lstm), nats(gru), signed(gru - lstm), better)


def _gap(run: RunRecord) -> float | None:
    """How much higher the validation loss is than the training loss, at the last validation."""
    training = run.train_loss(run.validations[-1].step, WINDOW) if run.validations else None
    return None if training is None else run.validations[-1].loss - training


def _costs(lstm: RunRecord, lstm_model: ModelMeasures, gru: RunRecord, gru_model: ModelMeasures) -> list[Row]:
    speeds = lstm_model.characters_per_second, gru_model.characters_per_second
    return [
        _cost("parameters", lstm.parameters, gru.parameters, "{:,}".format),
        _cost("file size", lstm_model.file_bytes, gru_model.file_bytes, size),
        _cost("state size", lstm_model.state_size, gru_model.state_size, "{:,}".format),
        _cost("seconds per training step", lstm.batch_seconds, gru.batch_seconds, batch_time),
        _cost("characters per second", *speeds, "{:,.0f}".format, more_is_better=True),
    ]


def _cost(
    figure: str, lstm: float, gru: float, form: Callable[[Any], str], *, more_is_better: bool = False
) -> Row:
    better: Better = "GRU" if (gru < lstm) != more_is_better else "LSTM"
    if abs(gru - lstm) < LEVEL_SHARE * lstm or gru == lstm:
        better = "level"
    return Row(figure, form(lstm), form(gru), share(gru, lstm), better)
