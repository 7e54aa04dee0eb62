"""Stricter parsing of command lines than typer's, with better suggestions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import typer
import typer.core

from charrnn_runtime.errors import SettingError
from charrnn_runtime.files import shell_word

_KNOWN_ELSEWHERE: Final = {
    "--batch-size": ("--batch",),
    "--beams": ("--beam",),
    "--chars": ("--length",),
    "--max-length": ("--length",),
    "--max-new-tokens": ("--length",),
    "--max-tokens": ("--length",),
    "--num-beams": ("--beam",),
    "--num-samples": ("--streams", "--lines"),
    "--num-steps": ("--steps",),
    "--epochs": ("--steps",),
    "--prompt": ("--prime",),
    "--samples": ("--streams", "--lines"),
    "--tokens": ("--length",),
}
"""Common names of these options in other programs; only options that a command has are suggested."""


class App(typer.Typer):
    """A typer app whose commands are instances of `Command`."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": Command, **options})


class Command(typer.core.TyperCommand):
    """A command that rejects repeated options and suggests the option that was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line into ``ctx``."""
        try:
            _, extra, given = self.make_parser(ctx).parse_args(args=list(args))
        except Exception as error:  # typer's own, of a class that it does not export
            self._suggest(ctx, error)
            raise
        self._reject_repeated(ctx, given)
        self._reject_bare_prompt(ctx, extra)
        return super().parse_args(ctx, args)

    def _suggest(self, ctx: Any, error: Exception) -> None:
        """Add the options that an unknown option may stand for to its error."""
        name = getattr(error, "option_name", "")
        if getattr(error, "possibilities", None) is not None and name in _KNOWN_ELSEWHERE:
            options = {option for each in self.get_params(ctx) for option in each.opts}
            meant = [option for option in _KNOWN_ELSEWHERE[name] if option in options]
            error.possibilities = meant or error.possibilities  # type: ignore[attr-defined]

    def _reject_repeated(self, ctx: Any, given: list[Any]) -> None:
        """Reject an option that is given more than once if only the last value would count."""
        if ctx.resilient_parsing:  # for completion
            return
        for each in given:
            loses = not getattr(each, "is_flag", False) or each.secondary_opts
            if loses and not getattr(each, "multiple", False) and given.count(each) > 1:
                names = " or ".join(sorted({*each.opts, *each.secondary_opts}, key=len, reverse=True))
                ctx.fail(f"{names} is given {_times(given.count(each))}; give it once")

    def _reject_bare_prompt(self, ctx: Any, extra: list[str]) -> None:
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


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
