"""charrnn-gen: generate text with a model and stream it to stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from charrnn_runtime.cli import gen_beam, gen_given, gen_items, gen_texts, outputs, terminal, texts
from charrnn_runtime.cli.option_values import (
    MIN_P,
    SEED,
    STREAMS,
    TEMPERATURE,
    THREADS,
    TOP_K,
    TOP_P,
    number,
    one_of,
)
from charrnn_runtime.errors import CharRNNError
from charrnn_runtime.format import spec
from charrnn_runtime.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-gen models/lstm.onnx --prime "LORD "
  charrnn-gen models/lstm.onnx -p "KING" -n 300 -t 0.5 --seed 7
  charrnn-gen models/lstm.onnx --prime "To be" --greedy --length 80
  charrnn-gen models/lstm.onnx --streams 3 --length 60 --json
  charrnn-gen models/lstm.onnx -p "ROMEO:" --stop ":" --no-prime --stats
  charrnn-gen models/lstm.onnx -p "KING " --lines 3 --unique
  charrnn-gen models/lstm.onnx -p "KING " --beam 16 --length 40
"""


@app.command(epilog=EXAMPLES)
def generate(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to run.")],
    prompt: Annotated[
        str | None, typer.Option("--prime", "-p", metavar="TEXT", help="Prompt: the text to continue.")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prime-file",
            metavar="FILE",
            help="Read the prompt from a file, verbatim (- for standard input).",
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--primes-file",
            metavar="FILE",
            help="Read one prompt per line from a file (- for standard input).",
        ),
    ] = None,
    length: Annotated[
        int,
        typer.Option(
            "--length",
            "-n",
            help="Characters to generate, not counting the prompt. Longer items are skipped.",
            **number(int, "CHARACTERS", 0),
        ),
    ] = spec.DEFAULT_LENGTH,
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
    min_p: Annotated[
        float,
        typer.Option(
            help="Sample from characters with at least this fraction of the most likely one's probability.",
            **MIN_P,
        ),
    ] = 0.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely character.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-s", help="Random seed, for reproducible texts. [default: random]", **SEED),
    ] = None,
    streams: Annotated[
        int | None, typer.Option(help="Number of texts to generate. [default: 1]", **STREAMS)
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(
            help="Number of items to write, one per line; each stream generates one item and ends at a "
            f"newline. [default: {spec.DEFAULT_ITEMS} for models trained with --lines, and with --unique "
            "or --new]",
            **number(int, "ITEMS", allowed="a whole number from 1"),
        ),
    ] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Skip items that were already written.")] = False,
    new: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Skip items that are lines of this file (- for standard input)."),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Stop before this text; may be repeated. \\n stands for a newline, \\t for a tab and \\r "
            "for a carriage return, unless the model's vocabulary has a backslash: then the text is taken "
            "literally.",
        ),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            help="Search for the most likely text with this many beams instead of sampling. With --json, "
            "print every text found, most likely first.",
            **number(int, "BEAMS", 1, spec.MAX_STREAMS),
        ),
    ] = None,
    unknown: Annotated[
        str,
        typer.Option(
            help="How to handle unknown characters in a prompt: error, skip (ignore them), or normalize "
            "(use the Unicode form that the model knows).",
            **one_of(spec.UNKNOWN),
        ),
    ] = "error",
    encoding: texts.EncodingOption = None,
    device: terminal.DeviceOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads; a single stream uses one. [default: the number of cores]", **THREADS),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Streams to run at once. [default: depends on the device]", **STREAMS),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to a file instead of stdout (-), atomically."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace an existing file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for each stream or item.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="With --json: include the log probability of each character and of the N most likely "
            "characters at its position.",
            **number(int, "N", allowed="a whole number from 0"),
        ),
    ] = None,
    no_prompt: Annotated[bool, typer.Option("--no-prime", help="Do not print the prompt.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the raw bytes of a byte-level model, valid UTF-8 or not.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the speed, device and load time.")] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive", "-i", help="Read prompts line by line; each continues from the current state."
        ),
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Generate text with a model exported by charrnn-export.

    Text goes to stdout as it is generated, messages to stderr.

    Models trained with --lines, on names or other lists, write items, one per line. Other models do so with
    --lines, --unique or --new if they write newlines. Empty lines and lines longer than --length are skipped
    and counted on stderr. Generation stops early if 10,000 streams in a row, or streams with a million
    characters in all, yield no new item. --streams 1 gives running text with any model.
    """
    given = gen_given.Given(
        model_path=model_path,
        prompt=prompt,
        prompt_file=prompt_file,
        prompts_file=prompts_file,
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        greedy=greedy,
        seed=seed,
        streams=streams,
        lines=lines,
        unique=unique,
        new=new,
        stop=tuple(stop or ()),
        beam=beam,
        unknown=unknown,  # type: ignore[arg-type]
        encoding=encoding,
        batch=batch,
        output=output,
        force=force,
        as_json=as_json,
        logprobs=logprobs,
        with_prompt=not no_prompt,
        raw=raw,
        interactive=interactive,
    )
    gen_given.check(given)

    # onnxruntime is slow to import, and neither --help nor usage errors need it.
    from charrnn_runtime.model import CharRNN

    request = gen_given.request_of(given)
    known = None if new is None else texts.read_bytes(new)
    begin = time.perf_counter()
    model = CharRNN.load(model_path, device=device, threads=threads)
    load_seconds = time.perf_counter() - begin
    items_wanted = gen_given.wants_items(given)
    if items_wanted is None:
        items_wanted = model.info.lines
        if not items_wanted:
            gen_given.check_batch(given)
    _say_what_runs(model, given, request)
    begin = time.perf_counter()
    failure: CharRNNError | None = None
    clock = gen_texts.ReadingClock()
    if interactive:
        characters = gen_texts.converse(model, request, prompt)
    else:
        with _writing(output, force=force) as (write, shown):
            if items_wanted:
                items = gen_given.items_of(given, request, model, known)
                gen_texts.say_skipped(model, items.prompt, items.unknown)
                bar_wanted = shown is not gen_texts.Shown.now
                characters, failure = gen_items.write_items(model, items, write, bar_wanted=bar_wanted)
            elif beam is not None:
                characters = gen_beam.write(model, request, beam, write)
            else:
                single = request.streams == 1 and not as_json
                work = gen_texts.write_one if single else gen_texts.write_many
                characters = work(model, request, write, shown, clock)
    if stats:
        _say_speed(model, characters, time.perf_counter() - begin, load_seconds, clock)
    if failure is not None:
        raise failure


def _say_what_runs(model: CharRNN, given: gen_given.Given, request: gen_texts.TextRequest) -> None:
    info = model.info
    how = f"seed {request.seed}" if given.beam is None else f"{given.beam} beams"
    terminal.say(
        f"{given.model_path}: {info.cell} {info.layers}x{info.hidden_size} {info.precision} on "
        f"{model.device}, {how}"
    )
    if model.device_note:
        terminal.say(f"running on the CPU: {model.device_note}")


@contextmanager
def _writing(
    output: Path | None, *, force: bool
) -> Iterator[tuple[Callable[[bytes], None], gen_texts.Shown]]:
    """A function that writes to a file, or to stdout at once; and whether the user sees it."""
    if output is not None and not outputs.is_stdout(output):
        with terminal.new_file(output, force=force) as file:

            def write_to_file(data: bytes) -> None:
                file.write(data)

            yield write_to_file, gen_texts.Shown.not_at_all
        return
    stream = terminal.stdout(instead="; give --output FILE").buffer

    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    yield write, gen_texts.how_shown(stream)


def _say_speed(
    model: CharRNN, characters: int, seconds: float, load_seconds: float, clock: gen_texts.ReadingClock
) -> None:
    seconds -= clock.seconds
    read = f"; {clock.characters:,} prompt characters read in {clock.seconds:.3f} s"
    terminal.say(
        f"{characters:,} characters in {seconds:.3f} s: {characters / max(seconds, 1e-9):,.0f} "
        f"characters per second on {model.device}; model loaded in {load_seconds * 1000:.0f} ms"
        f"{read if clock.characters else ''}"
    )


def main() -> NoReturn:
    """The entry point of charrnn-gen."""
    terminal.run(
        app,
        "charrnn-gen",
        options={"prompt": "--prime", "max_batch_size": "--batch", "count": "--lines", "beams": "--beam"},
    )


if __name__ == "__main__":
    main()
