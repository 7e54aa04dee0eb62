"""Builds a command's options from the table of settings, with help, short forms and completion."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import typer

from charrnn_runtime.cli.command_line import Command, without_escapes
from charrnn_runtime.cli.option_values import Number
from charrnn_trainer.setting import Group, Setting
from charrnn_trainer.train_config import SETTINGS

FILES: Final = "Runs and files"
OTHER: Final = "Other options"
"""Groups of options that are not settings."""


class GroupedCommand(Command):
    """A command whose help lists its options by group."""

    column = 32

    def listed(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in (*Group, FILES, OTHER)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups[getattr(parameter, "rich_help_panel", None) or OTHER].append(record)
        return groups


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
        metavar="|".join(setting.choices) or setting.unit.upper() or "TEXT",
        autocompletion=(lambda: list(setting.choices)) if setting.choices else None,
        parser=Number(setting.kind, None, None, setting.allowed) if setting.kind in (int, float) else None,
        rich_help_panel=setting.group,
    )
