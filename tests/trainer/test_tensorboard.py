"""Logs for TensorBoard, read back as TensorBoard reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from charrnn_runtime.errors import CharRNNError
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.events import Event, Logged, Validated
from charrnn_trainer.training.tensorboard import FOLDER, TensorBoardLog
from tiny_runs import TEXT, TINY

CORPUS = Corpus.from_text(TEXT, name="hamlet")


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """The values of each tag by step, as TensorBoard reads them."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = event_accumulator.EventAccumulator(str(run / FOLDER)).Reload()
    return {tag: {event.step: event.value for event in log.Scalars(tag)} for tag in log.Tags()["scalars"]}


def test_losses_rates_and_speed_are_logged_by_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    events: list[Event] = []
    log = TensorBoardLog(tmp_path)

    def listen(event: Event) -> None:
        events.append(event)
        log(event)

    train(TINY, CORPUS, listen)
    log.close()
    seen = scalars(tmp_path)
    logged = {event.step: event for event in events if isinstance(event, Logged)}
    evaluated = {event.step: event for event in events if isinstance(event, Validated)}
    assert seen["loss/training"] == pytest.approx({step: e.train_loss for step, e in logged.items()})
    assert seen["learning_rate"] == pytest.approx({step: e.learning_rate for step, e in logged.items()})
    assert seen["loss/validation"] == pytest.approx(
        {step: e.validation_loss for step, e in evaluated.items()}
    )
    assert seen["bits_per_character/validation"].keys() == evaluated.keys()


def test_log_entries_after_the_last_checkpoint_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = TINY.replace(eval_every=100, save_every=6, log_every=1)
    log = TensorBoardLog(tmp_path / "logs")

    def kill_at_eight(event: Event) -> None:
        log(event)
        if isinstance(event, Logged) and event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, CORPUS, kill_at_eight, out=tmp_path / "run")
    log.close()
    again = TensorBoardLog(tmp_path / "logs")
    resume(tmp_path / "run", again)
    again.close()
    assert list(scalars(tmp_path / "logs")["loss/training"]) == list(range(1, 13))


def test_without_the_package_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CharRNNError, match="pip install tensorboard"):
        TensorBoardLog(tmp_path)
