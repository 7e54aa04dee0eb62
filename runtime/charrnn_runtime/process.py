"""Whether this process runs one of the commands, or a program that uses the package.

onnxruntime has process-wide settings. Commands set them; otherwise they are up to the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


class _Owner:
    is_a_command = False


_owner: Final = _Owner()
_only_in_commands: Final[list[Callable[[], None]]] = []


def only_in_commands(do: Callable[[], None]) -> None:
    """Call a function if this process runs a command: immediately, or once that is known."""
    if _owner.is_a_command:
        do()
    else:
        _only_in_commands.append(do)


def take_for_a_command() -> None:
    """Declare that this process runs a command."""
    _owner.is_a_command = True
    while _only_in_commands:
        _only_in_commands.pop()()
