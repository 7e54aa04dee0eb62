"""charrnn-score: says how well a model predicts a text."""

from __future__ import annotations

import array
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NoReturn

import typer

from charrnn_runtime import __version__
from charrnn_runtime.cli import terminal, texts
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.scoring import Score

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-score models/lstm.onnx README.md --unknown skip
  echo "To be, or not to be" | charrnn-score models/lstm.onnx - --by-line
  charrnn-score models/lstm.onnx README.md --unknown skip --by-line --json
"""

_STRIDE = 1 << 12  # characters scored between two looks at the progress
_LN2 = math.log(2)


@app.command(epilog=EXAMPLES)
def score(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to predict with.")],
    text_path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A UTF-8 text, or any file for a byte-level model; - reads standard input.",
        ),
    ],
    by_line: Annotated[
        bool, typer.Option("--by-line", help="Score each line by itself, without its line end.")
    ] = False,
    per_char: Annotated[bool, typer.Option("--per-char", help="Show each character's bits too.")] = False,
    compare: Annotated[
        Path | None, typer.Option(metavar="OTHER.onnx", help="Score with this model too, and say which fits.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a text, one a line.")] = False,
    unknown: Annotated[
        str, typer.Option(help="Characters that the model does not know: error, or skip.")
    ] = "error",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads; one text takes one. [default: as many as there are cores]"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="How many lines are read at once. [default: as suits the device]"),
    ] = None,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Say how well a model predicts a text, in bits per character: the fewer, the likelier the text.

    The columns are bits per character, perplexity, number of characters, and the text (or the file).
    """
    if unknown not in ("error", "skip"):
        raise SettingError(f"--unknown must be error or skip, not {unknown!r}")

    from charrnn_runtime.model import CharRNN

    if batch is not None and not by_line:
        raise SettingError("--batch is for many texts: give --by-line too, or leave it out")
    options = _Options("skip" if unknown == "skip" else "error", per_char, as_json, batch)
    models = [CharRNN.load(model_path, device=device, threads=threads)]
    if compare is not None:
        models.append(CharRNN.load(compare, device=device, threads=threads))
    for model in models:
        terminal.say(f"{model.info.path}: running on {model.device}")
    stream = terminal.product()
    with texts.opened(text_path) as file:
        if by_line:
            _score_lines(models, file, text_path, options, stream, stream.isatty())
        else:
            _score_whole(models, file, text_path, options, stream, stream.isatty())


class _Options(Record):
    """How texts are scored and shown."""

    unknown: Literal["error", "skip"]
    per_char: bool
    as_json: bool
    batch: int | None = None


class _Total(Record):
    """What a model makes of a text, or of as much of it as was read.

    Attributes:
        characters: how many it was scored on (bytes, at the byte level).
        nats: the sum of their losses.
    """

    characters: int
    nats: float


def _score_lines(
    models: list[CharRNN], file: BinaryIO, path: Path, options: _Options, stream: Any, at_terminal: bool
) -> None:
    """Each line by itself; many share each step, and no more are held than that takes."""
    copies = itertools.tee(texts.lines(file, path, as_bytes=_read_bytes(models)), len(models) + 1)
    scored = [
        model.score_each(lines, unknown=options.unknown, max_batch_size=options.batch)
        for model, lines in zip(models, copies[1:], strict=True)
    ]
    with terminal.LateBar(texts.size_of(file), "scoring", wanted=not at_terminal) as bar:
        try:
            for number, (line, *scores) in enumerate(zip(copies[0], *scored, strict=True), start=1):
                _show_line(models, number, line, scores, options, stream)
                bar.advance(_bytes_of(line) + 1)
        except UnknownCharacterError as error:
            raise error.of(None, "" if error.index is None else f"line {error.index + 1}") from None


def _show_line(
    models: list[CharRNN],
    number: int,
    line: str | bytes,
    scores: list[Score],
    options: _Options,
    stream: Any,
) -> None:
    totals = [_Total(each.characters, each.nats) for each in scores]
    alike = _know_alike(models, line)
    bits = [
        _bits(model, line, each.per_character, options.unknown)
        for model, each in zip(models, scores if options.per_char else [], strict=False)
    ]
    if options.as_json:
        record = {"line": number, "text": _shown(line), **_record(models, totals, alike)}
        for name, each in zip(("bits", "other_bits"), bits, strict=False):
            record[name] = each
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        return
    stream.write(_row(models, totals, alike, _shown(line)) + "\n")
    if options.per_char:
        _write_bits(line, bits, stream)


def _score_whole(
    models: list[CharRNN], file: BinaryIO, path: Path, options: _Options, stream: Any, at_terminal: bool
) -> None:
    """The text as one stream, of which no more is held than a piece."""
    # Each piece goes through all models before the next, so that none falls behind and text piles up for it.
    copies = itertools.tee(_strides(file, path, as_bytes=_read_bytes(models)), len(models) + 1)
    scored = [
        model.score_stream(pieces, unknown=options.unknown)
        for model, pieces in zip(models, copies[1:], strict=True)
    ]
    totals = [_Total(0, 0.0)] * len(models)
    alike = True
    record = _BitsRecord(stream, path) if options.per_char and options.as_json else None
    shown = at_terminal and options.per_char
    with terminal.LateBar(texts.size_of(file), "scoring", wanted=not shown) as bar:
        for piece, *parts in zip(copies[0], *scored, strict=True):
            for index, losses in enumerate(parts):
                before = totals[index]
                nats = before.nats + float(losses.sum(dtype=float))
                totals[index] = _Total(before.characters + len(losses), nats)
            alike = alike and _know_alike(models, piece)
            bar.advance(_bytes_of(piece))
            if options.per_char:
                bits = [
                    _bits(model, piece, losses, options.unknown)
                    for model, losses in zip(models, parts, strict=True)
                ]
                if record is not None:
                    record.add(bits)
                else:
                    _write_bits(piece, bits, stream)
    if record is not None:
        record.end(_record(models, totals, alike))
    elif options.as_json:
        everything = {"file": str(path), **_record(models, totals, alike)}
        stream.write(json.dumps(everything, ensure_ascii=False) + "\n")
    else:
        stream.write(_row(models, totals, alike, str(path)) + "\n")


