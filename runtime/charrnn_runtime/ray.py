"""Models on a Ray cluster: actors for Ray Data that score and generate, and a deployment for Ray Serve.

The actors are plain classes that `ray.data.Dataset.map_batches` calls with batches of columns; only
`deployment` imports Ray, which is the extra ``ray`` of this package.

    scored = dataset.map_batches(ScoreTexts, fn_constructor_kwargs={"model": "models/lstm.onnx"}, ...)
    serve.run(deployment("models/lstm.onnx", num_replicas=4))
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
from numpy.typing import NDArray

from charrnn_runtime.arguments import shown, switch, whole_number_from
from charrnn_runtime.arguments import text as check_text
from charrnn_runtime.errors import CharRNNError, QueueFullError, SettingError, UnknownCharacterError
from charrnn_runtime.format import spec
from charrnn_runtime.model import CharRNN
from charrnn_runtime.options import Options, Settings
from charrnn_runtime.state import State
from charrnn_runtime.vocabulary import Unknown, check_unknown

if TYPE_CHECKING:
    from charrnn_runtime.background import AsyncText

Batch = dict[str, NDArray[Any]]
"""Rows of a dataset: the values of each column, by name."""

_ONGOING: Final = 64
"""The default number of concurrent requests per replica; they run as a batch."""

_FIELDS: Final = ("prompt", "length", "echo", *Options.__annotations__)


class ScoreTexts:
    """An actor for ``map_batches`` that scores each text of a column.

    It adds three columns: ``characters`` (int64, the number of characters; bytes at the byte level), ``nats``
    (float64, the sum of their losses) and ``bits_per_character`` (float64). The values are bit-identical to
    `CharRNN.score`, and do not depend on other texts or the batches.
    """

    ADDED: Final = ("characters", "nats", "bits_per_character")

    def __init__(
        self,
        model: CharRNN | str | os.PathLike[str],
        *,
        column: str = "text",
        unknown: Unknown = "error",
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        """Load a model in the actor's process.

        Args:
            model: the path of a file that exists on every machine, or a loaded model, which is sent as bytes.
            column: the column with the texts, which may be bytes at the byte level.
            unknown: how to handle unknown characters: see `Options`.
            device: see `CharRNN.load`; ignored for loaded models.
            threads: see `CharRNN.load`; set it to the number of cores that the actor reserves. Ignored for
                loaded models.

        Raises:
            SettingError: an argument is invalid.
            ModelFormatError: the file is not a step model.
        """
        self._column = str(check_text("column", column, "char"))
        self._unknown = check_unknown(unknown)
        self._model = _loaded(model, device, threads)

    def __call__(self, batch: Batch) -> Batch:
        """Add the columns to a batch.

        Raises:
            SettingError: a column is missing, already exists, or contains values that are not texts.
            UnknownCharacterError: a text has unknown characters, and ``unknown`` is not "skip".
        """
        texts = _values(batch, self._column, self.ADDED)
        scores = [
            (score.characters, score.nats, score.bits_per_character)
            for score in self._model.score_each(texts, unknown=self._unknown)
        ]
        characters, nats, bits = np.array(scores, np.float64).reshape(-1, 3).T
        added = (np.array(characters, np.int64), np.array(nats), np.array(bits))
        return {**batch, **dict(zip(self.ADDED, added, strict=True))}


class GenerateTexts:
    """An actor for ``map_batches`` that continues each prompt of a column.

    It adds ``text``, the continuation without the prompt, and ``finish_reason``. A text depends only on the
    seed, the prompt and the stream number, not on batches, machines or restarts. The stream number comes from
    a column, or is derived from the prompt, so that equal prompts yield equal texts.
    """

    ADDED: Final = ("text", "finish_reason")

    def __init__(
        self,
        model: CharRNN | str | os.PathLike[str],
        *,
        column: str = "prompt",
        number_column: str | None = None,
        length: int = spec.DEFAULT_LENGTH,
        device: str = "auto",
        threads: int = 1,
        **options: Unpack[Options],
    ) -> None:
        """Load a model in the actor's process.

        Args:
            model: see `ScoreTexts`.
            column: the column with the prompts, which may be bytes at the byte level.
            number_column: a column with the stream numbers, from 0, if any.
            length: the maximum number of characters (bytes, at the byte level) to generate.
            device: see `ScoreTexts`.
            threads: see `ScoreTexts`.
            options: see `Options`; ``seed`` is required, since each actor would draw a different one.

        Raises:
            SettingError: an argument is invalid, or there is no seed.
            ModelFormatError: the file is not a step model.
        """
        self._column = str(check_text("column", column, "char"))
        self._numbers = None
        if number_column is not None:
            self._numbers = str(check_text("number_column", number_column, "char"))
        self._length = whole_number_from("length", length, 0, spec.MAX_NUMBER)
        self._model = _loaded(model, device, threads)
        self._unknown = check_unknown(options.pop("unknown", "error"))
        if options.get("seed") is None:
            raise SettingError("seed is required, since each actor would draw a different one", "seed")
        self._options = options
        Settings.of(self._model.vocabulary, **options)  # reports invalid options before any text is generated

    def __call__(self, batch: Batch) -> Batch:
        """Add the columns to a batch.

        Raises:
            SettingError: a column is missing, already exists, or contains values that are not prompts.
            UnknownCharacterError: a prompt has unknown characters, and ``unknown`` is not "skip".
        """
        prompts = _values(batch, self._column, self.ADDED)
        numbers = list(map(_number_of, prompts))
        if self._numbers is not None:
            numbers = _values(batch, self._numbers, ())
        texts, reasons = [], []
        if prompts:
            read = self._model.prime(prompts, unknown=self._unknown)
            start = State(read.rows, read.tokens, np.array(numbers), read.positions)
            for each in self._model.generate_each(start, self._length, **self._options):
                texts.append(each.text)
                reasons.append(each.finish_reason)
        added = (np.array(texts, object), np.array(reasons, object))
        return {**batch, **dict(zip(self.ADDED, added, strict=True))}


class TextService:
    """The replica class of `deployment`: streams text in response to requests.

    Over HTTP, a request is a JSON object with any of the fields ``prompt``, ``length``, ``echo`` and those of
    `Options`; the response is the text as UTF-8, streamed, or ``{"error": ...}`` with status 400 (invalid
    request), 503 (the queue is full) or 500. From Python, ``handle.options(stream=True).generate`` yields the
    pieces. All requests of a replica run as a batch in one scheduler; a request is cancelled when its reader
    disconnects.
    """

    def __init__(
        self,
        model: CharRNN | str | os.PathLike[str],
        *,
        max_length: int = 10_000,
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        """Load a model in the replica's process; see `deployment`."""
        self._most = whole_number_from("max_length", max_length, 1, spec.MAX_NUMBER)
        self._model = _loaded(model, device, threads)

    async def generate(
        self, prompt: str = "", length: int | None = None, *, echo: bool = False, **options: Any
    ) -> AsyncIterator[str]:
        """Generate one stream, piece by piece; see `CharRNN.stream_async`.

        The default length is 1,000 characters, or ``max_length`` if that is less.

        Raises:
            SettingError: a setting is invalid, or prompt or length exceed ``max_length``.
            UnknownCharacterError: the prompt has unknown characters, and ``unknown`` is not "skip".
            QueueFullError: the queue is full.
        """
        async with self._begin({"prompt": prompt, "length": length, "echo": echo, **options}) as text:
            async for piece in text:
                yield piece

    async def __call__(self, request: Any) -> Any:
        """Answer an HTTP request (Starlette's)."""
        from starlette.responses import JSONResponse, StreamingResponse

        try:
            text = self._begin(_fields_of(await request.body()))
            first = await anext(text, "")  # raises errors before the response starts
        except CharRNNError as error:
            invalid = isinstance(error, SettingError | UnknownCharacterError)
            status = 503 if isinstance(error, QueueFullError) else 400 if invalid else 500
            return JSONResponse({"error": str(error)}, status)
        seed = {"x-charrnn-seed": str(text.seed)}
        return StreamingResponse(_pieces(first, text), headers=seed, media_type="text/plain; charset=utf-8")

    def _begin(self, fields: dict[str, Any]) -> AsyncText:
        """Start the text of a request."""
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown:
            raise SettingError(f"unknown field {shown(unknown[0])}; the fields are {', '.join(_FIELDS)}")
        prompt = check_text("prompt", fields.pop("prompt", ""), self._model.vocabulary.level)
        length = fields.pop("length", None)
        if length is None:
            length = min(spec.DEFAULT_LENGTH, self._most)
        length = whole_number_from("length", length, 0, self._most)
        if len(prompt) > self._most:
            raise SettingError(
                f"prompt has {len(prompt):,} characters, but this service's limit is {self._most:,}; give "
                "only its end"
            )
        echo = switch("echo", fields.pop("echo", False))
        return self._model.stream_async(prompt, length, echo=echo, **fields)


