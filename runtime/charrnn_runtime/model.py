"""The public interface of the runtime: a loaded model that primes, steps, generates, streams and scores."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from charrnn_runtime.arguments import call_back, each_text, instance, switch
from charrnn_runtime.arguments import text as check_text
from charrnn_runtime.backends.session import width
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.likelihood import LikelihoodModel
from charrnn_runtime.options import Options, SamplingOptions, Settings
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.scheduling.in_order import in_order
from charrnn_runtime.scheduling.request import Request, check_length
from charrnn_runtime.state import UNSTARTED, State
from charrnn_runtime.streaming import ByteStream, LiveBytes, LiveText, TextStream
from charrnn_runtime.texts import (
    Generated,
    Step,
    Texts,
    check_state,
    generated_each,
    make_request,
    naming,
    read_first,
    run_one,
)
from charrnn_runtime.uniforms import stream_keys, uniforms_at
from charrnn_runtime.vocabulary import Unknown

if TYPE_CHECKING:
    from charrnn_runtime.background import AsyncText


class CharRNN(LikelihoodModel):
    """A character-level RNN loaded from a step model file.

    Models are thread-safe: every call has its own buffers, and states are immutable. Only
    what `stream` and `generate_each` return belongs to one thread at a time.

    Attributes:
        info: the file's metadata.
        vocabulary: the vocabulary.
        device: the device in use: "cpu", "cuda" or "webgpu".
        device_note: why "auto" chose the CPU although a CUDA build of onnxruntime is installed; otherwise "".

    Examples:
        >>> model = CharRNN.load("models/lstm.onnx")  # doctest: +SKIP
        >>> print(model.generate("LORD ", 200, seed=1))  # doctest: +SKIP
    """

    def prime(
        self, text: str | bytes | Texts, state: State | None = None, *, unknown: Unknown = "error"
    ) -> State:
        """Read a text without generating.

        Args:
            text: one text for all streams, or a list with one text per stream; at the byte level, texts may
                be bytes.
            state: the state of the streams; a fresh one if omitted.
            unknown: how to handle unknown characters: see `Options`.

        Returns:
            The state after the text; its last character is pending, to be read by the next step.

        Raises:
            UnknownCharacterError: the text has unknown characters, and ``unknown`` is not "skip".
        """
        alone, level = isinstance(text, str | bytes), self.vocabulary.level
        texts = [check_text("text", text, level)] if alone else list(each_text("text", text, level))
        if not texts:
            raise SettingError("text must be a text, or a list of one or more", "text")
        state = self.initial_state(len(texts)) if state is None else instance("state", state, State)
        if len(texts) == 1:
            texts *= len(state)
        check_state(state, self.info, len(texts))
        settings = Settings.of(self.vocabulary, seed=0, unknown=unknown)
        requests = []
        for i, each in enumerate(texts):
            with naming(None if alone else i):
                ids = self.vocabulary.encode(each, unknown)
                requests.append(make_request(self.info, ids, 0, settings, state, index=i))
        return State.concatenate([each.state for each in in_order(self._scheduler(len(texts)), requests)])

    def step(
        self,
        state: State,
        *,
        seed: int | None = None,
        sampling: Sampling | None = None,
        **fields: Unpack[SamplingOptions],
    ) -> Step:
        """Advance all streams by one character: read the pending one and sample the next.

        Args:
            state: the state of the streams.
            seed: the seed; with each stream's number and position, it determines the random numbers. Drawn at
                random if omitted.
            sampling: the sampling settings.
            fields: the fields of `Sampling`, as an alternative to ``sampling``.

        Examples:
            >>> step = model.step(model.prime("LORD "), seed=1)  # doctest: +SKIP
            >>> step = model.step(step.state, seed=1)  # doctest: +SKIP
        """
        settings = Settings.of(self.vocabulary, seed=seed, sampling=sampling, **fields)
        streams = len(instance("state", state, State))
        check_state(state, self.info, streams)
        with self._engine.buffers(width(streams), steps=1, keeps_logits=True) as buffers:
            begun = state.tokens != UNSTARTED
            buffers.tokens[0, :streams] = np.where(begun, state.tokens, self.info.start_token)
            keys = stream_keys(settings.seed, state.numbers)
            buffers.uniforms[0, :streams] = uniforms_at(keys, state.positions)
            for name, value in settings.sampling.inputs(self.info.top_k_max).items():
                buffers.settings[name][:] = value
            buffers.write_state(slice(streams), state.rows)
            buffers.run(1)
            tokens = buffers.tokens[1, :streams].copy()
            after = State(buffers.read_state(slice(streams)), tokens, state.numbers, state.positions + 1)
            return Step(buffers.logits[0, :streams].copy(), tokens, after, settings.seed)

    @overload
    def generate(
        self,
        prompt: str | bytes = ...,
        length: int = ...,
        *,
        echo: bool = ...,
        max_batch_size: int | None = ...,
        **options: Unpack[Options],
    ) -> str: ...
    @overload
    def generate(
        self,
        prompt: Texts | State,
        length: int = ...,
        *,
        echo: bool = ...,
        max_batch_size: int | None = ...,
        **options: Unpack[Options],
    ) -> list[str]: ...
    def generate(
        self,
        prompt: str | bytes | Texts | State = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        echo: bool = True,
        max_batch_size: int | None = None,
        **options: Unpack[Options],
    ) -> str | list[str]:
        """Generate text.

        Args:
            prompt: the prompt (at the byte level, bytes too); or a list of prompts, one per stream; or a
                state to continue from.
            length: the number of characters (bytes, at the byte level) to generate, not counting the prompt.
            echo: whether to include the prompt in the text. A state has no prompt.
            max_batch_size: the number of streams to run at once; None for the best number for the device.
            options: see `Options`.

        Returns:
            One text for one prompt; a list for a list or a state. Invalid UTF-8 at the byte level is replaced
            as in `Vocabulary.decode`; `generate_each` and `stream_bytes` give the raw bytes.

        Raises:
            SettingError: a setting is invalid.
            UnknownCharacterError: a prompt has unknown characters, and ``unknown`` is not "skip".
        """
        alone = isinstance(prompt, str | bytes)
        prompts: Any = prompt
        if not isinstance(prompt, State):
            level = self.vocabulary.level
            prompts = (
                [check_text("prompt", prompt, level)] if alone else list(each_text("prompt", prompt, level))
            )
        switch("echo", echo)
        streams = self.generate_each(prompts, length, max_batch_size=max_batch_size, **options)
        with naming(None) if alone else contextlib.nullcontext():
            # Decode all bytes together: a prompt may end within a sequence that the model completes.
            texts = [each.data.decode(errors="replace") if echo else each.text for each in streams]
        return texts[0] if alone else texts

    def generate_each(
        self,
        prompts: Iterable[str | bytes] | State,
        length: int = spec.DEFAULT_LENGTH,
        *,
        logprobs: int | None = None,
        max_batch_size: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Generated]:
        """Generate many streams, and yield each one as soon as it and all earlier ones are finished.

        Prompts are taken from the iterable as rows become free, so it may be infinite.

        Args:
            prompts: one prompt per stream, or a state whose streams to continue.
            length: see `generate`.
            logprobs: include the log probability of each character, and of this many most likely ones.
            max_batch_size: see `generate`.
            on_progress: called periodically with the number of characters sampled since the last call.
            options: see `Options`.
        """
        texts = (
            iter(()) if isinstance(prompts, State) else each_text("prompts", prompts, self.vocabulary.level)
        )
        call_back("on_progress", on_progress)
        settings = Settings.of(self.vocabulary, logprobs=logprobs, **options)
        length = check_length(length)
        streams = len(prompts) if isinstance(prompts, State | list | tuple) else None
        scheduler = self._scheduler(streams, max_batch_size)
        heads: dict[Request, bytes] = {}  # the prompts of the running streams

        def requests() -> Iterator[Request]:
            if isinstance(prompts, State):
                check_state(prompts, self.info, len(prompts))
                for i in range(len(prompts)):
                    yield make_request(self.info, np.empty(0, np.int64), length, settings, prompts, index=i)
                return
            fresh = self.initial_state(1)
            for i, prompt in enumerate(texts):
                with naming(i):
                    ids = self.vocabulary.encode(prompt, settings.unknown)
                request = make_request(self.info, ids, length, settings, fresh, number=i)
                if streams == 1:
                    with closing(self._scheduler(1)) as alone:
                        request = read_first(alone, request)
                heads[request] = self.vocabulary.decode_bytes(ids)
                yield request

        outputs = in_order(scheduler, requests(), on_progress=on_progress)
        return generated_each(self.vocabulary, outputs, heads, settings)

    def stream(
        self,
        prompt: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        echo: bool = False,
        **options: Unpack[Options],
    ) -> LiveText:
        """Generate one stream incrementally.

        Args:
            prompt: the prompt; at the byte level, it may be bytes.
            length: the number of characters (bytes, at the byte level) to generate.
            state: the state of one stream to continue from; a fresh one if omitted.
            echo: whether to include the prompt in the text.
            options: see `Options`.

        Returns:
            An iterator of chunks of text. At the end, its ``state`` is the state of the stream, and its
            ``finish_reason`` tells why it ended. Close it, or use it in a ``with`` statement, if you do not
            exhaust it.

        Examples:
            >>> text = model.stream("LORD ", 500, seed=1)  # doctest: +SKIP
            >>> for chunk in text:  # doctest: +SKIP
            ...     print(chunk, end="", flush=True)
            >>> more = model.stream("", 500, state=text.state, seed=1)  # doctest: +SKIP
        """
        start, request, settings, head = self._live(prompt, length, state, options, echo=echo)
        written = TextStream(self.vocabulary, settings.stop)
        return LiveText(run_one(self._scheduler(1), request), written, start, request.seed, head)

    def stream_bytes(
        self,
        prompt: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        echo: bool = False,
        **options: Unpack[Options],
    ) -> LiveBytes:
        """Generate one stream incrementally, as bytes; see `stream`.

        At the byte level, these are the raw bytes that the model writes, valid UTF-8 or not; at the character
        level, they are UTF-8.
        """
        start, request, settings, head = self._live(prompt, length, state, options, echo=echo)
        written = ByteStream(self.vocabulary, settings.stop)
        return LiveBytes(run_one(self._scheduler(1), request), written, start, request.seed, head)

    def stream_async(
        self,
        prompt: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        state: State | None = None,
        echo: bool = False,
        **options: Unpack[Options],
    ) -> AsyncText:
        """Generate one stream incrementally for ``async for``, without blocking the event loop; see `stream`.

        All streams of a model run as a batch in one thread. Slow readers do not block others.

        Raises:
            QueueFullError: the queue is full; raised when the first chunk is awaited.

        Examples:
            >>> async with model.stream_async("LORD ", 500, seed=1) as text:  # doctest: +SKIP
            ...     async for chunk in text:
            ...         print(chunk, end="", flush=True)
        """
        from charrnn_runtime.background import AsyncText, Background  # asyncio takes 60 ms to import

        start, request, settings, head = self._live(prompt, length, state, options, echo=echo)
        with self._background_lock:
            if self._background is None:
                self._background = Background(self.scheduler())
        return AsyncText(self._background, request, TextStream(self.vocabulary, settings.stop), start, head)
