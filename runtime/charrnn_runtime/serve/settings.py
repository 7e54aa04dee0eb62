"""The settings and limits of a server, checked once."""

from __future__ import annotations

import re
from typing import Final

from charrnn_runtime.arguments import choice, real_number, several, switch, whole_number_from, wrong
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.record import Record
from charrnn_runtime.scheduling.scheduler import MAX_WAITING
from charrnn_runtime.vocabulary import Unknown

ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
"""An origin as browsers send it: scheme, host, and the port where it is not the scheme's own."""

_PORTS: Final = {"http": ":80", "https": ":443"}

_LEAST_BODY: Final = 1024
"""Bytes; in fewer, hardly a request with a prompt and its settings has room."""

_MOST = 1 << 40
_NUMBERS = {
    "max_body": _LEAST_BODY,
    "max_prompt": 1,
    "max_length": 0,
    "max_logprobs": 0,
    "max_choices": 1,
    "max_waiting": 1,
}
_SECONDS = ("max_seconds", "grace", "idle_seconds")


class ServeSettings(Record):
    """What a server allows, and for how long.

    Attributes:
        api_keys: a request for a model must bring one of these; with none, all requests are answered.
        unknown: what happens to characters of a prompt that a model does not know: see `Options`.
        cors: the origins whose pages may use the server from a browser, such as "https://example.org".
        hosts: what requests may call the server by in their header Host, in lower case and without the port;
            with none, anything.
        log_prompts: whether the access log shows prompts.
        max_body: the most bytes of a request's body, at least 1,024.
        max_prompt: the most characters of a prompt (bytes, at the byte level).
        max_length: the most characters that one choice may have.
        max_logprobs: for how many of the most likely characters log-probabilities can be asked.
        max_choices: the most choices, and therefore streams, of one request.
        max_running: how many streams of a model run at once; None for as many as run well on the device.
        max_waiting: how many streams of a model may wait. A request that finds no place is refused with 429.
        max_seconds: how long a request may take, until its answer is written.
        grace: how many seconds running requests have to finish once the server is told to stop.
        idle_seconds: after how many seconds a connection that brings no request is closed.

    Raises:
        SettingError: on construction, where a value is invalid.
    """

    api_keys: tuple[str, ...] = ()
    unknown: Unknown = "error"
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    log_prompts: bool = False
    max_body: int = 1 << 20
    max_prompt: int = 100_000
    max_length: int = 100_000
    max_logprobs: int = 20
    max_choices: int = 128
    max_running: int | None = None
    max_waiting: int = 1024
    max_seconds: float = 300.0
    grace: float = 10.0
    idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        held = self.__dict__  # the record itself never changes
        for name in ("api_keys", "cors", "hosts"):
            texts = tuple(several(name, getattr(self, name), "texts"))
            if not all(isinstance(each, str) and each for each in texts):
                raise wrong(name, "texts of one character or more", texts)
            held[name] = texts
        held["cors"] = tuple(map(_origin, self.cors))
        choice("unknown", self.unknown, spec.UNKNOWN)
        held["log_prompts"] = switch("log_prompts", self.log_prompts)
        for name, least in _NUMBERS.items():
            held[name] = whole_number_from(name, getattr(self, name), least, _MOST)
        if self.max_running is not None:
            held["max_running"] = whole_number_from("max_running", self.max_running, 1, spec.MAX_STREAMS)
        for name in _SECONDS:
            held[name] = real_number(name, getattr(self, name))
            if not 0 <= held[name] <= 1e6 or (name != "grace" and not held[name]):
                raise SettingError(
                    f"{name} must be a number of seconds above 0, and at most 1,000,000, not {held[name]}",
                    name,
                )


def _origin(given: str) -> str:
    """An origin, written as browsers send it; or "*"."""
    if given == "*":
        return given
    found = ORIGIN.fullmatch(given.lower().removesuffix("/"))
    if found is None:
        raise wrong("cors", "an origin such as https://example.org, or *", given)
    scheme, host, port = found.groups("")
    return f"{scheme}://{host}" + ("" if port == _PORTS.get(scheme) else port)


assert ServeSettings.max_waiting <= MAX_WAITING
