"""Many streams as rows of one batch, which they join and leave at any character.

A stream first reads the tokens that it is given, then reads what it samples. Streams with longer primes or
earlier ends than others waste nothing: as soon as one ends, the next takes its row, and when none is left to
take it, the batch becomes narrower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.record import Record
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.session import BLOCK, Engine, Lane, TooManyRows, width
from charrnn_runtime.state import State
from charrnn_runtime.uniforms import stream_keys, uniforms_at

CPU_ROWS = 64
CUDA_ROWS = 8192
"""How many streams run at once, for each CPU thread or on a GPU, unless the caller says otherwise. A CPU
gains nothing beyond 64 (measured): the batch's numbers then leave its caches."""

_LIVE_SECONDS = 0.015
"""A live stream gives its pieces about this often: smooth to the eye, and rare enough to cost nothing."""

_DRAWN_AHEAD = 4096
"""About how many uniform numbers are drawn at once."""

_WINDOW = 16
"""How far, in batches, streams may run ahead of the first that has not ended: it bounds what a caller who
wants them in order has to hold."""

_NO_TOKENS = np.empty(0, np.int64)


class Job(Record):
    """One stream to run.

    Attributes:
        state: the stream's state before the job, one row; its ``tokens`` are not looked at.
        given: int64 ``[m]``, m >= 1, the tokens that it reads first; the last is the pending one if the job
            runs no step.
        length: how many tokens it then samples, from 0.
        live: whether its tokens are wanted as they come, and not only at its end.
    """

    state: State
    given: NDArray[np.int64]
    length: int
    live: bool = False


class Piece(Record):
    """Some of what a job has sampled.

    Attributes:
        index: which job, counted in the order in which they were given.
        tokens: int64 ``[n]``, what it has sampled since its last piece.
        state: the stream's state, if this is the job's last piece; else None.
    """

    index: int
    tokens: NDArray[np.int64]
    state: State | None


def run_jobs(
    engine: Engine,
    jobs: Iterable[Job],
    sampling: Sampling,
    seed: int,
    *,
    stop: NDArray[np.int64] | None = None,
    rows: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Piece, None, None]:
    """Run jobs, many at once.

    Args:
        engine: the model on its device.
        jobs: drawn from as rows become free.
        sampling: the settings of all of them.
        seed: with a stream's number and position it decides every random number.
        stop: the tokens that end a stream early, once it has sampled them in a row.
        rows: how many run at once; None for the device's default.
        on_progress: called after every block of steps with the number of tokens that it sampled.

    Yields:
        The pieces of a job in order, those of different jobs mixed; one with a state for each job, its last.

    Raises:
        OutOfMemoryError: so many streams do not fit into memory.
    """
    most = rows or (CUDA_ROWS if engine.device == "cuda" else CPU_ROWS * engine.threads)
    failed = 0
    try:
        yield from _run_jobs(engine, jobs, sampling, seed, stop, most, on_progress)
    except TooManyRows as error:
        failed = error.rows
    except MemoryError:
        failed = most
    if failed:  # here, where nothing of what ran is held any more
        raise engine.out_of_memory(failed)


