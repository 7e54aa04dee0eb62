"""charrnn-quality: measure the quality of text that models generate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from charrnn_runtime.cli import terminal, texts
from charrnn_runtime.cli.option_values import SEED, STREAMS, TEMPERATURE, THREADS, TOP_K, TOP_P, number
from charrnn_runtime.cli.quality_rows import record_of, table
from charrnn_runtime.cli.quality_texts import Request, items_of, whole_lines, written, written_items
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record
from charrnn_runtime.text_files import check_encoding
from charrnn_runtime.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.quality import ItemQuality, Reference, TextQuality

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-quality models/lstm.onnx --text data/README.md
  charrnn-quality models/lstm.onnx models/lstm.int8.onnx --text README.md --seed 1 --length 20000
  charrnn-quality models/lstm.onnx --text README.md --held-out data/README.md --window 20 --json
"""

_TRAINED_ON = 0.9
"""The fraction of a text, from its start, assumed to be training text if no model records it."""


@app.command(epilog=EXAMPLES)
def quality(
    model_paths: Annotated[
        list[Path], typer.Argument(metavar="MODEL.onnx...", help="The models to measure.", show_default=False)
    ],
    text_path: Annotated[
        Path, typer.Option("--text", metavar="TRAINING.txt", help="The text that the models were trained on.")
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text to compare with. [default: the end of TRAINING.txt, held out for validation]",
        ),
    ] = None,
    length: Annotated[
        int,
        typer.Option(
            "--length",
            "-n",
            help="Characters to generate with each model, over all streams.",
            **number(int, "CHARACTERS", 1),
        ),
    ] = 100_000,
    streams: Annotated[int, typer.Option(help="Number of streams to generate.", **STREAMS)] = 50,
    window: Annotated[
        int, typer.Option(help="Length of a copied passage, in characters.", **number(int, "CHARACTERS", 1))
    ] = 50,
    prompt: Annotated[
        str,
        typer.Option(
            "--prime", "-p", metavar="TEXT", help="Prompt of every stream; excluded from the measurements."
        ),
    ] = "",
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            "--temp",
            "-t",
            help="Sampling temperature; below 1, likely characters become more likely.",
            **TEMPERATURE,
        ),
    ] = spec.DEFAULT_TEMPERATURE,
    top_k: Annotated[
        int | None, typer.Option(help="Sample from the K most likely characters only.", **TOP_K)
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            help="Sample from the most likely characters that together have this probability (nucleus "
            "sampling).",
            **TOP_P,
        ),
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-s", help="Random seed, for reproducible texts. [default: random]", **SEED),
    ] = None,
    encoding: texts.EncodingOption = None,
    device: terminal.DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. [default: the number of cores]", **THREADS)
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Streams to run at once. [default: depends on the device]", **STREAMS),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for each text.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Measure the quality of text that models generate, and of held-out text of the same length.

    The columns are the number of characters and of words, the share of words that occur in the training
    text, the share of 50-character windows copied from it, and distinct-n for n = 1 to 4: the number of
    distinct n-grams of words divided by the number of n-grams. A word is a sequence of letters with single
    apostrophes inside it; case is ignored.

    For models trained with --lines, each stream generates one item, until there are --length characters.
    Three more columns are the number of items, the share of items that repeat an earlier one, and the share
    that are lines of the training text.

    For byte-level models, text that is not valid UTF-8 is measured in bytes instead of characters.
    """
    if str(text_path) == str(held_out) == "-":
        raise SettingError("--text and --held-out cannot both be read from stdin: name a file for one")

    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.quality import Reference
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.uniforms import check_seed, draw_seed

    sampling = Sampling(temperature, top_k, top_p)
    chosen = draw_seed() if seed is None else check_seed(seed)
    if encoding is not None:
        check_encoding(encoding)
    data = texts.read_bytes(text_path)
    comparison_data = None if held_out is None else texts.read_bytes(held_out)
    models = [CharRNN.load(path, device=device, threads=threads) for path in model_paths]
    of_lines = any(model.info.lines for model in models)
    byte_level = all(model.vocabulary.level == "byte" for model in models)
    in_bytes = byte_level and encoding is None and not all(map(_is_utf_8, (data, comparison_data or b"")))
    if in_bytes:
        terminal.say("not all of the text is valid UTF-8, so bytes are measured instead of characters")
    reading = _Reading(encoding, in_bytes=in_bytes, of_lines=of_lines)
    text, digest = reading.text(data, text_path), hashlib.sha256(data).hexdigest()
    other = None if held_out is None or comparison_data is None else reading.text(comparison_data, held_out)
    terminal.say(f"seed {chosen}, running on {models[0].device}")
    split = _trained_on(models, text, digest, text_path, in_bytes=in_bytes)
    listed = frozenset(items_of(text)) if of_lines else None
    unit = "byte" if in_bytes else "character"
    report = _Report(Reference(text[:split], window=window), listed, window, unit, as_json=as_json)
    request = Request(prompt, length, streams, chosen, sampling, batch, in_bytes)
    settings = {
        "length": length,
        "streams": streams,
        "window": window,
        "prompt": prompt,
        "seed": chosen,
        **sampling.as_dict(),
    }
    for model in models:
        pieces, items = written_items(model, request) if model.info.lines else (written(model, request), None)
        report.add(model.info.path, pieces, items, {"sha256": model.info.sha256, "settings": settings})
    beside = text[split:] if other is None else other
    if beside:
        name = f"held out: {text_path}" if held_out is None else str(held_out)
        report.add_held_out(name, beside, length)
    elif of_lines:
        terminal.say(f"training held out lines from all over {text_path}; see --held-out")
    else:
        terminal.warn(
            f"no part of {text_path} was held out: the models were trained on all of it; see --held-out"
        )
    report.end()


class _Report:
    """Measures texts and prints the results: at once as JSON, or all as a table at the end."""

    def __init__(
        self, reference: Reference, listed: frozenset[str] | None, window: int, unit: str, *, as_json: bool
    ) -> None:
        """Begin a report.

        Args:
            reference: the training text.
            listed: its lines, if models were trained on lines.
            window: the length of a copied passage, in characters.
            unit: what texts are measured in.
            as_json: whether to print JSON.
        """
        self._reference, self._listed = reference, listed
        self._window, self._unit, self._as_json = window, unit, as_json
        self._rows: list[tuple[str, TextQuality, ItemQuality | None]] = []
        self._stream = terminal.stdout()

    def add(self, name: str, pieces: list[str], items: list[str] | None, about: dict[str, Any]) -> None:
        """Measure a text in pieces, and its items, if it is made of items."""
        from charrnn_runtime.quality import measure_items

        found = self._reference.measure(pieces)
        of_items = None if items is None else measure_items(items, self._listed or frozenset())
        if self._as_json:
            record = {"text": name, **record_of(found, of_items, self._unit), **about}
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()
        self._rows.append((name, found, of_items))

    def add_held_out(self, name: str, text: str, length: int) -> None:
        """Measure as much of a text as each model generates."""
        if len(text) < length:
            terminal.warn(
                f"{name} has {len(text):,} characters, but each model generates {length:,}; distinct-n is "
                f"higher for shorter texts (--length {len(text)} makes them comparable)"
            )
        if self._listed is None:
            self.add(name, [text[:length]], None, {})
        else:
            text = whole_lines(text, length)
            self.add(name, [text], items_of(text), {})

    def end(self) -> None:
        """Print the table."""
        if not self._as_json:
            for line in table(self._rows, self._window, self._unit):
                self._stream.write(line + "\n")


def _trained_on(models: list[CharRNN], text: str, digest: str, path: Path, *, in_bytes: bool = False) -> int:
    """The number of characters, from the start of the text, that any of the models was trained on."""
    ends = []
    for model in models:
        corpus = model.info.training.get("corpus")
        corpus = corpus if isinstance(corpus, dict) else {}
        end = corpus.get("trained_on")
        if corpus.get("sha256") != digest:
            terminal.warn(
                f"{model.info.path} was trained on a text other than {path}, or does not record which"
            )
        if model.info.lines:
            ends.append(len(text))  # lines from all over it were held out
        elif corpus.get("sha256") == digest and isinstance(end, int) and end >= 0:
            # Byte-level models count bytes.
            byte_level = model.vocabulary.level == "byte"
            counts_bytes = byte_level and not in_bytes
            ends.append(len(text.encode()[:end].decode(errors="ignore")) if counts_bytes else end)
    if not ends:
        terminal.say(f"assuming that the first 90 % of {path} were used for training")
    return max(ends, default=int(_TRAINED_ON * len(text)))


class _Reading(Record):
    """How to turn the bytes of files into the text to measure.

    Attributes:
        encoding: the encoding, if one was given.
        in_bytes: whether each byte counts as a character.
        of_lines: whether the texts are lists, whose Windows line endings are read as newlines.
    """

    encoding: str | None
    in_bytes: bool
    of_lines: bool

    def text(self, data: bytes, path: Path) -> str:
        """The text of a file's bytes."""
        if not self.in_bytes:
            text = str(texts.text_of(data, texts.name_of(path), self.encoding))
        else:
            # Items are generated as text, with replacement characters.
            text = data.decode(errors="replace") if self.of_lines else data.decode("latin-1")
        return str(texts.unix_lines(text)) if self.of_lines else text


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def main() -> NoReturn:
    """The entry point of charrnn-quality."""
    terminal.run(app, "charrnn-quality", options={"prompt": "--prime", "max_batch_size": "--batch"})


if __name__ == "__main__":
    main()
