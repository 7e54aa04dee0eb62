"""What every command shares: how it starts, what it prints, and how it ends.

Results go to stdout, messages to stderr. An error is one line on stderr; exit codes are 0, 1 (the work
failed), 2 (the command line is wrong) and 130 (Ctrl-C).
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

from charrnn_runtime.cli.command_line import App, among
from charrnn_runtime.cli.line_breaks import fitted
from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.files import written_whole
from charrnn_runtime.format import spec
from charrnn_runtime.process import take_for_a_command


class _Output:
    debug = False
    quiet = False
    through: Callable[[str], None] | None = None  # what shows lines while it draws on the terminal


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
    str, typer.Option(help="auto, cpu, cuda or webgpu.", autocompletion=among(spec.DEVICES))
]


def version_option(distribution: str, version: str) -> typer.models.OptionInfo:
    """The option ``--version`` of a command, which prints the distribution and its version, and ends."""

    def show(value: bool) -> None:
        if value:
            typer.echo(f"{distribution} {version}")
            raise typer.Exit

    option = typer.Option("--version", callback=show, is_eager=True, help="Show the version.")
    assert isinstance(option, typer.models.OptionInfo)
    return option


def new_app() -> typer.Typer:
    """An app for one command: its help keeps the line breaks of its examples."""
    return App(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def say(message: str, *, even_if_quiet: bool = False) -> None:
    """Write a line to stderr, unless ``--quiet``; a closed stderr is not an error.

    On a terminal, a line that is longer than a row is broken between words.
    """
    if _output.quiet and not even_if_quiet:
        return
    if _output.through is not None:
        _output.through(message)
    else:
        _write_stderr(fitted(message) + "\n")


def say_at_once(message: str) -> None:
    """Write a line as `say` does from a signal's handler, past a buffer that may be in use."""
    if _output.quiet or sys.stderr is None:
        return
    if _output.through is not None:
        _output.through(message)
        return
    with suppress(OSError, ValueError):  # no terminal, or no file at all
        os.write(sys.stderr.fileno(), f"{message}\n".encode())


@contextmanager
def speaking_through(show: Callable[[str], None]) -> Iterator[None]:
    """Let something else show the messages, while it draws on the terminal."""
    _output.through = show
    try:
        yield
    finally:
        _output.through = None


def is_quiet() -> bool:
    """Whether ``--quiet`` was given."""
    return _output.quiet


def warn(message: str) -> None:
    """Write a warning to stderr, unless ``--quiet``."""
    say(f"warning: {message}")


def stdout(instead: str = "") -> TextIO:
    """stdout, set to UTF-8 without translation of line ends whatever the locale says.

    Args:
        instead: what a user can do where stdout is closed, if the command has another way.

    Raises:
        CharRNNError: stdout is closed.
    """
    if sys.stdout is None:
        raise CharRNNError(f"stdout is closed, so there is nowhere to write the output{instead}")
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # absent where a test put a StringIO there
    if reconfigure is not None:
        # Names of files may hold what is not UTF-8 (surrogates in Python).
        reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return sys.stdout


def write_path(path: Path) -> None:
    """Write a path to stdout as a line, with the bytes that it has: a shell that takes it finds the file.

    Raises:
        CharRNNError: stdout is closed.
    """
    stream = stdout()
    buffer = getattr(stream, "buffer", None)  # absent where a test put a StringIO there
    if buffer is None:
        stream.write(f"{path}\n")
        return
    stream.flush()
    buffer.write(os.fsencode(path) + b"\n")


def source() -> BinaryIO:
    """stdin, as bytes: text that comes in is UTF-8 whatever the locale says.

    Raises:
        CharRNNError: stdin is closed.
    """
    if sys.stdin is None:
        raise CharRNNError("stdin is closed, so there is nothing to read")
    return sys.stdin.buffer


def check_new_file(path: Path, *, force: bool) -> Path:
    """The path that `new_file` will write, for a command that works long before.

    Raises:
        CharRNNError: something is already there.
    """
    path = Path(os.path.realpath(path))  # a link's target is written, and the link stays
    if path.is_dir():
        raise CharRNNError(f"{path} is a folder; give the name of a file to write")
    if path.exists() and not path.is_file():
        # It would be replaced, not written to: as root even /dev/null would.
        raise CharRNNError(
            f"{path} is not a regular file; give the name of one, or write to stdout with > {path}"
        )
    if path.exists() and not force:
        raise CharRNNError(f"{path} already exists; give another name, or --force to replace it")
    return path


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that is written whole or not at all, and replaces another only with ``force``.

    Raises:
        CharRNNError: something is already there, or the file cannot be written.
    """
    with written_whole(check_new_file(path, force=force)) as file:
        yield file


class LateBar:
    """A progress bar on stderr that appears when the work has gone on for two seconds.

    It appears only where stderr is a terminal and ``--quiet`` was not given.
    """

    def __init__(self, total: int | None, what: str, *, wanted: bool = True) -> None:
        """Begin to count.

        Args:
            total: how much there is to do; None if unknown.
            what: what the bar says before itself.
            wanted: False where the terminal shows the results as they come: a bar would wipe out a line.
        """
        self._total, self._what, self._done = total, what, 0
        self._begin = time.monotonic()
        self._wanted = wanted and not _output.quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def advance(self, amount: int) -> None:
        """Note that some of the work is done."""
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
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def run(
    app: typer.Typer,
    command: str,
    *,
    dies_of_closed_pipe: bool = True,
    options: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run a command line and end the process: the entry point of every command calls this.

    Args:
        app: an app with one command.
        command: the command's name, as the user typed it.
        dies_of_closed_pipe: end at once and silently when the reader of stdout goes away (``| head``), as
            Unix programs do. False for commands that have work to save.
        options: the options of parameters that errors name, where these are not called alike: ``--top-k`` is
            that of ``top_k`` unless said otherwise.
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
    """Say in one line what went wrong; gives the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # What is still buffered for stdout would raise again at exit: let it go nowhere.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, CharRNNError):
        _write_stderr(f"{command}: error: {in_options(error, options)}\n")
        return 2 if isinstance(error, SettingError) else 1
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's errors of usage
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
    """What an error says, with a command's options in place of the parameters that it names.

    Args:
        error: the error.
        options: see `run`.
    """
    return with_options(str(error), error.parameters, options)


def with_options(said: str, parameters: Sequence[str], options: Mapping[str, str] | None = None) -> str:
    """A message with a command's options in place of the parameters that it names (see `in_options`)."""
    for name in parameters:
        option = (options or {}).get(name, "--" + name.replace("_", "-"))
        if not re.search(rf"(?<![\w/-]){name}=", said):
            said = re.sub(rf"(?<![\w/-]){name}(?![\w/-])", option, said)  # "/": it is a part of a path
            continue
        # Where it has a value, the bare name is a word: steps=3, and 12 steps are done.
        said = re.sub(rf"(?<![\w/-]){name}=True(?!\w)", option, said)  # a switch
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
        return  # no one reads it any more


def _flush_stdout() -> None:
    """Flush what was printed, so that a full disk behind ``>`` is an error."""
    if sys.stdout is not None:
        sys.stdout.flush()
