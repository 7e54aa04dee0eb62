"""The likelihood of texts: the loss of given texts, and a search for the most likely continuations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import each_text, instance, switch, whole_number_from
from charrnn_runtime.arguments import text as check_text
from charrnn_runtime.beam import Continuation, most_likely_paths
from charrnn_runtime.format import spec
from charrnn_runtime.loaded import LoadedModel
from charrnn_runtime.options import Settings
from charrnn_runtime.scheduling.request import check_length
from charrnn_runtime.scoring import Score, encode_chunks, encode_texts, score_stream, score_tokens
from charrnn_runtime.state import State
from charrnn_runtime.streaming import ByteStream, Stop
from charrnn_runtime.texts import Texts, check_state, make_request, naming, run_one
from charrnn_runtime.view.trace import Trace, trace_chunks, trace_ids
from charrnn_runtime.vocabulary import Unknown, check_unknown


class LikelihoodModel(LoadedModel):
    """The part of `CharRNN` that computes probabilities of texts."""

    @overload
    def score(self, texts: str | bytes, *, unknown: Unknown = ...) -> Score: ...
    @overload
    def score(self, texts: Texts, *, unknown: Unknown = ...) -> list[Score]: ...
    def score(self, texts: str | bytes | Texts, *, unknown: Unknown = "error") -> Score | list[Score]:
        """Measure how well the model predicts one text or several.

        The first character is predicted from the start token at a zero state.

        Args:
            texts: a text, or a list of texts, which run as a batch; at the byte level, texts may be bytes.
            unknown: how to handle unknown characters: see `Options`.

        Raises:
            UnknownCharacterError: a text has unknown characters, and ``unknown`` is not "skip".
            OutOfMemoryError: the device has too little memory.
        """
        alone, level = isinstance(texts, str | bytes), self.vocabulary.level
        checked = [check_text("texts", texts, level)] if alone else list(each_text("texts", texts, level))
        if not alone:
            return list(self.score_each(checked, unknown=unknown))
        with naming(None):
            return next(self.score_each(checked, unknown=unknown))

    def score_each(
        self,
        texts: Iterable[str | bytes],
        *,
        unknown: Unknown = "error",
        max_batch_size: int | None = None,
    ) -> Iterator[Score]:
        """Score an iterable of texts lazily, in order; see `score` for the arguments."""
        checked = each_text("texts", texts, self.vocabulary.level)
        tokens = encode_texts(self.vocabulary, checked, check_unknown(unknown))
        return map(Score.of, score_tokens(self._engine, tokens, max_batch_size=max_batch_size))

    def score_stream(
        self, chunks: Iterable[str | bytes], *, unknown: Unknown = "error"
    ) -> Iterator[NDArray[np.float32]]:
        """The losses of one text given in chunks: float32 ``[n]`` for each chunk, in nats.

        Memory use does not depend on the length of the text: each chunk is scored before the next one is
        read.
        """
        checked = each_text("chunks", chunks, self.vocabulary.level)
        return score_stream(self._engine, encode_chunks(self.vocabulary, checked, check_unknown(unknown)))

    def trace(self, text: str | bytes, *, state: State | None = None, unknown: Unknown = "error") -> Trace:
        """Record what the model does at each symbol of a text: the state of every unit, and the predictions.

        A text of T symbols takes 4 T (S + V) bytes, for S numbers in a state and V symbols in the vocabulary:
        2 GB for 100,000 characters and the default network. For longer texts, use `trace_stream`.

        Args:
            text: the text; at the byte level, it may be bytes.
            state: the initial state, of one stream; if omitted, a fresh one, which reads the start token
                first.
            unknown: how to handle unknown characters: see `Options`.

        Raises:
            UnknownCharacterError: the text has unknown characters, and ``unknown`` is not "skip".
            OutOfMemoryError: the device has too little memory.

        Examples:
            >>> trace = model.trace("To be, or not to be")  # doctest: +SKIP
            >>> trace.bits.argmax()  # the most surprising character # doctest: +SKIP
        """
        check_text("text", text, self.vocabulary.level)
        start = self.initial_state(1) if state is None else state
        check_state(start, self.info, 1)
        with naming(None):
            ids = self.vocabulary.encode(text, check_unknown(unknown))
        return trace_ids(self._engine, ids, start)

    def trace_stream(
        self, chunks: Iterable[str | bytes], *, by_line: bool = False, unknown: Unknown = "error"
    ) -> Iterator[Trace]:
        """Trace one text given in chunks: yields a `Trace` for each chunk.

        Memory use does not depend on the length of the text: each chunk is traced before the next one is
        read.

        Args:
            chunks: the text.
            by_line: whether to read each line from a fresh state, as in training with ``--lines``.
            unknown: how to handle unknown characters: see `Options`.
        """
        checked = each_text("chunks", chunks, self.vocabulary.level)
        tokens = encode_chunks(self.vocabulary, checked, check_unknown(unknown))
        return trace_chunks(self._engine, tokens, by_line=switch("by_line", by_line))

    def beam(
        self,
        prompt: str | bytes = "",
        length: int = spec.DEFAULT_LENGTH,
        *,
        beams: int = spec.DEFAULT_BEAMS,
        state: State | None = None,
        stop: Stop = None,
        unknown: Unknown = "error",
    ) -> list[Continuation]:
        r"""Search for the most likely continuations of a text instead of sampling one.

        The search is deterministic and ignores sampling settings. The more beams, the fewer continuations are
        dropped during the search. The most likely text is often dull and repetitive.

        Args:
            prompt: the prompt; at the byte level, it may be bytes.
            length: the maximum number of characters (bytes, at the byte level) of a continuation.
            beams: the number of continuations to follow at once, in one batch.
            state: the initial state, of one stream; a fresh one if omitted.
            stop: end a continuation before this text, or before the first of several. Its probability is
                part of the score, so continuations of different lengths are comparable.
            unknown: how to handle unknown characters in the prompt: see `Options`.

        Returns:
            As many continuations as beams (or all, if fewer exist), most likely first, with exact scores.

        Raises:
            UnknownCharacterError: the prompt has unknown characters, and ``unknown`` is not "skip".
            OutOfMemoryError: the device has too little memory for this many beams.

        Examples:
            >>> best, *others = model.beam("KING ", 20, beams=16, stop="\n")  # doctest: +SKIP
            >>> print(best.text, best.bits)  # doctest: +SKIP
        """
        settings = Settings.of(self.vocabulary, seed=0, stop=stop, unknown=unknown)
        length = check_length(length)
        beams = whole_number_from("beams", beams, 1, spec.MAX_STREAMS)
        start = self.initial_state(1) if state is None else instance("state", state, State)
        check_state(start, self.info, 1)
        with naming(None):
            ids = self.vocabulary.encode(
                check_text("prompt", prompt, self.vocabulary.level), settings.unknown
            )
        if len(ids):
            request = make_request(self.info, ids, 0, settings, start)
            *_, output = run_one(self._scheduler(1), request)
            start = output.state
        found = []
        for path in most_likely_paths(self._engine, start, length, beams, settings.stop_ids):
            written = ByteStream(self.vocabulary, settings.stop)
            data = written.push(path.ids) + written.finish()
            found.append(
                Continuation(
                    text=data.decode(errors="replace"),
                    data=data,
                    nats=path.nats,
                    characters=len(path.ids),
                    finish_reason="stop" if path.stopped else "length",
                    state=path.state,
                )
            )
        return found
