"""The settings and limits of a server."""

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
"""An origin as sent by browsers: scheme, host, and the port if it is not the default of the scheme."""

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
    """The limits and access control of a server.

    Attributes:
        api_keys: the accepted API keys; if empty, no key is required.
        unknown: how to handle unknown characters in a prompt: see `Options`.
        cors: the origins whose pages may use the server from a browser, such as "https://example.org".
        hosts: the accepted values of the header Host, in lower case and without the port; if empty, any.
        log_prompts: whether the access log includes prompts.
        max_body: the largest request body, in bytes; at least 1,024.
        max_prompt: the longest prompt, in characters (bytes, at the byte level).
        max_length: the most characters of one choice.
        max_logprobs: the most characters that log probabilities can be requested for, per position.
        max_choices: the most choices, and therefore streams, of one request.
        max_running: the most concurrent streams per model; None for the best number for the device.
        max_waiting: the most queued streams per model. If the queue is full, requests are rejected with 429.
        max_seconds: the time limit of a request, in seconds, until its response is written.
        grace: the time in seconds that running requests have to finish on shutdown.
        idle_seconds: the time in seconds after which an idle connection is closed.

    Raises:
        SettingError: on construction, if a value is invalid.
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
        held = self.__dict__  # the record itself is immutable
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
                bound = "from 0" if name == "grace" else "above 0"
                raise SettingError(
                    f"{name} must be a number of seconds {bound} and at most 1,000,000, not {held[name]}",
                    name,
                )


def _origin(given: str) -> str:
    """An origin as sent by browsers, or "*"."""
    if given == "*":
        return given
    found = ORIGIN.fullmatch(given.lower().removesuffix("/"))
    if found is None:
        raise wrong("cors", "an origin such as https://example.org, or *", given)
    scheme, host, port = found.groups("")
    return f"{scheme}://{host}" + ("" if port == _PORTS.get(scheme) else port)


assert ServeSettings.max_waiting <= MAX_WAITING
