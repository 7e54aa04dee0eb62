"""Stricter parsing of command lines than typer's, with better suggestions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import typer
import typer.core

from charrnn_runtime.cli.option_names import check_names
from charrnn_runtime.errors import SettingError
from charrnn_runtime.files import shell_word


class App(typer.Typer):
    """A typer app whose commands are instances of `Command`."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": Command, **options})


class Command(typer.core.TyperCommand):
    """A command that rejects repeated options and suggests the option that was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line into ``ctx``."""
        if not ctx.resilient_parsing:  # as for completion
            check_names(ctx.command_path, self.options(ctx), args)
        _, extra, given = self.make_parser(ctx).parse_args(args=list(args))
        self._refuse_repeated(ctx, given)
        self._refuse_a_bare_prompt(ctx, extra)
        rest: list[str] = super().parse_args(ctx, args)
        for each in self.get_params(ctx):
            if each.type.name == "path" and each.name in ctx.params:
                ctx.params[each.name] = _file_called_dash(ctx.params[each.name])
        return rest

    def options(self, ctx: Any) -> dict[str, Any]:
        """The command's options by each of their names."""
        options = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        return {name: each for each in options for name in [*each.opts, *each.secondary_opts]}

    def _refuse_repeated(self, ctx: Any, given: list[Any]) -> None:
        """Reject an option that is given more than once if only the last value would count."""
        if ctx.resilient_parsing:  # for completion
            return
        for each in given:
            loses = not getattr(each, "is_flag", False) or each.secondary_opts
            if loses and not getattr(each, "multiple", False) and given.count(each) > 1:
                names = " or ".join(sorted({*each.opts, *each.secondary_opts}, key=len, reverse=True))
                ctx.fail(f"{names} is given {_times(given.count(each))}; give it once")

    def _refuse_a_bare_prompt(self, ctx: Any, extra: list[str]) -> None:
        """Reject surplus arguments that were probably meant as the prompt."""
        takes_one = any("--prime" in each.opts for each in self.get_params(ctx))
        if extra and takes_one and not ctx.resilient_parsing:
            words = " ".join(extra)
            ctx.fail(f"unexpected argument {words!r}; to continue a text, give --prime {shell_word(words)}")


def among(choices: Sequence[str]) -> Callable[[], list[str]]:
    """The choices for shell completion of an option, for ``typer.Option(autocompletion=...)``."""
    return lambda: list(choices)


def check_choice(option: str, value: str, choices: Sequence[str]) -> str:
    """Return the value of an option if it is one of its choices.

    Raises:
        SettingError: it is not one of them.
    """
    if value not in choices:
        raise SettingError(f"{option} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
    return value


def without_escapes(text: str) -> str:
    r"""Replace \n by a newline, \t by a tab and \r by a carriage return."""
    for escape, character in (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r")):
        text = text.replace(escape, character)
    return text


def _file_called_dash(value: Any) -> Any:
    """One path or several, in which ./- is a file: a `Path` would make a - of it, stdin or stdout."""
    if isinstance(value, list | tuple):
        return [_file_called_dash(each) for each in value]
    if isinstance(value, str) and value != "-" and os.path.normpath(value) == "-":
        return os.path.abspath(value)
    return value


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
