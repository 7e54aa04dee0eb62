"""The state shared by the endpoints of a server: models, settings and readiness."""

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
"""Models by name, or functions that load them at startup."""


class Served:
    """A model that is served.

    Attributes:
        name: the name that clients use.
        model: the model.
        streams: runs the streams of the model.
        created: the time it was loaded, in seconds since 1970.
        metrics: the metrics of the model.
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
        models: the loaded models, by name.
        draining: whether the server is shutting down.
        metrics: the metrics of all models.
        failure: the error of a model that could not be loaded; None if there was none.
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
        """Load the remaining models, in the given order."""
        try:
            for name, given in self._given.items():
                model = await asyncio.to_thread(given) if callable(given) else given
                self.models[name] = Served(name, model, self.settings, self.metrics)
        except Exception as error:
            self.failure = error

    async def close(self) -> None:
        """Wait briefly for the threads to end."""
        for _ in range(100):
            if all(each.streams.idle for each in self.models.values()):
                return
            await asyncio.sleep(0.01)

    @property
    def busy(self) -> bool:
        """Whether any request is in progress."""
        return any(each.streams.busy for each in self.models.values())

    @property
    def unfinished(self) -> int:
        """The number of streams of the requests in progress."""
        return sum(each.streams.unfinished for each in self.models.values())

    def fail(self, error: Exception) -> None:
        """Make all running requests fail with an error."""
        for each in self.models.values():
            each.streams.fail(error)

    def new_id(self) -> str:
        """A unique id for a response, which does not require random bytes from the system."""
        return f"cmpl-{self._id}{next(self._count):08x}"

    @property
    def ready(self) -> bool:
        """Whether all models are loaded."""
        return len(self.models) == len(self._given)

    def check_open(self) -> None:
        """Raise an error while the server loads models or shuts down."""
        if self.draining:
            raise unavailable("the server is shutting down; try again after it has restarted", "draining")
        if not self.ready:
            raise unavailable("the server is loading its models; try again in a moment", "loading")

    def find(self, name: str | None) -> Served:
        """Find a model by name; None means the first one.

        Raises:
            ApiError: there is no model of that name.
        """
        self.check_open()
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404, f"model: unknown model {name!r}; this server has {known}", "model", "model_not_found"
            )
        return self.models[name]


def service_of(request: Request) -> Service:
    """The service of the application that handles a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
