"""charrnn-gen's running text: a single stream, several streams in order, or an interactive session."""

from __future__ import annotations

import codecs
import enum
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from charrnn_runtime.cli import terminal, texts
from charrnn_runtime.cli.gen_inputs import stop_texts
from charrnn_runtime.cli.line_editor import edited_line, line_editor_is_there
from charrnn_runtime.errors import UnknownCharacterError, one_line
from charrnn_runtime.record import Record

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN
    from charrnn_runtime.options import Options
    from charrnn_runtime.sampling import Sampling
    from charrnn_runtime.texts import Generated
    from charrnn_runtime.vocabulary import Unknown, Vocabulary

_Write = Callable[[bytes], None]


class TextRequest(Record):
    """The validated command line.

    Attributes:
        prompts: the prompts of the streams, as text or bytes depending on the model's level.
        streams: the number of streams; None for one per line of a file.
        length: the number of characters that each stream generates.
        sampling: the sampling settings.
        stop: the texts that end a stream, as on the command line; see `gen_inputs.stop_texts`.
        seed: the seed.
        unknown: how to handle unknown characters in a prompt.
        batch: the number of streams to run at once; None for the device's default.
        with_prompt: whether to write the prompt.
        raw: whether to write raw bytes.
        as_json: whether to write each stream as a JSON object.
        logprobs: the number of most likely characters to give log probabilities for, if any.
    """

    prompts: Callable[[CharRNN], Iterator[str | bytes]]
    streams: int | None
    length: int
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    unknown: Unknown
    batch: int | None
    with_prompt: bool
    raw: bool
    as_json: bool
    logprobs: int | None


def say_skipped(model: CharRNN, prompt: str | bytes, unknown: str) -> None:
    """Report which characters of the prompt are dropped or rewritten, if any."""
    vocabulary = model.vocabulary
    if unknown == "error" or not isinstance(prompt, str):
        return
    dropped = vocabulary.unknown_characters(prompt)
    other = vocabulary.normalize(prompt) if dropped else prompt
    if dropped and unknown == "skip":
        shown = ", ".join(repr(character) for character in dropped[:10])
        kept = "" if other == prompt else "; --unknown normalize keeps those that have a known form"
        terminal.say(f"skipped unknown characters in the prompt: {shown}{kept}")
    elif other != prompt:
        terminal.say(f"the prompt is read as {one_line(other)!r}, the Unicode form that the model knows")


class Shown(enum.Enum):
    """Whether the user sees output while it is written."""

    now = "a terminal"
    perhaps = "a pipe, whose reader may show it, such as tee"
    not_at_all = "a file"


def how_shown(stream: BinaryIO) -> Shown:
    """Whether the user sees what is written to stdout immediately."""
    if stream.isatty():
        return Shown.now
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # not backed by a file descriptor
        is_pipe = False
    return Shown.perhaps if is_pipe else Shown.not_at_all


class ReadingClock:
    """Measures the time spent reading prompts, until the first character is sampled.

    Attributes:
        characters: the number of prompt characters read.
        seconds: the time that took.
    """

    def __init__(self) -> None:
        self.characters, self.seconds = 0, 0.0
        self._begin: float | None = None

    def begin(self, characters: int) -> None:
        """Start reading this many prompt characters."""
        self.characters, self._begin = characters, time.perf_counter()

    def sampled(self, characters: int) -> None:
        """Record that this many characters were sampled; may be 0."""
        if characters and self._begin is not None:
            self.seconds, self._begin = time.perf_counter() - self._begin, None


def write_one(model: CharRNN, request: TextRequest, write: _Write, shown: Shown, clock: ReadingClock) -> int:
    """Generate one stream incrementally. Returns the number of characters."""
    prompt = next(request.prompts(model))
    say_skipped(model, prompt, request.unknown)
    stop = stop_texts(model, request.stop)
    clock.begin(_size(model, prompt))
    show = _Writer(model, write, raw=request.raw)
    done = 0
    with (
        terminal.LateBar(request.length, "generating", wanted=shown is Shown.not_at_all) as bar,
        model.stream_bytes(
            prompt, request.length, echo=request.with_prompt, **_options(request, stop)
        ) as chunks,
    ):
        for chunk in chunks:
            clock.sampled(chunks.generated)
            show(chunk)
            bar.advance(chunks.generated - done)
            done = chunks.generated
    show.finish(ends_line=shown is Shown.now and not request.raw)
    return chunks.generated


def _size(model: CharRNN, prompt: str | bytes) -> int:
    """The number of characters (bytes at the byte level) that a model reads from a prompt."""
    return len(
        prompt.encode(errors="ignore")
        if isinstance(prompt, str) and model.vocabulary.level == "byte"
        else prompt
    )


class _Writer:
    """Writes the output of one stream: raw bytes, or text that is always valid UTF-8."""

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
        """Flush pending bytes, and optionally terminate an unfinished line."""
        self(b"", final=True)
        if ends_line and self._last != b"\n":
            self._write(b"\n")


