"""Streams as rows of one batch, which they can join and leave at any character.

A stream first reads its prompt, then the tokens that it samples. The state of the loop is kept in arrays by
row, so the Python overhead of a block hardly depends on the number of streams.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.backends.buffers import BLOCK, Buffers, Given
from charrnn_runtime.backends.session import Engine
from charrnn_runtime.graph.sampler_variants import serves
from charrnn_runtime.logprobs import LogProbsByRow
from charrnn_runtime.scheduling.history import History
from charrnn_runtime.scheduling.joining import given_of, kinds_of, sampler_of, settings_of, states_of
from charrnn_runtime.scheduling.request import Output, Request
from charrnn_runtime.scheduling.stops import StopTexts
from charrnn_runtime.uniforms import advance, counters_at, stream_keys, uniforms_from

_LIVE_SECONDS: Final = 0.015
"""The interval between chunks of live streams: short enough to look smooth, long enough to cost nothing."""

_DRAWN_AHEAD: Final = 4096
"""The approximate number of uniform numbers to draw at once."""

_LOGITS_BYTES: Final = 64 * 1024 * 1024
"""The memory limit for the logits of a block of steps; large vocabularies get shorter blocks."""

_WORTH_MOVING: Final = 2048
"""The number of row steps that other buffers must save or accelerate to pay for a possible new session."""

_NEVER: Final = 1 << 62
"""The end step of rows without a stream."""


class Lane:
    """Streams and the buffers that they run in, for one thread at a time.

    Attributes:
        rows: R, the number of rows of the buffers.
        requests: the request of each row, or None.
        running: the number of streams.
        sampled: the number of tokens sampled so far, by all streams that ever ran here.
    """

    # By row, all of length R; steps are counted from the first step of the lane:
    _begin: NDArray[np.int64]  # the step that samples the stream's first token; earlier ones read the prompt
    _end: NDArray[np.int64]  # the step before which it ends, unless stopped earlier
    _counter: NDArray[np.uint64]  # the position of its random numbers at the step `_counted`
    _live: NDArray[np.bool_]
    _silent: NDArray[np.bool_]  # live streams without output so far; their first chunk is not delayed
    _kinds: NDArray[np.uint8]  # the sampler that the stream needs, see `kinds_of`
    # By step:
    _drawn: NDArray[np.float32]  # (n, R) random numbers, drawn for many steps at once; partly used
    _drawn_used: int

    def __init__(self, engine: Engine) -> None:
        self.rows = self.running = self.sampled = 0
        self.requests: list[Request | None] = []
        self._engine = engine
        self._buffers: Buffers | None = None
        self._borrowed = contextlib.ExitStack()
        self._history = History(0)
        self._logprobs = LogProbsByRow()
        self._stop_texts = StopTexts(0)
        self._stopped: list[int] = []  # rows whose stop text was completed by the last step
        self._steps = 0  # the number of steps of the last `run`
        self._elapsed = self._counted = 0  # steps
        self._seconds, self._live_steps = 0.0, 1
        self._given_at = 0.0  # the time of the last chunks of all live streams
        self._allocate([], 0)

    # --- joining and leaving ---------------------------------------------------------------------------

    def join(self, joining: Sequence[Request], limit: int) -> None:
        """Add streams, and switch to other buffers if these have too few rows or lack a feature, or if others
        are much faster.

        Args:
            joining: requests that run at least one step.
            limit: the maximum number of rows, if that is enough.
        """
        info = self._engine.info
        kinds = kinds_of(joining, info.top_k_max)
        self._fit(joining, kinds, limit)
        if not joining:
            return
        assert self._buffers is not None
        count = len(joining)
        rows = np.flatnonzero(self._end == _NEVER)[:count]
        for row, request in zip(rows.tolist(), joining, strict=True):
            self.requests[row] = request
        self.running += count
        reading = np.fromiter((each.reading for each in joining), np.int64, count)
        self._begin[rows] = self._elapsed + reading
        self._end[rows] = self._elapsed + np.fromiter((each.steps for each in joining), np.int64, count)
        self._history.begin(rows, reading)
        self._live[rows] = np.fromiter((each.live for each in joining), np.bool_, count)
        self._silent[rows] = True
        keys = stream_keys(
            np.fromiter((each.seed for each in joining), np.uint64, count),
            np.fromiter((each.number for each in joining), np.int64, count),
        )
        positions = np.fromiter((each.position for each in joining), np.int64, count) - reading
        self._count()
        self._counter[rows] = counters_at(keys, positions)
        self._drawn_used = len(self._drawn)
        self._buffers.tokens[0, rows] = np.fromiter((each.first_token for each in joining), np.int64, count)
        self._kinds[rows] = kinds
        for name, values in settings_of(joining, info.top_k_max).items():
            self._buffers.settings[name][rows] = values
        # All rows at once: on a GPU, writing any row copies all of them.
        self._buffers.write_state(rows, states_of(joining, info.state_size))
        for row, request in zip(rows.tolist(), joining, strict=True):
            if request.stop:
                self._stop_texts.begin(row, request.stop)
                self._history.reach_back(max(len(each) - 1 for each in request.stop))
            if request.wants_logprobs:
                self._logprobs.begin(row, request.logprobs or 0, of_prompt=request.prompt_logprobs)
        self._look()

    def drop(self, requests: Iterable[Request]) -> None:
        """Remove streams, if present; they produce no further output."""
        rows = [self.requests.index(each) for each in requests if each in self.requests]
        if rows:
            self._free(rows)

    def _free(self, rows: list[int]) -> None:
        self._begin[rows] = 0
        self._end[rows] = _NEVER
        self._kinds[rows] = 0
        self._live[rows] = False
        self._stop_texts.forget(rows)
        self._history.forget(rows)
        self.running -= len(rows)
        for row in rows:
            self.requests[row] = None
            self._logprobs.forget(row)
        self._look()

    def release(self) -> None:
        """Release the buffers; running streams are lost."""
        self._buffers = None
        self._allocate([], 0)
        self._borrowed.close()

    def _fit(self, joining: Sequence[Request], kinds: NDArray[np.uint8], limit: int) -> None:
        """Switch to other buffers if these are insufficient, or if others are much faster."""
        wanted = max(self.running + len(joining), 1)
        width = max(wanted, min(1 << (wanted - 1).bit_length(), limit))
        sampler = self._engine.sampler(sampler_of(self._kinds, kinds))
        held = self._buffers
        if held is not None:
            lacks = wanted > held.rows
            lacks |= not serves(held.sizes.sampler, sampler)
            lacks |= not held.sizes.keeps_logits and any(each.wants_logprobs for each in joining)
            saved = held.rows - width if not joining and 2 * width <= held.rows else 0
            saved += wanted if sampler not in (None, held.sizes.sampler) else 0
            if not lacks and (not saved or saved * self._longest(joining) < _WORTH_MOVING):
                return
        everything = [*filter(None, self.requests), *joining]
        keeps_logits = any(each.wants_logprobs for each in everything)
        steps = BLOCK
        if keeps_logits:
            steps = max(1, min(steps, _LOGITS_BYTES // (width * len(self._engine.info.vocabulary) * 4)))
        self._move(width, steps=steps, sampler=sampler, keeps_logits=keeps_logits)

    def _longest(self, joining: Sequence[Request]) -> int:
        """The number of steps left of the longest-running stream."""
        running = np.where(self._end < _NEVER, self._end - self._elapsed, 0).max(initial=0)
        return max(int(running), *(each.steps for each in joining), 0)

    def _move(self, width: int, **sizes: Any) -> None:
        """Move all streams to other buffers; see `Engine.buffers`."""
        before, borrowed = self._buffers, self._borrowed
        self._buffers = None
        rows = [row for row, each in enumerate(self.requests) if each is not None]
        self._borrowed = contextlib.ExitStack()
        try:
            after = self._borrowed.enter_context(self._engine.buffers(width, **sizes))
            if rows:
                assert before is not None
                after.tokens[0, : len(rows)] = before.tokens[0, rows]
                for name, values in before.settings.items():
                    after.settings[name][: len(rows)] = values[rows]
                after.write_state(slice(len(rows)), before.read_state(rows))
            after.tokens[:, len(rows) :] = 0  # idle rows also run, and need a valid token
        finally:
            borrowed.close()
        self._buffers = after
        self._allocate(rows, after.rows)
        self._logprobs = self._logprobs.moved(rows)

    def _allocate(self, kept: list[int], rows: int) -> None:
        """Allocate the arrays by row, and copy the values of the rows that are kept."""
        columns: dict[str, Any] = {
            "_begin": np.zeros(rows, np.int64),
            "_end": np.full(rows, _NEVER, np.int64),
            "_counter": np.zeros(rows, np.uint64),
            "_live": np.zeros(rows, np.bool_),
            "_silent": np.zeros(rows, np.bool_),
            "_kinds": np.zeros(rows, np.uint8),
        }
        if kept:
            for name, column in columns.items():
                column[: len(kept)] = getattr(self, name)[kept]
        self._stop_texts = self._stop_texts.moved(kept, rows)
        self._history = self._history.moved(kept, rows) if kept else History(rows)
        self.__dict__.update(columns)
        self.requests = [self.requests[row] for row in kept] + [None] * (rows - len(kept))
        self.rows, self.running = rows, len(kept)
        self._drawn = np.empty((max(BLOCK, _DRAWN_AHEAD // max(rows, 1)), rows), np.float32)
        self._drawn_used = len(self._drawn)
        self._look()

    def _look(self) -> None:
        """Cache facts about the streams, so that the loop need not compute them each time."""
        self._reads_until = int(self._begin.max(initial=0))
        self._next_end = int(self._end.min(initial=_NEVER))
        self._any_live = bool(self._live.any())

    def _count(self) -> None:
        """Advance the random numbers to the current step."""
        advance(self._counter, self._elapsed - self._counted)
        self._counted = self._elapsed

    # --- running ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run a block, which ends at the latest when the next stream ends. `collect` processes the result."""
        buffers = self._buffers
        assert buffers is not None
        steps = min(buffers.steps, self._next_end - self._elapsed)
        if self._any_live:
            steps = min(steps, self._live_steps)
        given = self._given(steps)
        if buffers.sizes.sampler is not None:
            if self._drawn_used + steps > len(self._drawn):
                self._count()
                uniforms_from(self._counter, self._drawn)
                self._drawn_used = 0
            buffers.uniforms[:steps] = self._drawn[self._drawn_used : self._drawn_used + steps]
        elif given is not None:
            buffers.tokens[1 : steps + 1] = given.tokens
            given = None
        self._stopped = []
        begin = time.perf_counter()
        self._steps = buffers.run(steps, given, self._stops if self._stop_texts else None)
        self._seconds = time.perf_counter() - begin

    def run_on(self, until: Callable[[], bool]) -> None:
        """Run blocks until there is output, or ``until`` returns True. `collect` processes the last one."""
        self.run()
        while not (
            self._stopped or self._any_live or self._elapsed + self._steps == self._next_end or until()
        ):
            self.collect()
            self.run()

    def _given(self, steps: int) -> Given | None:
        """The tokens that are read rather than sampled after each of the next steps."""
        if self._elapsed >= self._reads_until:
            return None
        ahead = min(steps, self._reads_until - self._elapsed)
        return given_of(self.requests, self._begin - self._elapsed, ahead)

    def _stops(self, steps: int) -> bool:
        """Whether any stream has just completed a stop text, after this many steps of the block."""
        assert self._buffers is not None
        written = self._buffers.tokens[1 : steps + 1]
        reading = self._begin - self._elapsed
        self._stopped = self._stop_texts.completed(written, reading, self._history)
        return bool(self._stopped)

    def collect(self) -> list[Output]:
        """Process the results of the last `run`; returns the outputs that are ready."""
        buffers, steps = self._buffers, self._steps
        assert buffers is not None
        written = buffers.tokens[1 : steps + 1]
        self._history.append(written)
        if self._logprobs:
            self._logprobs.add(buffers.logits[:steps], written, self._begin - self._elapsed)
        buffers.tokens[0] = written[-1]
        self.sampled += self._sampled_in(steps)
        self._elapsed += steps
        self._drawn_used += steps
        outputs = self._leave() if self._stopped or self._elapsed == self._next_end else []
        if self._any_live:
            outputs += self._chunks()
            if self._seconds < _LIVE_SECONDS / 2:
                self._live_steps = min(BLOCK, self._live_steps * 2)
            elif self._seconds > _LIVE_SECONDS * 2:
                self._live_steps = max(1, self._live_steps // 2)
        return outputs

    def _sampled_in(self, steps: int) -> int:
        """The number of tokens sampled by the last block."""
        if self._elapsed >= self._reads_until:
            return steps * self.running
        reading = self._begin[self._end < _NEVER] - self._elapsed
        return int(np.minimum(np.maximum(steps - reading, 0), steps).sum())

    def _leave(self) -> list[Output]:
        """Remove the streams that have ended."""
        assert self._buffers is not None
        ended = np.flatnonzero(self._end == self._elapsed).tolist()
        ended += [row for row in self._stopped if self._end[row] != self._elapsed]
        states = self._buffers.read_state(ended)  # all at once: on a GPU, reading any row copies all of them
        tokens = self._history.take(ended)
        next_tokens = self._buffers.tokens[0, ended].tolist()
        sampled = np.maximum(self._elapsed - self._begin[ended], 0).tolist()
        outputs = []
        for index, row in enumerate(ended):
            request = self.requests[row]
            assert request is not None
            outputs.append(
                Output(
                    request,
                    tokens[index],
                    logprobs=self._logprobs.take(row),
                    finished="stop" if row in self._stopped else "length",
                    row=states[index],
                    next_token=next_tokens[index],
                    position=request.position + sampled[index],
                )
            )
        self._free(ended)
        return outputs

    def _chunks(self) -> list[Output]:
        """The pending tokens of live streams, if the last chunks were long enough ago."""
        due = time.perf_counter() - self._given_at >= _LIVE_SECONDS
        if due:
            self._given_at = time.perf_counter()
        rows = np.flatnonzero(self._live & (self._silent | due) & self._history.has_news()).tolist()
        self._silent[rows] = False
        outputs = []
        for row, tokens in zip(rows, self._history.take(rows), strict=True):
            request = self.requests[row]
            assert request is not None
            outputs.append(Output(request, tokens, logprobs=self._logprobs.take(row)))
        return outputs
