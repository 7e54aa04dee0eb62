"""The options that all ways of generating share, and what they come to."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import instance, stop_texts, whole_number, wrong
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.record import Record
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.streaming import Stop
from charrnn_runtime.uniforms import check_seed, draw_seed
from charrnn_runtime.vocabulary import Unknown, Vocabulary, check_unknown


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as options of their own: a shortcut for ``sampling``.

    Attributes:
        temperature: what the logits are divided by, > 0; below 1, likely characters become more likely.
        top_k: sample from the ``top_k`` most likely characters; 1 is greedy, None is all.
        top_p: sample from the most likely characters that together have this probability, in (0, 1].
        min_p: sample from those with at least this fraction of the most likely one's probability, in [0, 1).
    """

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float


class Options(SamplingOptions, total=False):
    """How text is generated.

    Attributes:
        seed: decides the random numbers, with each stream's number; drawn if omitted.
        sampling: how the next character is chosen; its fields may be given in its place.
        stop: end a stream before this text, or before the first of several.
        unknown: what happens to characters of a prompt that the model does not know: "error"; "skip" to drop
            them; or "normalize" to write them in their other Unicode form (composed or decomposed) where the
            model knows that.
    """

    seed: int | None
    sampling: Sampling | None
    stop: Stop
    unknown: Unknown


class Settings(Record):
    """Options of generating, checked.

    Attributes:
        sampling: how the next character is chosen.
        seed: decides the random numbers.
        stop: the texts that end a stream.
        stop_ids: int64 ``[n]`` each, their ids.
        unknown: what happens to unknown characters.
        logprobs: for how many of the most likely characters to give log-probabilities; None for none.
    """

    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    stop_ids: tuple[NDArray[np.int64], ...]
    unknown: Unknown
    logprobs: int | None

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        stop: Stop = None,
        unknown: Unknown = "error",
        logprobs: int | None = None,
        **fields: Any,
    ) -> Settings:
        """The settings that some `Options` give.

        Raises:
            SettingError: one is invalid, or ``sampling`` is given beside its fields.
            TypeError: an option is unknown.
        """
        if surplus := fields.keys() - SamplingOptions.__annotations__:
            raise TypeError(f"there is no option {sorted(surplus)[0]!r}; see charrnn_runtime.options.Options")
        if sampling is not None and fields:
            raise SettingError(
                f"give sampling or {', '.join(fields)}, not both: these are its fields", "sampling"
            )
        if logprobs is not None and not 0 <= whole_number("logprobs", logprobs) <= len(vocabulary):
            raise wrong(
                "logprobs", f"between 0 and {len(vocabulary):,}, the number of this model's symbols", logprobs
            )
        texts = stop_texts(stop)
        return cls(
            sampling=Sampling(**fields) if sampling is None else instance("sampling", sampling, Sampling),
            seed=draw_seed() if seed is None else check_seed(seed),
            stop=texts,
            stop_ids=tuple(_stop_ids(vocabulary, text) for text in texts),
            unknown=check_unknown(unknown),
            logprobs=logprobs,
        )


def _stop_ids(vocabulary: Vocabulary, stop: str) -> NDArray[np.int64]:
    try:
        return vocabulary.encode(stop)
    except UnknownCharacterError as error:
        never = ", ".join(repr(character) for character in error.characters[:5])
        raise SettingError(f"stop has characters that this model never writes: {never}", "stop") from None
