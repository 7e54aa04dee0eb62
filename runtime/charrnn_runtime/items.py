r"""Items: names, words or recipes that a model generates, one per line.

Each item comes from its own stream, which starts with a newline at a zero state and ends before the next
newline. Streams are numbered from 0 and processed in order, so the items of a seed do not depend on how many
streams run at once.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Self, Unpack

from charrnn_runtime.arguments import (
    call_back,
    instance,
    several,
    switch,
    whole_number,
    whole_number_from,
    wrong,
)
from charrnn_runtime.arguments import text as check_text
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.model import CharRNN
from charrnn_runtime.options import SamplingOptions, Settings
from charrnn_runtime.record import Record
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.state import State
from charrnn_runtime.texts import Generated
from charrnn_runtime.vocabulary import Unknown

MOST_STREAMS = 10_000
MOST_CHARACTERS = 1_000_000
"""How many streams in a row, or characters in such streams, may yield no item before drawing stops."""

_ROUND = 8_192
_ROUND_NUMBERS = 1 << 24
"""The most streams to start at once, and the most numbers in their states: 64 MiB."""


class Item(Record):
    r"""An item.

    Attributes:
        index: the index of the item, from 0.
        stream: the number of its stream.
        prompt: the prompt that it starts with.
        text: the whole item, including the prompt, without the line ending (``\n`` or ``\r\n``). At the byte
            level, invalid UTF-8 is replaced as in `Vocabulary.decode`.
        continuation: the text after the prompt.
    """

    index: int
    stream: int
    prompt: str
    text: str
    continuation: str


class SkippedItems(Record):
    """The number of streams that yielded no item, by the first of these reasons that applies.

    Attributes:
        too_long: the line did not end within the length.
        empty: the line was empty.
        known: the text is one of the known texts.
        repeated: the text repeats an earlier item.
    """

    too_long: int = 0
    empty: int = 0
    known: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        reasons = (
            (self.repeated, "repeated"),
            (self.known, "known before"),
            (self.too_long, "too long"),
            (self.empty, "empty"),
        )
        return ", ".join(f"{number:,} {reason}" for number, reason in reasons if number)


class TooFewItemsError(CharRNNError):
    """A model yielded fewer items than requested.

    Attributes:
        found: the number of items.
        skipped: the streams that were skipped.
    """

    def __init__(self, found: int, wanted: int | None, streams: int, skipped: SkippedItems) -> None:
        """Compose the message."""
        self.found = found
        self.skipped = skipped
        of_all = "" if wanted is None else f" of {wanted:,}"
        too_long = skipped.too_long > skipped.known + skipped.repeated
        advice = (
            "allow longer ones (length), or raise temperature"
            if too_long
            else "request fewer (count), or raise temperature"
        )
        super().__init__(
            f"the model generated {found:,}{of_all} items, and then none in {streams:,} streams "
            f"(skipped in total: {skipped}); {advice}",
            "length",
            "count",
            "temperature",
        )


class Items(Iterator[Item]):
    """An iterator of generated items. Close it if you do not exhaust it.

    Attributes:
        seed: the seed.
        streams: the number of streams processed so far.
        found: the number of items so far.
    """

    def __init__(
        self,
        draw: Callable[[State], Generator[Generated, None, None]],
        start: State,
        prompt: bytes,
        end: int,
        count: int | None,
        unique: bool,
        known: frozenset[str],
        seed: int,
    ) -> None:
        """Start drawing; see `draw_items`.

        Args:
            draw: runs streams up to a newline, or one character beyond the length of an item.
            start: the initial state of each stream.
            prompt: the prompt of each item.
            end: the id of the newline.
            count: the number of items.
            unique: see `draw_items`.
            known: see ``new`` of `draw_items`.
            seed: see `draw_items`.
        """
        self.seed = seed
        self.streams = 0
        self.found = 0
        self._draw = draw
        self._start = start
        self._prompt = prompt
        self._end = end
        self._count = count
        self._unique = unique
        self._known = known
        self._written: set[str] = set()
        self._skipped: Counter[str] = Counter()  # by field of SkippedItems
        self._items = self._run()

    @property
    def skipped(self) -> SkippedItems:
        """The streams that yielded no item."""
        return SkippedItems(**self._skipped)

    def __next__(self) -> Item:
        return next(self._items)

    def close(self) -> None:
        """Stop drawing and release the running streams."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Item, None, None]:
        without_item = characters = 0  # streams since the last item, and their characters
        asked, before = self._first_round(), 0
        while self._count is None or self.found < self._count:
            number = self.streams
            drawn = self._draw(self._start.fork(asked, number))
            with contextlib.closing(drawn):
                for stream in drawn:
                    self.streams += 1
                    item = self._item(stream)
                    if item is not None:
                        without_item = characters = 0
                        self.found += 1
                        yield item
                        if self.found == self._count:
                            return
                        continue
                    without_item += 1
                    characters += int(stream.state.positions[0])
                    if without_item >= MOST_STREAMS or characters >= MOST_CHARACTERS:
                        raise TooFewItemsError(self.found, self._count, without_item, self.skipped)
            asked, before = self._next_round(asked, self.found - before), self.found

    def _item(self, stream: Generated) -> Item | None:
        """The item of a stream; None, and counted, if it is skipped."""
        text = _without_line_end((self._prompt + stream.data).decode(errors="replace"))
        if int(stream.state.tokens[0]) != self._end:
            reason = "too_long"
        elif not text:
            reason = "empty"
        elif text in self._known:
            reason = "known"
        elif text in self._written:
            reason = "repeated"
        else:
            if self._unique:
                self._written.add(text)
            return Item(
                index=self.found,
                stream=int(stream.state.numbers[0]),
                prompt=self._prompt.decode(errors="replace"),
                text=text,
                continuation=_without_line_end(stream.text),
            )
        self._skipped[reason] += 1
        return None

    def _first_round(self) -> int:
        """The size of the first round of streams: the number of items, since each may yield one."""
        return self._at_most(64 if self._count is None else self._count)

    def _next_round(self, asked: int, gave: int) -> int:
        """The number of streams to start after a round of ``asked`` streams that yielded ``gave`` items.

        This is a tenth more than expected to be needed: surplus streams are cancelled once there are enough
        items, and another round costs more.
        """
        if self._count is None:
            return self._at_most(2 * asked)
        likely = (self._count - self.found) * (asked + 1) / (gave + 1)
        return self._at_most(max(8, math.ceil(1.1 * likely)))

    def _at_most(self, streams: int) -> int:
        most = max(64, _ROUND_NUMBERS // int(self._start.rows.shape[1]))
        return min(streams, _ROUND, most)


def draw_items(
    model: CharRNN,
    count: int | None = spec.DEFAULT_ITEMS,
    *,
    prompt: str | bytes = "",
    length: int = spec.DEFAULT_LENGTH,
    unique: bool = False,
    new: Iterable[str] = (),
    seed: int | None = None,
    sampling: Sampling | None = None,
    unknown: Unknown = "error",
    max_batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    **fields: Unpack[SamplingOptions],
) -> Items:
    r"""Generate items, each in its own stream that ends at a newline.

    This is for models trained on independent lines (``model.info.lines``), and works with all models that
    write newlines. Streams run in batches, on demand. Empty lines are not items, and lines that do not end
    within ``length`` are skipped.

    Args:
        model: the model.
        count: the number of items; None for an unlimited iterator.
        prompt: the start of every item; at the byte level, it may be bytes.
        length: the maximum number of characters (bytes, at the byte level) after the prompt.
        unique: whether to skip repeated items.
        new: texts to skip; may be an open file (line endings are ignored).
        seed: the seed; drawn at random if omitted.
        sampling: the sampling settings.
        unknown: how to handle unknown characters in the prompt: see `Options`.
        max_batch_size: the number of streams to run at once; None for the best number for the device.
        on_progress: called periodically with the number of characters sampled since the last call.
        fields: the fields of `Sampling`, as an alternative to ``sampling``.

    Returns:
        An iterator of `Item`. It raises `TooFewItemsError` when `MOST_STREAMS` streams in a row, or
        `MOST_CHARACTERS` characters in such streams, yield no item.

    Raises:
        SettingError: a setting is invalid, the prompt has a newline, or the model never writes one.
        UnknownCharacterError: the prompt has unknown characters, and ``unknown`` is not "skip".

    Examples:
        >>> with open("names.txt", encoding="utf-8") as known:  # doctest: +SKIP
        ...     for item in draw_items(model, 20, unique=True, new=known, seed=1):
        ...         print(item.text)
    """
    vocabulary = instance("model", model, CharRNN).vocabulary
    if count is not None and whole_number("count", count) < 1:
        raise wrong("count", "1 or more", count)
    if whole_number("length", length) < 1:
        raise wrong("length", "1 or more for items", length)
    if max_batch_size is not None:
        whole_number_from("max_batch_size", max_batch_size, 1, spec.MAX_STREAMS)
    switch("unique", unique)
    call_back("on_progress", on_progress)
    check_text("prompt", prompt, vocabulary.level)
    known = _known_texts(new)
    settings = Settings.of(vocabulary, seed=seed, sampling=sampling, unknown=unknown, **fields)
    if vocabulary.unknown_characters("\n"):
        raise SettingError("this model cannot generate items: it never writes a newline, which ends an item")
    head = vocabulary.decode_bytes(vocabulary.encode(prompt, unknown))
    if b"\n" in head:
        raise SettingError("prompt must not contain a newline, since an item is a single line", "prompt")
    given = b"\n" + head
    start = model.prime(given if vocabulary.level == "byte" else given.decode())

    def draw(streams: State) -> Generator[Generated, None, None]:
        # One more character than an item may have: the newline.
        yield from model.generate_each(
            streams,
            length + 1,
            seed=settings.seed,
            sampling=settings.sampling,
            stop="\n",
            max_batch_size=max_batch_size,
            on_progress=on_progress,
        )

    end = int(vocabulary.encode("\n")[0])
    return Items(draw, start, head, end, count, unique, known, settings.seed)


def _known_texts(new: Iterable[str]) -> frozenset[str]:
    texts = (str(check_text("new", each, "char")) for each in several("new", new, "texts"))
    return frozenset(map(_without_line_end, texts))


def _without_line_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
