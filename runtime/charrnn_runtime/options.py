"""The options shared by all ways of generating, and the settings that they resolve to."""

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
    """The fields of `Sampling` as separate options: a shortcut for ``sampling``.

    Attributes:
        temperature: divides the logits, > 0; below 1, likely characters become more likely.
        top_k: sample from the ``top_k`` most likely characters; 1 is greedy, None is all.
        top_p: sample from the most likely characters that together have this probability, in (0, 1].
        min_p: sample from those with at least this fraction of the most likely one's probability, in [0, 1).
    """

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float


class Options(SamplingOptions, total=False):
    """Options for generating text.

    Attributes:
        seed: determines the random numbers, together with the stream number; drawn at random if omitted.
        sampling: the sampling settings; alternatively, give its fields as options.
        stop: end a stream before this text, or before the first of several to appear.
        unknown: how to handle characters of a prompt that the model does not know: "error"; "skip" to drop
            them; or "normalize" to convert them to their other Unicode form (composed or decomposed) if the
            model knows that.
    """

    seed: int | None
    sampling: Sampling | None
    stop: Stop
    unknown: Unknown


class Settings(Record):
    """Validated generation options.

    Attributes:
        sampling: the sampling settings.
        seed: the seed.
        stop: the texts that end a stream.
        stop_ids: the ids of each stop text, int64 ``[n]``.
        unknown: how to handle unknown characters.
        logprobs: how many of the most likely characters to give log probabilities for; None for none.
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
        """Validate `Options`.

        Raises:
            SettingError: an option is invalid, or both ``sampling`` and one of its fields are given.
            TypeError: an option is unknown.
        """
        if surplus := fields.keys() - SamplingOptions.__annotations__:
            raise TypeError(f"unknown option {sorted(surplus)[0]!r}; see charrnn_runtime.options.Options")
        if sampling is not None and fields:
            raise SettingError(f"give either sampling or {', '.join(fields)}, not both", "sampling")
        if logprobs is not None and not 0 <= whole_number("logprobs", logprobs) <= len(vocabulary):
            raise wrong(
                "logprobs", f"between 0 and {len(vocabulary):,}, the size of the model's vocabulary", logprobs
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
