"""Startup, output and exit codes shared by all commands.

Results go to stdout, messages to stderr. An error is one line on stderr; exit codes are 0, 1 (the work
failed), 2 (invalid command line) and 130 (Ctrl-C).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TextIO

import typer

from charrnn_runtime.cli.command_line import App
from charrnn_runtime.cli.line_breaks import fitted
from charrnn_runtime.cli.option_values import one_of
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import written_whole
from charrnn_runtime.format import spec
from charrnn_runtime.process import take_for_a_command


class _Output:
    debug = False
    quiet = False
    through: Callable[[str], None] | None = None  # prints lines while a live display owns the terminal


_output = _Output()


def _set_debug(value: bool) -> None:
    _output.debug = value


def _set_quiet(value: bool) -> None:
    _output.quiet = value


DebugOption = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show tracebacks of errors.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print only errors to stderr.")
]
DeviceOption = Annotated[
    str,
    typer.Option(help="Device to run on; auto uses a GPU if there is one.", **one_of(spec.DEVICES)),
]


def version_option(distribution: str, version: str) -> typer.models.OptionInfo:
    """The option ``--version`` of a command, which prints the distribution and its version and exits."""

    def show(value: bool) -> None:
        if value:
            typer.echo(f"{distribution} {version}")
            raise typer.Exit

    option = typer.Option("--version", callback=show, is_eager=True, help="Show the version and exit.")
    assert isinstance(option, typer.models.OptionInfo)
    return option


def new_app() -> typer.Typer:
    """An app for one command, whose help keeps the line breaks of the examples."""
    return App(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def say(message: str, *, even_if_quiet: bool = False) -> None:
    """Write a line to stderr, unless ``--quiet`` was given; a closed stderr is not an error.

    On a terminal, long lines are wrapped between words.
    """
    if _output.quiet and not even_if_quiet:
        return
    if _output.through is not None:
        _output.through(message)
    else:
        _write_stderr(fitted(message) + "\n")


def say_at_once(message: str) -> None:
    """Like `say`, but safe in signal handlers: bypasses the buffer, which may be in use."""
    if _output.quiet or sys.stderr is None:
        return
    if _output.through is not None:
        _output.through(message)
        return
    with suppress(OSError, ValueError):  # not a terminal, or not backed by a file
        os.write(sys.stderr.fileno(), f"{message}\n".encode())


@contextmanager
def speaking_through(show: Callable[[str], None]) -> Iterator[None]:
    """Route messages through another function while it owns the terminal."""
    _output.through = show
    try:
        yield
    finally:
        _output.through = None


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return _output.quiet


def warn(message: str) -> None:
    """Write a warning to stderr, unless ``--quiet`` was given."""
    say(f"warning: {message}")


def stdout(instead: str = "") -> TextIO:
    """stdout, set to UTF-8 without newline translation, whatever the locale.

    Args:
        instead: the alternative to suggest if stdout is closed, if the command has one.

    Raises:
        CharRNNError: stdout is closed.
    """
    if sys.stdout is None:
        raise CharRNNError(f"stdout is closed; the output cannot be written{instead}")
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # absent if a test replaced it by a StringIO
    if reconfigure is not None:
        # File names may not be UTF-8 (surrogates in Python).
        reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return sys.stdout


def write_path(path: Path) -> None:
    """Write a path to stdout as a line, in its original bytes, so that shells can use it.

    Raises:
        CharRNNError: stdout is closed.
    """
    stream = stdout()
    buffer = getattr(stream, "buffer", None)  # absent if a test replaced it by a StringIO
    if buffer is None:
        stream.write(f"{path}\n")
        return
    stream.flush()
    buffer.write(os.fsencode(path) + b"\n")


def source() -> BinaryIO:
    """stdin as bytes: input text is UTF-8, whatever the locale.

    Raises:
        CharRNNError: stdin is closed.
    """
    if sys.stdin is None:
        raise CharRNNError("stdin is closed; there is nothing to read")
    return sys.stdin.buffer


def check_new_file(path: Path, *, force: bool) -> Path:
    """The path that `new_file` will write, for a command that does other work first.

    Raises:
        CharRNNError: the path exists.
    """
    path = Path(os.path.realpath(path))  # write to the target of a symlink, and keep the symlink
    if path.is_dir():
        raise CharRNNError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        # An atomic write would replace it; as root, even /dev/null.
        raise CharRNNError(
            f"{path} is not a regular file; give the name of one, or write to stdout with > {path}"
        )
    if path.exists() and not force:
        raise CharRNNError(f"{path} already exists; choose another name, or use --force to replace it")
    return path


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that is written atomically, and replaces an existing one only with ``force``.

    Raises:
        CharRNNError: the path exists, or the file cannot be written.
    """
    with written_whole(check_new_file(path, force=force)) as file:
        yield file


