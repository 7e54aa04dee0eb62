"""charrnn-gen's running text: one stream as it comes, many one after the other, or a conversation."""

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
    """What the command line asks for, once it is checked.

    Attributes:
        prompts: what the streams begin with, in the form that a model reads.
        streams: how many they are; None for one for each line of a file.
        length: how many characters each generates.
        sampling: how the next character is chosen.
        stop: the texts that end a stream, as the command line has them; see `gen_inputs.stop_texts`.
        seed: the seed.
        unknown: what happens to characters of a prompt that the model does not know.
        batch: how many streams run at once; None for the device's default.
        with_prompt: whether the prompt is written.
        raw: whether bytes are written as they are.
        as_json: whether each stream is an object.
        logprobs: for how many of the most likely characters to give log-probabilities, if any.
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
    """Say what a prompt is without the characters that are dropped, or written otherwise, where some are."""
    vocabulary = model.vocabulary
    if unknown == "error" or not isinstance(prompt, str):
        return
    dropped = vocabulary.unknown_characters(prompt)
    other = vocabulary.normalize(prompt) if dropped else prompt
    if dropped and unknown == "skip":
        shown = ", ".join(repr(character) for character in dropped[:10])
        kept = (
            "" if other == prompt else "; --unknown normalize keeps those that it knows in their other form"
        )
        terminal.say(f"dropped from the prompt, since the model does not know them: {shown}{kept}")
    elif other != prompt:
        terminal.say(f"the prompt is read as {one_line(other)!r}, in the Unicode form that the model knows")


class Shown(enum.Enum):
    """Whether the user sees what is written while it is written."""

    now = "a terminal"
    perhaps = "a pipe, whose reader may show it, as tee does"
    not_at_all = "a file"


def how_shown(stream: BinaryIO) -> Shown:
    """Whether the user sees what is written to stdout."""
    if stream.isatty():
        return Shown.now
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # no file of the system's
        is_pipe = False
    return Shown.perhaps if is_pipe else Shown.not_at_all


class ReadingClock:
    """How long prompts were read before the first character was sampled.

    Attributes:
        characters: how many were read.
        seconds: how long that took.
    """

    def __init__(self) -> None:
        self.characters, self.seconds = 0, 0.0
        self._begin: float | None = None

    def begin(self, characters: int) -> None:
        """So many characters are read from now on."""
        self.characters, self._begin = characters, time.perf_counter()

    def sampled(self, characters: int) -> None:
        """So many characters came, perhaps none."""
        if characters and self._begin is not None:
            self.seconds, self._begin = time.perf_counter() - self._begin, None


def write_one(model: CharRNN, request: TextRequest, write: _Write, shown: Shown, clock: ReadingClock) -> int:
    """One stream, as it comes; gives the number of characters."""
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
    """How many characters a model reads of a prompt: bytes, at the byte level."""
    return len(
        prompt.encode(errors="ignore")
        if isinstance(prompt, str) and model.vocabulary.level == "byte"
        else prompt
    )


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


def write_many(model: CharRNN, request: TextRequest, write: _Write, shown: Shown, clock: ReadingClock) -> int:
    """Many streams, each when it and those before it are done; gives the number of characters."""
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
                # The model's path may hold what is not UTF-8 (surrogates in Python): JSON escapes it just so.
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
    """What is shown of a stream."""
    return done.data.decode(errors="replace") if request.with_prompt else done.text


def _record(model: CharRNN, request: TextRequest, stop: list[str], done: Generated) -> dict[str, Any]:
    """One stream as a JSON object."""
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
    """The log-probability of each character that was generated, and those of the most likely in its place."""
    logprobs = done.logprobs
    assert logprobs is not None
    byte_level = vocabulary.level == "byte"
    symbols: Sequence[str | int] = range(len(vocabulary)) if byte_level else vocabulary.symbols
    written = done.data[len(done.data) - len(logprobs) :] if byte_level else done.text
    return [
        {
            "character": character,
            "logprob": round(value, 6),
            "likeliest": [[symbols[one], round(each, 6)] for one, each in zip(ids, values, strict=True)],
        }
        for character, value, ids, values in zip(
            written,
            logprobs.chosen.tolist(),
            logprobs.likeliest.tolist(),
            logprobs.values.tolist(),
            strict=True,
        )
    ]


def as_given(stop: list[str]) -> list[str] | str | None:
    """Stop texts as Python takes them: one, several, or none."""
    return stop if len(stop) > 1 else stop[0] if stop else None


def _options(request: TextRequest, stop: list[str]) -> Options:
    """What all ways of generating are given."""
    return {
        "seed": request.seed,
        "sampling": request.sampling,
        "stop": stop,
        "unknown": request.unknown,
    }


def converse(model: CharRNN, request: TextRequest, prompt: str | None) -> int:
    """Read one prompt per line, continue it, and keep the state; gives the number of characters."""
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
