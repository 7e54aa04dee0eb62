"""Requests to the scheduler, and their outputs: one stream each."""

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
from charrnn_runtime.record import MadeAnew
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.state import State
from charrnn_runtime.uniforms import check_seed


class Request(MadeAnew):
    """A stream to run: it reads a prompt, and continues with what it samples.

    A request is compared by identity, and can be submitted once.

    Attributes:
        prompt: integers ``[m]``, m >= 1, the ids that it reads first. Each must be one of the model's.
        max_length: how many ids it then samples at most, from 0.
        state: float32 ``[S]``, its row of the state before the prompt; None is a fresh one.
        number: the stream's number, which picks its random numbers.
        position: how many ids it has sampled before.
        sampling: how it samples.
        seed: with number and position it decides every random number.
        stop: sequences of ids, int64 ``[n]`` with n >= 1; the stream ends once it has sampled one of them.
        live: whether what it samples is wanted as it comes, and not only at its end.
        logprobs: for how many of the most likely ids to give log-probabilities, in addition to the sampled
            one's; None for no log-probabilities.
        prompt_logprobs: whether they are wanted of the prompt's ids, too, from the second on.
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
        sampling: Sampling = Sampling(),  # noqa: B008 - it never changes
        seed: int = 0,
        stop: Sequence[NDArray[np.int64]] = (),
        live: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> None:
        """See the attributes.

        Raises:
            SettingError: the prompt is empty, or an argument has a wrong type or is out of range.
        """
        self.prompt = ids_array("prompt", prompt)
        if not len(self.prompt):
            raise SettingError("prompt must have an id or more, which the stream reads first", "prompt")
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
        # What the scheduler goes by: the steps that only read, all steps, and what the first one reads.
        self.reading = len(self.prompt) - 1
        self.steps = self.reading + self.max_length
        self.first_token = int(self.prompt[0])

    def _made_of(self) -> dict[str, Any]:
        derived = ("first_token", "reading", "steps", "wants_logprobs")
        return {name: getattr(self, name) for name in self.__slots__ if name not in derived}


class Output:
    """What came of a request: all of it, or some where it is live.

    Attributes:
        request: whose it is.
        tokens: int64 ``[n]``, what it has sampled since its last output; a stop text is among it.
        logprobs: of these, if they were wanted; else None.
        finished: "length" or "stop" if this is the request's last output, else None.
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
        """The state of the stream, once it has finished."""
        assert self._row is not None, "the stream has not finished"
        return State(
            rows=self._row.reshape(1, -1),
            tokens=np.array([self._next_token]),
            numbers=np.array([self.request.number]),
            positions=np.array([self._position]),
        )


def check_length(length: int, name: str = "length") -> int:
    """A number of characters to generate, if it is one.

    Raises:
        SettingError: it is not; the message calls it ``name``.
    """
    length = whole_number(name, length)
    if length < 0:
        raise wrong(name, "0 or more", length)
    return length if length < spec.MAX_NUMBER else spec.MAX_NUMBER


def _check_row(state: Any) -> NDArray[np.float32]:
    """The state of one stream, if it is one."""
    if isinstance(state, np.ndarray) and state.ndim == 1 and state.dtype.kind == "f":
        return state
    raise wrong("state", "a row of numbers, as State.rows has them", state)


def _check_stop(stop: Any) -> Sequence[NDArray[np.int64]]:
    """Sequences of ids, if they are such."""
    arrays = several("stop", stop, "arrays of ids")
    texts = [ids_array("stop", each).astype(np.int64, copy=False) for each in arrays]
    if not all(map(len, texts)):
        raise SettingError("stop must have an id or more in each of its arrays", "stop")
    return texts