class LateBar:
    """A progress bar on stderr that appears after two seconds.

    It appears only where stderr is a terminal and ``--quiet`` was not given.
    """

    def __init__(self, total: int | None, what: str, *, wanted: bool = True) -> None:
        """Start counting.

        Args:
            total: the total amount of work; None if unknown.
            what: the label of the bar.
            wanted: False if the results themselves appear on the terminal, where a bar would erase a line.
        """
        self._total, self._what, self._done = total, what, 0
        self._begin = time.monotonic()
        self._wanted = wanted and not _output.quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def advance(self, amount: int) -> None:
        """Record progress."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif self._wanted and time.monotonic() - self._begin > 2:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total, completed=self._done)
            self._bar.start()

    def __enter__(self) -> LateBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def run(
    app: typer.Typer,
    command: str,
    *,
    dies_of_closed_pipe: bool = True,
    options: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run a command line and exit the process: the entry point of every command.

    Args:
        app: an app with one command.
        command: the command's name, as the user typed it.
        dies_of_closed_pipe: exit immediately and silently when the reader of stdout goes away (``| head``),
            as Unix programs do. False for commands that have work to save.
        options: the option of each parameter that errors may name, where the names differ; otherwise the
            parameter ``top_k`` is shown as ``--top-k``.
    """
    take_for_a_command()
    if dies_of_closed_pipe and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _output.debug = _output.quiet = False
    try:
        code = typer.main.get_command(app).main(prog_name=command, standalone_mode=False)
        _flush_stdout()
    except BaseException as error:
        if _output.debug and not isinstance(error, SystemExit):
            _write_stderr(traceback.format_exc())
        code = _report(error, command, options or {})
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException, command: str, options: Mapping[str, str]) -> int:
    """Print an error as one line. Returns the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # What is still buffered for stdout would raise again at exit: discard it.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, CharRNNError):
        _write_stderr(f"{command}: error: {in_options(error, options)}\n")
        return 2 if isinstance(error, SettingError) else 1
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
        _write_stderr(f"{command}: error: {_one_line(error.format_message())} (see {command} --help)\n")
        return int(error.exit_code)
    if isinstance(error, MemoryError):
        _write_stderr(f"{command}: error: out of memory\n")
    elif isinstance(error, OSError):
        about = f"{error.filename}: " if error.filename else ""
        _write_stderr(f"{command}: error: {about}{error.strerror or error}\n")
    else:
        kind = type(error).__name__
        _write_stderr(
            f"{command}: error: {kind}: {_one_line(str(error))}; this is a bug in charrnn "
            "(run again with --debug to see the traceback)\n"
        )
    return 1


def in_options(error: CharRNNError, options: Mapping[str, str] | None = None) -> str:
    """The message of an error, with a command's options in place of the parameters that it names.

    Args:
        error: the error.
        options: see `run`.
    """
    return with_options(str(error), error.parameters, options)


def with_options(said: str, parameters: Sequence[str], options: Mapping[str, str] | None = None) -> str:
    """A message with command-line options in place of parameter names (see `in_options`)."""
    for name in parameters:
        option = (options or {}).get(name, "--" + name.replace("_", "-"))
        if not re.search(rf"(?<![\w/-]){name}=", said):
            said = re.sub(rf"(?<![\w/-]){name}(?![\w/-])", option, said)  # "/": part of a path
            continue
        # If the message gives a value, the bare name is an ordinary word: steps=3, and 12 steps are done.
        said = re.sub(rf"(?<![\w/-]){name}=True(?!\w)", option, said)  # a flag
        said = re.sub(rf"""(?<![\w/-]){name}=(["']?)([\w.-]*\w)\1""", rf"{option} \2", said)
    return said


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _write_stderr(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # the reader is gone


def _flush_stdout() -> None:
    """Flush stdout, so that a full disk is reported as an error."""
    if sys.stdout is not None:
        sys.stdout.flush()
