"""What a request for completions asks for, checked field by field."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import shown
from charrnn_runtime.errors import SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record
from charrnn_runtime.sampling import Sampling
from charrnn_runtime.serve.api_errors import ApiError
from charrnn_runtime.serve.bodies import Fields
from charrnn_runtime.serve.service import Served, Service
from charrnn_runtime.serve.settings import ServeSettings
from charrnn_runtime.serve.streams import Timed
from charrnn_runtime.uniforms import draw_seed
from charrnn_runtime.vocabulary import Vocabulary

DEFAULT_LENGTH: Final = 16
DEFAULT_TEMPERATURE: Final = 1.0
"""What OpenAI's API takes where a request does not say."""

_COLDEST: Final = 1e-4
"""Below this temperature, the most likely character is always taken."""

MOST_LOGPROBS: Final = 2_000_000
"""How many log-probabilities one answer may have."""

MOST_STOPS: Final = 16
MOST_SEED: Final = (1 << 64) - 1


class Asked(Record):
    """A request for completions.

    Attributes:
        served: the model.
        prompts: int64 ``[m]`` each, the ids of the prompts.
        n: how many choices are wanted for each prompt.
        length: how many characters each has at most.
        sampling: how these are chosen.
        seed: decides the random numbers.
        stop: the texts that end a choice; the model can write each of them.
        logprobs: for how many of the most likely characters log-probabilities are wanted; None for none.
        echo: whether a text begins with its prompt.
        stream: whether the texts are wanted as they come.
        include_usage: whether the last event of a stream says how many characters there were.
    """

    served: Served
    prompts: tuple[NDArray[np.int64], ...]
    n: int
    length: int
    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool

    @classmethod
    def of(cls, body: dict[str, Any], service: Service) -> Asked:
        """What the body of a request asks for.

        Raises:
            ApiError: a field is invalid, unknown, or asks for what this server cannot do.
        """
        fields, settings = Fields(body), service.settings
        served = service.find(fields.text("model"))
        vocabulary = served.model.vocabulary
        prompts = _prompts(fields.take("prompt"), vocabulary, settings)
        n = fields.whole("n", 1, 1, settings.max_choices)
        if n * len(prompts) > settings.max_choices:
            raise ApiError(
                400,
                f"prompt, n: {len(prompts)} prompts with {n} choices each make {n * len(prompts):,} choices, "
                f"and a request may have {settings.max_choices:,}; ask in several requests",
                "n" if n > 1 else "prompt",
            )
        logprobs = fields.whole("logprobs", -1, 0, settings.max_logprobs)
        stream = fields.switch("stream")
        options = fields.object("stream_options")
        include_usage = options.switch("include_usage")
        options.neutral("include_obfuscation", False)
        options.end("stream_options")
        if include_usage and not stream:
            raise ApiError(
                400, "stream_options is for streams: leave it out, or set stream", "stream_options"
            )
        seed = fields.whole("seed", -1, 0, MOST_SEED)
        asked = cls(
            served=served,
            prompts=prompts,
            n=n,
            length=fields.whole("max_tokens", default_length(settings), 0, settings.max_length),
            sampling=_sampling(fields),
            seed=draw_seed() if seed < 0 else seed,
            stop=_stop(fields.take("stop"), vocabulary),
            logprobs=None if logprobs < 0 else min(logprobs, len(vocabulary)),
            echo=fields.switch("echo"),
            stream=stream,
            include_usage=include_usage,
        )
        _accept_neutral(fields, n)
        fields.end()
        asked._check_logprobs()
        return asked

    def _check_logprobs(self) -> None:
        """Refuse to hold more log-probabilities than memory may take."""
        if self.logprobs is None:
            return
        read = sum(map(len, self.prompts)) if self.echo else 0
        numbers = self.n * (read + len(self.prompts) * self.length) * (1 + self.logprobs)
        if numbers > MOST_LOGPROBS:
            raise ApiError(
                400,
                f"logprobs: the request could have {numbers:,} log-probabilities, and {MOST_LOGPROBS:,} are "
                "allowed; ask for fewer characters, choices or logprobs",
                "logprobs",
            )

    def requests(self) -> list[Timed]:
        """The streams of the choices, in their order: those of the first prompt first."""
        info = self.served.model.info
        stop_ids = [info.vocabulary.encode(each) for each in self.stop]
        return [
            Timed(
                ids if len(ids) else np.array([info.start_token]),
                self.length,
                number=index * self.n + choice,
                sampling=self.sampling,
                seed=self.seed,
                stop=stop_ids,
                live=self.stream,
                logprobs=self.logprobs,
                prompt_logprobs=self.echo and self.logprobs is not None,
            )
            for index, ids in enumerate(self.prompts)
            for choice in range(self.n)
        ]


