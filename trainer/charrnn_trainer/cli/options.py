"""The options that the table of settings gives to a command: with their help, short forms and completion."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Final

import typer

from charrnn_runtime.cli.command_line import Command, without_escapes
from charrnn_trainer.setting import Group, Setting
from charrnn_trainer.train_config import SETTINGS

FILES: Final = "Runs and files"
OTHER: Final = "Other options"
"""The groups of options that are not settings."""

_COLUMN: Final = 30
"""All groups of the help have their second column at the same place."""


class GroupedCommand(Command):
    """A command whose help lists its options by group."""

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


def _entry(names: str, about: str, indent: int, width: int) -> str:
    """The lines of one option in the help; an option's name and a default are not broken over two."""
    column = indent + _COLUMN + 2
    kept = about.replace("[default: ", "[default:\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(kept, max(10, width - column), break_on_hyphens=False) or [""]
    if len(names) > _COLUMN:
        lines.insert(0, "")
    heads = [f"{'':{indent}}{names}", *[""] * (len(lines) - 1)]
    written = [f"{head:{column}}{line}".rstrip() for head, line in zip(heads, lines, strict=True)]
    return "".join(f"{line}\n" for line in written).replace("\N{NO-BREAK SPACE}", " ")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``**settings`` an option for each setting of the table.

    It gets those that were given on the command line, by name.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]

    @functools.wraps(command)
    def with_those_given(**values: Any) -> None:
        left_out = [name for name in SETTINGS if values[name] is None]
        for name, setting in SETTINGS.items():
            if values[name] is not None and setting.kind is str and not setting.choices:
                values[name] = without_escapes(values[name])
        command(**{name: value for name, value in values.items() if name not in left_out})

    options = [
        inspect.Parameter(
            setting.name, inspect.Parameter.KEYWORD_ONLY, default=_option(setting), annotation=setting.kind
        )
        for setting in SETTINGS.values()
    ]
    with_those_given.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + options
    )
    return with_those_given


def completed_from(words: Iterable[str]) -> Callable[[str], list[str]]:
    """What the shell asks for the words that an option can have."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _option(setting: Setting) -> Any:
    """A setting's option; its default is None, which stands for what was not given."""
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
