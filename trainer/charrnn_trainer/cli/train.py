"""charrnn-train: trains a network on a text."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import shell_word
from charrnn_trainer.cli.options import FILES, GroupedCommand, with_settings
from charrnn_trainer.cli.runs import RUNS_FOLDER, begin_run, resume_run
from charrnn_trainer.cli.stop_signals import StopSignals
from charrnn_trainer.cli.text import find as find_texts
from charrnn_trainer.cli.torch_installed import need_torch
from charrnn_trainer.recipes import RECIPES
from charrnn_trainer.recipes import recipe as named_recipe
from charrnn_trainer.runs.run_file import RunFile
from charrnn_trainer.setting import Group, option_of
from charrnn_trainer.train_config import CHANGEABLE, TrainConfig
from charrnn_trainer.training.spinning import limit_spinning
from charrnn_trainer.version import __version__

if TYPE_CHECKING:
    from charrnn_trainer.training.distributed import ProcessGroup
    from charrnn_trainer.training.events import TrainResult

app = terminal.new_app()

EXAMPLES = """\b
Examples:
  charrnn-train --cell lstm
  charrnn-train my.txt --minutes 3
  charrnn-train names.txt --lines --minutes 3
  charrnn-train my.txt --cell gru --steps 2000
  charrnn-train my.txt --layers 1 --hidden-size 512 --lr 0.002
  charrnn-train my.txt more.txt.gz --minutes 3
  charrnn-train letters --glob '**/*.txt' --minutes 3
  charrnn-train --resume ckpt/lstm
  charrnn-train --config ckpt/lstm/config.toml
  charrnn-train more.txt --init-from ckpt/lstm --minutes 1
  torchrun --nproc-per-node 2 --no-python charrnn-train my.txt
"""

_BEGAN: Final = time.perf_counter()
"""The start of the command: --minutes counts from here, including the time to import PyTorch."""


@app.command(cls=GroupedCommand, epilog=EXAMPLES)
@with_settings
def train(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...",
            show_default=False,
            help="UTF-8 text files, optionally compressed with gzip, xz or zstd; - for standard input; or "
            "folders, with --glob. [default: tinyshakespeare]",
            rich_help_panel=Group.TEXT,
        ),
    ] = None,
    glob: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="The files of a folder to read, such as '*.txt', or '**/*.txt' to include subfolders.",
            rich_help_panel=Group.TEXT,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(RECIPES),
            help="Start from the settings of a recipe instead of the defaults (course); options override it.",
            autocompletion=lambda: list(RECIPES),
            rich_help_panel=Group.TRAINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help=f"Folder of the run, new or empty. [default: {RUNS_FOLDER}/CELL, {RUNS_FOLDER}/CELL-2, ...]",
            rich_help_panel=FILES,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="CKPT",
            help="Start from the weights of a checkpoint, or of a run's best checkpoint.",
            rich_help_panel=FILES,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume a run where it stopped. Options that may be changed: "
            f"{', '.join(map(option_of, CHANGEABLE))}.",
            rich_help_panel=FILES,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read the settings from a config.toml; options override it.",
            rich_help_panel=FILES,
        ),
    ] = None,
    version: Annotated[bool, terminal.version_option("charrnn-trainer", __version__)] = False,
    debug: terminal.DebugOption = False,
    quiet: terminal.QuietOption = False,
    **settings: Any,
) -> None:
    """Train a character-level network on a text.

    Without TEXT, tinyshakespeare is used. Checkpoints and all other files go to the run's folder, whose path
    is printed at the end. Ctrl-C saves a checkpoint, from which --resume continues.
    """
    need_torch()
    with _joined() as group:
        stop = StopSignals(verbose=group is None or group.is_main)
        if group is not None and not group.is_main:
            result = _run_worker(group, stop)
        elif resume is not None:
            others = {
                "TEXT": text or None,
                "--glob": glob,
                "--out": out,
                "--init-from": init_from,
                "--config": config,
                "--recipe": recipe,
            }
            for flag, value in others.items():
                if value is not None:
                    raise SettingError(
                        f"{flag} cannot be given with --resume, which uses the run's settings; omit one of "
                        "the two"
                    )
            result = resume_run(resume, settings, stop=stop, group=group, began=_BEGAN)
        else:
            if glob is not None and not text:
                raise SettingError("--glob selects files in a folder; give a folder as TEXT, or omit --glob")
            file = _base_settings(config, recipe)
            result = begin_run(
                find_texts(text, glob) if text else file.text,
                file.config.replace(**settings),
                settings,
                out=out,
                init_from=init_from or (Path(file.init_from) if file.init_from else None),
                stop=stop,
                group=group,
                began=_BEGAN,
                # A recipe or a config.toml leaves no setting open.
                plans=bool(settings.get("minutes")) and not (config or recipe),
            )
    _finish(result, stop, verbose=group is None or group.is_main)


def _base_settings(config: Path | None, recipe: str | None) -> RunFile:
    """The settings of a file or of a recipe, or the defaults."""
    if config is not None and recipe is not None:
        raise SettingError(
            "--recipe cannot be given with --config, which already has all settings; omit one of the two"
        )
    if config is not None:
        return RunFile.read(config)
    return RunFile(TrainConfig() if recipe is None else named_recipe(recipe))


def _run_worker(group: ProcessGroup, stop: StopSignals) -> TrainResult:
    """Train as a worker. The main process alone reads the settings and prints messages."""
    from charrnn_trainer.training.api import run_worker

    with stop:
        return run_worker(group, should_stop=stop)


@contextlib.contextmanager
def _joined() -> Iterator[ProcessGroup | None]:
    """The process group that torchrun started; None for a single process.

    An error that all processes run into is reported by the main process only.
    """
    if not _is_distributed():
        yield None
        return
    from charrnn_trainer.training.distributed import WorkerLostError, join
    from charrnn_trainer.training.divergence import DivergedError

    sys.stderr = sys.__stderr__
    with join() as group:
        try:
            yield group
        except (WorkerLostError, DivergedError):
            if group.is_main:
                raise
            raise typer.Exit(1) from None
        except CharRNNError as error:
            if group.is_main:
                raise
            raise CharRNNError(f"process {group.rank} of {group.size}: {error}", *error.parameters) from error


def _is_distributed() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started several processes."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def _finish(result: TrainResult, stop: StopSignals, *, verbose: bool) -> NoReturn:
    """Print how the run ended and its folder, and exit: with 0, or the code for the signal that ended it."""
    from charrnn_trainer.cli.display import Display

    code = 128 + (stop.number or signal.SIGTERM) if result.stopped else 0
    if not verbose:
        raise typer.Exit(code)
    if result.stopped:
        terminal.say(
            f"stopped at step {result.step:,}, checkpoint saved; to resume: "
            f"charrnn-train --resume {shell_word(str(result.run))}"
        )
    else:
        Display().show_result(result)
    if sys.stdout is not None and result.run is not None:  # None if it was closed
        terminal.write_path(result.run)
    raise typer.Exit(code)


def main() -> NoReturn:
    """The entry point of charrnn-train."""
    limit_spinning(os.environ)
    if _is_distributed() and os.environ["RANK"] != "0":
        sys.stdout = sys.stderr = None  # until the group has started, the main process reports all errors
    terminal.run(app, "charrnn-train", dies_of_closed_pipe=False)


if __name__ == "__main__":
    main()
