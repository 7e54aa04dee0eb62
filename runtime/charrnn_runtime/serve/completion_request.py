"""A request for completions, validated field by field."""

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
"""The default of OpenAI's API."""

_COLDEST: Final = 1e-4
"""Below this temperature, sampling is greedy."""

MOST_LOGPROBS: Final = 2_000_000
"""The most log probabilities that a response may have."""

MOST_STOPS: Final = 16
MOST_SEED: Final = (1 << 64) - 1


class CompletionRequest(Record):
    """A validated request for completions.

    Attributes:
        served: the model.
        prompts: the ids of the prompts, int64 ``[m]`` each.
        n: the number of choices per prompt.
        length: the most characters of each choice.
        sampling: the sampling settings.
        seed: the seed.
        stop: the texts that end a choice; the model can write each of them.
        logprobs: how many of the most likely characters to give log probabilities for; None for none.
        echo: whether to include the prompt in each text.
        stream: whether to stream the response.
        include_usage: whether the last event of a stream reports the number of characters.
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
    def of(cls, body: dict[str, Any], service: Service) -> CompletionRequest:
        """Validate the body of a request.

        Raises:
            ApiError: a field is invalid, unknown or not supported.
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
                f"but a request may have at most {settings.max_choices:,}; split it into several requests",
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
                400, "stream_options requires stream: omit it, or set stream to true", "stream_options"
            )
        seed = fields.whole("seed", -1, 0, MOST_SEED)
        request = cls(
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
        request._check_logprobs()
        return request

    def _check_logprobs(self) -> None:
        """Reject requests whose log probabilities may exceed memory."""
        if self.logprobs is None:
            return
        read = sum(map(len, self.prompts)) if self.echo else 0
        numbers = self.n * (read + len(self.prompts) * self.length) * (1 + self.logprobs)
        if numbers > MOST_LOGPROBS:
            raise ApiError(
                400,
                f"logprobs: the response could have {numbers:,} log probabilities, but at most "
                f"{MOST_LOGPROBS:,} are allowed; request fewer characters, choices or logprobs",
                "logprobs",
            )

    def requests(self) -> list[Timed]:
        """The streams of all choices, in order: those of the first prompt first."""
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
    """The default of max_tokens."""
    return min(DEFAULT_LENGTH, settings.max_length)


def _prompts(value: Any, vocabulary: Vocabulary, settings: ServeSettings) -> tuple[NDArray[np.int64], ...]:
    """The ids of one or more prompts, given as text or ids; None is the empty text."""
    values = [value]
    if value is None:
        values = [""]
    elif isinstance(value, list) and not _are_ids(value):
        values = value
    if not values:
        raise ApiError(400, "prompt must not be an empty list; omit it for no prompt", "prompt")
    if len(values) > settings.max_choices:
        raise ApiError(
            400,
            f"prompt has {len(values):,} texts, but a request may have at most {settings.max_choices:,}",
            "prompt",
        )
    alone = not isinstance(value, list) or values[0] is value
    return tuple(
        prompt_ids(each, vocabulary, settings, None if alone else index) for index, each in enumerate(values)
    )


def prompt_ids(
    value: Any, vocabulary: Vocabulary, settings: ServeSettings, index: int | None, name: str = "prompt"
) -> NDArray[np.int64]:
    """The ids of a prompt, which is a text or a list of ids.

    Args:
        value: the prompt.
        vocabulary: the model's vocabulary.
        settings: the length limit, and how to handle unknown characters.
        index: the index of the prompt in a list; None for a single prompt.
        name: the name of the field.

    Raises:
        ApiError: the prompt is invalid, too long, or has unknown characters or ids.
    """
    label = name if index is None else f"{name}[{index}]"
    if isinstance(value, str):
        check_prompt_length(len(value), label, settings)
        try:
            ids = vocabulary.encode(value, settings.unknown)
        except UnknownCharacterError as error:
            said = str(error.of(None, label)).replace('unknown="', "--unknown ").rstrip('"')
            raise ApiError(400, f"{said} when starting the server", name, "unknown_characters") from None
    elif isinstance(value, list) and _are_ids(value):
        ids = _known_ids(value, vocabulary, label, name)
    else:
        raise ApiError(
            400, f"{label} must be a text or a list of ids, or a list of these, not {shown(value)}", name
        )
    check_prompt_length(len(ids), label, settings)
    return ids


def check_prompt_length(length: int, label: str, settings: ServeSettings) -> None:
    """Check the length of a prompt.

    Raises:
        ApiError: the prompt is too long.
    """
    if length > settings.max_prompt:
        raise ApiError(
            400,
            f"{label} has {length:,} characters, but the limit of this server is {settings.max_prompt:,}",
            label.partition("[")[0],
            "context_length_exceeded",
        )


def _are_ids(values: list[Any]) -> bool:
    return bool(values) and all(type(each) is int for each in values)


def _known_ids(values: list[int], vocabulary: Vocabulary, label: str, name: str) -> NDArray[np.int64]:
    for each in values:
        if not 0 <= each < len(vocabulary):
            most = len(vocabulary) - 1
            raise ApiError(400, f"{label}: ids must be between 0 and {most}, not {shown(each)}", name)
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
    """The texts that end a choice, without those that the model can never write."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if len(values) > MOST_STOPS:
        raise ApiError(400, f"stop has {len(values):,} texts, but at most {MOST_STOPS} are allowed", "stop")
    for each in values:
        if not isinstance(each, str) or not each:
            raise ApiError(
                400,
                f"stop must be a non-empty text or a list of such texts, not {shown(each)}",
                "stop",
            )
    return tuple(each for each in values if not vocabulary.unknown_characters(each))


def _accept_neutral(fields: Fields, n: int) -> None:
    """Accept unsupported fields if their values have no effect."""
    fields.neutral("best_of", n)
    fields.neutral("suffix", "")
    fields.neutral("presence_penalty", 0)
    fields.neutral("frequency_penalty", 0)
    fields.neutral("repetition_penalty", 1)
    fields.neutral("logit_bias", {})
    fields.text("user")
