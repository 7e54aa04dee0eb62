"""POST /trace: what a model expected at each character of a text, and what its units did.

The answer has an array for each kind of fact, all of one length: the number of symbols of the text, which are
its characters (bytes, at the byte level). Those that completions have, too, have the same names.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from charrnn_runtime.arguments import shown
from charrnn_runtime.errors import SettingError
from charrnn_runtime.serve.api_errors import ApiError, busy, json_response
from charrnn_runtime.serve.asked import prompt_ids
from charrnn_runtime.serve.bodies import Fields, read_object
from charrnn_runtime.serve.choices import token_name
from charrnn_runtime.serve.service import Served, Service, service_of
from charrnn_runtime.view.trace import Trace, chunk_length, most_likely
from charrnn_runtime.view.units import unit_names, unit_of
from charrnn_runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

_TOP: Final = 5
"""How many of the most likely symbols are given, unless the request says otherwise."""

_MOST_SYMBOLS: Final = 20_000
"""How long a text may be, within the limit on prompts: the answer takes about 150 bytes a symbol."""

_MOST_UNITS: Final = 64

_MOST_WAITING: Final = 64
"""How many requests may wait for their turn."""

_CHUNK: Final = 1024
"""After how many symbols at most the thread looks whether someone still waits."""


class _Asked:
    """What a request asks for, checked.

    Attributes:
        served: the model.
        ids: int64 ``[T]``, the text.
        offsets: where in the text each of them is, in characters.
        top: how many of the most likely symbols are wanted.
        units: the names of the units that are wanted.
    """

    def __init__(self, body: dict[str, Any], service: Service) -> None:
        """Take the body of a request apart.

        Raises:
            ApiError: a field is invalid or unknown.
        """
        fields, settings = Fields(body), service.settings
        self.served: Served = service.find(fields.text("model"))
        vocabulary = self.served.model.vocabulary
        text = fields.take("text")
        if text is None:
            raise ApiError(400, "text is missing: give the text to read, or a list of ids", "text")
        empty = text in ("", [])
        self.ids = np.empty(0, np.int64) if empty else prompt_ids(text, vocabulary, settings, None, "text")
        if len(self.ids) > _MOST_SYMBOLS:
            raise ApiError(
                400,
                f"text has {len(self.ids):,} characters, and at most {_MOST_SYMBOLS:,} are traced at once",
                "text",
            )
        self.offsets = _offsets(text, self.ids, vocabulary)
        self.top = min(fields.whole("top", _TOP, 0, settings.max_logprobs), len(vocabulary))
        self.units = _units(fields.take("units"), self.served.model)
        fields.end()


def _offsets(text: str | list[int], ids: NDArray[np.int64], vocabulary: Vocabulary) -> list[int]:
    """The place of each id's character in the text, counted in characters."""
    if not isinstance(text, str):
        text = vocabulary.decode(ids)
    if vocabulary.level == "byte":
        return [place for place, each in enumerate(text) for _ in each.encode(errors="ignore")][: len(ids)]
    if len(ids) == len(text):
        return list(range(len(ids)))
    unknown = set(vocabulary.unknown_characters(text))
    kept = [place for place, each in enumerate(text) if each not in unknown]
    return kept if len(kept) == len(ids) else list(range(len(ids)))


def _units(given: Any, model: CharRNN) -> list[str]:
    """Names of units, if they are such."""
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ApiError(400, f"units must be a list of names, not {shown(given)}", "units")
    if len(given) > _MOST_UNITS:
        raise ApiError(400, f"units has {len(given):,} names, and at most {_MOST_UNITS} are given", "units")
    for name in given:
        try:
            unit_of(model.info.state_layout, name, "units")
        except SettingError as error:
            raise ApiError(400, str(error), "units") from None
    return list(dict.fromkeys(given))


class _Job:
    """A trace that a thread makes, a chunk at a time.

    Attributes:
        cancelled: set where no one waits for it any more.
    """

    def __init__(self, asked: _Asked, seconds: float) -> None:
        self.cancelled = threading.Event()
        self._asked = asked
        self._end = time.monotonic() + seconds
        self._tokens: list[str] = []
        self._chosen: list[float] = []
        self._most_likely: list[dict[str, float]] = []
        self._units: dict[str, list[float | None]] = {name: [] for name in asked.units}

    def run(self) -> dict[str, Any]:
        """The answer; what there is of it where it is cancelled.

        Raises:
            TimeoutError: it takes too long.
        """
        for trace in self._asked.served.model.trace_stream(self._chunks()):
            self._add(trace)
        return {
            "object": "trace",
            "model": self._asked.served.name,
            "tokens": self._tokens,
            "text_offset": self._asked.offsets,
            "token_logprobs": self._chosen,
            "top_logprobs": self._most_likely,
            "units": self._units,
            "unit_names": unit_names(self._asked.served.model.info.state_layout),
        }

    def _chunks(self) -> Iterator[str | bytes]:
        ids, info = self._asked.ids, self._asked.served.model.info
        length = min(_CHUNK, chunk_length(len(info.vocabulary), info.state_size))
        for begin in range(0, len(ids), length):
            if self.cancelled.is_set():
                return
            if time.monotonic() > self._end:
                raise TimeoutError
            part = ids[begin : begin + length]
            byte = info.vocabulary.level == "byte"
            yield info.vocabulary.decode_bytes(part) if byte else info.vocabulary.decode(part)

    def _add(self, trace: Trace) -> None:
        vocabulary, ids = trace.vocabulary, trace.ids
        self._tokens += [token_name(vocabulary, each) for each in ids.tolist()]
        self._chosen += _rounded(np.take_along_axis(trace.logprobs, ids[:, None], axis=1)[:, 0])
        best = most_likely(trace.logprobs, self._asked.top)  # [T, N]
        values = np.take_along_axis(trace.logprobs, best, axis=1)
        for row, nats in zip(best.tolist(), values, strict=True):
            names = [token_name(vocabulary, each) for each in row]
            self._most_likely.append(dict(zip(names, _rounded(nats), strict=True)))
        for name, activations in self._units.items():
            # An output gate that the state does not tell is NaN, which JSON has not.
            activations += [None if math.isnan(it) else it for it in _rounded(trace.unit(name))]


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


class _Endpoint:
    """Answers one request after the other: beside the streams, traces take one core at most."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def trace(self, request: Request) -> Response:
        """What a model does while it reads a text."""
        service = service_of(request)
        service.check_open()
        asked = _Asked(await read_object(request, service.settings.max_body), service)
        if self._waiting >= _MOST_WAITING:
            raise busy(f"the server is busy: {self._waiting} traces wait; ask again in a moment")
        job = _Job(asked, service.settings.max_seconds)
        watch = asyncio.create_task(_cancel_when_gone(request, job))
        self._waiting += 1
        try:
            async with self._turn:
                return json_response(await asyncio.to_thread(job.run))
        except TimeoutError:
            seconds = service.settings.max_seconds
            raise ApiError(504, f"the trace took longer than {seconds:g} seconds", code="timeout") from None
        finally:
            self._waiting -= 1
            job.cancelled.set()
            watch.cancel()


async def _cancel_when_gone(request: Request, job: _Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancelled.set()


def routes() -> list[Route]:
    """The endpoint."""
    return [Route("/trace", _Endpoint().trace, methods=["POST"])]