def deployment(
    model: CharRNN | str | os.PathLike[str],
    *,
    max_length: int = 10_000,
    device: str = "auto",
    threads: int = 1,
    **options: Any,
) -> Any:
    """A Ray Serve application that streams a model's text; see `TextService`.

    By default, each replica reserves one core and handles up to 64 concurrent requests, which run as a batch;
    ``options`` override this.

    Args:
        model: the path of a file that exists on every machine, or a loaded model, which is sent as a file.
        max_length: the maximum length of a request's text, and of its prompt, in characters.
        device: see `CharRNN.load`.
        threads: see `CharRNN.load`; set it to the number of cores reserved in ``ray_actor_options``.
        options: options of ``ray.serve.deployment``, passed through unchanged: ``num_replicas``,
            ``autoscaling_config``, ``max_ongoing_requests``, ``ray_actor_options`` and all others.

    Returns:
        An application for ``ray.serve.run``.

    Raises:
        CharRNNError: Ray Serve is not installed.

    Examples:
        >>> from ray import serve  # doctest: +SKIP
        >>> scale = {"min_replicas": 1, "max_replicas": 8}
        >>> serve.run(deployment("models/lstm.onnx", autoscaling_config=scale))  # doctest: +SKIP
    """
    try:
        from ray import serve
    except ImportError as error:
        raise CharRNNError(
            "Ray Serve is not installed, but charrnn_runtime.ray.deployment requires it (the extra ray of "
            f"charrnn-runtime): pip install 'ray[data,serve]' ({' '.join(str(error).split())})"
        ) from None
    settings = {
        "name": "charrnn",
        "ray_actor_options": {"num_cpus": 1},
        "max_ongoing_requests": _ONGOING,
        **options,
    }
    service = serve.deployment(**settings)(TextService)
    return service.bind(model, max_length=max_length, device=device, threads=threads)


