"""Warnings about validation text that is unlike the rest."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import numpy as np
import pytest

from charrnn_trainer.data.corpus import Corpus
from charrnn_trainer.data.unlike import SAMPLE, part_bits, warning_if_unlike
from charrnn_trainer.training.api import train
from charrnn_trainer.training.events import Event, Notice
from tiny_runs import TINY

RANDOM = Random(0)
SYLLABLES = [
    "the",
    "ma",
    "ri",
    "an",
    "so",
    "ne",
    "lo",
    "ti",
    "ber",
    "to",
    "kin",
    "ka",
    "es",
    "ve",
    "ha",
    "wu",
]
WORDS = sorted({"".join(RANDOM.choices(SYLLABLES, k=RANDOM.randint(1, 3))) for _ in range(5_000)})


def prose(words: int, seed: int = 1, chosen: list[str] = WORDS) -> str:
    random = Random(seed)
    lines = [" ".join(random.choices(chosen, k=8)).capitalize() + "." for _ in range(words // 8)]
    return "\n".join(lines) + "\n"


def code(lines: int) -> str:
    random = Random(2)
    return "".join(f"    x{random.randint(0, 99)} = f(y[{random.randint(0, 9)}]);\n" for _ in range(lines))


def log(lines: int) -> str:
    random = Random(3)
    return "".join(
        f"2024-{100_000 + 7 * line} {random.choice(WORDS[:90])} installed\n" for line in range(lines)
    )


def shuffled(lines: list[str]) -> list[str]:
    return Random(4).sample(lines, len(lines))


def said_of(text: str, fraction: float = 0.1) -> str | None:
    corpus = Corpus.from_text(text)
    return warning_if_unlike(corpus.ids, int((1 - fraction) * len(corpus)), corpus.vocabulary)


UNLIKE = {
    "code behind prose": (prose(20_000) + code(500), "is unlike the rest"),
    "prose behind code": (code(4_000) + prose(1_200), "is unlike the rest"),
    "capitals": (prose(20_000) + prose(1_600).upper(), "is unlike the rest"),
    "a sorted list": ("\n".join(WORDS), "is a sorted list"),
    "a list sorted but for case": (
        "\n".join(word.capitalize() if len(word) % 2 else word for word in WORDS),
        "is a sorted list",
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_unlike_validation_text_is_reported(name: str) -> None:
    text, expected = UNLIKE[name]
    said = said_of(text)
    assert said is not None
    assert expected in said
    assert "split=spread" in said
    assert ("lines=True" in said) == ("list" in name)
    assert "\n" not in said


LIKE = {
    "prose": prose(20_000),
    "a short text": prose(1_600),
    "shuffled words": "\n".join(shuffled(WORDS)),
    "a log": log(5_000),
    "prose and code in turn": "".join(prose(400, seed) + code(40) for seed in range(20)),
    "one line for ever": "to be or not to be\n" * 2_000,
    "code behind prose, of which too little validates": prose(6_000)[:9_000] + code(10)[:200],
    "random symbols": "".join(Random(5).choices([chr(0x4E00 + code) for code in range(5_000)], k=30_000)),
}


@pytest.mark.parametrize("name", LIKE)
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.1, 0.3])
def test_similar_validation_text_is_not_reported(name: str, fraction: float) -> None:
    if "too little" in name and fraction > 0.1:
        pytest.skip("this much is enough")
    assert said_of(LIKE[name], fraction) is None


def test_the_bits_match_the_stated_model() -> None:
    ids = np.random.RandomState(0).choice(6, 2_000, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    parts = [*np.array_split(ids[:1_600], 4), ids[1_600:]]
    expected = []
    for index, own in enumerate(parts):
        learned = [part.tolist() for number, part in enumerate(parts[:4]) if number != index]
        # Only places with two characters before them count, for every order.
        seen = [Counter() for _ in range(3)]  # type: list[Counter[tuple[int, ...]]]
        for part in learned:
            for place in range(2, len(part)):
                for order in range(3):
                    seen[order][tuple(part[place - order : place + 1])] += 1
        bits = 0.0
        for place in range(2, len(own)):
            chance = 1 / 6
            for order in range(3):
                *context, symbol = own[place - order : place + 1].tolist()
                after = [seen[order][(*context, other)] for other in range(6)]
                kinds = sum(count > 0 for count in after)
                if sum(after):
                    chance = (after[symbol] + kinds * chance) / (sum(after) + kinds)
            bits -= math.log2(chance)
        expected.append(bits / (len(own) - 2))
    assert part_bits(ids[:1_600], ids[1_600:], 6) == pytest.approx(expected, rel=1e-9)


def test_long_texts_are_sampled_at_fixed_size() -> None:
    class Watched(np.ndarray):
        read = 0

        def astype(self, *words: object, **options: object) -> np.ndarray:
            Watched.read += self.size
            return np.asarray(self).astype(*words, **options)  # type: ignore[call-overload,no-any-return]

    ids = np.random.RandomState(0).randint(0, 5, 3_000_000).astype(np.uint8).view(Watched)
    part_bits(ids[:2_700_000], ids[2_700_000:], 5)
    assert Watched.read == 10 * SAMPLE


@pytest.mark.parametrize(("split", "warnings"), [("end", 1), ("spread", 0)])
def test_the_warning_comes_before_the_first_step(split: str, warnings: int) -> None:
    events: list[Event] = []
    corpus = Corpus.from_text(UNLIKE["code behind prose"][0])
    train(TINY.replace(steps=1, split=split, val_fraction=0.1), corpus, events.append)
    said = [event for event in events if isinstance(event, Notice) and "unlike" in event.message]
    assert len(said) == warnings
    assert events[:1] == said[:1] or not said
