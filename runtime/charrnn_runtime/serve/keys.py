"""The API keys of a server: sources and validation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from charrnn_runtime.errors import CharRNNError, SettingError

VARIABLE: Final = "CHARRNN_API_KEY"
"""The environment variable with the key if no option gives one."""


def read_keys(given: str | None, file: Path | None) -> tuple[str, ...]:
    """Read the keys that a server accepts; empty if it requires none.

    Args:
        given: a key given directly.
        file: a file with one key per line; empty lines are ignored.

    Raises:
        SettingError: both are given, or a key is invalid.
        CharRNNError: the file cannot be read, or has no key.
    """
    if given is not None and file is not None:
        raise SettingError("give either --api-key or --api-key-file, not both")
    if given is not None:
        return (_checked(given, "--api-key"),)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not text"
            raise CharRNNError(
                f"{file}: {said}; --api-key-file expects a file with one key per line"
            ) from None
        if not lines:
            raise CharRNNError(f"{file} has no key: write one key per line")
        return tuple(_checked(line, str(file)) for line in lines)
    if VARIABLE in os.environ:
        return (_checked(os.environ[VARIABLE], VARIABLE),)
    return ()


def _checked(key: str, source: str) -> str:
    """Return a key if it is valid in a header."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingError(f"{source}: a key must have one or more ASCII characters, without spaces")
    return key
