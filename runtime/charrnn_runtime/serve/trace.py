"""POST /trace: the predictions and unit values of a model at each character of a text.

The response has one array per quantity, all of one length: the number of symbols of the text, which are
characters (bytes, at the byte level). Fields that completions also have go by the same names.
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
from charrnn_runtime.serve.bodies import Fields, read_object
from charrnn_runtime.serve.choices import token_name
from charrnn_runtime.serve.completion_request import prompt_ids
from charrnn_runtime.serve.service import Served, Service, service_of
from charrnn_runtime.view.trace import Trace, chunk_length, most_likely
from charrnn_runtime.view.units import unit_names, unit_of
from charrnn_runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

_TOP: Final = 5
"""The default number of most likely symbols per position."""

_MOST_SYMBOLS: Final = 20_000
"""The longest text, within the limit on prompts: the response takes about 150 bytes per symbol."""

_MOST_UNITS: Final = 64

_MOST_WAITING: Final = 64
"""The longest queue."""

_CHUNK: Final = 1024
"""The largest number of symbols between checks for cancellation."""


class _TraceRequest:
    """A validated request.

    Attributes:
        served: the model.
        ids: the text, int64 ``[T]``.
        offsets: the position of each id in the text, in characters.
        top: the number of most likely symbols to return per position.
        units: the names of the units to return.
    """

    def __init__(self, body: dict[str, Any], service: Service) -> None:
        """Validate the body of a request.

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
                f"text has {len(self.ids):,} characters, but at most {_MOST_SYMBOLS:,} can be traced at once",
                "text",
            )
        self.offsets = _offsets(text, self.ids, vocabulary)
        self.top = min(fields.whole("top", _TOP, 0, settings.max_logprobs), len(vocabulary))
        self.units = _units(fields.take("units"), self.served.model)
        fields.end()


def _offsets(text: str | list[int], ids: NDArray[np.int64], vocabulary: Vocabulary) -> list[int]:
    """The position of each id's character in the text, in characters."""
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
    """Validate a list of unit names."""
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ApiError(400, f"units must be a list of names, not {shown(given)}", "units")
    if len(given) > _MOST_UNITS:
        raise ApiError(400, f"units has {len(given):,} names, but at most {_MOST_UNITS} are allowed", "units")
    for name in given:
        try:
            unit_of(model.info.state_layout, name, "units")
        except SettingError as error:
            raise ApiError(400, str(error), "units") from None
    return list(dict.fromkeys(given))


class _Job:
    """A trace computed in a thread, chunk by chunk.

    Attributes:
        cancelled: set when nobody waits for the result.
    """

    def __init__(self, request: _TraceRequest, seconds: float) -> None:
        self.cancelled = threading.Event()
        self._request = request
        self._end = time.monotonic() + seconds
        self._tokens: list[str] = []
        self._chosen: list[float] = []
        self._most_likely: list[dict[str, float]] = []
        self._units: dict[str, list[float | None]] = {name: [] for name in request.units}

    def run(self) -> dict[str, Any]:
        """Compute the response; partial if cancelled.

        Raises:
            TimeoutError: the time limit is exceeded.
        """
        for trace in self._request.served.model.trace_stream(self._chunks()):
            self._add(trace)
        return {
            "object": "trace",
            "model": self._request.served.name,
            "tokens": self._tokens,
            "text_offset": self._request.offsets,
            "token_logprobs": self._chosen,
            "top_logprobs": self._most_likely,
            "units": self._units,
            "unit_names": unit_names(self._request.served.model.info.state_layout),
        }

    def _chunks(self) -> Iterator[str | bytes]:
        ids, info = self._request.ids, self._request.served.model.info
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
        best = most_likely(trace.logprobs, self._request.top)  # [T, N]
        values = np.take_along_axis(trace.logprobs, best, axis=1)
        for row, nats in zip(best.tolist(), values, strict=True):
            names = [token_name(vocabulary, each) for each in row]
            self._most_likely.append(dict(zip(names, _rounded(nats), strict=True)))
        for name, activations in self._units.items():
            # An output gate that the state does not determine is NaN, which JSON does not have.
            activations += [None if math.isnan(it) else it for it in _rounded(trace.unit(name))]


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


class _Endpoint:
    """Handles one request at a time, so that traces use at most one core."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def trace(self, request: Request) -> Response:
        """Trace a model on a text."""
        service = service_of(request)
        service.check_open()
        wanted = _TraceRequest(await read_object(request, service.settings.max_body), service)
        if self._waiting >= _MOST_WAITING:
            raise busy(f"the server is busy: {self._waiting} traces are queued; try again in a moment")
        job = _Job(wanted, service.settings.max_seconds)
        watch = asyncio.create_task(_cancel_when_gone(request, job))
        self._waiting += 1
        try:
            async with self._turn:
                return json_response(await asyncio.to_thread(job.run))
        except TimeoutError:
            seconds = service.settings.max_seconds
            raise ApiError(504, f"the trace exceeded {seconds:g} seconds", code="timeout") from None
        finally:
            self._waiting -= 1
            job.cancelled.set()
            watch.cancel()


async def _cancel_when_gone(request: Request, job: _Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancelled.set()


def routes() -> list[Route]:
    """The route of the endpoint."""
    return [Route("/trace", _Endpoint().trace, methods=["POST"])]
