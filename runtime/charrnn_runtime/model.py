"""The public face of the runtime: a loaded model that primes, steps, generates and streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, AnyStr, Self, overload

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.batch import Job, Piece, run_jobs
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.format.reader import ModelInfo, read_model_file
from charrnn_runtime.record import Record
from charrnn_runtime.sampling import Sampling, whole_number
from charrnn_runtime.scoring import Score, score_stream, score_tokens
from charrnn_runtime.session import Engine, TooManyRows, width
from charrnn_runtime.state import UNSTARTED, State
from charrnn_runtime.streaming import ByteStream, TextStream
from charrnn_runtime.uniforms import check_seed, draw_seed, stream_keys, uniforms_at
from charrnn_runtime.vocabulary import Unknown, Vocabulary

Texts = list[str] | list[bytes] | tuple[str | bytes, ...]
"""Several texts. Not any sequence of str, since a str is one too. Bytes are for models at the byte level."""


class Step(Record):
    """What one step of N streams gives.

    Attributes:
        logits: float32 ``[N, V]``, before temperature.
        tokens: int64 ``[N]``, the sampled characters.
        state: the streams' state after the step; its ``tokens`` are the sampled ones.
    """

    logits: NDArray[np.float32]
    tokens: NDArray[np.int64]
    state: State


class Generated(Record):
    """One finished stream.

    Attributes:
        index: which one, from 0, in the order in which the primes were given.
        prime: the prime, as it was read.
        text: what was generated, without the prime and without the stop text.
        state: the stream's state at the end.
        data: prime and text as bytes: UTF-8, but at the byte level the very bytes that the model wrote.
    """

    index: int
    prime: str
    text: str
    state: State
    data: bytes


class CharRNN:
    """A character-level RNN that was loaded from a step model file.

    A model may be shared by threads: every call takes buffers of its own, and states never change. (One of
    CUDA graphs may not, and what `stream` gives belongs to one thread at a time.)

    Attributes:
        info: all that the file says of itself.
        vocabulary: its symbols.
        device: "cpu" or "cuda", what really runs.
        device_note: why "auto" took the CPU although a CUDA build of onnxruntime is there; else "".

    Example:
        >>> model = CharRNN.load("models/lstm.onnx")  # doctest: +SKIP
        >>> print(model.generate("LORD ", 200, seed=1))  # doctest: +SKIP
    """

    def __init__(self, info: ModelInfo, engine: Engine) -> None:
        self.info = info
        self.vocabulary: Vocabulary = info.vocabulary
        self.device = engine.device
        self.device_note = engine.device_note
        self._engine = engine

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", threads: int = 1, cuda_graphs: bool = False
    ) -> CharRNN:
        """Load a step model.

        Args:
            path: the file.
            device: "auto" (CUDA where it can be used, else the CPU), "cpu" or "cuda".
            threads: how many threads share one step on the CPU. One is fastest for a few streams.
            cuda_graphs: on CUDA, capture each step once and replay it; off unless asked for. Such a model is
                for one thread at a time: while one captures, nothing else may use the GPU.

        Raises:
            ModelFormatError: the file is no step model, or was cut or altered.
            DeviceError: CUDA was asked for and cannot be used.
            CharRNNError: the file cannot be read.
        """
        file = read_model_file(path)
        return cls(file.info, Engine(file, device, threads, cuda_graphs=cuda_graphs))

    def __repr__(self) -> str:
        info = self.info
        return f"CharRNN({info.path!r}, {info.cell} {info.layers}x{info.hidden_size}, device={self.device!r})"

    def initial_state(self, batch: int = 1) -> State:
        """The state of ``batch`` streams, numbered from 0, that have read nothing."""
        _check_streams(batch)
        return State.start(batch, self.info.state_size)

    def prime(
        self,
        text: str | bytes | Sequence[str | bytes],
        state: State | None = None,
        *,
        unknown: Unknown = "error",
    ) -> State:
        """Let streams read a text, without generating.

        Args:
            text: one text for all streams, or a list with one text a stream; bytes at the byte level, too.
            state: where the streams stand; fresh ones if left out.
            unknown: what happens to characters that the model does not know: "error", or "skip".

        Returns:
            The state after the text, whose last character is read by the next step.

        Raises:
            UnknownCharacterError: the text has unknown characters, and ``unknown`` is "error".
        """
        texts = [text] if isinstance(text, str | bytes) else list(text)
        if state is None:
            state = self.initial_state(max(1, len(texts)))
        if len(texts) == 1:
            texts *= len(state)
        self._check_state(state, len(texts))
        several = not isinstance(text, str | bytes)
        jobs = []
        for i, each in enumerate(texts):
            with _naming(i if several else None):
                jobs.append(self._job(state[i], each, 0, unknown))
        ends: dict[int, State] = {}
        for piece in run_jobs(self._engine, jobs, Sampling(), 0):
            assert piece.state is not None  # a job of no length has one piece
            ends[piece.index] = piece.state
        return State.concatenate([ends[i] for i in range(len(jobs))])

    def step(
        self,
        state: State,
        *,
        seed: int = 0,
        temperature: float = spec.DEFAULT_TEMPERATURE,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> Step:
        """One character for all streams: read the pending one, sample the next.

        Args:
            state: where the streams stand.
            seed: with each stream's number and position it decides the random numbers.
            temperature: see `Sampling`, as ``top_k`` and ``top_p``.
            top_k: see `Sampling`.
            top_p: see `Sampling`.

        Example:
            >>> state = model.initial_state(1)  # doctest: +SKIP
            >>> for _ in range(10):  # doctest: +SKIP
            ...     step = model.step(state, seed=1)
            ...     state = step.state
        """
        sampling = Sampling(temperature, top_k, top_p)
        self._check_state(state, len(state))
        try:
            return self._step(state, sampling, seed)
        except TooManyRows:
            pass  # and let go of what it held
        raise self._engine.out_of_memory(len(state))

    def _step(self, state: State, sampling: Sampling, seed: int) -> Step:
        keys = stream_keys(seed, state.numbers)
        streams = len(state)
        with self._engine.lane(width(streams), logits=1) as lane:
            begun = state.tokens != UNSTARTED
            lane.tokens[0, :streams] = np.where(begun, state.tokens, self.info.start_token)
            lane.uniforms[0, :streams] = uniforms_at(keys, state.positions)
            lane.temperature[:] = sampling.temperature
            lane.top_k[:] = sampling.top_k_for(self.info.top_k_max)
            lane.top_p[:] = sampling.top_p
            lane.write_state(slice(streams), state.rows)
            lane.run(1)
            tokens = lane.sampled[0, :streams].copy()
            after = State(lane.read_state(slice(streams)), tokens, state.numbers, state.positions + 1)
            return Step(lane.logits[0, :streams].copy(), tokens, after)

    @overload
    def generate(
        self,
        prime: str | bytes = ...,
        length: int = ...,
        *,
        seed: int | None = ...,
        temperature: float = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        stop: str | None = ...,
        unknown: Unknown = ...,
        rows: int | None = ...,
    ) -> str: ...
    @overload
    def generate(
        self,
        prime: Texts | State,
        length: int = ...,
        *,
        seed: int | None = ...,
        temperature: float = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        stop: str | None = ...,
        unknown: Unknown = ...,
        rows: int | None = ...,
    ) -> list[str]: ...
    def generate(
        self,
        prime: str | bytes | Texts | State = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        seed: int | None = None,
        temperature: float = spec.DEFAULT_TEMPERATURE,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: str | None = None,
        unknown: Unknown = "error",
        rows: int | None = None,
    ) -> str | list[str]:
        """Generate text.

        Args:
            prime: a text to go on from (at the byte level, bytes too); or a list of them, stream i being the
                i-th; or a state to go on from.
            length: how many characters (bytes, at the byte level) to generate; the prime is not counted.
            seed: decides the random numbers; drawn if left out.
            temperature: see `Sampling`, as ``top_k`` and ``top_p``.
            top_k: see `Sampling`.
            top_p: see `Sampling`.
            stop: end a stream before this text.
            unknown: what happens to characters of a prime that the model does not know: "error", or "skip".
            rows: how many streams run at once; by default as many as run well on the device.

        Returns:
            One text, prime included, for one prime; a list of them for a list; for a state, a list of what
            its streams go on with. At the byte level, what is not UTF-8 is replaced as `Vocabulary.decode`
            says; `generate_each` and `stream_bytes` give the very bytes.

        Raises:
            SettingError: a setting makes no sense.
            UnknownCharacterError: a prime has unknown characters, and ``unknown`` is "error".
        """
        streams = self.generate_each(
            [prime] if isinstance(prime, str | bytes) else prime,
            length,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=stop,
            unknown=unknown,
            rows=rows,
        )
        # Of all bytes together: a prime of bytes may end within a sequence that the model completes.
        if not isinstance(prime, str | bytes):
            return [stream.data.decode(errors="replace") for stream in streams]
        with _naming(None):
            return next(streams).data.decode(errors="replace")

    def generate_each(
        self,
        primes: Iterable[str | bytes] | State,
        length: int = spec.DEFAULT_LENGTH,
        *,
        seed: int | None = None,
        temperature: float = spec.DEFAULT_TEMPERATURE,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: str | None = None,
        unknown: Unknown = "error",
        rows: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[Generated]:
        """Generate many streams, giving each as soon as it and those before it are done.

        Primes are drawn from the iterable as rows become free, so it may be as long as it likes.

        Args:
            primes: a prime a stream, or a state whose streams go on.
            length: as for `generate`, as the other arguments are.
            seed: see `generate`.
            temperature: see `generate`.
            top_k: see `generate`.
            top_p: see `generate`.
            stop: see `generate`.
            unknown: see `generate`.
            rows: see `generate`.
            on_progress: called now and then with the number of characters sampled since its last call.
        """
        sampling = Sampling(temperature, top_k, top_p)
        length = _check_length(length)
        if isinstance(primes, str | bytes):
            raise SettingError("generate_each: primes must be several texts, as in a list, and not one text")
        if rows is not None:
            _check_streams(rows)
        chosen = draw_seed() if seed is None else check_seed(seed)
        stop_tokens = self._stop_tokens(stop)
        heads: dict[int, bytes] = {}  # the primes of the streams that have begun

        def jobs() -> Iterator[Job]:
            if isinstance(primes, State):
                self._check_state(primes, len(primes))
                for i in range(len(primes)):
                    heads[i] = b""
                    yield self._job(primes[i], "", length, unknown)
                return
            fresh = self.initial_state(1)
            for i, prime in enumerate(primes):
                with _naming(i):
                    heads[i] = self.vocabulary.decode_bytes(self.vocabulary.encode(prime, unknown))
                    job = self._job(fresh.fork(1, i), prime, length, unknown)
                yield job

        done: dict[int, Generated] = {}
        pieces: dict[int, list[NDArray[np.int64]]] = {}
        following = 0
        running = run_jobs(
            self._engine, jobs(), sampling, chosen, stop=stop_tokens, rows=rows, on_progress=on_progress
        )
        with contextlib.closing(running):
            for piece in running:
                pieces.setdefault(piece.index, []).append(piece.tokens)
                if piece.state is None:
                    continue
                stream = ByteStream(self.vocabulary, stop)
                data = stream.push(np.concatenate(pieces.pop(piece.index))) + stream.finish()
                head = heads.pop(piece.index)
                done[piece.index] = Generated(
                    index=piece.index,
                    prime=head.decode(errors="replace"),
                    text=data.decode(errors="replace"),
                    state=piece.state,
                    data=head + data,
                )
                while following in done:
                    yield done.pop(following)
                    following += 1

    def stream(
        self,
        prime: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        seed: int | None = None,
        temperature: float = spec.DEFAULT_TEMPERATURE,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: str | None = None,
        unknown: Unknown = "error",
    ) -> LiveText:
        """Generate one stream, giving its text as it comes; the prime is not given again.

        Args:
            prime: a text to read first; at the byte level, bytes too.
            length: how many characters (bytes, at the byte level) to generate.
            state: the state of one stream to go on from; a fresh one if left out.
            seed: as for `generate`, as the other arguments are.
            temperature: see `Sampling`, as ``top_k`` and ``top_p``.
            top_k: see `Sampling`.
            top_p: see `Sampling`.
            stop: end before this text.
            unknown: what happens to characters of the prime that the model does not know.

        Returns:
            An iterator of pieces of text. When it is through, its ``state`` is where the stream stands. One
            that is not read to its end is best closed, or used in a ``with`` statement.

        Example:
            >>> text = model.stream("LORD ", 500, seed=1)  # doctest: +SKIP
            >>> for piece in text:  # doctest: +SKIP
            ...     print(piece, end="", flush=True)
            >>> more = model.stream("", 500, state=text.state, seed=1)  # doctest: +SKIP
        """
        sampling = Sampling(temperature, top_k, top_p)
        written = TextStream(self.vocabulary, stop)
        pieces, start, chosen = self._run_live(prime, length, state, seed, sampling, stop, unknown)
        return LiveText(pieces, written.push, written.finish, start, chosen)

    def stream_bytes(
        self,
        prime: str | bytes = b"",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        seed: int | None = None,
        temperature: float = spec.DEFAULT_TEMPERATURE,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop: str | None = None,
        unknown: Unknown = "error",
    ) -> LiveBytes:
        r"""Generate one stream as `stream` does, giving bytes as they come.

        At the byte level they are the very bytes that the model writes, whether they are UTF-8 or not; at the
        character level they are the text's UTF-8.

        Example:
            >>> data = b"".join(model.stream_bytes(b"\x89PNG", 500, seed=1))  # doctest: +SKIP
        """
        sampling = Sampling(temperature, top_k, top_p)
        written = ByteStream(self.vocabulary, stop)
        pieces, start, chosen = self._run_live(prime, length, state, seed, sampling, stop, unknown)
        return LiveBytes(pieces, written.push, written.finish, start, chosen)

    def _run_live(
        self,
        prime: str | bytes,
        length: int,
        state: State | None,
        seed: int | None,
        sampling: Sampling,
        stop: str | None,
        unknown: Unknown,
    ) -> tuple[Generator[Piece, None, None], State, int]:
        """Run one stream whose tokens come as they are sampled; gives its state before and its seed, too."""
        length = _check_length(length)
        chosen = draw_seed() if seed is None else check_seed(seed)
        start = self.initial_state(1) if state is None else state
        self._check_state(start, 1)
        job = self._job(start, prime, length, unknown, live=True)
        pieces = run_jobs(self._engine, [job], sampling, chosen, stop=self._stop_tokens(stop))
        return pieces, start, chosen

    @overload
    def score(self, texts: str | bytes, *, unknown: Unknown = ...) -> Score: ...
    @overload
    def score(self, texts: Texts, *, unknown: Unknown = ...) -> list[Score]: ...
    def score(self, texts: str | bytes | Texts, *, unknown: Unknown = "error") -> Score | list[Score]:
        """How well the model predicts a text, or each of several.

        The first character of a text is predicted from the start token at a zero state.

        Args:
            texts: a text, or a list of them, which share each step; at the byte level, bytes too.
            unknown: what happens to characters that the model does not know: "error", or "skip".

        Raises:
            UnknownCharacterError: a text has unknown characters, and ``unknown`` is "error".
            OutOfMemoryError: memory is too little.

        Example:
            >>> model = CharRNN.load("models/lstm.onnx")  # doctest: +SKIP
            >>> round(model.score("To be, or not to be").bits_per_character, 2)  # doctest: +SKIP
            2.15
        """
        if not isinstance(texts, str | bytes):
            return list(self.score_each(texts, unknown=unknown))
        with _naming(None):
            return next(self.score_each([texts], unknown=unknown))

    def score_each(self, texts: Iterable[str | bytes], *, unknown: Unknown = "error") -> Iterator[Score]:
        """Score texts one after the other in the order in which they come, however many they are."""
        if isinstance(texts, str | bytes):
            raise SettingError("score_each: texts must be several texts, as in a list, and not one text")

        def tokens() -> Iterator[NDArray[Any]]:
            for i, text in enumerate(texts):
                with _naming(i):
                    ids = self.vocabulary.encode(text, unknown, np.uint16)
                yield ids

        return map(Score.of, score_tokens(self._engine, tokens()))

    def score_stream(
        self, pieces: Iterable[str | bytes], *, unknown: Unknown = "error"
    ) -> Iterator[NDArray[np.float32]]:
        """The losses of one text that comes in pieces: float32 ``[n]`` for each piece, in nats.

        It takes no more memory for a long text than for a short one: a piece is scored before the next one
        is asked for.
        """
        return score_stream(self._engine, self._encode_each(pieces, unknown))

    def _encode_each(self, pieces: Iterable[str | bytes], unknown: Unknown) -> Iterator[NDArray[Any]]:
        """The ids of the pieces of one text; an error tells where in the text a character is unknown."""
        before = 0
        for piece in pieces:
            try:
                yield self.vocabulary.encode(piece, unknown)
            except UnknownCharacterError as error:
                positions = [before + position for position in error.positions]
                raise UnknownCharacterError(error.characters, positions, error.known) from None
            before += len(piece)

    def _job(
        self, state: State, text: str | bytes, length: int, unknown: Unknown, *, live: bool = False
    ) -> Job:
        """The job of one stream: what is pending, then the text; or the start token if there is neither."""
        given = self.vocabulary.encode(text, unknown)
        pending = int(state.tokens[0])
        if pending != UNSTARTED:
            given = np.concatenate([[pending], given])
        elif not len(given):
            # With nothing to read and nothing to sample, the stream stays unstarted: no step is run.
            given = np.array([self.info.start_token if length else UNSTARTED])
        return Job(state, given, length, live)

    def _stop_tokens(self, stop: str | None) -> NDArray[np.int64] | None:
        if stop is None:
            return None
        TextStream(self.vocabulary, stop)  # checks it
        try:
            return self.vocabulary.encode(stop)
        except UnknownCharacterError as error:
            never = ", ".join(repr(character) for character in error.characters[:5])
            raise SettingError(f"stop has characters that this model never writes: {never}") from None

    def _check_state(self, state: State, streams: int) -> None:
        if state.rows.shape[1] != self.info.state_size:
            raise SettingError(
                f"state: its rows have {state.rows.shape[1]} numbers, and this model's have "
                f"{self.info.state_size}; a state belongs to the model that it came from"
            )
        if len(state) != streams or not streams:
            raise SettingError(f"state: it has {len(state)} streams, and {max(streams, 1)} are wanted")
        if len(state) and not (state.tokens.min() >= UNSTARTED and state.tokens.max() < len(self.vocabulary)):
            raise SettingError("state: it has tokens that are not in this model's vocabulary")


class _Live(Iterator[AnyStr]):
    """What one stream writes, as it comes."""

    def __init__(
        self,
        pieces: Generator[Piece, None, None],
        push: Callable[[NDArray[np.int64]], AnyStr],
        finish: Callable[[], AnyStr],
        state: State,
        seed: int,
    ) -> None:
        self._pieces = pieces
        self._push: Callable[[NDArray[np.int64]], AnyStr] = push
        self._finish: Callable[[], AnyStr] = finish
        self.state = state
        self.seed = seed
        self.generated = 0

    def __next__(self) -> AnyStr:
        for piece in self._pieces:
            self.generated += len(piece.tokens)
            text = self._push(piece.tokens)
            if piece.state is not None:
                self.state = piece.state
                text += self._finish()
            if text:
                return text
        raise StopIteration

    def close(self) -> None:
        """End it here, and let go of the buffers that it runs in; what was held back is dropped."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LiveText(_Live[str]):
    """The text of one stream, as it comes. Close it if it is not read to its end.

    Attributes:
        seed: the seed that is used.
        state: where the stream stands: where it stood before, until the text is through.
        generated: how many characters (bytes, at the byte level) were sampled so far.
    """


class LiveBytes(_Live[bytes]):
    """What one stream writes as bytes, as it comes; in all else it is like `LiveText`."""


@contextlib.contextmanager
def _naming(index: int | None) -> Iterator[None]:
    """Let an error about unknown characters tell which of several texts has them; None: there is but one."""
    try:
        yield
    except UnknownCharacterError as error:
        raise error.of(index) from None


def _check_length(length: int) -> int:
    length = whole_number("length", length)
    if length < 0:
        raise SettingError(f"length must be 0 or more, not {length}")
    return length


def _check_streams(streams: int) -> None:
    if not 1 <= whole_number("the number of streams", streams) <= spec.MAX_STREAMS:
        raise SettingError(f"streams must be between 1 and {spec.MAX_STREAMS:,}, not {streams:,}")
