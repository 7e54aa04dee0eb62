"""Finds options that a command does not have on its command line, and suggests those that were meant.

The command line is read as typer's parser reads it, which reports only a letter of ``-lr`` and takes
``-temperature`` for ``-t emperature``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from charrnn_runtime.errors import SettingError

SYNONYMS: Final = {
    "--batch-size": ("--batch",),
    "--beams": ("--beam",),
    "--block-size": ("--seq-length",),
    "--bptt": ("--seq-length",),
    "--chars": ("--length",),
    "--continue": ("--resume",),
    "--cuda": ("--device",),
    "--dtype": ("--precision",),
    "--emsize": ("--embedding-size",),
    "--epochs": ("--steps",),
    "--eval-interval": ("--eval-every",),
    "--gpu": ("--device",),
    "--hours": ("--minutes",),
    "--iterations": ("--steps",),
    "--log-interval": ("--log-every",),
    "--max-iters": ("--steps",),
    "--max-length": ("--length",),
    "--max-new-tokens": ("--length",),
    "--max-tokens": ("--length",),
    "--model": ("--cell",),
    "--nhid": ("--hidden-size",),
    "--nlayers": ("--layers",),
    "--num-beams": ("--beam",),
    "--num-layers": ("--layers",),
    "--num-samples": ("--streams", "--lines"),
    "--num-steps": ("--steps",),
    "--output": ("--out",),
    "--prompt": ("--prime",),
    "--rnn-size": ("--hidden-size",),
    "--rnn-type": ("--cell",),
    "--samples": ("--streams", "--lines"),
    "--tied": ("--tie-weights",),
    "--time": ("--minutes",),
    "--tokens": ("--length",),
    "--units": ("--hidden-size",),
}
"""Names of options in other programs, and the options of ours for the same purpose, where spelling does not
tell. Of these, only options that a command has are suggested."""

_LETTERS_PER_ERROR: Final = 4
"""A name of so many letters may have one error to be taken for another name; every name may have one."""

_LONGEST: Final = 60
"""The longest name, in characters; longer ones mean nothing, and are shown in part."""

_SHORTEST_BEGINNING: Final = 3
"""Fewer letters are not taken for the beginning of a name."""


def check_names(command: str, options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Check that a command has all options of a command line, and that each has a value if it takes one.

    Args:
        command: the command's name.
        options: what the command has: typer's options by each of their names.
        arguments: the command line, without the command.

    Raises:
        SettingError: an option is unknown, lacks its value, or has one that it does not take.
    """
    left = list(reversed(arguments))
    while left:
        argument = left.pop()
        if argument == "--":
            return
        if len(argument) < 2 or argument[0] != "-":
            continue
        name, has_value, _ = argument.partition("=")
        if not name.startswith("--"):
            if f"-{name}" in options or not _are_short(options, argument, left):
                raise _unknown(command, name, options)
        elif name not in options:
            raise _unknown(command, name, options)
        elif options[name].is_flag and has_value:
            raise SettingError(f"{name} takes no value; give it alone")
        elif not options[name].is_flag and not has_value:
            _drop_value(name, left)


def _are_short(options: Mapping[str, Any], argument: str, left: list[str]) -> bool:
    """Whether an argument such as ``-qn5`` is made of known short options; drops the value that follows."""
    for place, letter in enumerate(argument[1:], start=2):
        option = options.get(f"-{letter}")
        if option is None:
            return False
        if not option.is_flag:
            if place == len(argument):
                _drop_value(f"-{letter}", left)
            return True
    return True


def _drop_value(name: str, left: list[str]) -> None:
    if not left:
        raise SettingError(f"{name} needs a value")
    left.pop()


def _unknown(command: str, name: str, options: Mapping[str, Any]) -> SettingError:
    meant = suggested(name, options)
    advice = f"; did you mean {' or '.join(meant)}?" if meant else ""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name[:_LONGEST])
    return SettingError(f"unknown option {shown}{advice} ({command} --help lists all)")


def suggested(name: str, options: Mapping[str, Any]) -> list[str]:
    """The options that an unknown one may stand for: of a command's options, one name each.

    A synonym is known by its name; otherwise the name begins those of the options, or is nearly theirs.
    """
    given = "--" + name.lstrip("-").replace("_", "-").lower()
    if len(given) > _LONGEST:
        return []
    if len(given) == 3:  # one letter, which spelling does not tell from others
        return [each for each in (f"-{given[2]}", f"-{given[2].upper()}") if each in options]
    if given in options:
        return [given]
    if meant := [option for option in SYNONYMS.get(given, ()) if option in options]:
        return meant
    distances = {each: distance(given, each) for each in options if each.startswith("--")}
    begun = [each for each in distances if each.startswith(given) and len(given) - 2 >= _SHORTEST_BEGINNING]
    most = max(1, (len(given) - 2) // _LETTERS_PER_ERROR)
    near = begun or [each for each in distances if distances[each] <= most]
    least = min((distances[each] for each in near), default=0)
    nearest = [each for each in near if distances[each] == least]
    return list({id(options[each]): each for each in nearest}.values())


def distance(one: str, other: str) -> int:
    """How many letters to insert, remove, replace or swap with the next to make one word of another.

    The optimal string alignment distance: no letter is changed twice.
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, above, row = row, before, [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
