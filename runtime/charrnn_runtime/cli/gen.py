"""charrnn-gen: generates text with a model, to stdout as it comes."""

from __future__ import annotations

import codecs
import enum
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NoReturn

import typer

from charrnn_runtime import __version__
from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.texts import Generated

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-gen models/lstm.onnx --prime "LORD "
  charrnn-gen models/lstm.onnx -p "KING" -n 300 -t 0.5 --seed 7
  charrnn-gen models/lstm.onnx --prime "To be" --greedy --length 80
  charrnn-gen models/lstm.onnx --streams 3 --length 60 --json
  charrnn-gen models/lstm.onnx -p "ROMEO:" --stop ":" --no-prime --stats
"""

_Write = Callable[[bytes], None]


class _Request(Record):
    """What the command line asks for, once it is checked."""

    primes: Callable[[CharRNN], Iterator[str | bytes]]
    streams: int | None
    length: int
    settings: dict[str, Any]
    seed: int
    unknown: Literal["error", "skip"]
    rows: int | None
    with_prime: bool
    raw: bool
    as_json: bool


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
    ] = spec.DEFAULT_LENGTH,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Below 1 the likely becomes likelier.")
    ] = spec.DEFAULT_TEMPERATURE,
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
        int | None,
        typer.Option(help="How many of the streams run at once. [default: as suits the device]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file, whole or not at all.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a stream, one a line.")] = False,
    no_prime: Annotated[bool, typer.Option("--no-prime", help="Leave the prime out of the output.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bytes of a byte-level model as they are, UTF-8 or not.")
    ] = False,
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
    if streams < 1 or streams > spec.MAX_STREAMS:
        raise SettingError(f"--streams must be between 1 and {spec.MAX_STREAMS:,}, not {streams:,}")
    if batch is not None and not 1 <= batch <= spec.MAX_STREAMS:
        raise SettingError(f"--batch must be between 1 and {spec.MAX_STREAMS:,}, not {batch:,}")
    if primes_file is not None and streams != 1:
        raise SettingError("--primes-file has a stream for each line, so it takes no --streams")
    if batch is not None and streams == 1 and primes_file is None:
        raise SettingError(
            "--batch is for many streams: give --streams or --primes-file too, or leave it out"
        )
    if interactive and (as_json or output or streams != 1 or prime_file or primes_file):
        raise SettingError(
            "--interactive writes one stream to stdout as it comes; it goes with none of --json, --output, "
            "--streams, --prime-file and --primes-file"
        )
    if raw and (as_json or interactive or streams != 1 or primes_file):
        raise SettingError(
            "--raw writes the bytes of one stream and nothing else; it goes with none of --json, "
            "--interactive, --streams and --primes-file"
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
            "stop": None if stop is None else _given_text(stop),
        },
        seed=draw_seed() if seed is None else check_seed(seed),
        unknown="skip" if unknown == "skip" else "error",
        rows=batch,
        with_prime=not no_prime,
        raw=raw,
        as_json=as_json,
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
                stream = terminal.product(instead="; give --output FILE").buffer

                def write(data: bytes) -> None:
                    stream.write(data)
                    stream.flush()

                shown = _how_shown(stream)
            else:
                file = stack.enter_context(terminal.new_file(output, force=force))

                def write(data: bytes) -> None:
                    file.write(data)

                shown = _Shown.not_at_all
            single = request.streams == 1 and not as_json
            work = _write_one if single else _write_many
            characters = work(model, request, write, shown)
    seconds = time.perf_counter() - begin
    if stats:
        terminal.say(
            f"{characters:,} characters in {seconds:.3f} s: {characters / max(seconds, 1e-9):,.0f} "
            f"characters a second on {model.device}; loaded in {load_seconds * 1000:.0f} ms"
        )


def _primes(
    prime: str | None, prime_file: Path | None, primes_file: Path | None, streams: int
) -> Callable[[CharRNN], Iterator[str | bytes]]:
    """The primes of all streams, in the form that a model reads."""
    if primes_file is not None:
        many = _read(primes_file)
        return lambda model: iter(_split_lines(_form(model, many, _name(primes_file))))
    if prime_file is not None:
        data = _read(prime_file)
        return lambda model: iter([_form(model, data, _name(prime_file))] * streams)
    given = _given_text(prime or "")
    return lambda model: iter([_given_bytes(given) if model.vocabulary.level == "byte" else given] * streams)


def _name(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _read(path: Path) -> bytes:
    """A file's bytes, or standard input's."""
    if str(path) == "-":
        return terminal.source().read()
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise CharRNNError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _form(model: CharRNN, data: bytes, name: str) -> str | bytes:
    """What was read in the form that a model reads: the very bytes, or the text of UTF-8.

    A byte-order mark, as Windows programs write it, is no part of a text; training leaves it out, too.
    """
    if model.vocabulary.level == "byte":
        return data
    return terminal.decode(data, name).removeprefix("\ufeff")


def _given_text(argument: str) -> str:
    """A text from the command line, which is UTF-8 even where the locale knows ASCII alone.

    Python keeps the bytes that the locale cannot decode as surrogates, which no vocabulary knows.
    """
    try:
        return _given_bytes(argument).decode()
    except UnicodeError:
        return argument


def _given_bytes(argument: str) -> bytes:
    """The bytes of a text from the command line, UTF-8 or not."""
    try:
        return argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument)


def _split_lines(text: str | bytes) -> list[str] | list[bytes]:
    """The lines of a text. str.splitlines would part lines at form feeds and other characters, too."""
    lines = (text.encode() if isinstance(text, str) else text).split(b"\n")
    if not lines[-1]:
        lines.pop()  # the file ends with the end of a line
    lines = [line.removesuffix(b"\r") for line in lines]
    return [line.decode() for line in lines] if isinstance(text, str) else lines


def _say_skipped(model: CharRNN, prime: str | bytes, unknown: str) -> None:
    if unknown == "skip":
        dropped = model.vocabulary.unknown_characters(prime)
        if dropped:
            shown = ", ".join(repr(character) for character in dropped[:10])
            terminal.say(f"dropped from the prime, since the model does not know them: {shown}")


class _Shown(enum.Enum):
    """Whether the user sees what is written while it is written."""

    now = "a terminal"
    perhaps = "a pipe, whose reader may show it, as tee does"
    not_at_all = "a file"


def _how_shown(stream: BinaryIO) -> _Shown:
    if stream.isatty():
        return _Shown.now
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # no file of the system's
        is_pipe = False
    return _Shown.perhaps if is_pipe else _Shown.not_at_all


def _write_one(model: CharRNN, request: _Request, write: _Write, shown: _Shown) -> int:
    """One stream, as it comes; gives the number of characters."""
    prime = next(request.primes(model))
    _say_skipped(model, prime, request.unknown)
    show = _Writer(model, write, raw=request.raw)
    done = 0
    with (
        terminal.LateBar(request.length, "generating", wanted=shown is _Shown.not_at_all) as bar,
        model.stream_bytes(
            prime, request.length, seed=request.seed, unknown=request.unknown, **request.settings
        ) as pieces,
    ):
        if request.with_prime:
            show(model.vocabulary.decode_bytes(model.vocabulary.encode(prime, request.unknown)))
        for piece in pieces:
            show(piece)
            bar.advance(pieces.generated - done)
            done = pieces.generated
    show.finish(ends_line=shown is _Shown.now and not request.raw)
    return pieces.generated


class _Writer:
    """Writes what one stream gives: raw, or as text, which is always whole UTF-8."""

    def __init__(self, model: CharRNN, write: _Write, *, raw: bool) -> None:
        self._write = write
        self._as_it_is = raw or model.vocabulary.level == "char"
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._last = b"\n"

    def __call__(self, data: bytes, *, final: bool = False) -> None:
        if not self._as_it_is:
            data = self._utf8.decode(data, final).encode()
        if data:
            self._write(data)
            self._last = data[-1:]

    def finish(self, *, ends_line: bool) -> None:
        """Write what was held back, and end a line that has begun, if that is wanted."""
        self(b"", final=True)
        if ends_line and self._last != b"\n":
            self._write(b"\n")


def _write_many(model: CharRNN, request: _Request, write: _Write, shown: _Shown) -> int:
    """Many streams, each when it and those before it are done; gives the number of characters."""
    characters = 0
    given = list(request.primes(model))
    bar = terminal.LateBar(len(given) * request.length, "generating", wanted=shown is not _Shown.now)

    def progress(amount: int) -> None:
        nonlocal characters
        characters += amount
        bar.advance(amount)

    def primes() -> Iterator[str | bytes]:
        said = None
        for prime in given:
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
            max_batch_size=request.rows,
            on_progress=progress,
            **request.settings,
        ):
            if request.as_json:
                # The model's path may hold what is no UTF-8 (surrogates in Python): JSON escapes it just so.
                line = json.dumps(_record(model, request, done), ensure_ascii=False)
                write(line.encode(errors="backslashreplace") + b"\n")
                continue
            text = _text(request, done)
            write((("" if ends_line else "\n") + f"==> stream {done.index} <==\n{text}").encode())
            ends_line = text.endswith("\n") or not text
        if not ends_line:
            write(b"\n")
    except UnknownCharacterError as error:
        if request.streams is None and error.index is not None:
            raise error.of(None, f"line {error.index + 1}") from None
        raise error.of(None) from None
    finally:
        bar.close()
    return characters


def _text(request: _Request, done: Generated) -> str:
    """What is shown of a stream."""
    return done.data.decode(errors="replace") if request.with_prime else done.text


def _record(model: CharRNN, request: _Request, done: Generated) -> dict[str, Any]:
    """One stream as a JSON object."""
    return {
        "stream": done.index,
        "prime": done.prime,
        "text": _text(request, done),
        "seed": request.seed,
        "settings": {"length": request.length, **request.settings},
        "device": model.device,
        "model": {"path": model.info.path, "sha256": model.info.sha256},
    }


def _converse(model: CharRNN, request: _Request, prime: str | None) -> int:
    """Read a prime a line, write, and go on from the same state; gives the number of characters."""
    stream = terminal.product()
    source = terminal.source()
    first = None if prime is None else next(request.primes(model))
    asks = source.isatty()
    state = model.initial_state()
    characters = 0
    for line in _lines(model, source, asks, first):
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


def _lines(model: CharRNN, source: BinaryIO, asks: bool, first: str | bytes | None) -> Iterator[str | bytes]:
    if first is not None:
        yield first
    while True:
        if asks:
            terminal.say("prime (an empty line goes on, Ctrl-D ends):")
        line = source.readline()
        if not line:
            return
        line = line.rstrip(b"\r\n")
        yield line if model.vocabulary.level == "byte" else terminal.decode(line, "the line")


def main() -> NoReturn:
    """The entry point of charrnn-gen."""
    terminal.run(app, "charrnn-gen")


if __name__ == "__main__":
    main()