def write_many(model: CharRNN, request: TextRequest, write: _Write, shown: Shown, clock: ReadingClock) -> int:
    """Generate many streams and write them in order. Returns the number of characters."""
    characters = 0
    given = list(request.prompts(model))
    stop = stop_texts(model, request.stop)
    bar = terminal.LateBar(len(given) * request.length, "generating", wanted=shown is not Shown.now)

    def progress(amount: int) -> None:
        nonlocal characters
        clock.sampled(amount)
        characters += amount
        bar.advance(amount)

    def prompts() -> Iterator[str | bytes]:
        said = None
        for prompt in given:
            if prompt != said:
                say_skipped(model, prompt, request.unknown)
                said = prompt
            yield prompt

    ends_line = True
    clock.begin(sum(_size(model, each) for each in given))
    try:
        for done in model.generate_each(
            prompts(),
            request.length,
            logprobs=request.logprobs,
            max_batch_size=request.batch,
            on_progress=progress,
            **_options(request, stop),
        ):
            if request.as_json:
                # The model's path may not be UTF-8 (surrogates in Python); JSON escapes preserve it.
                line = json.dumps(_record(model, request, stop, done), ensure_ascii=False)
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


def _text(request: TextRequest, done: Generated) -> str:
    """The text of a stream to show."""
    return done.data.decode(errors="replace") if request.with_prompt else done.text


def _record(model: CharRNN, request: TextRequest, stop: list[str], done: Generated) -> dict[str, Any]:
    """A stream as a JSON object."""
    record = {
        "stream": done.index,
        "prompt": done.prompt,
        "text": _text(request, done),
        "seed": request.seed,
        "settings": {"length": request.length, **request.sampling.as_dict(), "stop": as_given(stop)},
        "finish_reason": done.finish_reason,
        "device": model.device,
        "model": {"path": model.info.path, "sha256": model.info.sha256},
    }
    if done.logprobs is not None:
        record["logprobs"] = _logprobs(model.vocabulary, done)
    return record


def _logprobs(vocabulary: Vocabulary, done: Generated) -> list[dict[str, Any]]:
    """The log probability of each generated character, and of the most likely ones at its position."""
    logprobs = done.logprobs
    assert logprobs is not None
    byte_level = vocabulary.level == "byte"
    symbols: Sequence[str | int] = range(len(vocabulary)) if byte_level else vocabulary.symbols
    written = done.data[len(done.data) - len(logprobs) :] if byte_level else done.text
    return [
        {
            "character": character,
            "logprob": round(value, 6),
            "most_likely": [[symbols[one], round(each, 6)] for one, each in zip(ids, values, strict=True)],
        }
        for character, value, ids, values in zip(
            written,
            logprobs.chosen.tolist(),
            logprobs.most_likely.tolist(),
            logprobs.values.tolist(),
            strict=True,
        )
    ]


def as_given(stop: list[str]) -> list[str] | str | None:
    """Stop texts in the form that Python callers use: a list, a single string, or None."""
    return stop if len(stop) > 1 else stop[0] if stop else None


def _options(request: TextRequest, stop: list[str]) -> Options:
    """Options shared by all ways of generating."""
    return {
        "seed": request.seed,
        "sampling": request.sampling,
        "stop": stop,
        "unknown": request.unknown,
    }


def converse(model: CharRNN, request: TextRequest, prompt: str | None) -> int:
    """Read prompts line by line and continue each from the current state. Returns the character count."""
    stream = terminal.stdout()
    source = terminal.source()
    first = None if prompt is None else next(request.prompts(model))
    asks = source.isatty()
    state = model.initial_state()
    stop = stop_texts(model, request.stop)
    characters = 0
    for line in _lines(model, source, asks, first):
        say_skipped(model, line, request.unknown)
        try:
            text = model.stream(
                line,
                request.length,
                state=state,
                **_options(request, stop),
            )
        except UnknownCharacterError as error:
            if not asks:
                raise
            terminal.say(terminal.in_options(error))
            continue
        if request.with_prompt and not asks:
            stream.write(model.vocabulary.decode(model.vocabulary.encode(line, request.unknown)))
        for chunk in text:
            stream.write(chunk)
            stream.flush()
        stream.write("\n")
        stream.flush()
        state = text.state
        characters += text.generated
    return characters


def _lines(model: CharRNN, source: BinaryIO, asks: bool, first: str | bytes | None) -> Iterator[str | bytes]:
    if first is not None:
        yield first
    edits = asks and line_editor_is_there()
    while True:
        if asks:
            terminal.say("prompt (empty line: continue; Ctrl-D: quit):")
        line = edited_line() if edits else source.readline()
        if not line:
            return
        line = line.rstrip(b"\r\n")
        yield texts.text_of(line, "the line", as_bytes=model.vocabulary.level == "byte")
