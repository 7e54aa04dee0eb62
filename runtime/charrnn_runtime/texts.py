"""Conversions between texts and requests: prompts and options to requests, outputs to text."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import instance
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.format.reader import ModelInfo
from charrnn_runtime.logprobs import LogProbs
from charrnn_runtime.options import Settings
from charrnn_runtime.record import Record
from charrnn_runtime.scheduling.request import Output, Request, check_length
from charrnn_runtime.scheduling.scheduler import Scheduler
from charrnn_runtime.state import UNSTARTED, State
from charrnn_runtime.streaming import ByteStream
from charrnn_runtime.vocabulary import Vocabulary

_LONG: Final = 2048
"""The minimum length of a prompt that is read in separate sessions, without a sampler."""

Texts = list[str] | list[bytes] | tuple[str | bytes, ...]
"""Several texts. Not a sequence of str, since a str is one itself. Bytes are for byte-level models."""


class Step(Record):
    """The result of one step of N streams.

    Attributes:
        logits: float32 ``[N, V]``, before temperature.
        tokens: int64 ``[N]``, the sampled characters.
        state: the state after the step; its ``tokens`` are the sampled ones.
        seed: the seed.
    """

    logits: NDArray[np.float32]
    tokens: NDArray[np.int64]
    state: State
    seed: int


class Generated(Record):
    """A finished stream.

    Attributes:
        index: the index of the prompt, from 0.
        prompt: the prompt, as read.
        text: the generated text, without the prompt and the stop text.
        state: the final state of the stream.
        data: prompt and text as bytes: UTF-8, or at the byte level the raw bytes that the model wrote.
        seed: the seed.
        finish_reason: "stop" at a stop text, "length" at the maximum length.
        logprobs: the log probabilities of the text's characters (bytes, at the byte level), if requested.
    """

    index: int
    prompt: str
    text: str
    state: State
    data: bytes
    seed: int
    finish_reason: str
    logprobs: LogProbs | None = None


def make_request(
    info: ModelInfo,
    ids: NDArray[Any],
    length: int,
    settings: Settings,
    state: State,
    *,
    index: int = 0,
    number: int | None = None,
    live: bool = False,
) -> Request:
    """The request of one stream, which reads the pending id (or the start token), then ids.

    Args:
        info: the metadata of the model.
        ids: integers ``[n]``, the ids to read.
        length: the number of ids to sample.
        settings: the options.
        state: the state of one or more streams.
        index: the index of the stream in the state.
        number: the stream number, if different from the one in the state.
        live: whether to output ids as they are sampled.
    """
    length = check_length(length)
    pending = int(state.tokens[index])
    if pending != UNSTARTED:
        ids = np.concatenate([[pending], ids])
    elif not len(ids):
        # With nothing to read or sample, no step runs, and the stream stays fresh.
        ids = np.array([info.start_token if length else UNSTARTED])
    return Request(
        ids,
        length,
        state=state.rows[index],
        number=int(state.numbers[index]) if number is None else number,
        position=int(state.positions[index]),
        sampling=settings.sampling,
        seed=settings.seed,
        stop=settings.stop_ids,
        live=live,
        logprobs=settings.logprobs,
    )


def check_state(state: State, info: ModelInfo, streams: int) -> None:
    """Check that a state fits a model and has this many streams.

    Raises:
        SettingError: it does not.
    """
    instance("state", state, State)
    if state.rows.shape[1] != info.state_size:
        raise SettingError(
            f"state: its rows have {state.rows.shape[1]} numbers, but this model's have "
            f"{info.state_size}; a state can be used only with the model that it came from",
            "state",
        )
    if len(state) != streams or not streams:
        raise SettingError(f"state: it has {len(state)} streams; expected {max(streams, 1)}", "state")
    if len(state) and not (state.tokens.min() >= UNSTARTED and state.tokens.max() < len(info.vocabulary)):
        raise SettingError("state: it has tokens that are not in this model's vocabulary", "state")


def read_first(scheduler: Scheduler, request: Request) -> Request:
    """Read a long prompt except for its last character; returns the remaining request.

    Reading without a sampler takes two thirds of the time.
    """
    if request.reading < _LONG or not request.max_length or request.prompt_logprobs:
        return request
    reading = Request(request.prompt, 0, state=request.state)
    scheduler.submit(reading)
    outputs: list[Output] = []
    while not outputs:
        outputs = scheduler.run_block()
    return Request(
        request.prompt[-1:],
        request.max_length,
        state=outputs[0].state.rows[0],
        number=request.number,
        position=request.position,
        sampling=request.sampling,
        seed=request.seed,
        stop=request.stop,
        live=request.live,
        logprobs=request.logprobs,
    )


def run_one(scheduler: Scheduler, request: Request) -> Generator[Output, None, None]:
    """All outputs of one request; closes the scheduler at the end."""
    with closing(scheduler):
        scheduler.submit(read_first(scheduler, request))
        while scheduler.busy:
            yield from scheduler.run_block()


def generated_each(
    vocabulary: Vocabulary,
    outputs: Generator[Output, None, None],
    heads: dict[Request, bytes],
    settings: Settings,
) -> Iterator[Generated]:
    """Convert the outputs of requests to text.

    Args:
        vocabulary: the vocabulary.
        outputs: one output per request; closed at the end.
        heads: the prompts by request, which are removed as they are used.
        settings: the options of the requests.
    """
    with closing(outputs):
        for index, output in enumerate(outputs):
            written = ByteStream(vocabulary, settings.stop)
            data = written.push(output.tokens) + written.finish()
            head = heads.pop(output.request, b"")
            logprobs = output.logprobs
            if logprobs is not None:
                logprobs = logprobs[: len(data if vocabulary.level == "byte" else data.decode())]
            yield Generated(
                index=index,
                prompt=head.decode(errors="replace"),
                text=data.decode(errors="replace"),
                state=output.state,
                data=head + data,
                seed=settings.seed,
                finish_reason=output.finished or "length",
                logprobs=logprobs,
            )


@contextlib.contextmanager
def naming(index: int | None) -> Iterator[None]:
    """Make errors about unknown characters name the text by its index; None if there is only one."""
    try:
        yield
    except UnknownCharacterError as error:
        raise error.of(index) from None