def _loaded(model: CharRNN | str | os.PathLike[str], device: str, threads: int) -> CharRNN:
    return model if isinstance(model, CharRNN) else CharRNN.load(model, device=device, threads=threads)


def _values(batch: Batch, column: str, added: tuple[str, ...]) -> list[Any]:
    """The values of a column, after checking that the new columns do not exist yet."""
    if column not in batch:
        raise SettingError(f"there is no column {column!r}; the columns are {', '.join(map(repr, batch))}")
    lost = [name for name in added if name in batch]
    if lost:
        raise SettingError(f"the column {lost[0]!r} already exists and would be replaced; rename it")
    return list(np.asarray(batch[column]).tolist())


def _number_of(prompt: str | bytes) -> int:
    """A stream number derived from the prompt."""
    data = prompt if isinstance(prompt, bytes) else str(prompt).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:7])


def _fields_of(body: bytes) -> dict[str, Any]:
    """The fields of a request.

    Raises:
        SettingError: the body is not a JSON object.
    """
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SettingError('the request must be a JSON object, such as {"prompt": "LORD ", "length": 200}')
    return fields


async def _pieces(first: str, text: AsyncText) -> AsyncIterator[bytes]:
    async with text:
        if first:
            yield first.encode()
        async for piece in text:
            yield piece.encode()
