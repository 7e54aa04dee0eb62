"""The n-gram baselines against a naive implementation."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ngram
from benchmarks.ngram import (
    FALLBACK_DISCOUNTS,
    best_order,
    bits_by_order,
    find_discounts,
    predictions_by_order,
)

PLAY = (
    "to be, or not to be, that is the question:\nwhether 'tis nobler in the mind to suffer\n"
    "the slings and arrows of outrageous fortune,\nor to take arms against a sea of troubles,\n"
    "and by opposing end them. to die: to sleep;\nno more; and by a sleep to say we end\n"
)


def drawn(symbols: int, length: int, seed: int) -> list[int]:
    """A text with some structure: each symbol is more likely after its predecessor."""
    draw = random.Random(seed)
    text = [0]
    for _ in range(length - 1):
        text.append((text[-1] + 1) % symbols if draw.random() < 0.6 else draw.randrange(symbols))
    return text


def ids_of(text: str) -> tuple[list[int], int]:
    """The ids of a text and its number of symbols."""
    symbols = sorted(set(text))
    return [symbols.index(character) for character in text], len(symbols)


def naive_probability(train: list[int], symbols: int, order: int, context: list[int], symbol: int) -> float:
    """Interpolated modified Kneser-Ney as in the paper, with dictionaries and one loop per level."""
    probability = 1.0 / symbols
    for n in range(1, order + 1):
        counts: Counter[tuple[int, ...]] = Counter()
        if n == order:
            counts.update(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
        else:
            longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
            counts.update(gram[1:] for gram in longer)
            counts[tuple(train[:n])] += 1  # the start of the text is a context too
        discounts = (0.0, *naive_discounts(list(counts.values())))
        history = tuple(context[len(context) - n + 1 :])
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
        total = sum(after.values())
        if not total:
            continue
        freed = sum(discounts[min(count, 3)] for count in after.values())
        count = after.get(symbol, 0)
        probability = (count - discounts[min(count, 3)] + freed * probability) / total
    return probability


def naive_discounts(counts: list[int]) -> tuple[float, float, float]:
    n1, n2, n3, n4 = (counts.count(times) for times in (1, 2, 3, 4))
    d1, d2, d3 = FALLBACK_DISCOUNTS
    if n1:
        y = n1 / (n1 + 2 * n2)
        d1 = 1 - 2 * y * n2 / n1 if n2 else d1
        d2 = 2 - 3 * y * n3 / n2 if n2 and n3 and 2 - 3 * y * n3 / n2 > 0 else d2
        d3 = 3 - 4 * y * n4 / n3 if n3 and n4 and 3 - 4 * y * n4 / n3 > 0 else d3
    return d1, d2, d3


@pytest.mark.parametrize("seed", range(3))
def test_every_order_matches_a_naive_loop(seed: int) -> None:
    symbols, text = 5, drawn(5, 160, seed)
    cut = 120
    for order, predictions in enumerate(predictions_by_order(np.array(text), cut, symbols, 6), 1):
        expected = [
            naive_probability(text[:cut], symbols, order, text[:place], text[place])
            for place in range(cut, len(text))
        ]
        np.testing.assert_allclose(predictions, expected, rtol=1e-12)


def test_orders_match_on_verse_with_symbols_only_in_the_validation_text() -> None:
    ids, symbols = ids_of(PLAY + "XYZ, to Zuffer?")
    cut = len(PLAY)
    for order, predictions in enumerate(predictions_by_order(np.array(ids), cut, symbols, 4), 1):
        expected = [
            naive_probability(ids[:cut], symbols, order, ids[:place], ids[place])
            for place in range(cut, len(ids))
        ]
        np.testing.assert_allclose(predictions, expected, rtol=1e-12)
        assert (predictions > 0).all()


@pytest.mark.parametrize("text", [drawn(7, 400, 0), ids_of(PLAY)[0], [0, 1] * 40, [0] * 20])
def test_probabilities_sum_to_one_after_any_context(text: list[int]) -> None:
    symbols = max(text) + 3  # two were never seen
    draw = random.Random(1)
    contexts = [[draw.randrange(symbols) for _ in range(8)] for _ in range(3)]
    contexts += [text[place : place + 8] for place in (0, 3, len(text) - 8)] + [
        []
    ]  # [] follows the text's end
    for context in contexts:
        totals = np.zeros(6)
        for symbol in range(symbols):
            whole = np.array([*text, *context, symbol])
            totals += [p[-1] for p in predictions_by_order(whole, len(text), symbols, 6)]
        np.testing.assert_allclose(totals, 1.0, rtol=1e-12)


def test_predicting_does_not_change_the_counts() -> None:
    text = drawn(5, 300, 4)
    short = list(predictions_by_order(np.array(text[:210]), 200, 5))
    long = list(predictions_by_order(np.array(text), 200, 5))
    for few, many in zip(short, long, strict=True):
        np.testing.assert_array_equal(few, many[:10])


def test_bits_are_the_mean_of_the_predictions() -> None:
    ids, symbols = ids_of(PLAY)
    probabilities = list(predictions_by_order(np.array(ids), 200, symbols, 3))
    expected = [-sum(math.log2(p) for p in order) / len(order) for order in probabilities]
    assert bits_by_order(np.array(ids), 200, symbols, 3) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_ids_of_any_dtype_give_the_same(kind: type[np.integer]) -> None:
    text = np.array(drawn(200, 600, 5))
    assert bits_by_order(text.astype(kind), 500, 200, 4) == bits_by_order(text, 500, 200, 4)


def test_a_text_that_repeats_itself_is_predicted_by_long_contexts() -> None:
    block = np.random.default_rng(0).integers(0, 4, 300)
    bits = bits_by_order(np.tile(block, 10), 2_700, 4)
    assert best_order(bits) > 4
    assert min(bits) < 0.5 < bits[0]


def test_noise_is_predicted_by_single_symbols() -> None:
    noise = np.random.default_rng(0).integers(0, 8, 3_000)
    bits = bits_by_order(noise, 2_700, 8)
    assert best_order(bits) == 1
    assert bits[0] == pytest.approx(3.0, abs=0.01)


def test_ties_between_orders_go_to_the_lowest() -> None:
    assert best_order([3.0, 2.5, 2.5, 2.6]) == 2


def test_discounts_match_the_paper() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [100, 40, 20, 12, 5])
    share = 100 / 180
    expected = (1 - 2 * share * 0.4, 2 - 3 * share * 0.5, 3 - 4 * share * 0.6)
    assert find_discounts(counts) == pytest.approx(expected)


@pytest.mark.parametrize("counts", [[], [5, 6, 7], [1, 1, 1], [2, 2, 3, 4], [1, 2] + [3] * 50])
def test_undefined_discounts_are_replaced(counts: list[int]) -> None:
    found = find_discounts(np.array(counts, dtype=np.int64))
    assert all(0.0 < value <= times for times, value in enumerate(found, 1))
    assert found[2] == FALLBACK_DISCOUNTS[2]


def test_a_text_shorter_than_the_ngrams_is_rejected() -> None:
    with pytest.raises(ValueError, match="no n-gram of order 10"):
        bits_by_order(np.zeros(12, dtype=np.uint8), 9, 2)


def test_a_file_is_decoded_and_split_as_in_training_and_results_are_printed_by_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "verse.txt"
    path.write_bytes(b"\xef\xbb\xbf" + PLAY.replace("\n", "\r\n").encode())
    corpus = ngram.read_corpus(path)
    assert corpus.vocabulary.decode(corpus.ids) == PLAY.replace("\n", "\r\n")
    monkeypatch.setattr("sys.argv", ["ngram.py", str(path), "--orders", "3"])
    ngram.main()
    bits = bits_by_order(corpus.ids, corpus.train_tokens(0.1), len(corpus.vocabulary), 3)
    shown = "  ".join(f"{order}: {value:.3f}" for order, value in enumerate(bits, 1))
    assert shown in capsys.readouterr().out
