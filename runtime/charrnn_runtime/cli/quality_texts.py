"""What charrnn-quality measures: generated text and items, and held-out text of the same length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling


class Request(Record):
    """What each model generates.

    Attributes:
        prompt: the prompt of every stream.
        length: the number of characters in all.
        streams: the number of streams.
        seed: the seed.
        sampling: the sampling settings.
        batch: the number of streams to run at once; None for the device's default.
        in_bytes: whether each byte counts as a character.
    """

    prompt: str
    length: int
    streams: int
    seed: int
    sampling: Sampling
    batch: int | None
    in_bytes: bool


def written(model: CharRNN, request: Request) -> list[str]:
    """The text that a model generates: a piece from each stream, ``length`` characters in all."""
    each = -(-request.length // request.streams)  # rounded up: the last stream is cut
    bar = terminal.LateBar(request.length, f"generating with {model.info.path}")
    try:
        generated = model.generate_each(
            [request.prompt] * min(request.streams, -(-request.length // each)),
            each,
            seed=request.seed,
            sampling=request.sampling,
            max_batch_size=request.batch,
            on_progress=bar.advance,
        )
        # In bytes, each character stands for one byte, as in the text to compare with.
        prompt_bytes = len(request.prompt.encode())
        pieces = [
            each.data[prompt_bytes:].decode("latin-1") if request.in_bytes else each.text
            for each in generated
        ]
    finally:
        bar.close()
    left = request.length
    for index, piece in enumerate(pieces):
        pieces[index] = piece[:left]
        left -= len(pieces[index])
    return pieces


def written_items(model: CharRNN, request: Request) -> tuple[list[str], list[str]]:
    """What a model appended to the prompt in each of its items, ``length`` characters or more, and the items.

    Raises:
        CharRNNError: the model ends too few of its lines.
    """
    from charrnn_runtime.items import TooFewItemsError, draw_items

    items: list[str] = []
    pieces: list[str] = []
    left = request.length
    drawn = draw_items(
        model,
        None,
        prompt=request.prompt,
        seed=request.seed,
        sampling=request.sampling,
        max_batch_size=request.batch,
    )
    with terminal.LateBar(request.length, f"generating with {model.info.path}") as bar, drawn:
        try:
            for item in drawn:
                items.append(item.text)
                pieces.append(item.continuation + "\n")
                bar.advance(len(pieces[-1]))
                left -= len(pieces[-1])
                if left <= 0:
                    break
        except TooFewItemsError:
            raise CharRNNError(
                f"{model.info.path} was trained on lines, but after {len(items):,} items no line ended "
                f"within {spec.DEFAULT_LENGTH:,} characters; raise --temperature, or omit --top-k "
                "and --top-p"
            ) from None
    return pieces, items


def items_of(text: str) -> list[str]:
    """The non-empty lines of a text."""
    return [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line]


def whole_lines(text: str, length: int) -> str:
    """The complete lines within the first ``length`` characters of a text."""
    if len(text) <= length:
        return text
    return text[: text.rfind("\n", 0, length) + 1]
