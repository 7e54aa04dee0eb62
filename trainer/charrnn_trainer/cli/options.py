"""Builds a command's options from the table of settings, with help, short forms and completion."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Final

import typer

from charrnn_runtime.cli.command_line import Command, without_escapes
from charrnn_runtime.errors import SettingError
from charrnn_trainer.setting import Group, Setting
from charrnn_trainer.train_config import SETTINGS

FILES: Final = "Runs and files"
OTHER: Final = "Other options"
"""Groups of options that are not settings."""

_COLUMN: Final = 30
"""The second column starts at the same place in all groups of the help."""

_ELSEWHERE: Final = {
    "--epochs": "--steps",
    "--max-iters": "--steps",
    "--iterations": "--steps",
    "--time": "--minutes",
    "--hours": "--minutes",
    "--model": "--cell",
    "--rnn-type": "--cell",
    "--num-layers": "--layers",
    "--nlayers": "--layers",
    "--rnn-size": "--hidden-size",
    "--nhid": "--hidden-size",
    "--units": "--hidden-size",
    "--emsize": "--embedding-size",
    "--tied": "--tie-weights",
    "--block-size": "--seq-length",
    "--bptt": "--seq-length",
    "--eval-interval": "--eval-every",
    "--log-interval": "--log-every",
    "--output": "--out",
    "--continue": "--resume",
    "--gpu": "--device",
    "--cuda": "--device",
    "--dtype": "--precision",
}
"""Names of the same options in other programs, where similar spelling would not find them."""


class GroupedCommand(Command):
    """A command whose help lists options by group, and which suggests the right one for an unknown option."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in (*Group, FILES, OTHER)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups[getattr(parameter, "rich_help_panel", None) or OTHER].append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    for names, about in records:
                        formatter.write(_entry(names, about, formatter.current_indent, formatter.width))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            if option is None or not hasattr(error, "possibilities"):
                raise  # not an unknown option
            meant = _ELSEWHERE.get(option) or next(iter(error.possibilities or ()), None)  # the closest first
            advice = f"; did you mean {meant}?" if meant else ""
            raise SettingError(f"No such option: {option}{advice} (see {ctx.command_path} --help)") from error


def _entry(names: str, about: str, indent: int, width: int) -> str:
    """The help lines of one option; option names and defaults are never wrapped."""
    column = indent + _COLUMN + 2
    kept = about.replace("[default: ", "[default:\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(kept, max(10, width - column), break_on_hyphens=False) or [""]
    if len(names) > _COLUMN:
        lines.insert(0, "")
    heads = [f"{'':{indent}}{names}", *[""] * (len(lines) - 1)]
    written = [f"{head:{column}}{line}".rstrip() for head, line in zip(heads, lines, strict=True)]
    return "".join(f"{line}\n" for line in written).replace("\N{NO-BREAK SPACE}", " ")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting of the table to a command that takes ``**settings``.

    The command receives the settings given on the command line, by name.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]

    @functools.wraps(command)
    def with_given_settings(**values: Any) -> None:
        omitted = [name for name in SETTINGS if values[name] is None]
        for name, setting in SETTINGS.items():
            if values[name] is not None and setting.kind is str and not setting.choices:
                values[name] = without_escapes(values[name])
        command(**{name: value for name, value in values.items() if name not in omitted})

    options = [
        inspect.Parameter(
            setting.name, inspect.Parameter.KEYWORD_ONLY, default=_option(setting), annotation=setting.kind
        )
        for setting in SETTINGS.values()
    ]
    with_given_settings.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + options
    )
    return with_given_settings


def completed_from(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A shell completion function for an option with these values."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _option(setting: Setting) -> Any:
    """A setting's option; the default None marks an option that was not given."""
    names = [setting.option, *setting.short]
    if setting.kind is bool:
        names = [f"{setting.option}/--no{setting.option[1:]}"]
    return typer.Option(
        None,
        *names,
        help=f"{setting.help} [default: {setting.default_words}]",
        show_default=False,
        metavar="|".join(setting.choices) or setting.unit.upper() or None,
        autocompletion=completed_from(setting.choices) if setting.choices else None,
        rich_help_panel=setting.group,
    )
