"""The output of charrnn-score: rows under column headings, or JSON."""

from __future__ import annotations

import array
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn_runtime.cli import texts
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.scoring import Score
    from charrnn_runtime.vocabulary import Unknown

STRIDE = 1 << 12  # characters scored between updates of the progress bar
_LN2 = math.log(2)


class Total(Record):
    """A model's total loss on the text read so far.

    Attributes:
        characters: the number of characters scored (bytes, at the byte level).
        nats: the sum of their losses.
    """

    characters: int
    nats: float


def unit_of(model: CharRNN) -> str:
    """The unit that a model's bits are measured per: "character" or "byte"."""
    return "byte" if model.vocabulary.level == "byte" else "character"


def write_heading(models: list[CharRNN], what: str, stream: Any) -> None:
    """Write the column headings for `row`; the last column is ``what``."""
    names = _headings(models)
    stream.write("  ".join([*names, "better model", what] if len(models) > 1 else [*names, what]) + "\n")


def _headings(models: list[CharRNN]) -> list[str]:
    names = [f"bits per {unit_of(models[0])}", "perplexity", f"{unit_of(models[0]) + 's':>10}"]
    return [*names, f"other's bits per {unit_of(models[1])}"] if len(models) > 1 else names


class BitsRecord:
    """A file's JSON object, written incrementally, since its bits may exceed memory.

    The other model's bits follow those of the first, so they are held in memory, 4 bytes per character.
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
            for first in range(0, len(self._others), STRIDE):
                some = [
                    None if math.isnan(each) else round(each, 4)
                    for each in self._others[first : first + STRIDE]
                ]
                self._stream.write((", " if first else "") + json.dumps(some)[1:-1])
            self._stream.write("]")
        self._stream.write(f", {json.dumps(record, ensure_ascii=False)[1:]}\n")


def record_of(models: list[CharRNN], totals: list[Total], alike: bool) -> dict[str, Any]:
    """The measurements of a text as a JSON object."""
    mean = _per_character(totals[0])
    record: dict[str, Any] = {
        "unit": unit_of(models[0]),
        "bits_per_character": round(mean / _LN2, 6),
        "perplexity": round(math.exp(min(mean, 700.0)), 6),
        "characters": totals[0].characters,
    }
    if len(models) > 1:
        record["other_unit"] = unit_of(models[1])
        record["other_bits_per_character"] = round(_per_character(totals[1]) / _LN2, 6)
        record["other_characters"] = totals[1].characters
        record["better_model"] = _better_model(models, totals, alike)
    return record


def row(models: list[CharRNN], totals: list[Total], alike: bool, text: str) -> str:
    """The measurements of a text under `write_heading`, and the text; - if there is nothing to predict."""
    mean = _per_character(totals[0])
    values = (
        [f"{mean / _LN2:.4f}", f"{math.exp(min(mean, 700.0)):.3f}"] if totals[0].characters else ["-"] * 2
    )
    values.append(f"{totals[0].characters:,}")
    if len(models) > 1:
        values.append(f"{_per_character(totals[1]) / _LN2:.4f}" if totals[1].characters else "-")
    columns = [value.rjust(len(heading)) for value, heading in zip(values, _headings(models), strict=True)]
    if len(models) > 1:
        columns.append(_better_model(models, totals, alike) or "neither")
    return "  ".join([*columns, text])


def _better_model(models: list[CharRNN], totals: list[Total], alike: bool) -> str | None:
    """The path of the model under which the text is more likely, whether it reads characters or bytes.

    None if both are equally likely, or if one model skips more of the text than the other.
    """
    first, second = totals
    if not alike or first.nats == second.nats:
        return None
    return models[0 if first.nats < second.nats else 1].info.path


def comparable(models: list[CharRNN], text: str | bytes) -> bool:
    """Whether all models know the same characters of a text, so that their scores are comparable."""
    if len(models) == 1:
        return True
    unknown = [set(model.vocabulary.unknown_characters(text)) for model in models]
    return all(each == unknown[0] for each in unknown)


def _per_character(total: Total) -> float:
    return total.nats / total.characters if total.characters else 0.0


def bits_of(
    model: CharRNN, text: str | bytes, losses: NDArray[np.float32], unknown: Unknown
) -> list[float | None]:
    """The bits of each character of a text (each byte, if the text is bytes); None for skipped characters.

    For a character that spans several bytes, this is the sum of their bits.
    """
    each = iter((losses / _LN2).tolist())
    if isinstance(text, bytes):
        return [round(bits, 4) for bits in each]
    if model.vocabulary.level == "byte":
        lengths = (len(character.encode()) for character in text)
        return [round(sum(itertools.islice(each, length)), 4) for length in lengths]
    skipped = set(model.vocabulary.unknown_characters(text) if unknown == "skip" else ())
    return [None if character in skipped else round(next(each), 4) for character in text]


def write_bits_heading(models: list[CharRNN], stream: Any) -> None:
    """Write the column headings for `write_bits`."""
    names = [f"{name:>9}" for name in ("bits", "other's")[: len(models)]]
    stream.write("  ".join([*names, unit_of(models[0])]) + "\n")


def write_bits(text: str | bytes, bits: list[list[float | None]], stream: Any) -> None:
    """Write a line for each character: its bits under each model, and the character; - where skipped."""
    symbols = map(repr, text) if isinstance(text, str) else (f"0x{byte:02x}" for byte in text)
    for symbol, *each in zip(symbols, *bits, strict=False):
        columns = ["        -" if one is None else f"{one:9.4f}" for one in each]
        stream.write("  ".join([*columns, symbol]) + "\n")


class Options(Record):
    """How to score and show texts.

    Attributes:
        unknown: how to handle unknown characters.
        per_char: whether to show the bits of each character.
        as_json: whether to write each text as a JSON object.
        batch: the number of lines to read at once; None for the device's default.
        encoding: the encoding of the text, if one was given.
        ends: whether to score newlines, and read CR LF as newlines.
        sums: whether to show one total for all lines.
    """

    unknown: Unknown
    per_char: bool
    as_json: bool
    batch: int | None = None
    encoding: str | None = None
    ends: bool = False
    sums: bool = False


class EachLine:
    """Shows the score of each line."""

    def __init__(self, models: list[CharRNN], options: Options, stream: Any) -> None:
        self._models, self._options, self._stream = models, options, stream
        self._skipped = texts.Skipped(models[0])

    def add(self, number: int, line: str | bytes, scores: list[Score]) -> None:
        """Show the score of a line."""
        models, options, stream = self._models, self._options, self._stream
        if number == 1 and not options.as_json:
            write_heading(models, "text", stream)
        totals = [Total(each.characters, each.nats) for each in scores]
        alike = comparable(models, line)
        self._skipped.add(line, scores[0].characters)
        bits = [
            bits_of(model, line, each.per_character, options.unknown)
            for model, each in zip(models, scores if options.per_char else [], strict=False)
        ]
        text = _shown(line).removesuffix("\n")
        if options.as_json:
            record = {"line": number, "text": text, **record_of(models, totals, alike)}
            for name, each in zip(("bits", "other_bits"), bits, strict=False):
                record[name] = each
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        stream.write(row(models, totals, alike, text) + "\n")
        if options.per_char:
            write_bits(line, bits, stream)

    def end(self) -> None:
        """Report skipped characters."""
        self._skipped.say()


class Sum:
    """Shows the total for all pieces or lines of a text."""

    def __init__(self, models: list[CharRNN], path: Path, options: Options, stream: Any) -> None:
        self._models, self._path, self._options, self._stream = models, path, options, stream
        self._totals = [Total(0, 0.0)] * len(models)
        self._alike = True
        self._begun = False
        self._skipped = texts.Skipped(models[0])
        self._record = BitsRecord(stream, path) if options.per_char and options.as_json else None
        self._lines = 0

    def add(self, number: int, line: str | bytes, scores: list[Score]) -> None:
        """Add the scores of a line."""
        self._lines += bool(line)
        self.add_piece(line, [each.per_character for each in scores])

    def add_piece(self, piece: str | bytes, parts: list[Any]) -> None:
        """Add a piece of the text, with each model's losses."""
        models, options = self._models, self._options
        for index, losses in enumerate(parts):
            before = self._totals[index]
            nats = before.nats + float(losses.sum(dtype=float))
            self._totals[index] = Total(before.characters + len(losses), nats)
        self._alike = self._alike and comparable(models, piece)
        self._skipped.add(piece, len(parts[0]))
        if options.per_char:
            bits = [
                bits_of(model, piece, losses, options.unknown)
                for model, losses in zip(models, parts, strict=True)
            ]
            if self._record is not None:
                self._record.add(bits)
            else:
                if not self._begun:
                    write_bits_heading(models, self._stream)
                    self._begun = True
                write_bits(piece, bits, self._stream)

    def end(self) -> None:
        """Show the total."""
        models, totals, stream = self._models, self._totals, self._stream
        if not totals[0].characters:
            raise nothing_in(self._path, skipped=self._skipped.count)
        figures = record_of(models, totals, self._alike)
        if self._options.ends and self._lines:
            figures["lines"] = self._lines
        if self._record is not None:
            self._record.end(figures)
        elif self._options.as_json:
            stream.write(json.dumps({"file": str(self._path), **figures}, ensure_ascii=False) + "\n")
        else:
            write_heading(models, "file", stream)
            stream.write(row(models, totals, self._alike, str(self._path)) + "\n")
        self._skipped.say()


def nothing_in(path: Path, *, skipped: int = 0) -> CharRNNError:
    """The error for a text with nothing to predict."""
    why = "the model knows none of its characters" if skipped else "it is empty"
    return CharRNNError(f"there is nothing to score in {texts.name_of(path)}: {why}")


def _shown(line: str | bytes) -> str:
    """A line as text; invalid UTF-8 becomes replacement characters."""
    return line if isinstance(line, str) else line.decode(errors="replace")