def _run_jobs(
    engine: Engine,
    jobs: Iterable[Job],
    sampling: Sampling,
    seed: int,
    stop: NDArray[np.int64] | None,
    most: int,
    on_progress: Callable[[int], None] | None,
) -> Generator[Piece, None, None]:
    waiting = _Waiting(jobs, seed, window=_WINDOW * most)
    streams: list[_Stream] = []
    while len(streams) < most and (stream := waiting.take()) is not None:
        if stream.total:
            streams.append(stream)
        else:
            yield waiting.finish(stream, stream.job.state.rows, _NO_TOKENS)
    states = np.concatenate([stream.job.state.rows for stream in streams]) if streams else None
    while streams:
        with engine.lane(width(len(streams))) as lane:
            lane.temperature[:] = sampling.temperature
            lane.top_k[:] = sampling.top_k_for(engine.info.top_k_max)
            lane.top_p[:] = sampling.top_p
            batch = _Batch(lane, streams, states, stop)
            while batch.streams and not (waiting.exhausted and width(len(batch.streams)) <= lane.rows // 2):
                steps = batch.run_block()
                if on_progress is not None:
                    on_progress(batch.sampled_in(steps))
                yield from batch.collect(steps, waiting)
            streams, states = batch.leave()


class _Stream:
    """A job that has begun.

    Attributes:
        done: how many steps it has run.
        before: how many steps read a given token and sample nothing: all but the last given token's.
        total: how many steps it runs, unless it is stopped.
        next_token: the token that it reads next.
        first_sample: the batch's step that samples its first token; earlier in batches before this one.
        taken: the batch's step up to which its tokens have been given out or put into `kept`.
        kept: tokens sampled in batches before this one and not given out.
        tail: the last tokens sampled in batches before this one, where there is a stop text.
    """

    def __init__(self, index: int, job: Job, key: np.uint64) -> None:
        self.index = index
        self.job = job
        self.key = key
        self.done = 0
        self.before = len(job.given) - 1
        self.total = self.before + job.length
        self.next_token = int(job.given[0 if self.total else -1])
        self.first_sample = self.taken = 0
        self.kept: list[NDArray[np.int64]] = []
        self.tail = _NO_TOKENS

    @property
    def sampled(self) -> int:
        """How many tokens it has sampled."""
        return max(0, self.done - self.before)

    def join(self, step: int) -> None:
        """Note that it joins a batch at a step of the batch's."""
        self.first_sample = self.taken = step + max(0, self.before - self.done)


class _Waiting:
    """The jobs that have not begun, handed out in order."""

    def __init__(self, jobs: Iterable[Job], seed: int, window: int) -> None:
        self._jobs = enumerate(jobs)
        self._seed = seed
        self._window = window
        self._next: tuple[int, Job] | None = next(self._jobs, None)
        self._first_open = 0  # the first job that has not ended
        self._ended: set[int] = set()

    @property
    def exhausted(self) -> bool:
        """Whether no job is left."""
        return self._next is None

    def take(self) -> _Stream | None:
        """The next job's stream; None if there is none, or if it would run too far ahead of the others."""
        if self._next is None or self._next[0] >= self._first_open + self._window:
            return None
        index, job = self._next
        self._next = next(self._jobs, None)
        return _Stream(index, job, stream_keys(self._seed, job.state.numbers)[0])

    def finish(self, stream: _Stream, row: NDArray[np.float32], tokens: NDArray[np.int64]) -> Piece:
        """Note that a stream has ended; gives its last piece."""
        self._ended.add(stream.index)
        while self._first_open in self._ended:
            self._ended.remove(self._first_open)
            self._first_open += 1
        before = stream.job.state
        state = State(
            rows=row.reshape(1, -1),
            tokens=np.array([stream.next_token]),
            numbers=before.numbers,
            positions=before.positions + stream.sampled,
        )
        return Piece(stream.index, tokens, state)


class _Batch:
    """Streams in the slots (rows) of one lane.

    Attributes:
        streams: the streams by slot; a slot without one runs idle.
    """

    def __init__(
        self,
        lane: Lane,
        streams: list[_Stream],
        states: NDArray[np.float32] | None,
        stop: NDArray[np.int64] | None,
    ) -> None:
        self.streams = dict(enumerate(streams))
        self._lane = lane
        self._stop = stop
        self._step = 0
        self._history = _History(lane.rows)
        self._uniforms = _Uniforms(lane.rows)
        self._live_steps = 1
        self._seconds = 0.0
        lane.tokens[0] = 0
        for slot, stream in self.streams.items():
            stream.join(0)
            lane.tokens[0, slot] = stream.next_token
        assert states is not None
        lane.write_state(slice(len(streams)), states)

    def run_block(self) -> int:
        """Run until the next stream ends, at most; gives the number of steps."""
        streams = self.streams.values()
        steps = min(BLOCK, min(stream.total - stream.done for stream in streams))
        if any(stream.job.live for stream in streams):
            steps = min(steps, self._live_steps)
        self._lane.uniforms[:steps] = self._uniforms.take(self.streams, steps)
        given = self._given(steps)
        begin = time.perf_counter()
        ran = self._lane.run(steps, given, None if self._stop is None else int(self._stop[-1]))
        self._seconds = time.perf_counter() - begin
        return ran

    def _given(self, steps: int) -> dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]]:
        """What is read rather than sampled after each of the coming steps: slots and tokens."""
        given = {}
        reading = [item for item in self.streams.items() if item[1].done < item[1].before]
        for ahead in range(1, steps + 1 if reading else 0):
            here = [(slot, s.job.given[s.done + ahead]) for slot, s in reading if s.done + ahead <= s.before]
            if here:
                given[ahead] = (np.array([slot for slot, _ in here]), np.array([token for _, token in here]))
        return given

    def sampled_in(self, steps: int) -> int:
        """How many tokens the block sampled that `run_block` just ran."""
        streams = self.streams.values()
        return sum(max(0, min(steps, stream.done + steps - stream.before)) for stream in streams)

    def collect(self, steps: int, waiting: _Waiting) -> Iterator[Piece]:
        """Take in what a block wrote, give out what is ready, and let waiting streams join in free slots."""
        lane = self._lane
        self._history.append(lane.tokens[1 : steps + 1], keep_from=self._oldest_step())
        self._step += steps
        lane.tokens[0] = lane.tokens[steps]
        self._uniforms.advance(steps)
        next_tokens = lane.tokens[0].tolist()
        ended = []
        for slot, stream in self.streams.items():
            stream.done += steps
            stream.next_token = next_tokens[slot]
            if stream.done == stream.total or self._is_stopped(slot, stream):
                ended.append(slot)
            elif stream.job.live and stream.taken < self._step:
                yield Piece(stream.index, self._take(slot, stream), None)
        # All at once: on a GPU, reading any row copies every row.
        states = lane.read_state(ended) if ended else ()
        for slot, state in zip(ended, states, strict=True):
            stream = self.streams.pop(slot)
            yield waiting.finish(stream, state, self._take(slot, stream))
        if not waiting.exhausted:
            yield from self._fill(waiting)
        if self._seconds < _LIVE_SECONDS / 2:
            self._live_steps = min(BLOCK, self._live_steps * 2)
        elif self._seconds > _LIVE_SECONDS * 2:
            self._live_steps = max(1, self._live_steps // 2)

    def _fill(self, waiting: _Waiting) -> Iterator[Piece]:
        joining = []
        for slot in range(self._lane.rows):
            while slot not in self.streams and (stream := waiting.take()) is not None:
                if not stream.total:
                    yield waiting.finish(stream, stream.job.state.rows, _NO_TOKENS)
                    continue
                self.streams[slot] = stream
                stream.join(self._step)
                joining.append(slot)
                self._lane.tokens[0, slot] = stream.next_token
        if joining:
            states = np.concatenate([self.streams[slot].job.state.rows for slot in joining])
            self._lane.write_state(joining, states)
            self._uniforms.forget()

    def leave(self) -> tuple[list[_Stream], NDArray[np.float32] | None]:
        """Take all streams out, to go on in another lane; gives them and their states."""
        for slot, stream in self.streams.items():
            if self._stop is not None:
                stream.tail = self._recent(slot, stream)
            stream.kept.append(self._fresh(slot, stream))
        states = self._lane.read_state(list(self.streams)) if self.streams else None
        return list(self.streams.values()), states

    def _take(self, slot: int, stream: _Stream) -> NDArray[np.int64]:
        """What a stream has sampled and not given out."""
        pieces = [*stream.kept, self._fresh(slot, stream)]
        stream.kept = []
        stream.taken = max(stream.taken, self._step)
        return np.concatenate(pieces)

    def _fresh(self, slot: int, stream: _Stream) -> NDArray[np.int64]:
        return self._history.column(slot, stream.taken, self._step)

    def _recent(self, slot: int, stream: _Stream) -> NDArray[np.int64]:
        """The last tokens that a stream has sampled, as many as the stop text has."""
        assert self._stop is not None
        first = max(stream.first_sample, self._step - len(self._stop))
        return np.concatenate([stream.tail, self._history.column(slot, first, self._step)])[
            -len(self._stop) :
        ]

    def _is_stopped(self, slot: int, stream: _Stream) -> bool:
        if self._stop is None or stream.next_token != self._stop[-1] or stream.sampled < len(self._stop):
            return False
        return np.array_equal(self._recent(slot, stream), self._stop)

    def _oldest_step(self) -> int:
        """The first step that is still asked for."""
        oldest = min(stream.taken for stream in self.streams.values())
        return min(oldest, self._step) - (0 if self._stop is None else len(self._stop))


class _History:
    """What a batch has sampled, step by step, from some step on."""

    def __init__(self, rows: int) -> None:
        self._buffer = np.empty((BLOCK, rows), np.int32)
        self._first = 0  # the step of the buffer's first line
        self._count = 0

    def append(self, tokens: NDArray[np.int64], keep_from: int) -> None:
        """Add the tokens of some steps, ``[n, R]``; steps before ``keep_from`` may be forgotten."""
        if self._count + len(tokens) > len(self._buffer):
            drop = min(max(0, keep_from - self._first), self._count)
            kept = self._buffer[drop : self._count]
            needed = len(kept) + len(tokens)
            buffer = np.empty((max(BLOCK, 2 * needed), self._buffer.shape[1]), np.int32)
            buffer[: len(kept)] = kept
            self._buffer, self._first, self._count = buffer, self._first + drop, len(kept)
        self._buffer[self._count : self._count + len(tokens)] = tokens
        self._count += len(tokens)

    def column(self, slot: int, first: int, end: int) -> NDArray[np.int64]:
        """The tokens of one slot in the steps from ``first`` to before ``end``."""
        return self._buffer[first - self._first : max(end, first) - self._first, slot].astype(np.int64)


class _Uniforms:
    """The random numbers of a batch, drawn for many steps at once."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._drawn = np.empty((0, rows), np.float32)
        self._used = 0

    def take(self, streams: dict[int, _Stream], steps: int) -> NDArray[np.float32]:
        """The numbers of the coming steps, ``[n, R]``; `advance` moves on."""
        if self._used + steps > len(self._drawn):
            ahead = max(BLOCK, _DRAWN_AHEAD // self._rows)
            keys = np.zeros(self._rows, np.uint64)
            positions = np.zeros(self._rows, np.int64)
            for slot, stream in streams.items():
                keys[slot] = stream.key
                positions[slot] = stream.job.state.positions[0] + stream.done - stream.before
            # Steps that only read have no position; they draw a number that is not looked at.
            steps_ahead = np.maximum(positions + np.arange(ahead)[:, None], 0)  # (R), (n, 1) -> (n, R)
            self._drawn = uniforms_at(keys, steps_ahead)
            self._used = 0
        return self._drawn[self._used : self._used + steps]

    def advance(self, steps: int) -> None:
        """Move past some steps."""
        self._used += steps

    def forget(self) -> None:
        """Draw again at the next step, since a slot has another stream."""
        self._used = len(self._drawn)
