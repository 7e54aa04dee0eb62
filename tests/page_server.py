"""A server in a thread of this process, for tests that drive its page with a browser."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn

from charrnn_runtime import CharRNN
from charrnn_runtime.serve.app import create_app
from charrnn_runtime.serve.settings import ServeSettings


@contextlib.contextmanager
def serving(models: Mapping[str, CharRNN], settings: ServeSettings | None = None) -> Iterator[str]:
    """The address of a server of some models, which runs until the block is left."""
    listening = socket.create_server(("127.0.0.1", 0))
    config: Any = uvicorn.Config(create_app(dict(models), settings), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="page-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
