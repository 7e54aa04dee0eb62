"""Log probabilities of characters, from logits: natural logarithms, before temperature and truncation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record


class LogProbs(Record):
    """Log probabilities of n characters, in nats.

    Attributes:
        chosen: float32 ``[n]``, the log probability of each character of the text.
        most_likely: int64 ``[n, N]``, the ids of the N most likely characters at each position, in order.
        values: float32 ``[n, N]``, their log probabilities.
    """

    chosen: NDArray[np.float32]
    most_likely: NDArray[np.int64]
    values: NDArray[np.float32]

    __eq__ = object.__eq__  # comparing arrays is ambiguous
    __hash__ = object.__hash__

    def __len__(self) -> int:
        """n, the number of characters."""
        return len(self.chosen)

    def __getitem__(self, places: slice) -> LogProbs:
        """A slice of the characters."""
        return LogProbs(self.chosen[places], self.most_likely[places], self.values[places])

    @classmethod
    def nothing(cls, count: int) -> LogProbs:
        """Log probabilities of no characters."""
        return cls(np.zeros(0, np.float32), np.zeros((0, count), np.int64), np.zeros((0, count), np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[LogProbs]) -> LogProbs:
        """Concatenate the log probabilities of several texts."""
        return cls(
            np.concatenate([part.chosen for part in parts]),
            np.concatenate([part.most_likely for part in parts]),
            np.concatenate([part.values for part in parts]),
        )


class LogProbsByRow:
    """Collects the log probabilities requested by rows of a batch, until they are taken."""

    def __init__(self) -> None:
        self._wanted: dict[int, tuple[int, bool, list[LogProbs]]] = {}

    def __bool__(self) -> bool:
        """Whether any row requests them."""
        return bool(self._wanted)

    def begin(self, row: int, count: int, *, of_prompt: bool) -> None:
        """Start a row: for the ``count`` most likely symbols, with or without those of its prompt."""
        self._wanted[row] = count, of_prompt, []

    def add(self, logits: NDArray[np.float32], tokens: NDArray[np.int64], reading: NDArray[np.int64]) -> None:
        """Add a block of steps.

        Args:
            logits: float32 ``[n, R, V]``.
            tokens: int64 ``[n, R]``, the token read or sampled after each step.
            reading: int64 ``[R]``, the number of steps after which each row only read its token.
        """
        rows = sorted(self._wanted)
        if len(rows) < logits.shape[1]:
            logits, tokens = logits[:, rows], tokens[:, rows]
        most = max(count for count, _, _ in self._wanted.values())
        chosen, most_likely, values = logprobs_at(logits, tokens, most)
        for index, row in enumerate(rows):
            count, of_prompt, parts = self._wanted[row]
            first = 0 if of_prompt else max(0, int(reading[row]))
            parts.append(
                LogProbs(
                    chosen[first:, index], most_likely[first:, index, :count], values[first:, index, :count]
                )
            )

    def take(self, row: int) -> LogProbs | None:
        """Take the collected log probabilities of a row, if it requests any."""
        if row not in self._wanted:
            return None
        count, of_prompt, parts = self._wanted[row]
        self._wanted[row] = count, of_prompt, []
        return LogProbs.concatenate(parts)

    def forget(self, row: int) -> None:
        """Stop collecting for a row."""
        self._wanted.pop(row, None)

    def moved(self, kept: Sequence[int]) -> LogProbsByRow:
        """The same for the remaining rows, which are renumbered from 0."""
        after = LogProbsByRow()
        after._wanted = {new: self._wanted[old] for new, old in enumerate(kept) if old in self._wanted}
        return after


def losses_at(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float32]:
    """-log softmax at the targets, without overflow for large logits.

    Args:
        logits: float32 ``[n, R, V]``.
        targets: int64 ``[n, R]``.

    Returns:
        float32 ``[n, R]``, in nats.
    """
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses: NDArray[np.float32] = _log_sums(logits)[..., 0] - chosen
    return losses


def logprobs_at(
    logits: NDArray[np.float32], targets: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """The log probabilities of the targets and of the most likely symbols.

    Args:
        logits: float32 ``[n, R, V]``.
        targets: int64 ``[n, R]``.
        count: N, the number of most likely symbols; at most V.

    Returns:
        float32 ``[n, R]``, and int64 and float32 ``[n, R, N]``; see `LogProbs`.
    """
    chosen = -losses_at(logits, targets)
    # Ties are broken by the lower id.
    most_likely = np.argsort(-logits, axis=-1, kind="stable")[..., :count] if count else None
    if most_likely is None:
        most_likely = np.zeros((*targets.shape, 0), np.int64)
    values = np.take_along_axis(logits, most_likely, axis=-1)
    return chosen, most_likely, values - _log_sums(logits) if count else values


def normalized(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log probabilities of all symbols: float32 ``[n, V]`` from logits ``[n, V]``."""
    logprobs: NDArray[np.float32] = logits - _log_sums(logits)
    return logprobs


def _log_sums(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log of the sum of exp of the logits: ``[n, R, V]`` -> ``[n, R, 1]``."""
    highest = logits.max(axis=-1, keepdims=True)
    shifted = logits - highest
    sums: NDArray[np.float32] = np.log(np.exp(shifted, out=shifted).sum(axis=-1, keepdims=True)) + highest
    return sums
