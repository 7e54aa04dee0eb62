"""Whether this process is a command's own, or that of a program which uses the package.

onnxruntime has settings that hold for a whole process. They are a program's own to choose; a command chooses
them for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


class _Owner:
    is_a_command = False


_owner: Final = _Owner()
_only_in_commands: Final[list[Callable[[], None]]] = []


def only_in_commands(do: Callable[[], None]) -> None:
    """Do something once the process is known to be a command's, be it now, later or never."""
    if _owner.is_a_command:
        do()
    else:
        _only_in_commands.append(do)


def take_for_a_command() -> None:
    """Say that this process is a command's."""
    _owner.is_a_command = True
    while _only_in_commands:
        _only_in_commands.pop()()