def default_length(settings: ServeSettings) -> int:
    """How many characters a choice has at most where the request does not say."""
    return min(DEFAULT_LENGTH, settings.max_length)


def _prompts(value: Any, vocabulary: Vocabulary, settings: ServeSettings) -> tuple[NDArray[np.int64], ...]:
    """The ids of a text, of several texts, of ids, or of several rows of ids; of an empty text for None."""
    values = [value]
    if value is None:
        values = [""]
    elif isinstance(value, list) and not _are_ids(value):
        values = value
    if not values:
        raise ApiError(400, "prompt must have a text or an id at least; leave it out for none", "prompt")
    if len(values) > settings.max_choices:
        raise ApiError(
            400,
            f"prompt has {len(values):,} texts, and a request may have {settings.max_choices:,}",
            "prompt",
        )
    alone = not isinstance(value, list) or values[0] is value
    return tuple(
        prompt_ids(each, vocabulary, settings, None if alone else index) for index, each in enumerate(values)
    )


def prompt_ids(
    value: Any, vocabulary: Vocabulary, settings: ServeSettings, index: int | None, name: str = "prompt"
) -> NDArray[np.int64]:
    """The ids of one prompt, which is a text or a list of ids.

    Args:
        value: the prompt.
        vocabulary: what its characters mean.
        settings: the longest that it may be, and what happens to unknown characters.
        index: which of several it is; None for the only one.
        name: what the field is called.

    Raises:
        ApiError: it is no prompt, is too long, or has unknown characters or ids.
    """
    label = name if index is None else f"{name}[{index}]"
    if isinstance(value, str):
        check_prompt_length(len(value), label, settings)
        try:
            ids = vocabulary.encode(value, settings.unknown)
        except UnknownCharacterError as error:
            said = str(error.of(None, label)).replace('unknown="', "--unknown ").rstrip('"')
            raise ApiError(400, f"{said} when the server is started", name, "unknown_characters") from None
    elif isinstance(value, list) and _are_ids(value):
        ids = _known_ids(value, vocabulary, label, name)
    else:
        raise ApiError(
            400, f"{label} must be a text or a list of ids, or a list of these, not {shown(value)}", name
        )
    check_prompt_length(len(ids), label, settings)
    return ids


def check_prompt_length(length: int, label: str, settings: ServeSettings) -> None:
    """Refuse a prompt that is too long.

    Raises:
        ApiError: it is.
    """
    if length > settings.max_prompt:
        raise ApiError(
            400,
            f"{label} has {length:,} characters, and this server reads {settings.max_prompt:,} at most",
            label.partition("[")[0],
            "context_length_exceeded",
        )


def _are_ids(values: list[Any]) -> bool:
    return bool(values) and all(type(each) is int for each in values)


def _known_ids(values: list[int], vocabulary: Vocabulary, label: str, name: str) -> NDArray[np.int64]:
    for each in values:
        if not 0 <= each < len(vocabulary):
            most = len(vocabulary) - 1
            raise ApiError(400, f"{label}: ids go from 0 to {most}, and {shown(each)} is not one", name)
    return np.array(values, np.int64)


def _sampling(fields: Fields) -> Sampling:
    temperature = fields.number("temperature", DEFAULT_TEMPERATURE)
    top_k = fields.whole("top_k", 0, -1, spec.MAX_NUMBER)
    top_p = fields.number("top_p", 1.0)
    min_p = fields.number("min_p", 0.0)
    if 0 <= temperature < _COLDEST:
        temperature, top_k = 1.0, 1
    if temperature < 0:
        raise ApiError(400, f"temperature must be 0 or more, not {temperature}", "temperature")
    try:
        return Sampling(temperature=temperature, top_k=top_k if top_k > 0 else None, top_p=top_p, min_p=min_p)
    except SettingError as error:
        raise ApiError(400, str(error), error.parameters[0]) from None


def _stop(value: Any, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The texts that end a choice. Those that the model cannot write never come, and are left out."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if len(values) > MOST_STOPS:
        raise ApiError(400, f"stop has {len(values):,} texts, and may have {MOST_STOPS}", "stop")
    for each in values:
        if not isinstance(each, str) or not each:
            raise ApiError(
                400,
                f"stop must be a text of one character or more, or a list of such texts, not {shown(each)}",
                "stop",
            )
    return tuple(each for each in values if not vocabulary.unknown_characters(each))


def _accept_neutral(fields: Fields, n: int) -> None:
    """Accept the fields that this server does not have where their values change nothing."""
    fields.neutral("best_of", n)
    fields.neutral("suffix", "")
    fields.neutral("presence_penalty", 0)
    fields.neutral("frequency_penalty", 0)
    fields.neutral("repetition_penalty", 1)
    fields.neutral("logit_bias", {})
    fields.text("user")
