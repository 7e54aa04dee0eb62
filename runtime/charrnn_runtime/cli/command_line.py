"""Stricter parsing of command lines than typer's, with better suggestions."""

from __future__ import annotations

import os
import textwrap
from typing import Any, Final

import typer
import typer.core

from charrnn_runtime.cli.option_names import check_names
from charrnn_runtime.cli.option_values import InvalidValue
from charrnn_runtime.errors import SettingError
from charrnn_runtime.files import shell_word

_WIDEST_NAMES: Final = 32
"""The help's second column begins there at the latest."""


class App(typer.Typer):
    """A typer app whose commands are instances of `Command`."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": Command, **options})


class Command(typer.core.TyperCommand):
    """A command that rejects repeated options and suggests the option that was meant."""

    column: int | None = None
    """Where the help's second column begins, behind the indent; None for where it fits."""

    def listed(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """What the help lists: by heading, the names of each parameter and what it says of it."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups["Options" if parameter.param_type_name == "option" else "Arguments"].append(record)
        return groups

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of the help."""
        for heading, records in self.listed(ctx).items():
            if records:
                column = self.column or min(max(len(names) for names, _ in records) + 2, _WIDEST_NAMES)
                with formatter.section(heading):
                    for names, about in records:
                        formatter.write(_entry(names, about, column, formatter))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line into ``ctx``."""
        if not ctx.resilient_parsing:  # as for completion
            check_names(ctx.command_path, self.options(ctx), args)
        _, extra, given = self.make_parser(ctx).parse_args(args=list(args))
        self._reject_repeated(ctx, given)
        if not any(each.is_eager for each in given):  # such as --help, which ends the command
            self._reject_surplus(ctx, extra)
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except InvalidValue as error:
            raise SettingError(f"{_name(error.param)} {error.message}") from None
        except typer.BadParameter as error:
            if not hasattr(error, "param_type"):  # only a missing one has it
                raise
            ctx.fail(f"{_name(error.param)} is missing")
        for each in self.get_params(ctx):
            if each.type.name == "path" and each.name in ctx.params:
                ctx.params[each.name] = _file_called_dash(ctx.params[each.name])
        return rest

    def options(self, ctx: Any) -> dict[str, Any]:
        """The command's options by each of their names."""
        options = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        return {name: each for each in options for name in [*each.opts, *each.secondary_opts]}

    def _reject_repeated(self, ctx: Any, given: list[Any]) -> None:
        """Reject an option that is given more than once if only the last value would count."""
        if ctx.resilient_parsing:  # for completion
            return
        for each in given:
            loses = not getattr(each, "is_flag", False) or each.secondary_opts
            if loses and not getattr(each, "multiple", False) and given.count(each) > 1:
                names = " or ".join(sorted({*each.opts, *each.secondary_opts}, key=len, reverse=True))
                ctx.fail(f"{names} is given {_times(given.count(each))}; give it once")

    def _reject_surplus(self, ctx: Any, extra: list[str]) -> None:
        """Reject arguments that the command does not take, which may be meant as the prompt."""
        if not extra or ctx.resilient_parsing:
            return
        words = " ".join(extra)
        if "--prime" in self.options(ctx):
            ctx.fail(f"unexpected argument {words!r}; to continue a text, give --prime {shell_word(words)}")
        taken = [_name(each) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        ctx.fail(f"unexpected argument {words!r}; {ctx.command_path} takes only {' and '.join(taken)}")


def _entry(names: str, about: str, column: int, formatter: Any) -> str:
    """The lines of one parameter in the help; an option's name and a default are not broken over two."""
    indent, column = formatter.current_indent, formatter.current_indent + column
    # typer puts two spaces before the default.
    kept = about.replace("  [", " [").replace("[default: ", "[default:\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(kept, max(10, formatter.width - column), break_on_hyphens=False) or [""]
    if indent + len(names) + 2 > column:
        lines.insert(0, "")
    heads = [f"{'':{indent}}{names}", *[""] * (len(lines) - 1)]
    written = [f"{head:{column}}{line}".rstrip() for head, line in zip(heads, lines, strict=True)]
    return "".join(f"{line}\n" for line in written).replace("\N{NO-BREAK SPACE}", " ")


def _name(parameter: Any) -> str:
    """What messages call an argument, or an option, which may have short names, too."""
    return str(parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len))


def without_escapes(text: str) -> str:
    r"""Replace \n by a newline, \t by a tab and \r by a carriage return."""
    for escape, character in (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r")):
        text = text.replace(escape, character)
    return text


def _file_called_dash(value: Any) -> Any:
    """One path or several, in which ./- is a file: a `Path` would make a - of it, stdin or stdout."""
    if isinstance(value, list | tuple):
        return type(value)(map(_file_called_dash, value))
    if isinstance(value, str) and value != "-" and os.path.normpath(value) == "-":
        return os.path.abspath(value)
    return value


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
