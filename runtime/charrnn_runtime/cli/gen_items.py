"""charrnn-gen --lines: write items, one per line, instead of running text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.items import Item, SkippedItems, TooFewItemsError
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.vocabulary import Unknown


class ItemsRequest(Record):
    """The validated command line.

    Attributes:
        count: the number of items.
        prompt: how each item begins, as text or bytes depending on the model's level.
        length: the most characters of an item after its prompt.
        unique: whether to skip repeated items.
        new: the texts to skip.
        new_name: the name of the file with the texts to skip; None if there is none.
        sampling: the sampling settings.
        seed: the seed.
        unknown: how to handle unknown characters in the prompt.
        rows: the number of streams to run at once; None for the device's default.
        with_prompt: whether to write the prompt.
        as_json: whether to write each item as a JSON object.
    """

    count: int
    prompt: str | bytes
    length: int
    unique: bool
    new: frozenset[str]
    new_name: str | None
    sampling: Sampling
    seed: int
    unknown: Unknown
    rows: int | None
    with_prompt: bool
    as_json: bool


def are_wanted(
    lines: int | None, *, unique: bool, new: bool, length: int, greedy: bool, running_text: Mapping[str, bool]
) -> bool | None:
    """Whether the command line requests items; None if the model decides.

    Args:
        lines: ``--lines``, if it was given.
        unique: whether ``--unique`` was given.
        new: whether ``--new`` was given.
        length: ``--length``.
        greedy: whether ``--greedy`` was given.
        running_text: the options that apply to running text only, and whether they were given.

    Raises:
        SettingError: the options contradict each other.
    """
    asking = {"--lines": lines is not None, "--unique": unique, "--new": new}
    for_items = [option for option, given in asking.items() if given]
    for_text = [option for option, given in running_text.items() if given]
    if for_items and for_text:
        raise SettingError(
            f"{for_items[0]} writes items, each from a stream that ends at a newline; it cannot be combined "
            f"with {for_text[0]}; give only one of them"
        )
    if lines is not None and lines < 1:
        raise SettingError(
            f"--lines must be 1 or more, not {lines}; for running text, give --streams 1 instead"
        )
    if lines is not None and lines > 1 and greedy:
        raise SettingError("--greedy writes the same item every time: give --lines 1, or omit --greedy")
    if for_items and length < 1:
        raise SettingError(f"--length must be 1 or more for items, not {length}")
    return True if for_items else False if for_text else None


def default_count(*, greedy: bool) -> int:
    """The default number of items: 1 with ``--greedy``, where all items would be identical."""
    return 1 if greedy else spec.DEFAULT_ITEMS


def write_items(
    model: CharRNN, request: ItemsRequest, write: Callable[[bytes], None], *, bar_wanted: bool
) -> tuple[int, TooFewItemsError | None]:
    """Write items one per line as they are generated, and report the skipped ones at the end.

    Returns:
        The number of characters sampled, and the error if there are fewer items than requested. Items that
        were found are written in either case.
    """
    from charrnn_runtime.items import TooFewItemsError, draw_items

    prompt = request.prompt
    if "\n" in (prompt if isinstance(prompt, str) else prompt.decode(errors="replace")):
        raise SettingError(
            "--prime has a newline, but an item is a single line; for running text, give --streams 1 (and no "
            "--lines, --unique or --new)"
        )
    characters = 0
    bar = terminal.LateBar(request.count, "generating", wanted=bar_wanted)

    def progress(amount: int) -> None:
        nonlocal characters
        characters += amount
        bar.advance(0)  # makes the bar appear even before the first item

    items = draw_items(
        model,
        request.count,
        prompt=prompt,
        length=request.length,
        unique=request.unique,
        new=request.new,
        seed=request.seed,
        unknown=request.unknown,
        max_batch_size=request.rows,
        on_progress=progress,
        sampling=request.sampling,
    )
    failure = None
    try:
        with items:
            for item in items:
                write(_line(model, request, item))
                bar.advance(1)
    except TooFewItemsError as error:
        failure = error
    finally:
        bar.close()
    _say_skipped(items.skipped, request)
    return characters, failure


def _line(model: CharRNN, request: ItemsRequest, item: Item) -> bytes:
    text = item.text if request.with_prompt else item.continuation
    if not request.as_json:
        return text.encode() + b"\n"
    record = {
        "item": item.index,
        "stream": item.stream,
        "prompt": item.prompt,
        "text": text,
        "seed": request.seed,
        "settings": {
            "lines": request.count,
            "unique": request.unique,
            "new": request.new_name,
            "length": request.length,
            **request.sampling.as_dict(),
        },
        "device": model.device,
        "model": {"path": model.info.path, "sha256": model.info.sha256},
    }
    # Paths may not be UTF-8 (surrogates in Python); JSON escapes preserve them.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _say_skipped(skipped: SkippedItems, request: ItemsRequest) -> None:
    reasons = (
        (skipped.repeated, "repeated"),
        (skipped.known, f"that are in {request.new_name}"),
        (skipped.too_long, f"longer than {request.length:,} characters (--length)"),
        (skipped.empty, "empty"),
    )
    said = ", ".join(f"{number:,} {reason}" for number, reason in reasons if number)
    if said:
        terminal.say(f"skipped: {said}")
