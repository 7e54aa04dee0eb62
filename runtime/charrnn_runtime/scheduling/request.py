"""Requests to the scheduler and their outputs: one stream each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import (
    ids_array,
    instance,
    several,
    switch,
    whole_number,
    whole_number_from,
    wrong,
)
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.logprobs import LogProbs
from charrnn_runtime.record import Reconstructible
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.state import State
from charrnn_runtime.uniforms import check_seed


class Request(Reconstructible):
    """A stream to run: it reads a prompt, then continues with the tokens it samples.

    Requests are compared by identity, and can be submitted only once.

    Attributes:
        prompt: integers ``[m]``, m >= 1, the ids to read first. Each must be in the vocabulary.
        max_length: the maximum number of ids to sample, from 0.
        state: float32 ``[S]``, the row of the initial state; None for a fresh one.
        number: the stream number, which selects its random numbers.
        position: the number of ids sampled before.
        sampling: the sampling settings.
        seed: the seed; with number and position, it determines every random number.
        stop: sequences of ids, int64 ``[n]`` with n >= 1; the stream ends when it has sampled one of them.
        live: whether to output tokens as they are sampled instead of at the end.
        logprobs: how many of the most likely ids to give log probabilities for, in addition to the sampled
            one; None for no log probabilities.
        prompt_logprobs: whether to include the log probabilities of the prompt's ids, from the second on.
    """

    __slots__ = (
        "first_token",
        "live",
        "logprobs",
        "max_length",
        "number",
        "position",
        "prompt",
        "prompt_logprobs",
        "reading",
        "sampling",
        "seed",
        "state",
        "steps",
        "stop",
        "wants_logprobs",
    )

    def __init__(
        self,
        prompt: NDArray[Any],
        max_length: int,
        *,
        state: NDArray[np.float32] | None = None,
        number: int = 0,
        position: int = 0,
        sampling: Sampling = Sampling(),  # noqa: B008 - it is immutable
        seed: int = 0,
        stop: Sequence[NDArray[np.int64]] = (),
        live: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> None:
        """See the attributes.

        Raises:
            SettingError: the prompt is empty, or an argument is invalid.
        """
        self.prompt = ids_array("prompt", prompt)
        if not len(self.prompt):
            raise SettingError("prompt must not be empty; a stream reads at least one id", "prompt")
        self.max_length = check_length(max_length, "max_length")
        self.state = None if state is None else _check_row(state)
        self.number = whole_number_from("number", number, 0, spec.MAX_NUMBER)
        self.position = whole_number_from("position", position, 0, spec.MAX_NUMBER)
        self.sampling = instance("sampling", sampling, Sampling)
        self.seed = check_seed(seed)
        self.stop = _check_stop(stop)
        self.live = switch("live", live)
        self.logprobs = (
            None if logprobs is None else whole_number_from("logprobs", logprobs, 0, spec.MAX_NUMBER)
        )
        self.prompt_logprobs = switch("prompt_logprobs", prompt_logprobs)
        self.wants_logprobs = prompt_logprobs or logprobs is not None
        # Derived values for the scheduler: steps that only read, all steps, and the first token to read.
        self.reading = len(self.prompt) - 1
        self.steps = self.reading + self.max_length
        self.first_token = int(self.prompt[0])

    def _made_of(self) -> dict[str, Any]:
        derived = ("first_token", "reading", "steps", "wants_logprobs")
        return {name: getattr(self, name) for name in self.__slots__ if name not in derived}


class Output:
    """The output of a request: everything, or a part if it is live.

    Attributes:
        request: whose it is.
        tokens: int64 ``[n]``, the tokens sampled since the last output, including a stop text.
        logprobs: their log probabilities, if requested; otherwise None.
        finished: "length" or "stop" if this is the last output of the request; otherwise None.
    """

    __slots__ = ("_next_token", "_position", "_row", "finished", "logprobs", "request", "tokens")

    def __init__(
        self,
        request: Request,
        tokens: NDArray[np.int64],
        *,
        logprobs: LogProbs | None = None,
        finished: str | None = None,
        row: NDArray[np.float32] | None = None,
        next_token: int = 0,
        position: int = 0,
    ) -> None:
        self.request = request
        self.tokens = tokens
        self.logprobs = logprobs
        self.finished = finished
        self._row = row
        self._next_token = next_token
        self._position = position

    @property
    def state(self) -> State:
        """The final state of the stream; available only once it has finished."""
        assert self._row is not None, "the stream has not finished"
        return State(
            rows=self._row.reshape(1, -1),
            tokens=np.array([self._next_token]),
            numbers=np.array([self.request.number]),
            positions=np.array([self._position]),
        )


def check_length(length: int, name: str = "length") -> int:
    """Check a number of characters to generate.

    Raises:
        SettingError: it is invalid; the message calls it ``name``.
    """
    length = whole_number(name, length)
    if length < 0:
        raise wrong(name, "0 or more", length)
    return length if length < spec.MAX_NUMBER else spec.MAX_NUMBER


def _check_row(state: Any) -> NDArray[np.float32]:
    """Check the state of one stream."""
    if isinstance(state, np.ndarray) and state.ndim == 1 and state.dtype.kind == "f":
        return state
    raise wrong("state", "a row of State.rows", state)


def _check_stop(stop: Any) -> Sequence[NDArray[np.int64]]:
    """Check stop sequences of ids."""
    arrays = several("stop", stop, "arrays of ids")
    texts = [ids_array("stop", each).astype(np.int64, copy=False) for each in arrays]
    if not all(map(len, texts)):
        raise SettingError("stop must not contain empty sequences of ids", "stop")
    return texts
