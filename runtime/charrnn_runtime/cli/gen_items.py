"""charrnn-gen --lines: items instead of running text, one per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.items import Item, LeftOut, TooFewItemsError
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.vocabulary import Unknown


class ItemsRequest(Record):
    """What the command line asks for, once it is checked.

    Attributes:
        count: how many items.
        prompt: what each begins with, in the form that the model reads.
        length: how many characters each may have beside its prompt.
        unique: whether repeats are skipped.
        new: the texts to skip.
        new_name: the name of the file that they come from; None if there is none.
        sampling: how the next character is chosen.
        seed: the seed.
        unknown: what happens to characters of the prompt that the model does not know.
        rows: how many streams run at once; None for the device's default.
        with_prompt: whether the prompt is written.
        as_json: whether each item is an object.
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
    """Whether a command line asks for items; None where the model decides.

    Args:
        lines: ``--lines``, if it was given.
        unique: whether ``--unique`` was given.
        new: whether ``--new`` was given.
        length: ``--length``.
        greedy: whether ``--greedy`` was given.
        running_text: the options that only running text has, and whether they were given.

    Raises:
        SettingError: the options contradict each other.
    """
    asking = {"--lines": lines is not None, "--unique": unique, "--new": new}
    for_items = [option for option, given in asking.items() if given]
    for_text = [option for option, given in running_text.items() if given]
    if for_items and for_text:
        raise SettingError(
            f"{for_items[0]} writes items, each a stream of its own that ends at its newline; it excludes "
            f"{for_text[0]}; give only one of them"
        )
    if lines is not None and lines < 1:
        raise SettingError(
            f"--lines must be 1 or more, not {lines}; for running text give --streams 1 instead"
        )
    if lines is not None and lines > 1 and greedy:
        raise SettingError("--greedy writes the same item each time: give --lines 1, or leave --greedy out")
    if for_items and length < 1:
        raise SettingError(f"--length must be 1 or more for items, not {length}")
    return True if for_items else False if for_text else None


def default_count(*, greedy: bool) -> int:
    """How many items to write by default: one, if all would be the same."""
    return 1 if greedy else spec.DEFAULT_ITEMS


def write_items(
    model: CharRNN, request: ItemsRequest, write: Callable[[bytes], None], *, bar_wanted: bool
) -> tuple[int, TooFewItemsError | None]:
    """Write items as they come, one per line; what was skipped is said at the end.

    Returns:
        The number of characters that were sampled, and the error if there are fewer items than were asked
        for: what was found is written all the same.
    """
    from charrnn_runtime.items import TooFewItemsError, draw_items

    prompt = request.prompt
    if "\n" in (prompt if isinstance(prompt, str) else prompt.decode(errors="replace")):
        raise SettingError(
            "--prime has a newline, and an item is one line; for running text give --streams 1 (and no "
            "--lines, --unique or --new)"
        )
    characters = 0
    bar = terminal.LateBar(request.count, "generating", wanted=bar_wanted)

    def progress(amount: int) -> None:
        nonlocal characters
        characters += amount
        bar.advance(0)  # it shows itself though no item comes

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
    _say_skipped(items.left_out, request)
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
    # Paths may hold what is not UTF-8 (surrogates in Python): JSON escapes it just so.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _say_skipped(left_out: LeftOut, request: ItemsRequest) -> None:
    reasons = (
        (left_out.repeated, "repeated"),
        (left_out.known, f"that are in {request.new_name}"),
        (left_out.unended, f"without an end in {request.length:,} characters (--length)"),
        (left_out.empty, "empty"),
    )
    said = ", ".join(f"{number:,} {reason}" for number, reason in reasons if number)
    if said:
        terminal.say(f"skipped: {said}")
