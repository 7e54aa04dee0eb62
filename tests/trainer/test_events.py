"""Events: each prints as one line, and samples that a listener takes do not change the run."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.api import resume, train
from charrnn_trainer.training.events import Event, Started, Stepped
from tiny_runs import TEXT, TINY

CORPUS = Corpus.from_text(TEXT)


class Sampler:
    """Takes a sample after every step, as a display can at any time."""

    def __init__(self) -> None:
        self.samples: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.write = event.write
        elif isinstance(event, Stepped):
            self.samples.append(self.write(20))


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("*.safetensors")}


@pytest.mark.parametrize(
    "config",
    [TINY, TINY.replace(cell="gru"), TINY.replace(tie_weights=True, cell="rnn"), TINY.replace(lines=True)],
    ids=["lstm", "gru", "tied", "lines"],
)
def test_samples_change_no_byte_of_a_run_or_of_a_resumed_run(tmp_path: Path, config: TrainConfig) -> None:
    train(config, CORPUS, out=tmp_path / "plain")
    sampler = Sampler()
    stopped = train(
        config, CORPUS, sampler, out=tmp_path / "sampled", should_stop=lambda: len(sampler.samples) == 7
    )
    assert stopped.stopped
    resume(tmp_path / "sampled", sampler)
    assert len(sampler.samples) == config.optimization.steps
    assert all(len(sample) == 20 for sample in sampler.samples)
    expected, found = files(tmp_path / "plain"), files(tmp_path / "sampled")
    assert expected
    assert {name: found.get(name) for name in expected} == expected


def test_printed_events_are_one_readable_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TINY.replace(val_sample=64, precision="auto")
    seen: list[Event] = []
    train(config, CORPUS, seen.append, out=tmp_path / "run")
    train(config, CORPUS, builtins.print, out=tmp_path / "again")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(seen) > config.optimization.steps
    assert all(0 < len(line) < 300 and "object at" not in line and "(step=" not in line for line in lines)
    text = "\n".join(lines)
    for kind in ("training from step 0: LSTM, 2 x 8,", "step 12: loss ", "step 12: training loss ", "saved "):
        assert kind in text, kind
    assert any(
        line.startswith("step 3: validation loss ") and "bits per character), best so far" in line
        for line in lines
    )
