"""The options of all commands: what they are called."""

from __future__ import annotations

import importlib
from collections import defaultdict
from importlib.metadata import entry_points
from typing import Any

import typer

MODULES = {
    script.name: script.value.partition(":")[0]
    for script in entry_points(group="console_scripts")
    if script.name.startswith("charrnn-")
}


def command(name: str) -> tuple[Any, Any]:
    """A command, and a context to parse in."""
    found: Any = typer.main.get_command(importlib.import_module(MODULES[name]).app)
    return found, found.context_class(found, info_name=name)


def options(name: str) -> dict[str, Any]:
    found, context = command(name)
    return dict(found.options(context))


def test_there_are_ten_commands() -> None:
    assert len(MODULES) == 10


def test_an_option_has_the_same_short_forms_in_every_command() -> None:
    forms = defaultdict(set)
    for name in MODULES:
        for option in options(name).values():
            forms[max(option.opts, key=len)].add(frozenset(option.opts))
    assert {name: found for name, found in forms.items() if len(found) > 1} == {}
    assert forms["--temperature"] == {frozenset(("--temperature", "--temp", "-t"))}
    assert forms["--seed"] == {frozenset(("--seed", "-s"))}
