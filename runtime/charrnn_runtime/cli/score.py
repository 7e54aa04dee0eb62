"""charrnn-score: says how well a model predicts a text."""

from __future__ import annotations

import codecs
import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NoReturn

import typer

from charrnn_runtime import __version__
from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn_runtime.model import CharRNN

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-score models/lstm.onnx README.md --unknown skip
  echo "To be, or not to be" | charrnn-score models/lstm.onnx - --by-line
  charrnn-score models/lstm.onnx README.md --unknown skip --by-line --json
"""

_PIECE = 1 << 20  # bytes read at a time
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
    threads: Annotated[int, typer.Option(help="CPU threads; more than one pays for many lines only.")] = 1,
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

    choice: Literal["error", "skip"] = "skip" if unknown == "skip" else "error"
    models = [CharRNN.load(model_path, device=device, threads=threads)]
    if compare is not None:
        models.append(CharRNN.load(compare, device=device, threads=threads))
    for model in models:
        terminal.say(f"{model.info.path}: running on {model.device}")
    stream = terminal.product()
    with _opened(text_path) as file:
        if by_line:
            _score_lines(models, file, text_path, choice, per_char, as_json, stream)
        else:
            _score_whole(models, file, text_path, choice, per_char, as_json, stream)


def _score_lines(
    models: list[CharRNN],
    file: BinaryIO,
    path: Path,
    unknown: Literal["error", "skip"],
    per_char: bool,
    as_json: bool,
    stream: Any,
) -> None:
    """Each line by itself; many share each step, and no more are held than that takes."""
    copies = itertools.tee(_lines(file, path, as_bytes=_read_bytes(models)), len(models) + 1)
    scored = [
        model.score_each(lines, unknown=unknown) for model, lines in zip(models, copies[1:], strict=True)
    ]
    for number, (line, *scores) in enumerate(zip(copies[0], *scored, strict=True), start=1):
        if as_json:
            record = _record(models, [(each.characters, each.nats) for each in scores])
            record = {"line": number, "text": _shown(line), **record}
            if per_char:
                record["bits"] = _bits(scores[0].per_character)
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            continue
        stream.write(_row(models, [(each.characters, each.nats) for each in scores], _shown(line)) + "\n")
        if per_char:
            for character, bits in zip(
                _known(models[0], line, unknown), _bits(scores[0].per_character), strict=True
            ):
                stream.write(f"{bits:9.4f}  {character!r}\n")


def _score_whole(
    models: list[CharRNN],
    file: BinaryIO,
    path: Path,
    unknown: Literal["error", "skip"],
    per_char: bool,
    as_json: bool,
    stream: Any,
) -> None:
    """The text as one stream, of which no more is held than a piece."""
    # Each piece goes through all models before the next, so that none falls behind and text piles up for it.
    copies = itertools.tee(_strides(file, path, as_bytes=_read_bytes(models)), len(models) + 1)
    scored = [
        model.score_stream(pieces, unknown=unknown) for model, pieces in zip(models, copies[1:], strict=True)
    ]
    bar = terminal.LateBar(_size(path), "scoring")
    totals = [(0, 0.0)] * len(models)
    bits = _BitsRecord(stream, path) if per_char and as_json else None
    try:
        for piece, *parts in zip(copies[0], *scored, strict=True):
            for index, losses in enumerate(parts):
                characters, nats = totals[index]
                totals[index] = (characters + len(losses), nats + float(losses.sum(dtype=float)))
            bar.advance(len(piece.encode() if isinstance(piece, str) else piece))
            if bits is not None:
                bits.add(_bits(parts[0]))
            elif per_char:
                for loss, symbol in zip(parts[0].tolist(), _known(models[0], piece, unknown), strict=True):
                    stream.write(f"{loss / _LN2:9.4f}  {symbol!r}\n")
    finally:
        bar.close()
    if bits is not None:
        bits.end(_record(models, totals))
    elif as_json:
        record = {"file": str(path), **_record(models, totals)}
        stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    else:
        stream.write(_row(models, totals, str(path)) + "\n")


class _BitsRecord:
    """A file's JSON object, written as its bits come: they may be more than memory holds."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._before = f'{{"file": {json.dumps(str(path), ensure_ascii=False)}, "bits": ['

    def add(self, bits: list[float]) -> None:
        if bits:
            self._stream.write(self._before + json.dumps(bits)[1:-1])
            self._before = ", "

    def end(self, record: dict[str, Any]) -> None:
        opening = "" if self._before == ", " else self._before
        self._stream.write(f"{opening}], {json.dumps(record, ensure_ascii=False)[1:]}\n")


def _record(models: list[CharRNN], totals: list[tuple[int, float]]) -> dict[str, Any]:
    characters, nats = totals[0]
    record: dict[str, Any] = {
        "bits_per_character": round(_per_character(characters, nats) / _LN2, 6),
        "perplexity": round(math.exp(min(_per_character(characters, nats), 700.0)), 6),
        "characters": characters,
    }
    if len(models) > 1:
        record["other_bits_per_character"] = round(_per_character(*totals[1]) / _LN2, 6)
        record["likelier"] = _likelier(models, totals)
    return record


def _row(models: list[CharRNN], totals: list[tuple[int, float]], text: str) -> str:
    characters, nats = totals[0]
    mean = _per_character(characters, nats)
    columns = [f"{mean / _LN2:9.4f}", f"{math.exp(min(mean, 700.0)):10.3f}", f"{characters:9,}"]
    if len(models) > 1:
        columns += [f"{_per_character(*totals[1]) / _LN2:9.4f}", _likelier(models, totals)]
    return "  ".join([*columns, text])


def _likelier(models: list[CharRNN], totals: list[tuple[int, float]]) -> str:
    """The model that gives the text the higher probability a character."""
    means = [_per_character(*total) for total in totals]
    return models[0 if means[0] <= means[1] else 1].info.path


def _per_character(characters: int, nats: float) -> float:
    return nats / characters if characters else 0.0


def _bits(losses: NDArray[np.float32]) -> list[float]:
    return [round(bits, 4) for bits in (losses / _LN2).tolist()]


def _read_bytes(models: list[CharRNN]) -> bool:
    """Whether the text is read as bytes, as models at the byte level can, and not as characters."""
    return all(model.vocabulary.level == "byte" for model in models)


def _shown(line: str | bytes) -> str:
    """A line as text: where bytes are no UTF-8, with replacement characters."""
    return line if isinstance(line, str) else line.decode(errors="replace")


def _known(model: CharRNN, text: str | bytes, unknown: Literal["error", "skip"]) -> list[str]:
    """The symbols of a text that were scored: characters, or bytes as 0x hexadecimal."""
    ids = model.vocabulary.encode(text, unknown)
    if model.vocabulary.level == "byte":
        return [f"0x{byte:02x}" for byte in ids.tolist()]
    return [model.vocabulary.symbols[index] for index in ids.tolist()]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield terminal.source()
        return
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield file


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _pieces(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str] | Iterator[bytes]:
    """The text a piece at a time."""
    raw = iter(lambda: file.read(_PIECE), b"")
    return raw if as_bytes else _decoded(raw, path)


def _decoded(pieces: Iterator[bytes], path: Path) -> Iterator[str]:
    """UTF-8 as text. A byte-order mark at its start is left out, as training does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    begun = False
    for data in itertools.chain(pieces, [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise CharRNNError(
                f"{path} is no UTF-8 text: byte {offset - held + error.start} is "
                f"0x{error.object[error.start]:02x}; convert it first, as with iconv -t UTF-8"
            ) from None
        if text and not begun:
            begun, text = True, text.removeprefix("\ufeff")
        if text:
            yield text
        offset += len(data)


def _strides(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str | bytes]:
    """The text in pieces that are scored in a moment, so that what shows the progress moves on."""
    for piece in _pieces(file, path, as_bytes=as_bytes):
        for start in range(0, len(piece), _STRIDE):
            yield piece[start : start + _STRIDE]


def _lines(file: BinaryIO, path: Path, *, as_bytes: bool = False) -> Iterator[str | bytes]:
    """The lines, without their ends."""
    end: Any = b"\n" if as_bytes else "\n"
    parts: list[Any] = []  # of a line whose end has not come; all str or all bytes
    for piece in _pieces(file, path, as_bytes=as_bytes):
        first, *others = piece.split(end)
        parts.append(first)
        for other in others:
            yield _joined(parts)
            parts = [other]
    if any(parts):
        yield _joined(parts)


def _joined(parts: list[Any]) -> str | bytes:
    """A line of the parts that it was read in, without the carriage return of a Windows line end."""
    if isinstance(parts[0], str):
        return "".join(parts).removesuffix("\r")
    return b"".join(parts).removesuffix(b"\r")


def main() -> NoReturn:
    """The entry point of charrnn-score."""
    terminal.run(app, "charrnn-score")


if __name__ == "__main__":
    main()
