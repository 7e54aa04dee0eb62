"""charrnn-triton: write a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.cli.option_values import STREAMS, number, one_of
from charrnn_runtime.errors import SettingError
from charrnn_runtime.files import shell_word
from charrnn_runtime.triton import (
    BACKENDS,
    DEFAULT_MAX_BATCH_SIZE,
    DEVICES,
    MAX_INSTANCES,
    MAX_THREADS,
    Service,
    write_repository,
)
from charrnn_runtime.version import __version__

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-triton models/lstm.onnx repository
  charrnn-triton models/lstm.onnx repository --name lstm-steps --backend onnxruntime --max-batch-size 128
  charrnn-triton models/lstm.int8.onnx repository --name lstm --device cpu --threads 2 --force
"""


@app.command(epilog=EXAMPLES)
def write(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model to serve.")],
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="The folder with all models of the server.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model. [default: the file name]")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="python: requests are texts; the server's Python needs charrnn-runtime. "
            "onnxruntime: requests are single characters of a sequence; the server needs nothing else.",
            **one_of(BACKENDS),
        ),
    ] = BACKENDS[0],
    device: Annotated[str, typer.Option(help="Where the server runs the model.", **one_of(DEVICES))] = "auto",
    instances: Annotated[
        int,
        typer.Option(help="Number of model instances to run.", **number(int, "INSTANCES", 1, MAX_INSTANCES)),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads per instance. [default: the number of cores; 1 with --backend onnxruntime]",
            **number(int, "THREADS", 1, MAX_THREADS),
        ),
    ] = None,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            help="With --backend onnxruntime: maximum number of concurrent sequences. "
            f"[default: {DEFAULT_MAX_BATCH_SIZE}]",
            **STREAMS,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the configuration and version 1 of an existing model.")
    ] = False,
    version: Annotated[bool, terminal.version_option("charrnn-runtime", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
) -> None:
    """Write a model to a model repository for NVIDIA's Triton Inference Server.

    Prints the path of the model's folder to stdout. docs/triton.md describes clients for both backends.
    """
    if not repository:
        raise SettingError("REPOSITORY must not be empty; for the current folder, give .")
    service = Service(
        name=model_path.name.removesuffix(".onnx") if name is None else name,
        backend=backend,
        device=device,
        instances=instances,
        threads=threads,
        max_batch_size=max_batch_size,
    )
    terminal.stdout()  # raises if it is closed
    folder, replaced = write_repository(model_path, Path(repository), service, force=force)
    if replaced:
        terminal.say(f"replaced version 1 of {folder}")
    served = f"./{repository}" if repository.startswith("-") else repository  # not an option
    terminal.say(f"serve it with: tritonserver --model-repository {shell_word(served)}")
    terminal.write_path(folder)


def main() -> NoReturn:
    """The entry point of charrnn-triton."""
    terminal.run(app, "charrnn-triton")


if __name__ == "__main__":
    main()
