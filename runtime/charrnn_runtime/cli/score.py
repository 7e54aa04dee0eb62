"""charrnn-score: measure how well a model predicts a text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from charrnn_runtime.cli import outputs, score_rows, terminal, texts
from charrnn_runtime.cli.option_values import STREAMS, THREADS, one_of
from charrnn_runtime.cli.score_rows import EachLine, Sum, nothing_in
from charrnn_runtime.cli.score_rows import Options as _Options
from charrnn_runtime.compressed import Unpacked
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.vocabulary import Unknown

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-score models/lstm.onnx README.md --unknown skip
  echo "To be, or not to be" | charrnn-score models/lstm.onnx - --by-line
  charrnn-score models/lstm.onnx README.md --unknown skip --by-line --json
"""

_STRIDE = score_rows.STRIDE


@app.command(epilog=EXAMPLES)
def score(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to score with.")],
    text_path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A text file, or any file for a byte-level model; - for standard input.",
        ),
    ],
    by_line: Annotated[
        bool | None,
        typer.Option(
            "--by-line/--whole",
            help="Score each line separately, without its newline; or the whole as one running text. "
            "[default: the whole; for models trained with --lines, the sum over all lines]",
        ),
    ] = None,
    per_char: Annotated[bool, typer.Option("--per-char", help="Also show each character's bits.")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OTHER.onnx", help="Also score with this model, and show which is better."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for each text.")
    ] = False,
    unknown: Annotated[
        str,
        typer.Option(
            help="How to handle unknown characters: error, skip (ignore them), or normalize (use the "
            "Unicode form that the model knows).",
            **one_of(spec.UNKNOWN),
        ),
    ] = "error",
    encoding: texts.EncodingOption = None,
    device: terminal.DeviceOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads; a single text uses one. [default: the number of cores]", **THREADS),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Lines to read at once. [default: depends on the device]", **{**STREAMS, "metavar": "LINES"}
        ),
    ] = None,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Measure how well a model predicts a text, in bits per character (lower is better).

    The columns are bits per character (per byte for byte-level models), perplexity, number of characters,
    and the text or the file.

    For models trained with --lines, each line is scored from a fresh state and with its newline, as in
    training: Windows line endings are read as newlines, and empty lines are skipped.
    """
    if encoding is not None:
        from charrnn_runtime.text_files import check_encoding

        check_encoding(encoding)

    from charrnn_runtime.model import CharRNN

    models = [CharRNN.load(model_path, device=device, threads=threads)]
    if compare is not None:
        models.append(CharRNN.load(compare, device=device, threads=threads))
    of_lines = [model.info.path for model in models if model.info.lines]
    if batch is not None and not (by_line or (of_lines and by_line is None)):
        raise SettingError("--batch requires many texts: give --by-line too, or omit --batch")
    options = _Options(
        unknown,  # type: ignore[arg-type]
        per_char,
        as_json,
        batch,
        encoding,
        ends=bool(of_lines),
        sums=by_line is None,
    )
    for model in models:
        terminal.say(f"{model.info.path}: running on {model.device}")
    if of_lines and by_line is not False:
        terminal.say(
            f"{of_lines[0]} was trained with --lines, so each line is scored separately, from a fresh state "
            "and with its newline (--whole scores one running text)"
        )
    stream = terminal.stdout()
    outputs.check_not_output(text_path, texts.name_of(text_path))
    with texts.opened(text_path) as file:
        if by_line or (of_lines and by_line is None):
            _score_lines(models, file, text_path, options, stream, stream.isatty())
        else:
            _score_whole(models, file, text_path, options, stream, stream.isatty())


def _score_lines(
    models: list[CharRNN], file: Unpacked, path: Path, options: _Options, stream: Any, at_terminal: bool
) -> None:
    """Score each line separately, in batches; memory use is bounded by the batch."""
    lines = texts.lines(file, path, options.encoding, as_bytes=_read_bytes(models))
    prepared = (_prepared_line(models[0], line, options) for line in lines)
    copies = itertools.tee(prepared, len(models) + 1)
    scored = [
        model.score_each(each, unknown=_strict(options), max_batch_size=options.batch)
        for model, each in zip(models, copies[1:], strict=True)
    ]
    shown = Sum(models, path, options, stream) if options.sums else EachLine(models, options, stream)
    wanted = not (at_terminal and (options.per_char or not options.sums))
    number = 0
    with terminal.LateBar(file.size, "scoring", wanted=wanted) as bar:
        try:
            for number, (line, *scores) in enumerate(zip(copies[0], *scored, strict=True), start=1):
                shown.add(number, line, scores)
                bar.advance(file.advanced())
        except UnknownCharacterError as error:
            raise error.of(None, "" if error.index is None else f"line {error.index + 1}") from None
    if not number:
        raise nothing_in(path)
    shown.end()


def _prepared_line(model: CharRNN, line: str | bytes, options: _Options) -> str | bytes:
    """A line in the form to score: normalized if requested, and with its newline if that is scored."""
    if options.unknown == "normalize" and isinstance(line, str):
        line = model.vocabulary.normalize(line)
    if not options.ends or not line:
        return line
    return line + "\n" if isinstance(line, str) else line + b"\n"


def _score_whole(
    models: list[CharRNN], file: Unpacked, path: Path, options: _Options, stream: Any, at_terminal: bool
) -> None:
    """Score the text as one stream, piece by piece, in constant memory."""
    # Each piece goes through all models before the next, so that no model falls behind and text accumulates.
    pieces = _strides(file, path, options, models)
    copies = itertools.tee(pieces, len(models) + 1)
    scored = [
        model.score_stream(each, unknown=_strict(options))
        for model, each in zip(models, copies[1:], strict=True)
    ]
    sums = Sum(models, path, options, stream)
    shown = at_terminal and options.per_char
    with terminal.LateBar(file.size, "scoring", wanted=not shown) as bar:
        for piece, *parts in zip(copies[0], *scored, strict=True):
            sums.add_piece(piece, parts)
            bar.advance(file.advanced())
    sums.end()


def _strict(options: _Options) -> Unknown:
    """How models handle unknown characters; normalization is done before."""
    return "skip" if options.unknown == "skip" else "error"


def _read_bytes(models: list[CharRNN]) -> bool:
    """Whether the text is read as bytes (if all models are byte-level) rather than characters."""
    return all(model.vocabulary.level == "byte" for model in models)


def _strides(file: Unpacked, path: Path, options: _Options, models: list[CharRNN]) -> Iterator[str | bytes]:
    """The text in pieces that are scored quickly, so that the progress bar moves."""
    chunks: Iterator[Any] = texts.chunks(file, path, options.encoding, as_bytes=_read_bytes(models))
    if options.ends:
        chunks = texts.with_unix_lines(chunks)
    if options.unknown == "normalize" and not _read_bytes(models):
        from charrnn_runtime.normalization import at_whole_characters

        chunks = map(models[0].vocabulary.normalize, at_whole_characters(chunks))
    for chunk in chunks:
        for start in range(0, len(chunk), _STRIDE):
            yield chunk[start : start + _STRIDE]


def main() -> NoReturn:
    """The entry point of charrnn-score."""
    terminal.run(app, "charrnn-score", options={"max_batch_size": "--batch"})


if __name__ == "__main__":
    main()
