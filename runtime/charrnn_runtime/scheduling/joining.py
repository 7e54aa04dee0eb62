"""Converts requests to the inputs of a batch: settings, states, and prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.buffers import Given
from charrnn_runtime.graph.sampler import Cuts
from charrnn_runtime.graph.sampler_variants import sampler_for
from charrnn_runtime.scheduling.request import Request

_KINDS: Final[dict[Cuts, int]] = {"none": 1, "min_p": 2, "greedy": 4, "few": 8, "any": 16}


def settings_of(requests: Sequence[Request], top_k_max: int) -> dict[str, list[float]]:
    """The sampling inputs of the model: each has one value per stream, or one for all."""
    first = requests[0].sampling
    alike = all(each.sampling is first for each in requests)
    inputs = [each.sampling.inputs(top_k_max) for each in (requests[:1] if alike else requests)]
    return {name: [each[name] for each in inputs] for name in inputs[0]}


def states_of(requests: Sequence[Request], state_size: int) -> NDArray[np.float32] | float:
    """The initial states of streams: float32 ``[n, S]``, or 0 if all are fresh."""
    if all(each.state is None for each in requests):
        return 0.0
    states = np.zeros((len(requests), state_size), np.float32)
    for index, each in enumerate(requests):
        if each.state is not None:
            states[index] = each.state
    return states


def given_of(requests: Sequence[Request | None], left: NDArray[np.int64], steps: int) -> Given:
    """The tokens that rows read rather than sample after each of the next steps.

    Args:
        requests: the request of each row, or None.
        left: int64 ``[R]``, the number of prompt tokens each still has to read; none if not above 0.
        steps: the number of steps.
    """
    mask = np.zeros((steps, len(requests)), np.bool_)
    tokens = np.zeros((steps, len(requests)), np.int64)
    for row in np.flatnonzero(left > 0).tolist():
        request = requests[row]
        assert request is not None
        coming = request.prompt[len(request.prompt) - int(left[row]) :][:steps]
        tokens[: len(coming), row] = coming
        mask[: len(coming), row] = True
    return Given(mask, tokens)


def kinds_of(requests: Sequence[Request], top_k_max: int) -> NDArray[np.uint8]:
    """The sampler that each stream needs, as a bit: uint8 ``[n]``; 0 for streams that only read."""
    samplings = {id(each.sampling): each.sampling for each in requests}
    kinds = {key: _KINDS[each.cuts(top_k_max)] for key, each in samplings.items()}
    return np.fromiter(
        (kinds[id(each.sampling)] if each.max_length else 0 for each in requests), np.uint8, len(requests)
    )


def sampler_of(*kinds: NDArray[np.uint8]) -> Cuts | None:
    """The cheapest sampler for streams of these kinds; None if they only read."""
    present = int(np.bitwise_or.reduce(np.concatenate(kinds)))
    wanted = [cuts for cuts, bit in _KINDS.items() if present & bit]
    return sampler_for(wanted) if wanted else None
