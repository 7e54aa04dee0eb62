"""The API keys of a server: where they come from, and what one may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import CharRNNError, SettingError

VARIABLE: Final = "CHARRNN_API_KEY"
"""The environment variable that has the key where no option gives one."""


def read_keys(given: str | None, file: Path | None) -> tuple[str, ...]:
    """The keys that a server accepts; none where it needs none.

    Args:
        given: a key that was given as such.
        file: a file with a key in each line; empty lines are left out.

    Raises:
        SettingError: both are given, or a key cannot be one.
        CharRNNError: the file cannot be read, or has no key.
    """
    if given is not None and file is not None:
        raise SettingError("give --api-key or --api-key-file, not both")
    if given is not None:
        return (_checked(given, "--api-key"),)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not text"
            raise CharRNNError(
                f"{file}: {said}; --api-key-file takes a file with a key in each line"
            ) from None
        if not lines:
            raise CharRNNError(f"{file} has no key: write one into it, on a line of its own")
        return tuple(_checked(line, str(file)) for line in lines)
    if VARIABLE in os.environ:
        return (_checked(os.environ[VARIABLE], VARIABLE),)
    return ()


def _checked(key: str, source: str) -> str:
    """A key, if a header can hold it."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingError(f"{source}: a key must have one or more ASCII characters, without spaces")
    return key
