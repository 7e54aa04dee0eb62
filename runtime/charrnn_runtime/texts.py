"""Between texts and requests: what a prompt and its options ask for, and what outputs are as text."""

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
"""From how many characters on a prompt is worth sessions of its own to be read in."""

Texts = list[str] | list[bytes] | tuple[str | bytes, ...]
"""Several texts. Not any sequence of str, since a str is one too. Bytes are for models at the byte level."""


class Step(Record):
    """What one step of N streams gives.

    Attributes:
        logits: float32 ``[N, V]``, before temperature.
        tokens: int64 ``[N]``, the sampled characters.
        state: the streams' state after the step; its ``tokens`` are the sampled ones.
        seed: the seed that was used.
    """

    logits: NDArray[np.float32]
    tokens: NDArray[np.int64]
    state: State
    seed: int


class Generated(Record):
    """One finished stream.

    Attributes:
        index: which one, from 0, in the order in which the prompts were given.
        prompt: the prompt, as it was read.
        text: what was generated, without the prompt and without the stop text.
        state: the stream's state at the end.
        data: prompt and text as bytes: UTF-8, but at the byte level the raw bytes that the model wrote.
        seed: the seed that was used.
        finish_reason: why it ended: "stop" where a stop text came, "length" where it was long enough.
        logprobs: the log-probabilities of the text's characters (bytes, at the byte level), if asked for.
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
    """The request of one stream: it reads the id that is pending, then ids; or else the start token.

    Args:
        info: the model.
        ids: integers ``[n]``, what it reads.
        length: how many ids it samples.
        settings: how.
        state: the state of it and others.
        index: which of the state's streams it is.
        number: its number, if not the one that the state says.
        live: whether what it samples is wanted as it comes.
    """
    length = check_length(length)
    pending = int(state.tokens[index])
    if pending != UNSTARTED:
        ids = np.concatenate([[pending], ids])
    elif not len(ids):
        # With nothing to read and nothing to sample, the stream stays unstarted: no step is run.
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
    """Check that a state is of this many streams of a model.

    Raises:
        SettingError: it is not.
    """
    instance("state", state, State)
    if state.rows.shape[1] != info.state_size:
        raise SettingError(
            f"state: its rows have {state.rows.shape[1]} numbers, and this model's have "
            f"{info.state_size}; a state belongs to the model that it came from",
            "state",
        )
    if len(state) != streams or not streams:
        raise SettingError(f"state: it has {len(state)} streams, and {max(streams, 1)} are wanted", "state")
    if len(state) and not (state.tokens.min() >= UNSTARTED and state.tokens.max() < len(info.vocabulary)):
        raise SettingError("state: it has tokens that are not in this model's vocabulary", "state")


def read_first(scheduler: Scheduler, request: Request) -> Request:
    """Let a stream with a long prompt read it, with all but its last character; gives what is left of it.

    A text that is only read runs without a sampler, in two thirds of the time.
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
    """All outputs of one request; the scheduler is closed in the end."""
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
    """What requests came to, as text.

    Args:
        vocabulary: what the ids mean.
        outputs: one of each request; closed in the end.
        heads: the prompts of those that have one, which are taken out.
        settings: theirs.
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
    """Let an error about unknown characters tell which of several texts has them; None: there is but one."""
    try:
        yield
    except UnknownCharacterError as error:
        raise error.of(index) from None
