"""Items: one stream each, numbered, and independent of the batch size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from charrnn_runtime import (
    CharRNN,
    Item,
    SettingError,
    SkippedItems,
    TooFewItemsError,
    UnknownCharacterError,
    draw_items,
)
from charrnn_runtime import items as items_module
from charrnn_runtime.cli.terminal import in_options
from list_models import list_model
from make_models import FOLDER

SEED: dict[str, Any] = {"seed": 7, "temperature": 1.0}
SHORT: dict[str, Any] = {**SEED, "length": 3}


def one_by_one(model: CharRNN, prompt: str = "", length: int = 60, **settings: Any) -> Iterator[str | None]:
    """The output of each stream, from 0, by a loop over single streams; None if a line does not end."""
    for number in itertools.count():
        state = model.prime("\n" + prompt, model.initial_state(1).fork(1, number))
        text = model.generate(state, length + 1, **settings)[0]
        yield prompt + text[: text.index("\n")] if "\n" in text else None


def wanted(model: CharRNN, count: int, **settings: Any) -> list[str]:
    """The first items of `one_by_one`."""
    return list(itertools.islice((text for text in one_by_one(model, **settings) if text), count))


def texts(items: Iterator[Item]) -> list[str]:
    return [item.text for item in items]


@pytest.fixture(scope="module")
def load_list(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CharRNN]:
    """Loads a small model that writes items, derived from the model with this name."""

    @cache
    def load(name: str) -> CharRNN:
        path = tmp_path_factory.mktemp("models") / f"{name}.onnx"
        path.write_bytes(list_model(FOLDER / path.name))
        return CharRNN.load(path, device="cpu")

    return load


@pytest.fixture(params=["lstm-2x12-fp32", "gru-2x12-int8", "lstm-1x12-fp32-byte"])
def model(request: pytest.FixtureRequest, load_list: Callable[[str], CharRNN]) -> CharRNN:
    return load_list(request.param)


@pytest.fixture
def names(load_list: Callable[[str], CharRNN]) -> CharRNN:
    """A character-level one."""
    return load_list("lstm-2x12-fp32")


# --- items -------------------------------------------------------------------------------------------------


def test_items_are_single_streams_from_the_newline_to_the_newline(names: CharRNN) -> None:
    for prompt in ("", "Em"):
        assert texts(draw_items(names, 12, prompt=prompt, **SEED)) == wanted(names, 12, prompt=prompt, **SEED)


def test_an_item_has_its_number_its_stream_and_its_prompt(names: CharRNN) -> None:
    streams = list(itertools.islice(one_by_one(names, "Em", 30, **SEED), 40))
    items = list(draw_items(names, 9, prompt="Em", length=30, **SEED))
    assert [item.index for item in items] == list(range(9))
    assert [item.text for item in items] == [streams[item.stream] for item in items]
    assert all(item.text == item.prompt + item.continuation and item.prompt == "Em" for item in items)


def test_lines_that_are_empty_or_too_long_are_not_items(model: CharRNN) -> None:
    with draw_items(model, 20, length=2, **SEED) as items:
        found = list(items)
        assert all(1 <= len(item.continuation) <= 2 for item in found)
        skipped = items.skipped
    assert skipped.too_long > 0
    assert items.found == 20
    assert items.streams == 20 + skipped.too_long + skipped.empty == found[-1].stream + 1


def test_an_item_can_be_exactly_as_long_as_the_limit(names: CharRNN) -> None:
    longest = max(texts(draw_items(names, 30, length=40, **SEED)), key=len)
    assert longest in texts(draw_items(names, 30, length=len(longest), **SEED))
    shorter = draw_items(names, 30, length=len(longest) - 1, **SEED)
    assert all(len(text) < len(longest) for text in texts(shorter))


def test_an_item_can_consist_of_its_prompt_only(names: CharRNN) -> None:
    first = texts(draw_items(names, 1, **SEED))[0]
    alone = [item for item in draw_items(names, 100, prompt=first[:3], **SEED) if not item.continuation]
    assert alone
    assert {item.text for item in alone} == {first[:3]}


def test_a_carriage_return_before_the_newline_is_not_part_of_an_item(
    load_list: Callable[[str], CharRNN],
) -> None:
    items = draw_items(load_list("lstm-1x12-fp32-byte"), 30, prompt=b"ab\r", **SHORT)
    ended = [item for item in items if not item.continuation]
    assert ended
    assert {item.text for item in ended} == {"ab"}


# --- unique and new ----------------------------------------------------------------------------------------


def test_unique_keeps_the_first_of_equal_items(model: CharRNN) -> None:
    plain = texts(draw_items(model, 80, **SHORT))
    assert len(set(plain)) < 80
    firsts = list(dict.fromkeys(plain))
    with draw_items(model, len(firsts), unique=True, **SHORT) as unique:
        assert texts(unique) == firsts
        last = plain.index(firsts[-1])
        assert unique.skipped.repeated == last + 1 - len(firsts)


def test_new_drops_known_items(model: CharRNN) -> None:
    plain = texts(draw_items(model, 80, **SHORT))
    known = sorted(set(plain))[::2]
    expected = [text for text in plain if text not in known]
    for form in (known, set(known), [text + "\n" for text in known], (text + "\r\n" for text in known)):
        with draw_items(model, len(expected), new=form, **SHORT) as new:
            assert texts(new) == expected
            assert new.skipped.known > 0
    both = draw_items(model, len(set(expected)), unique=True, new=known, **SHORT)
    assert texts(both) == list(dict.fromkeys(expected))


def test_new_compares_whole_items_with_their_prompt(names: CharRNN) -> None:
    plain = texts(draw_items(names, 40, prompt="E", **SEED))
    again = texts(draw_items(names, 30, prompt="E", new=[plain[0], plain[1][1:]], **SEED))
    assert again == [text for text in plain if text != plain[0]][:30]
    assert plain[1] in again


# --- independence of the batch -----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_items_of_a_seed_are_the_same_however_many_streams_run(
    model: CharRNN, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHORT, "unique": True, "new": ["a"]}
    expected = list(draw_items(model, 15, **settings))
    assert list(draw_items(model, 15, max_batch_size=rows, **settings)) == expected
    assert list(draw_items(model, 10, max_batch_size=rows, **settings)) == expected[:10]
    assert list(itertools.islice(draw_items(model, None, max_batch_size=rows, **settings), 15)) == expected
    monkeypatch.setattr(items_module, "_ROUND", rows)
    assert list(draw_items(model, 15, **settings)) == expected


def test_another_seed_gives_other_items_and_a_drawn_one_is_reported(names: CharRNN) -> None:
    with draw_items(names, 5, temperature=3.0) as items:
        found = texts(items)
    assert texts(draw_items(names, 5, temperature=3.0, seed=items.seed)) == found
    assert texts(draw_items(names, 5, temperature=3.0, seed=items.seed + 1)) != found


def test_no_more_streams_are_started_than_items_if_each_yields_one(
    names: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    whole = CharRNN.generate_each

    def counting(self: CharRNN, prompts: Any, *arguments: Any, **settings: Any) -> Any:
        begun.append(len(prompts))
        return whole(self, prompts, *arguments, **settings)

    monkeypatch.setattr(CharRNN, "generate_each", counting)
    with draw_items(names, 20, prompt="E", **SEED) as items:
        list(items)
    assert items.streams == 20
    assert begun == [20]


def test_items_are_drawn_on_demand(names: CharRNN) -> None:
    sampled = 0

    def progress(amount: int) -> None:
        nonlocal sampled
        sampled += amount

    with draw_items(names, 100_000, max_batch_size=4, on_progress=progress, **SEED) as items:
        assert sampled == 0
        next(items)
        assert items.streams < 50
    after = sampled
    assert after < 100_000
    assert list(items) == []
    assert sampled == after


# --- too few items -----------------------------------------------------------------------------------------


def test_drawing_gives_up_after_too_many_streams_without_an_item(
    names: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_module, "MOST_STREAMS", 100)
    streams = itertools.islice(one_by_one(names, length=1, **SEED), 5000)
    expected: list[str] = []
    in_vain = 0
    for text in streams:
        in_vain += 1
        if text and text not in expected:
            expected.append(text)
            in_vain = 0
        if in_vain == 100:
            break
    items = draw_items(names, 1000, unique=True, length=1, **SEED)
    found: list[str] = []
    with pytest.raises(TooFewItemsError, match=f"generated {len(expected):,} of 1,000 items") as caught:
        found.extend(item.text for item in items)
    assert found == expected
    assert caught.value.found == items.found == len(expected)
    assert caught.value.skipped == items.skipped
    assert items.skipped.repeated > 0
    assert items.streams == len(expected) + sum(items.skipped._values())


def test_drawing_gives_up_after_too_many_characters_without_an_item(
    names: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_module, "MOST_CHARACTERS", 500)
    every = set(texts(draw_items(names, 200, length=100, **SEED)))
    with (
        draw_items(names, 1, length=100, new=every, **SEED) as items,
        pytest.raises(TooFewItemsError) as caught,
    ):
        list(items)
    assert 5 <= items.streams < 500
    assert caught.value.found == 0


def test_the_error_reports_skipped_streams_and_advice(
    names: CharRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_module, "MOST_STREAMS", 30)
    with pytest.raises(TooFewItemsError) as caught:
        list(draw_items(names, 50, unique=True, top_k=1, prompt="E", length=3))
    message = str(caught.value)
    assert "30 streams" in message
    assert "30 too long" in message
    assert "allow longer ones (--length)" in in_options(caught.value)
    assert SkippedItems(repeated=1200, empty=1).__str__() == "1,200 repeated, 1 empty"


# --- invalid arguments -------------------------------------------------------------------------------------


def test_settings_of_items_are_checked_immediately(names: CharRNN) -> None:
    for settings, message in (
        ({"count": 0}, "count must be 1 or more, not 0"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"length": 0}, "length must be 1 or more for items, not 0"),
        ({"new": "emma"}, "new must be an iterable of texts"),
        ({"prompt": "a\nb"}, "an item is a single line"),
        ({"temperature": 0}, "temperature must be at least"),
        ({"seed": -1}, "seed must be between"),
    ):
        with pytest.raises(SettingError, match=message):
            draw_items(names, **settings)
    with pytest.raises(UnknownCharacterError, match=r"'ß' .* at position 1"):
        draw_items(names, prompt="Eß")
    skipped = draw_items(names, 5, prompt="Eß", unknown="skip", **SEED)
    assert texts(skipped) == texts(draw_items(names, 5, prompt="E", **SEED))
