"""charrnn-serve: serve models over HTTP with OpenAI's completions API."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.cli.option_values import STREAMS, THREADS, number, one_of
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.version import __version__

if TYPE_CHECKING:
    from charrnn_runtime.model import CharRNN

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-serve models/lstm.onnx
  charrnn-serve models/best.int8.onnx models/gru.onnx --port 8080
  charrnn-serve models/lstm.onnx --host 0.0.0.0 --api-key-file keys.txt
"""

_SECONDS = number(float, "SECONDS", allowed="a number above 0, and at most 1,000,000")
_LOOPBACK = ("127.", "localhost", "::1")


@app.command(epilog=EXAMPLES)
def serve(
    model_paths: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx...", help="The models to serve; the file name is the model name."),
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="Port to listen on; 0 picks a free one and prints it.", **number(int, "PORT", 0, 65_535)
        ),
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Require this API key. Other users of this machine can see it in the process list; prefer "
            "--api-key-file, or the environment variable CHARRNN_API_KEY.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accept the API keys in this file, one per line.")
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Allow requests from pages of this origin; may be repeated."),
    ] = None,
    unknown: Annotated[
        str,
        typer.Option(
            help="How to handle unknown characters in a prompt: error, skip (ignore them), or normalize "
            "(use the Unicode form that the model knows).",
            **one_of(spec.UNKNOWN),
        ),
    ] = "error",
    device: terminal.DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads per model. [default: the number of cores]", **THREADS)
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Include prompts in the log.")] = False,
    max_body: Annotated[
        int,
        typer.Option(
            help="Maximum size of a request body, in bytes; at least 1,024.",
            **number(int, "BYTES", allowed="a whole number from 1,024"),
        ),
    ] = 1 << 20,
    max_prompt: Annotated[
        int,
        typer.Option(
            help="Maximum length of a prompt, in characters.",
            **number(int, "CHARACTERS", allowed="a whole number from 1"),
        ),
    ] = 100_000,
    max_length: Annotated[
        int,
        typer.Option(
            help="Maximum value of max_tokens.", **number(int, "CHARACTERS", allowed="a whole number from 0")
        ),
    ] = 100_000,
    max_logprobs: Annotated[
        int,
        typer.Option(help="Maximum value of logprobs.", **number(int, "N", allowed="a whole number from 0")),
    ] = 20,
    max_choices: Annotated[
        int,
        typer.Option(
            help="Maximum number of choices per request.",
            **number(int, "CHOICES", allowed="a whole number from 1"),
        ),
    ] = 128,
    max_running: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of running streams per model. [default: depends on the device]", **STREAMS
        ),
    ] = None,
    max_waiting: Annotated[
        int,
        typer.Option(
            help="Maximum number of queued streams per model.",
            **number(int, "STREAMS", allowed="a whole number from 1"),
        ),
    ] = 1024,
    max_seconds: Annotated[
        float, typer.Option(help="Maximum duration of a request, in seconds.", **_SECONDS)
    ] = 300.0,
    idle_seconds: Annotated[
        float, typer.Option(help="Close connections that are idle for this many seconds.", **_SECONDS)
    ] = 60.0,
    grace: Annotated[
        float,
        typer.Option(
            help="Seconds to let requests finish after SIGTERM or Ctrl-C.",
            **number(float, "SECONDS", allowed="a number from 0 to 1,000,000"),
        ),
    ] = 10.0,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Serve models over HTTP: OpenAI's completions API, metrics, and a web page to try them.

    The server is reachable from this machine only, unless --host says otherwise.
    """
    try:
        from charrnn_runtime.serve.app import create_app
        from charrnn_runtime.serve.running import address_of, listening, run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("charrnn_runtime"):
            raise
        raise CharRNNError(
            f"charrnn-serve requires {(error.name or '').partition('.')[0]}, which is not installed; "
            'pip install starlette "uvicorn[standard]" prometheus_client'
        ) from None
    from charrnn_runtime.serve.keys import read_keys
    from charrnn_runtime.serve.settings import ServeSettings

    keys, origins = read_keys(api_key, api_key_file), tuple(cors or ())
    settings = ServeSettings(
        api_keys=keys,
        cors=origins,
        hosts=() if keys else _own_hosts(host, origins),
        unknown=unknown,  # type: ignore[arg-type]
        log_prompts=log_prompts,
        max_body=max_body,
        max_prompt=max_prompt,
        max_length=max_length,
        max_logprobs=max_logprobs,
        max_choices=max_choices,
        max_running=max_running,
        max_waiting=max_waiting,
        max_seconds=max_seconds,
        grace=grace,
        idle_seconds=idle_seconds,
    )
    models = _models(model_paths, device=device, threads=threads)
    opened = listening(host, port)
    if not settings.api_keys and not host.startswith(_LOOPBACK):
        terminal.warn(f"anyone who can reach {host} can use these models; --api-key-file FILE requires a key")
    _write_logs()
    address = address_of(opened)
    run(
        create_app(models, settings),
        opened,
        lambda: _say_ready(address, list(models), drawn=port == 0),
        _say_stopping,
    )


def _models(paths: list[Path], **options: Any) -> dict[str, Callable[[], CharRNN]]:
    """Functions that load the models, by model name."""
    loaders: dict[str, Callable[[], CharRNN]] = {}
    for path in paths:
        if path.stem in loaders:
            raise SettingError(f"two models have the name {path.stem!r}; rename one of the files, or a copy")
        loaders[path.stem] = partial(_load, path, **options)
    return loaders


def _load(path: Path, **options: Any) -> CharRNN:
    from charrnn_runtime.model import CharRNN

    return CharRNN.load(path, **options)


def _own_hosts(host: str, origins: tuple[str, ...]) -> tuple[str, ...]:
    """The host names accepted in requests: any, unless the server listens on a loopback address only."""
    if not host.startswith(_LOOPBACK) or "*" in origins:
        return ()
    found = [re.search(r"://(\[.*?\]|[^:/]+)", origin.lower()) for origin in origins]
    named = [each[1] for each in found if each]
    own = f"[{host}]" if ":" in host else host.lower()
    return tuple(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", own, *named]))


def _say_stopping(streams: int, seconds: float) -> None:
    have = "stream has" if streams == 1 else "streams have"
    terminal.say(f"stopping: {streams} {have} {seconds:g} seconds to finish; Ctrl-C again ends them now")


def _say_ready(address: str, names: list[str], *, drawn: bool) -> None:
    # A port that the system chose is known from this line alone.
    terminal.say(f"serving {', '.join(names)} at {address} (Ctrl-C stops)", even_if_quiet=drawn)


def _write_logs() -> None:
    """Write the log to stderr: failures, and requests unless --quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = logging.ERROR if terminal.is_quiet() else logging.INFO
    for name, its_level in (("charrnn_runtime.serve", level), ("uvicorn", max(level, logging.WARNING))):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(its_level)


def main() -> NoReturn:
    """The entry point of charrnn-serve."""
    terminal.run(app, "charrnn-serve", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
