"""charrnn-gen: generates text with a model, to stdout as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NoReturn

import typer

from charrnn_runtime import __version__, contract
from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError, UnknownCharacterError

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN, Generated

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-gen models/lstm.onnx --prime "LORD "
  charrnn-gen models/lstm.onnx -p "KING" -n 300 -t 0.5 --seed 7
  charrnn-gen models/lstm.onnx --prime "To be" --greedy --length 80
  charrnn-gen models/lstm.onnx --streams 3 --length 60 --json
  charrnn-gen models/lstm.onnx -p "ROMEO:" --stop ":" --no-prime --stats
"""


@dataclass(frozen=True)
class _Request:
    """What the command line asks for, once it is checked."""

    primes: Callable[[], Iterator[str]]
    streams: int | None
    length: int
    settings: dict[str, Any]
    seed: int
    unknown: Literal["error", "skip"]
    rows: int | None
    with_prime: bool


@app.command(epilog=EXAMPLES)
def generate(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to run.")],
    prime: Annotated[str | None, typer.Option("--prime", "-p", help="The text to go on from.")] = None,
    prime_file: Annotated[
        Path | None, typer.Option(help="Take the prime from a file as it is (- for standard input).")
    ] = None,
    primes_file: Annotated[
        Path | None, typer.Option(help="A stream for each line of a file (- for standard input).")
    ] = None,
    length: Annotated[
        int, typer.Option("--length", "-n", help="Characters to generate; the prime is not counted.")
    ] = contract.DEFAULT_LENGTH,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Below 1 the likely becomes likelier.")
    ] = contract.DEFAULT_TEMPERATURE,
    top_k: Annotated[int | None, typer.Option(help="Choose among the K likeliest characters only.")] = None,
    top_p: Annotated[
        float, typer.Option(help="Choose among the likeliest that hold this much of the probability.")
    ] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest character.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", help="The same seed gives the same text. [default: drawn]")
    ] = None,
    streams: Annotated[int, typer.Option(help="How many texts to generate.")] = 1,
    stop: Annotated[str | None, typer.Option(help="End a text before this one appears.")] = None,
    unknown: Annotated[
        str, typer.Option(help="Characters of a prime that the model does not know: error, or skip.")
    ] = "error",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; more than one pays for many streams only.")] = 1,
    batch: Annotated[
        int | None, typer.Option(help="How many streams run at once. [default: as suits the device]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file, whole or not at all.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a stream, one a line.")] = False,
    no_prime: Annotated[bool, typer.Option("--no-prime", help="Leave the prime out of the output.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Say the speed, the device that ran, and the load time.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Read a prime a line, write, go on from there.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Generate text with a model that charrnn-export wrote.

    The text goes to stdout as it comes, everything else to stderr.
    """
    if unknown not in ("error", "skip"):
        raise SettingError(f"--unknown must be error or skip, not {unknown!r}")
    if greedy and top_k is not None:
        raise SettingError("--greedy and --top-k exclude each other: --greedy is --top-k 1")
    if sum(given is not None for given in (prime, prime_file, primes_file)) > 1:
        raise SettingError("give one of --prime, --prime-file and --primes-file")
    if streams < 1 or streams > contract.MAX_STREAMS:
        raise SettingError(f"--streams must be between 1 and {contract.MAX_STREAMS:,}, not {streams:,}")
    if batch is not None and not 1 <= batch <= contract.MAX_STREAMS:
        raise SettingError(f"--batch must be between 1 and {contract.MAX_STREAMS:,}, not {batch:,}")
    if primes_file is not None and streams != 1:
        raise SettingError("--primes-file has a stream for each line, so it takes no --streams")
    if interactive and (as_json or output or streams != 1 or prime_file or primes_file):
        raise SettingError(
            "--interactive writes one stream to stdout as it comes; it goes with none of --json, --output, "
            "--streams, --prime-file and --primes-file"
        )
    if force and not output:
        raise SettingError("--force is for --output")

    # onnxruntime takes its time to import, and --help and a wrong command line need none of it.
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.uniforms import check_seed, draw_seed

    sampling = Sampling(temperature, 1 if greedy else top_k, top_p)
    request = _Request(
        primes=_primes(prime, prime_file, primes_file, streams),
        streams=streams if primes_file is None else None,
        length=length,
        settings={
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "stop": stop,
        },
        seed=draw_seed() if seed is None else check_seed(seed),
        unknown="skip" if unknown == "skip" else "error",
        rows=batch,
        with_prime=not no_prime,
    )
    if length < 0:
        raise SettingError(f"--length must be 0 or more, not {length}")
    begin = time.perf_counter()
    model = CharRNN.load(model_path, device=device, threads=threads)
    load_seconds = time.perf_counter() - begin
    info = model.info
    terminal.say(
        f"{model_path}: {info.cell} {info.layers}x{info.hidden_size} {info.precision} on {model.device}, "
        f"seed {request.seed}"
    )
    if model.device_note:
        terminal.say(f"running on the CPU: {model.device_note}")
    begin = time.perf_counter()
    if interactive:
        characters = _converse(model, request, prime)
    else:
        with ExitStack() as stack:
            if output is None:
                stream = terminal.product()

                def write(text: str) -> None:
                    stream.write(text)
                    stream.flush()

                at_terminal = stream.isatty()
            else:
                file = stack.enter_context(terminal.new_file(output, force=force))

                def write(text: str) -> None:
                    file.write(text.encode())

                at_terminal = False
            single = request.streams == 1 and not as_json
            work = _write_one if single else _write_many
            characters = work(model, request, write, as_json, at_terminal, output is not None)
    seconds = time.perf_counter() - begin
    if stats:
        terminal.say(
            f"{characters:,} characters in {seconds:.3f} s: {characters / max(seconds, 1e-9):,.0f} "
            f"characters a second on {model.device}; loaded in {load_seconds * 1000:.0f} ms"
        )


def _primes(
    prime: str | None, prime_file: Path | None, primes_file: Path | None, streams: int
) -> Callable[[], Iterator[str]]:
    """The primes of all streams, read when they are asked for."""
    if primes_file is not None:
        return lambda: iter(_split_lines(_read_text(primes_file)))
    text = _read_text(prime_file) if prime_file is not None else prime or ""
    return lambda: iter([text] * streams)


def _read_text(path: Path) -> str:
    """A UTF-8 file's text as it is, or standard input's."""
    if str(path) == "-":
        return terminal.decode(terminal.source().read(), "stdin")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return terminal.decode(data, str(path))


def _split_lines(text: str) -> list[str]:
    """The lines of a text. str.splitlines would part lines at form feeds and other characters, too."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # the file ends with the end of a line
    return [line.removesuffix("\r") for line in lines]


def _say_skipped(model: CharRNN, prime: str, unknown: str) -> None:
    if unknown == "skip":
        dropped = model.vocabulary.unknown_characters(prime)
        if dropped:
            shown = ", ".join(repr(character) for character in dropped[:10])
            terminal.say(f"dropped from the prime, since the model does not know them: {shown}")


def _write_one(
    model: CharRNN,
    request: _Request,
    write: Callable[[str], None],
    as_json: bool,
    at_terminal: bool,
    to_file: bool,
) -> int:
    """One stream, as it comes; gives the number of characters."""
    prime = next(request.primes())
    _say_skipped(model, prime, request.unknown)
    text = model.stream(prime, request.length, seed=request.seed, unknown=request.unknown, **request.settings)
    if request.with_prime and prime:
        write(model.vocabulary.decode(model.vocabulary.encode(prime, request.unknown)))
    bar = terminal.LateBar(request.length if to_file else 0, "generating")
    last = "\n"
    shown = 0
    for piece in text:
        write(piece)
        last = piece[-1]
        if to_file:
            bar.advance(text.generated - shown)
            shown = text.generated
    bar.close()
    if at_terminal and last != "\n":
        write("\n")
    return text.generated


def _write_many(
    model: CharRNN,
    request: _Request,
    write: Callable[[str], None],
    as_json: bool,
    at_terminal: bool,
    to_file: bool,
) -> int:
    """Many streams, each when it and those before it are done; gives the number of characters."""
    characters = 0
    bar = terminal.LateBar((request.streams or 0) * request.length, "generating")

    def progress(amount: int) -> None:
        nonlocal characters
        characters += amount
        bar.advance(amount)

    def primes() -> Iterator[str]:
        said = None
        for prime in request.primes():
            if prime != said:
                _say_skipped(model, prime, request.unknown)
                said = prime
            yield prime

    ends_line = True
    try:
        for done in model.generate_each(
            primes(),
            request.length,
            seed=request.seed,
            unknown=request.unknown,
            rows=request.rows,
            on_progress=progress,
            **request.settings,
        ):
            if as_json:
                write(json.dumps(_record(model, request, done), ensure_ascii=False) + "\n")
                continue
            text = (done.prime if request.with_prime else "") + done.text
            write(("" if ends_line else "\n") + f"==> stream {done.index} <==\n{text}")
            ends_line = text.endswith("\n") or not text
        if not ends_line:
            write("\n")
    finally:
        bar.close()
    return characters


def _record(model: CharRNN, request: _Request, done: Generated) -> dict[str, Any]:
    """One stream as a JSON object."""
    return {
        "stream": done.index,
        "prime": done.prime,
        "text": (done.prime if request.with_prime else "") + done.text,
        "seed": request.seed,
        "settings": {"length": request.length, **request.settings},
        "device": model.device,
        "model": {"path": model.info.path, "sha256": model.info.sha256},
    }


def _converse(model: CharRNN, request: _Request, prime: str | None) -> int:
    """Read a prime a line, write, and go on from the same state; gives the number of characters."""
    stream = terminal.product()
    source = terminal.source()
    asks = source.isatty()
    state = model.initial_state()
    characters = 0
    for line in _lines(source, asks, prime):
        _say_skipped(model, line, request.unknown)
        try:
            text = model.stream(
                line,
                request.length,
                state=state,
                seed=request.seed,
                unknown=request.unknown,
                **request.settings,
            )
        except UnknownCharacterError as error:
            if not asks:
                raise
            terminal.say(str(error))
            continue
        if request.with_prime and not asks:
            stream.write(model.vocabulary.decode(model.vocabulary.encode(line, request.unknown)))
        for piece in text:
            stream.write(piece)
            stream.flush()
        stream.write("\n")
        stream.flush()
        state = text.state
        characters += text.generated
    return characters


def _lines(source: BinaryIO, asks: bool, first: str | None) -> Iterator[str]:
    if first is not None:
        yield first
    while True:
        if asks:
            terminal.say("prime (an empty line goes on, Ctrl-D ends):")
        line = source.readline()
        if not line:
            return
        yield terminal.decode(line, "the line").rstrip("\r\n")


def main() -> NoReturn:
    """The entry point of charrnn-gen."""
    terminal.run(app, "charrnn-gen")


if __name__ == "__main__":
    main()
