"""What the endpoints of a server share: its models, its settings, and whether it answers."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request

from charrnn_runtime.serve.api_errors import ApiError, unavailable
from charrnn_runtime.serve.metrics import Metrics, ModelMetrics
from charrnn_runtime.serve.settings import ServeSettings
from charrnn_runtime.serve.streams import Streams

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

Models = Mapping[str, "CharRNN | Callable[[], CharRNN]"]
"""Models by the names that clients know them by; or functions that load them, called once the server runs."""


class Served:
    """A model that is served.

    Attributes:
        name: what clients call it.
        model: the model.
        streams: what runs its streams.
        created: when it was loaded, in seconds since 1970.
        metrics: what is counted of it.
    """

    def __init__(self, name: str, model: CharRNN, settings: ServeSettings, metrics: Metrics) -> None:
        self.name = name
        self.model = model
        self.streams = Streams(model, settings.max_running, settings.max_waiting)
        self.created = int(time.time())
        self.metrics = ModelMetrics(metrics, name)


class Service:
    """The state of a server.

    Attributes:
        settings: its settings.
        models: the models that are loaded, by name.
        draining: whether it finishes what runs, and takes nothing new.
        metrics: what is counted.
        failure: why a model could not be loaded; None where none failed.
    """

    def __init__(self, models: Models, settings: ServeSettings) -> None:
        self.settings = settings
        self.draining = False
        self.failure: Exception | None = None
        self._given = dict(models)
        self._id = uuid.uuid4().hex[:24]
        self._count = itertools.count()
        self.models: dict[str, Served] = {}
        self.metrics = Metrics(
            lambda: [(each.name, each.streams.running, each.streams.waiting) for each in self.models.values()]
        )

    async def load(self) -> None:
        """Load what is not loaded yet, in the order in which it was given."""
        try:
            for name, given in self._given.items():
                model = await asyncio.to_thread(given) if callable(given) else given
                self.models[name] = Served(name, model, self.settings, self.metrics)
        except Exception as error:
            self.failure = error

    async def close(self) -> None:
        """Wait a moment for the threads to end."""
        for _ in range(100):
            if all(each.streams.idle for each in self.models.values()):
                return
            await asyncio.sleep(0.01)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return any(each.streams.busy for each in self.models.values())

    @property
    def unfinished(self) -> int:
        """How many streams the requests have that are being answered."""
        return sum(each.streams.unfinished for each in self.models.values())

    def fail(self, error: Exception) -> None:
        """Answer all requests that run with an error."""
        for each in self.models.values():
            each.streams.fail(error)

    def new_id(self) -> str:
        """A name for an answer that no other has, without asking the system for random bytes each time."""
        return f"cmpl-{self._id}{next(self._count):08x}"

    @property
    def ready(self) -> bool:
        """Whether all models are loaded."""
        return len(self.models) == len(self._given)

    def check_open(self) -> None:
        """Raise what a client gets while models are loaded, or while the server stops."""
        if self.draining:
            raise unavailable(
                "the server is about to stop; ask it again when it has started anew", "draining"
            )
        if not self.ready:
            raise unavailable("the server is loading its models; ask it again in a moment", "loading")

    def find(self, name: str | None) -> Served:
        """A model by its name; the first one for None.

        Raises:
            ApiError: there is none of that name.
        """
        self.check_open()
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404, f"model: there is no {name!r}; this server has {known}", "model", "model_not_found"
            )
        return self.models[name]


def service_of(request: Request) -> Service:
    """The service of the app that answers a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
