"""charrnn-view: show what a model does at each character of a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from charrnn_runtime.cli import outputs, terminal, texts
from charrnn_runtime.cli.option_values import number, one_of
from charrnn_runtime.cli.view_rows import View, rounded
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record
from charrnn_runtime.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.view.readable import FoundUnit
    from charrnn_runtime.view.trace import Trace

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-view models/lstm.onnx README.md --unknown skip --length 500
  echo "To be, or not to be" | charrnn-view models/lstm.onnx - --top 5
  charrnn-view models/lstm.onnx README.md --unknown skip --units 3 --length 2000
  charrnn-view models/lstm.onnx README.md --unknown skip --html readme.html
"""

_SAMPLE = 20_000  # characters of the text to search for units
_FIND_IN = 100_000  # the same for a text given with --find-in
_PAGE = 20_000  # characters that a page shows
_LONGEST_PAGE = 200_000
_MOST_TOP = 10
_MOST_UNITS = 5


class _Options(Record):
    """How to read and select the text.

    Attributes:
        unknown: how to handle unknown characters.
        encoding: the encoding of files.
        most: the number of characters of the text to show.
        skipped: counts the skipped characters.
    """

    unknown: str
    encoding: str | None
    most: int | None
    skipped: texts.Skipped


@app.command(epilog=EXAMPLES)
def view(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to inspect.")],
    text_path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A text file, or any file for a byte-level model; - for standard input.",
        ),
    ],
    surprise: Annotated[
        bool,
        typer.Option("--surprise", help="Colour by surprise, in bits. [default if no unit is given]"),
    ] = False,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER:INDEX",
            help="Colour by this unit; may be repeated. 0:12 is unit 12 of layer 0: its cell state (LSTM) or "
            "hidden state; h0:12, c0:12 and o0:12 (output gate) select one of them.",
        ),
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(
            help="Find the units that best track quotes, brackets, uppercase and lines, and colour by this "
            f"many, up to {_MOST_UNITS}. [default: 5 with --html, otherwise 0]",
            **number(int, "UNITS", 0, _MOST_UNITS),
        ),
    ] = None,
    find_in: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Find units in the first 100,000 characters of this text. [default: 20,000 of FILE]",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help=f"Show this many of the most likely characters, up to {_MOST_TOP}, below each.",
            **number(int, "CHARACTERS", 1, _MOST_TOP),
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            "--length",
            "-n",
            help="Characters to read (bytes, for byte-level models). [default: all; with "
            "--html 20,000, at most 200,000]",
            **number(int, "CHARACTERS", 1),
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a self-contained web page instead (- for stdout)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --html replace an existing file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for each symbol.")
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
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Show what a model does at each character of a text: surprise, activations and predictions.

    Terminals show the text in colour; otherwise, and with NO_COLOR, digits below the text show the values.
    """
    if html is not None and (as_json or top is not None):
        raise SettingError(f"--html includes everything: omit {'--json' if as_json else '--top'}")
    if force and html is None:
        raise SettingError("--force requires --html: give --html FILE too, or omit --force")
    if html is not None and length is not None and length > _LONGEST_PAGE:
        raise SettingError(
            f"--length must be at most {_LONGEST_PAGE:,} with --html, not {length:,}: browsers cannot handle "
            "larger pages"
        )
    if find_in is not None and units == 0:
        raise SettingError("--find-in requires --units: omit --find-in, or --units 0")
    if encoding is not None:
        from charrnn_runtime.text_files import check_encoding

        check_encoding(encoding)

    from charrnn_runtime.cli.view_text import check_files, first
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.view.units import unit_of

    check_files(model_path, text_path, find_in, html, force=force)
    model = CharRNN.load(model_path, device=device, threads=1)
    named = [View(unit_of(model.info.state_layout, name, "unit")) for name in unit or ()]
    if units is None:
        units = 5 if html is not None or find_in is not None else 0
    options = _Options(unknown, encoding, length, texts.Skipped(model))
    terminal.say(f"{model.info.path}: running on {model.device}")
    with texts.opened(text_path) as file:
        searched = bool(units) and find_in is None
        most = max(length, _SAMPLE) if searched and length is not None else length
        source: Iterator[str | bytes] = _pieces(model, file, text_path, options, most)
        found: list[FoundUnit] = []
        if units:
            found, source = _search(model, source, text_path, find_in, options)
        source = first(source, length)
        named += [View(unit_of(model.info.state_layout, each.unit), str(each)) for each in found[:units]]
        named = list({view.name: view for view in named}.values())
        views = [View(), *named] if surprise or html is not None or not named else named
        if html is not None:
            _write_page(model, source, text_path, views, html, options, force=force)
        elif as_json:
            _write_json(model, source, text_path, views, found[:units], top or 5, options)
        else:
            _write_lines(model, source, text_path, views, top or 0, options)
        options.skipped.say()


def _pieces(
    model: CharRNN, file: Any, path: Path, options: _Options, most: int | None
) -> Iterator[str | bytes]:
    from charrnn_runtime.cli.view_text import pieces

    normalize = options.unknown == "normalize"
    return pieces(model, file, path, encoding=options.encoding, normalize=normalize, most=most)


def _search(
    model: CharRNN, source: Iterator[str | bytes], path: Path, find_in: Path | None, options: _Options
) -> tuple[list[FoundUnit], Iterator[str | bytes]]:
    """The units found in the beginning of a text, or in the text of ``--find-in``; and the whole text."""
    if find_in is None:
        from charrnn_runtime.cli.view_text import beginning

        sample, source = beginning(source, _SAMPLE)
        found = _find(model, sample, path, options)
    else:
        with texts.opened(find_in) as other:
            found = _find(model, list(_pieces(model, other, find_in, options, _FIND_IN)), find_in, options)
    if not found:
        terminal.warn(
            "no units were found: the searched text has too few quotes, brackets, capitals and lines; "
            "give a longer text with --find-in"
        )
    return found, source


def _traces(model: CharRNN, source: Iterable[str | bytes], options: _Options) -> Iterator[Trace]:
    """A trace of each piece that has known characters; normalization is done before."""
    unknown: Any = "skip" if options.unknown == "skip" else "error"
    return filter(len, model.trace_stream(source, by_line=model.info.lines, unknown=unknown))


def _find(model: CharRNN, sample: list[str | bytes], path: Path, options: _Options) -> list[FoundUnit]:
    import numpy as np

    from charrnn_runtime.view.readable import find_units

    vocabulary = model.vocabulary
    unknown: Any = "skip" if options.unknown == "skip" else "error"
    whole = b"".join(sample) if vocabulary.level == "byte" else "".join(sample)  # type: ignore[arg-type]
    ids = vocabulary.encode(whole, unknown, np.int64)
    if whole and not len(ids):
        raise _nothing_in(path, len(whole))

    def told() -> Iterator[Trace]:
        with terminal.LateBar(len(ids), "finding units") as bar:
            for trace in _traces(model, sample, options):
                bar.advance(len(trace))
                yield trace

    return find_units(vocabulary, model.info.state_layout, ids, told())


def _write_lines(
    model: CharRNN,
    source: Iterable[str | bytes],
    path: Path,
    views: list[View],
    top: int,
    options: _Options,
) -> None:
    from charrnn_runtime.cli.view_terminal import Lines

    lines = None
    for trace in _traces(model, options.skipped.counted(source), options):
        if lines is None:
            lines = Lines(terminal.stdout(), model.vocabulary, views, top)
        lines.add(trace)
    if lines is None:
        raise _nothing_in(path, options.skipped.count)
    lines.end()


def _write_json(
    model: CharRNN,
    source: Iterable[str | bytes],
    path: Path,
    views: list[View],
    found: list[FoundUnit],
    top: int,
    options: _Options,
) -> None:
    stream = terminal.stdout()
    key = "byte" if model.vocabulary.level == "byte" else "character"
    symbols: Any = range(256) if key == "byte" else model.vocabulary.symbols
    units = [view.unit for view in views if view.unit is not None]
    some = False
    for trace in _traces(model, options.skipped.counted(source), options):
        if not some:
            for each in found:
                record = {name: getattr(each, name) for name in ("unit", "follows", "measure")}
                record |= {"score": round(each.score, 4), "sign": each.sign}
                stream.write(json.dumps(record) + "\n")
            some = True
        ids, probabilities = trace.most_likely(top)
        activations = {unit.name: unit.activation(trace.states).tolist() for unit in units}
        bits = trace.bits.tolist()
        for place, token in enumerate(trace.ids.tolist()):
            most_likely = zip(ids[place].tolist(), probabilities[place].tolist(), strict=True)
            row: dict[str, Any] = {
                key: symbols[token],
                "bits": round(bits[place], 4),
                "most_likely": [{key: symbols[each], "probability": round(p, 5)} for each, p in most_likely],
            }
            if units:
                row["units"] = {name: rounded(values[place]) for name, values in activations.items()}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    if not some:
        raise _nothing_in(path, options.skipped.count)


def _write_page(
    model: CharRNN,
    source: Iterator[str | bytes],
    path: Path,
    views: list[View],
    html: Path,
    options: _Options,
    *,
    force: bool,
) -> None:
    from charrnn_runtime.cli.view_text import first
    from charrnn_runtime.view.page import Page

    held = list(first(source, options.most or _PAGE))
    if options.most is None and next(source, None) is not None:
        terminal.say(f"the page shows the first {_PAGE:,}; give --length for more, up to {_LONGEST_PAGE:,}")
    shown = [(view.unit, view.follows) for view in views if view.unit is not None]
    page = Page(model.info, texts.name_of(path), shown, symbols=sum(map(len, held)))
    some = False
    with outputs.output(html, force=force) as file:
        with terminal.LateBar(sum(map(len, held)), "reading") as bar:
            for trace in _traces(model, options.skipped.counted(held), options):
                page.add(trace)
                bar.advance(len(trace))
                some = True
        if not some:
            raise _nothing_in(path, options.skipped.count)
        file.write(page.html().encode())
    terminal.say(f"the page shows {page.contents}; open it in a browser")
    if not outputs.is_stdout(html):
        terminal.write_path(html)


def _nothing_in(path: Path, unknown: int = 0) -> CharRNNError:
    if unknown:
        return CharRNNError(f"the model knows none of the {unknown:,} characters of {texts.name_of(path)}")
    return CharRNNError(f"{texts.name_of(path)} has no text to show")


def main() -> NoReturn:
    """The entry point of charrnn-view."""
    terminal.run(app, "charrnn-view", options={"name": "--unit"})


if __name__ == "__main__":
    main()