class _BitsRecord:
    """A file's JSON object, written as its bits come: they may be more than memory holds.

    The other model's come after all of the first one's, so these are held, in 4 bytes a character.
    """

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._before = f'{{"file": {json.dumps(str(path), ensure_ascii=False)}, "bits": ['
        self._others: array.array[float] | None = None

    def add(self, bits: list[list[float | None]]) -> None:
        first, *others = bits
        if first:
            self._stream.write(self._before + json.dumps(first)[1:-1])
            self._before = ", "
        for other in others:
            if self._others is None:
                self._others = array.array("f")
            self._others.extend(math.nan if each is None else each for each in other)

    def end(self, record: dict[str, Any]) -> None:
        self._stream.write(("" if self._before == ", " else self._before) + "]")
        if self._others is not None:
            self._stream.write(', "other_bits": [')
            for first in range(0, len(self._others), _STRIDE):
                some = [
                    None if math.isnan(each) else round(each, 4)
                    for each in self._others[first : first + _STRIDE]
                ]
                self._stream.write((", " if first else "") + json.dumps(some)[1:-1])
            self._stream.write("]")
        self._stream.write(f", {json.dumps(record, ensure_ascii=False)[1:]}\n")


def _record(models: list[CharRNN], totals: list[_Total], alike: bool) -> dict[str, Any]:
    mean = _per_character(totals[0])
    record: dict[str, Any] = {
        "bits_per_character": round(mean / _LN2, 6),
        "perplexity": round(math.exp(min(mean, 700.0)), 6),
        "characters": totals[0].characters,
    }
    if len(models) > 1:
        record["other_bits_per_character"] = round(_per_character(totals[1]) / _LN2, 6)
        record["other_characters"] = totals[1].characters
        record["likelier"] = _likelier(models, totals, alike)
    return record


def _row(models: list[CharRNN], totals: list[_Total], alike: bool, text: str) -> str:
    mean = _per_character(totals[0])
    columns = [f"{mean / _LN2:9.4f}", f"{math.exp(min(mean, 700.0)):10.3f}", f"{totals[0].characters:9,}"]
    if len(models) > 1:
        columns += [f"{_per_character(totals[1]) / _LN2:9.4f}", _likelier(models, totals, alike) or "neither"]
    return "  ".join([*columns, text])


def _likelier(models: list[CharRNN], totals: list[_Total], alike: bool) -> str | None:
    """The model that gives the text the higher probability: whether it reads characters or bytes is the same.

    None where both give it the same, or where one leaves out more of the text than the other.
    """
    first, second = totals
    if not alike or first.nats == second.nats:
        return None
    return models[0 if first.nats < second.nats else 1].info.path


def _know_alike(models: list[CharRNN], text: str | bytes) -> bool:
    """Whether all models know the same of a text, so that what they make of it can be compared."""
    if len(models) == 1:
        return True
    unknown = [set(model.vocabulary.unknown_characters(text)) for model in models]
    return all(each == unknown[0] for each in unknown)


def _per_character(total: _Total) -> float:
    return total.nats / total.characters if total.characters else 0.0


def _bits(
    model: CharRNN, text: str | bytes, losses: NDArray[np.float32], unknown: Literal["error", "skip"]
) -> list[float | None]:
    """The bits of each character of a text (of each byte, if it is in bytes); None for what was skipped.

    A character that a model reads in several bytes has the sum of their bits.
    """
    each = iter((losses / _LN2).tolist())
    if isinstance(text, bytes):
        return [round(bits, 4) for bits in each]
    if model.vocabulary.level == "byte":
        lengths = (len(character.encode()) for character in text)
        return [round(sum(itertools.islice(each, length)), 4) for length in lengths]
    skipped = set(model.vocabulary.unknown_characters(text) if unknown == "skip" else ())
    return [None if character in skipped else round(next(each), 4) for character in text]


def _write_bits(text: str | bytes, bits: list[list[float | None]], stream: Any) -> None:
    """A line for each character: its bits by each model, and the character; - for what a model skipped."""
    symbols = map(repr, text) if isinstance(text, str) else (f"0x{byte:02x}" for byte in text)
    for symbol, *each in zip(symbols, *bits, strict=False):
        columns = ["        -" if one is None else f"{one:9.4f}" for one in each]
        stream.write("  ".join([*columns, symbol]) + "\n")


def _read_bytes(models: list[CharRNN]) -> bool:
    """Whether the text is read as bytes, as models at the byte level can, and not as characters."""
    return all(model.vocabulary.level == "byte" for model in models)


def _shown(line: str | bytes) -> str:
    """A line as text: where bytes are no UTF-8, with replacement characters."""
    return line if isinstance(line, str) else line.decode(errors="replace")


def _bytes_of(text: str | bytes) -> int:
    return len(text.encode() if isinstance(text, str) else text)


def _strides(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str | bytes]:
    """The text in pieces that are scored in a moment, so that what shows the progress moves on."""
    for chunk in texts.chunks(file, path, as_bytes=as_bytes):
        for start in range(0, len(chunk), _STRIDE):
            yield chunk[start : start + _STRIDE]


def main() -> NoReturn:
    """The entry point of charrnn-score."""
    terminal.run(app, "charrnn-score", options={"max_batch_size": "--batch"})


if __name__ == "__main__":
    main()
