"""charrnn-gen: generate text with a model and stream it to stdout."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from charrnn_runtime.cli import gen_beam, gen_inputs, gen_items, gen_texts, outputs, terminal, texts
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
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.version import __version__

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
            help="Characters to generate, not counting the prompt. Longer items are discarded.",
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
            help="How to handle unknown characters in a prompt: error, skip (drop them), or normalize "
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
    if greedy:
        gen_inputs.check_greedy(temperature, top_k, top_p, min_p)
    if sum(given is not None for given in (prompt, prompt_file, prompts_file)) > 1:
        raise SettingError("--prime, --prime-file and --primes-file exclude each other; give one of them")
    gen_inputs.check_encoding(encoding, files=bool(prompt_file or prompts_file or new))
    items_wanted = gen_items.are_wanted(
        lines,
        unique=unique,
        new=new is not None,
        length=length,
        greedy=greedy,
        running_text={
            "--streams": streams is not None,
            "--prime-file": prompt_file is not None,
            "--primes-file": prompts_file is not None,
            "--stop": bool(stop),
            "--logprobs": logprobs is not None,
            "--raw": raw,
            "--interactive": interactive,
            "--beam": beam is not None,
        },
    )
    if beam is not None:
        gen_beam.check(
            beam,
            {
                "--temperature": temperature != spec.DEFAULT_TEMPERATURE,
                "--top-k": top_k is not None,
                "--top-p": top_p != 1.0,
                "--min-p": min_p != 0.0,
                "--greedy": greedy,
                "--seed": seed is not None,
                "--streams": streams is not None,
                "--primes-file": prompts_file is not None,
                "--logprobs": logprobs is not None,
                "--interactive": interactive,
            },
        )
    streams = 1 if streams is None else streams
    if prompts_file is not None and streams != 1:
        raise SettingError("--primes-file runs one stream per line, so it excludes --streams")
    one_stream = streams == 1 and prompts_file is None
    if items_wanted is False and one_stream:
        _reject_batch(batch)
    if interactive and (as_json or output or streams != 1 or prompt_file or prompts_file):
        raise SettingError(
            "--interactive streams one text to stdout; it excludes --json, --output, "
            "--streams, --prime-file and --primes-file"
        )
    if raw and (as_json or interactive or streams != 1 or prompts_file):
        raise SettingError(
            "--raw writes only the bytes of one stream; it excludes --json, "
            "--interactive, --streams and --primes-file"
        )
    if logprobs is not None and not as_json:
        raise SettingError("--logprobs requires --json: add --json, or omit --logprobs")
    if force and not output:
        raise SettingError("--force requires --output")
    outputs.refuse_to_replace("--output", output, model_path, prompt_file, prompts_file, new)

    # onnxruntime is slow to import, and neither --help nor usage errors need it.
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.uniforms import check_seed, draw_seed

    sampling = Sampling(temperature, 1 if greedy else top_k, top_p, min_p)
    request = gen_texts.TextRequest(
        prompts=gen_inputs.prompts(prompt, prompt_file, prompts_file, streams, encoding),
        streams=streams if prompts_file is None else None,
        length=length,
        sampling=sampling,
        stop=tuple(stop or ()),
        seed=draw_seed() if seed is None else check_seed(seed),
        unknown=unknown,  # type: ignore[arg-type]
        batch=batch,
        with_prompt=not no_prompt,
        raw=raw,
        as_json=as_json,
        logprobs=logprobs,
    )
    known = None if new is None else texts.read_bytes(new)
    begin = time.perf_counter()
    model = CharRNN.load(model_path, device=device, threads=threads)
    load_seconds = time.perf_counter() - begin
    info = model.info
    if items_wanted is None:
        items_wanted = info.lines
        if not items_wanted:
            _reject_batch(batch)
    how = f"{beam} beams" if beam is not None else f"seed {request.seed}"
    terminal.say(
        f"{model_path}: {info.cell} {info.layers}x{info.hidden_size} {info.precision} on {model.device}, "
        f"{how}"
    )
    if model.device_note:
        terminal.say(f"running on the CPU: {model.device_note}")
    begin = time.perf_counter()
    failure: CharRNNError | None = None
    clock = gen_texts.ReadingClock()
    if interactive:
        characters = gen_texts.converse(model, request, prompt)
    else:
        with ExitStack() as stack:
            if output is None or outputs.is_stdout(output):
                stream = terminal.stdout(instead="; give --output FILE").buffer

                def write(data: bytes) -> None:
                    stream.write(data)
                    stream.flush()

                shown = gen_texts.how_shown(stream)
            else:
                file = stack.enter_context(terminal.new_file(output, force=force))

                def write(data: bytes) -> None:
                    file.write(data)

                shown = gen_texts.Shown.not_at_all
            if items_wanted:
                items = gen_items.ItemsRequest(
                    count=gen_items.default_count(greedy=greedy) if lines is None else lines,
                    prompt=next(request.prompts(model)),
                    length=length,
                    unique=unique,
                    new=frozenset()
                    if new is None or known is None
                    else gen_inputs.known_items(model, known, texts.name_of(new), encoding),
                    new_name=None if new is None else texts.name_of(new),
                    sampling=request.sampling,
                    seed=request.seed,
                    unknown=request.unknown,
                    rows=batch,
                    with_prompt=not no_prompt,
                    as_json=as_json,
                )
                gen_texts.say_skipped(model, items.prompt, items.unknown)
                characters, failure = gen_items.write_items(
                    model, items, write, bar_wanted=shown is not gen_texts.Shown.now
                )
            elif beam is not None:
                characters = gen_beam.write(model, request, beam, write)
            else:
                single = request.streams == 1 and not as_json
                work = gen_texts.write_one if single else gen_texts.write_many
                characters = work(model, request, write, shown, clock)
    seconds = time.perf_counter() - begin
    if stats:
        seconds -= clock.seconds
        read = f"; {clock.characters:,} prompt characters read in {clock.seconds:.3f} s"
        terminal.say(
            f"{characters:,} characters in {seconds:.3f} s: {characters / max(seconds, 1e-9):,.0f} "
            f"characters per second on {model.device}; model loaded in {load_seconds * 1000:.0f} ms"
            f"{read if clock.characters else ''}"
        )
    if failure is not None:
        raise failure


def _reject_batch(batch: int | None) -> None:
    """Reject ``--batch`` for a single stream."""
    if batch is not None:
        raise SettingError(
            "--batch requires several streams: give --streams, --primes-file or --lines too, or omit it"
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
