"""Lists: their lines, the split, and batches in which every line starts from a zero state."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.errors import SettingError
from charrnn_trainer.config import DataConfig, NetworkConfig
from charrnn_trainer.data import line_batches, lines
from charrnn_trainer.data.batches import IGNORED
from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.line_batches import LineBatches
from charrnn_trainer.data.lines import Lines, LineSplit, split_lines
from charrnn_trainer.data.scanning import scan_text
from charrnn_trainer.export.api import export_checkpoint
from charrnn_trainer.nn.network import CharNetwork, masked_loss
from charrnn_trainer.runs.checkpoint import load_checkpoint
from charrnn_trainer.runs.finding import find_checkpoint
from charrnn_trainer.training import validation
from charrnn_trainer.training.api import train
from charrnn_trainer.training.events import Event, Notice, Started, Stepped
from charrnn_trainer.training.validation import lines_loss
from tiny_runs import TINY

ITEMS = st.lists(st.text("abc", max_size=9), min_size=15, max_size=80)
RANDOM = Random(0)
NAMES = ["".join(RANDOM.choices("abcdefgh", k=RANDOM.choice([2, 3, 5, 5, 6, 7, 40]))) for _ in range(150)]
LIST = Corpus.from_text("\n".join(NAMES) + "\n", name="names")


def split(text: str, seed: int = 0, **settings: object) -> LineSplit:
    return split_lines(Corpus.from_text(text), DataConfig(lines=True, **settings), seed)  # type: ignore[arg-type]


def texts(some: Lines, vocabulary_of: str) -> list[str]:
    """Each line as text."""
    symbols = sorted(set(vocabulary_of))
    spans = zip(some.begins.tolist(), some.lengths.tolist(), strict=True)
    return ["".join(symbols[code] for code in some.ids[begin : begin + length]) for begin, length in spans]


# --- lines and splits --------------------------------------------------------------------------------------


@given(
    ITEMS, st.booleans(), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([1, 7, 1000])
)
def test_all_copies_of_a_line_are_on_one_side_of_the_split(
    items: list[str], ends_with_newline: bool, seed: int, fraction: float, window: int
) -> None:
    text = "\n".join(["abcabcabca", *items, "cab", "ca"]) + "\n" * ends_with_newline
    expected = Counter(line for line in text.split("\n") if line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_WINDOW", window)
        found = split(text, seed, val_fraction=fraction)
    training, validation = (texts(part, text) for part in (found.training, found.validation))
    assert len(validation) == len(expected) - int((1 - fraction) * len(expected))
    assert len(set(validation)) == len(validation)
    assert Counter(training) == Counter(
        {line: count for line, count in expected.items() if line not in validation}
    )
    assert set(validation) <= expected.keys()
    assert (found.total, found.distinct) == (sum(expected.values()), len(expected))
    assert found.held_out == found.total - len(training)
    assert found.empty == text.removesuffix("\n").split("\n").count("")
    assert found.validation_tokens == sum(len(line) + 1 for line in validation)
    assert found.train_tokens == min(len(text), sum(len(line) + 1 for line in training))


def test_the_requested_number_of_lines_is_held_out() -> None:
    found = split("\n".join(NAMES), val_lines=37)
    assert len(found.validation) == 37
    assert not len(split("\n".join(NAMES), val_lines=0).validation)


def test_the_seed_draws_the_validation_lines_whatever_the_order_of_lines() -> None:
    one, same, other = (split("\n".join(NAMES), seed, val_lines=30) for seed in (0, 0, 1))
    turned = split("\n".join(reversed(NAMES)), val_lines=30)
    kept = [texts(found.validation, "".join(NAMES) + "\n") for found in (one, same, turned, other)]
    assert kept[0] == kept[1] == kept[2]
    assert set(kept[0]) != set(kept[3])


def test_bytes_have_lines_too() -> None:
    corpus = Corpus.from_text("ä\n" * 20 + "ö\nü", level="byte")
    found = split_lines(corpus, DataConfig(lines=True, level="byte", val_lines=1), 0)
    assert (found.total, found.distinct) == (22, 3)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("abc" * 20, {}, "text has no newline"),
        ("abc\n" * 20, {}, "val_fraction=0.1 holds out 1 distinct line, but text has only 1"),
        ("abc\nab\n" * 20, {"val_lines": 2}, "val_lines=2 holds out 2 distinct lines, but text has only 2"),
        ("\n" * 40 + "a", {"val_lines": 1}, "val_lines=1 holds out 1 distinct line, but text has only 1"),
    ],
)
def test_a_text_that_is_not_a_list_is_rejected(text: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        split(text, **settings)
    assert "\n" not in str(caught.value)


def test_a_list_of_empty_lines_is_rejected_even_if_none_are_held_out() -> None:
    corpus = Corpus.from_text("\n" * 40, level="byte")
    with pytest.raises(SettingError, match="all lines of text are empty"):
        split_lines(corpus, DataConfig(lines=True, level="byte", val_lines=0), 0)


def test_the_summary_describes_the_lines() -> None:
    assert split("ab\nc\nd\n" * 12, val_lines=0).words == "lines: 36, 3 distinct"
    assert split("ab\n\n\nc\nd\n" * 12, val_lines=1).words == (
        "lines: 36, 3 distinct; 1 held out for validation (and 11 lines that repeat them); "
        "24 empty lines skipped"
    )
    assert split("\n".join(sorted(set(NAMES))), val_lines=9).words == (
        f"lines: {len(set(NAMES))}, all distinct; 9 held out for validation"
    )


@pytest.mark.parametrize("level", ["char", "byte"])
@pytest.mark.parametrize("piece", [1, 2, 3, 64])
def test_windows_line_ends_are_newlines_in_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, piece: int
) -> None:
    monkeypatch.setattr("charrnn_trainer.data.text_source.PIECE", piece)
    raw = b"ab\r\nc\rd\r\r\n\r\nefgh, ijkl, mnop, qrst\r\nlast\r"
    (tmp_path / "text").write_bytes(raw)
    with scan_text(str(tmp_path / "text"), level=level, unix_lines=True) as scanned:  # type: ignore[arg-type]
        corpus = scanned.encode_to(tmp_path / "tokens", source=None)
    assert scanned.had_crlf
    assert scanned.length == len(corpus)
    assert corpus.vocabulary.decode_bytes(corpus.ids) == raw.replace(b"\r\n", b"\n")
    with scan_text(str(tmp_path / "text"), level=level) as scanned:  # type: ignore[arg-type]
        assert (scanned.had_crlf, scanned.length) == (False, len(raw))


# --- batches -----------------------------------------------------------------------------------------------


def read_pass(batches: LineBatches, number: int) -> list[list[int]]:
    """The targets of each row of a pass, joined if a line continues in the next batch."""
    read: list[list[int]] = []
    rows: list[list[int]] = []
    first = number * batches.batches_per_pass
    for index in range(first, first + batches.batches_per_pass):
        inputs, targets = batches.batch(index)
        assert inputs.shape == targets.shape
        if batches.starts_anew(index):
            read += rows
            rows = [[] for _ in inputs]
        assert len(rows) == len(inputs)
        for row, now, following in zip(rows, inputs, targets, strict=True):
            there = following != IGNORED
            expected = [row[-1] if row else batches._lines.newline, *following[:-1]]
            assert now[there].tolist() == np.array(expected)[there].tolist()
            assert not (there[1:] & ~there[:-1]).any()  # ignored targets are at the end
            row += following[there].tolist()
    return read + rows


@given(ITEMS, st.integers(1, 6), st.integers(1, 12), st.integers(0, 3), st.sampled_from([1, 2, 5]))
def test_a_pass_reads_every_training_line_once_and_no_validation_line(
    items: list[str], batch: int, length: int, number: int, pool: int
) -> None:
    text = "\n".join(["abcabcabca", *items, "cab", "ca"])
    found = split(text, val_fraction=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_batches, "POOL", pool)
        batches = LineBatches(found.training, batch, length, 1)
    symbols = sorted(set(text))
    read = Counter("".join(symbols[code] for code in row) for row in read_pass(batches, number))
    del read[""]  # rows without a line
    assert read == Counter(line + "\n" for line in texts(found.training, text))
    assert not read.keys() & {line + "\n" for line in texts(found.validation, text)}
    predicted = batches.characters_per_batch * batches.batches_per_pass
    assert predicted == pytest.approx(sum(len(line) * count for line, count in read.items()))


@given(st.integers(1, 9), st.integers(1, 60))
def test_a_batch_of_lines_is_never_larger_than_a_batch_of_streams(batch: int, length: int) -> None:
    batches = LineBatches(split("\n".join(NAMES)).training, batch, length, 0)
    for index in range(batches.batches_per_pass):
        rows, columns = batches.batch(index)[0].shape
        assert columns <= length
        assert rows * columns <= batch * length
        assert batches.starts_anew(index) or rows == batch


def test_little_of_a_batch_is_padding() -> None:
    names = ["".join(RANDOM.choices("abcdef", k=RANDOM.randint(2, 12))) for _ in range(6_000)]
    batches = LineBatches(split("\n".join(names)).training, 20, 50, 0)
    targets = [batches.batch(index)[1] for index in range(batches.batches_per_pass)]
    there = sum(int((part != IGNORED).sum()) for part in targets)
    assert there > 0.9 * sum(part.size for part in targets)


def test_batches_are_independent_of_order_and_passes_differ() -> None:
    training = split("\n".join(NAMES)).training
    batches = LineBatches(training, 4, 16, 3)
    count = batches.batches_per_pass
    for index in (2 * count + 1, 0, count - 1, count):
        for one, other in zip(
            batches.batch(index), LineBatches(training, 4, 16, 3).batch(index), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    passes = [
        [batches.batch(number * count + index)[0].tolist() for index in range(count)] for number in (0, 1)
    ]
    assert passes[0] != passes[1]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_share_the_rows_of_every_batch(size: int) -> None:
    training = split("\n".join(NAMES)).training
    whole = LineBatches(training, 12, 16, 3)
    parts = [LineBatches(training, 12, 16, 3, (rank, size)) for rank in range(size)]
    for index in range(whole.batches_per_pass):
        for place in (0, 1):
            shares = [part.batch(index)[place] for part in parts]
            assert min(map(len, shares)) > 0
            together = np.concatenate(shares)
            expected = whole.batch(index)[place]
            np.testing.assert_array_equal(together[: len(expected)], expected)
            assert place == 0 or (together[len(expected) :] == IGNORED).all()


# --- training ----------------------------------------------------------------------------------------------


def single_line_losses(network: CharNetwork, line: list[int], newline: int) -> torch.Tensor:
    """The loss of each character of a line and of the newline after it, from a zero state."""
    inputs = torch.tensor([[newline, *line]])
    logits, _ = network(inputs, network.initial_state(1))
    targets = torch.tensor([*line, newline])
    return torch.nn.functional.cross_entropy(logits[0], targets, reduction="none")


def network_of(cell: str, symbols: int, hidden: int = 7) -> CharNetwork:
    torch.manual_seed(3)
    return CharNetwork(NetworkConfig(cell, 2, hidden), symbols)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_match_a_loop_over_single_lines(cell: str, training: bool) -> None:
    network = network_of(cell, len(LIST.vocabulary)).train(training)
    found = split_lines(LIST, DataConfig(lines=True), 0)
    batches = LineBatches(found.training, 6, 50, 0)  # no line is longer
    symbols = list(LIST.vocabulary.symbols)
    for index in (0, 1):
        inputs, targets = batches.batch(index)
        logits, _ = network(torch.from_numpy(inputs), network.initial_state(len(inputs)))
        total, mean = masked_loss(logits, torch.from_numpy(targets))
        (total / 100).backward()
        got = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
        network.zero_grad()
        rows = [[code for code in row if code != IGNORED][:-1] for row in targets.tolist()]
        losses = torch.cat([single_line_losses(network, row, symbols.index("\n")) for row in rows if row])
        (losses.sum() / 100).backward()
        assert float(mean) == pytest.approx(float(losses.detach().mean()), rel=1e-5)
        for weight, other in zip(network.parameters(), got, strict=True):
            torch.testing.assert_close(other, weight.grad, rtol=1e-4, atol=1e-6)
            weight.grad = None


def test_a_batch_of_padding_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    total, mean = masked_loss(logits, torch.full((2, 3), IGNORED))
    (total + mean).backward()
    assert (float(total.detach()), float(mean.detach())) == (0.0, 0.0)
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_training_reads_every_line_from_a_zero_state_and_long_lines_in_pieces(cell: str) -> None:
    """With a learning rate close to zero, weights stay equal, so losses can be computed line by line."""
    config = TINY.replace(
        cell=cell, dropout=0.0, input_dropout=0.0, weight_drop=0.0, weight_decay=0.0, reset_chance=0.5,
        learning_rate=1e-12, lines=True, batch_size=4, seq_length=16, steps=40, eval_every=40, save_every=40,
    )  # fmt: skip
    losses: list[float] = []
    result = train(
        config, LIST, lambda event: losses.append(event.loss or 0.0) if isinstance(event, Stepped) else None
    )
    network = result.network.eval()
    found = split_lines(LIST, config.data, config.run.seed)
    batches = LineBatches(found.training, 4, 16, config.run.seed)
    newline = found.training.newline
    assert batches.batches_per_pass < 40  # more than a pass
    continued = 0
    rows: list[list[int]] = []
    for index, loss in enumerate(losses):
        inputs, targets = batches.batch(index)
        if batches.starts_anew(index):
            rows = [[] for _ in inputs]
        expected = []
        for row, following in zip(rows, targets.tolist(), strict=True):
            now = [code for code in following if code != IGNORED]
            continued += bool(row and now)
            row += now
            if now:
                with torch.no_grad():
                    logits, _ = network(torch.tensor([[newline, *row[:-1]]]), network.initial_state(1))
                    one = torch.nn.functional.cross_entropy(logits[0], torch.tensor(row), reduction="none")
                expected += one[-len(now) :].tolist()
        assert loss == pytest.approx(np.mean(expected), rel=1e-4)
    assert continued > 10
    with torch.no_grad():
        every = [
            single_line_losses(network, list(LIST.ids[b : b + n]), newline)
            for b, n in spans(found.validation)
        ]
    assert result.evaluations[-1].validation_loss == pytest.approx(float(torch.cat(every).mean()), rel=1e-5)


def spans(some: Lines) -> list[tuple[int, int]]:
    return list(zip(some.begins.tolist(), some.lengths.tolist(), strict=True))


@pytest.mark.parametrize(("chunk", "characters"), [(256, 2**14), (5, 2**14), (256, 60), (3, 3)])
def test_the_validation_loss_matches_a_loop_over_single_lines(
    monkeypatch: pytest.MonkeyPatch, chunk: int, characters: int
) -> None:
    monkeypatch.setattr(validation, "_CHUNK", chunk)
    monkeypatch.setattr(validation, "_LINE_CHARACTERS", characters)
    network = network_of("lstm", len(LIST.vocabulary)).train()
    held = split_lines(LIST, DataConfig(lines=True, val_lines=40), 0).validation
    loss = lines_loss(network, held)
    assert network.training
    network.eval()
    with torch.no_grad():
        every = torch.cat(
            [single_line_losses(network, list(LIST.ids[b : b + n]), held.newline) for b, n in spans(held)]
        )
    assert len(every) == held.characters
    assert loss == pytest.approx(float(every.mean()), rel=1e-5)


def test_a_run_on_lines_reports_them_and_its_export_is_compared_on_the_same_lines(
    tmp_path: Path,
) -> None:
    events: list[Event] = []
    train(TINY.replace(lines=True, val_lines=50), LIST, events.append, out=tmp_path / "run")
    found = split_lines(LIST, DataConfig(lines=True, val_lines=50), TINY.run.seed)
    assert Notice(found.words) in events
    (started,) = [event for event in events if isinstance(event, Started)]
    assert (started.train_tokens, started.validation_tokens) == (found.train_tokens, found.validation_tokens)
    checkpoint = load_checkpoint(find_checkpoint(tmp_path / "run"))
    assert checkpoint.config.data == TINY.replace(lines=True, val_lines=50).data
    report = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision="int8")
    assert report.info.lines
    assert report.compared_on == "the run's validation lines"
    assert report.bits_per_character is not None
    assert checkpoint.validation_loss is not None
    assert report.bits_per_character[1] == pytest.approx(checkpoint.validation_loss / math.log(2), abs=1e-4)


def test_a_list_of_a_few_short_lines_trains() -> None:
    corpus = Corpus.from_text("\n".join(["anna", "bert", "carl", "dora", "emil", "fred", "gina"]))
    result = train(TINY.replace(lines=True, batch_size=100, seq_length=100), corpus)
    assert result.step == TINY.optimization.steps
    assert (result.config.data.batch_size, result.config.data.seq_length) == (100, 100)


def test_a_list_without_validation_trains_to_its_end(tmp_path: Path) -> None:
    result = train(TINY.replace(lines=True, val_lines=0), LIST, out=tmp_path / "run")
    assert not result.evaluations
    checkpoint = load_checkpoint(find_checkpoint(tmp_path / "run"))
    report = export_checkpoint(checkpoint, tmp_path / "m.onnx", precision="int8")
    assert report.compared_on == "lines of the training text"
