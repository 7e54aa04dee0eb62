"""The ``config.toml`` of a run: everything needed to repeat it."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_trainer.data.token_file import Source
from charrnn_trainer.setting import check_names
from charrnn_trainer.train_config import SECTIONS, TrainConfig

_URI: Final = "file:///"


@dataclass(frozen=True)
class RunFile:
    """The content of a ``config.toml``: everything needed to repeat a run.

    Attributes:
        config: the settings.
        text: the path of the text, or the paths of several; None for the default corpus.
        init_from: the path of the checkpoint that provides the initial weights; None for random weights.
    """

    config: TrainConfig
    text: Source | None = None
    init_from: str | None = None

    def to_toml(self) -> str:
        """The file's text."""
        lines = ["# To train the same model again: charrnn-train --config THIS_FILE"]
        for key in ("text", "init_from"):
            place = getattr(self, key)
            if place is not None:
                written = tuple(map(_written, place)) if isinstance(place, tuple) else _written(place)
                lines.append(f"{key} = {_toml(written)}")
        for section, values in self.config.to_dict().items():
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read a ``config.toml``.

        Raises:
            CharRNNError: the file cannot be read, or is not TOML.
            SettingError: an unknown setting, or a value that is not allowed.
        """
        if path.is_dir():
            where = f"{path / 'config.toml'}" if (path / "config.toml").is_file() else "a run's config.toml"
            raise CharRNNError(f"{path} is a folder; give {where}")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CharRNNError(f"cannot read the settings in {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CharRNNError(f"{path} is not a TOML file: {' '.join(str(error).split())}") from error
        try:
            check_names("section or key", values, ("text", "init_from", *SECTIONS))
            places = {key: values.pop(key, None) for key in ("text", "init_from")}
            if isinstance(places["text"], list):
                if not places["text"] or not all(map(_is_path, places["text"])):
                    raise SettingError(f"text must be a path or a list of paths, not {places['text']!r}")
                places["text"] = tuple(places["text"])
            for key, place in places.items():
                if not (place is None or isinstance(place, tuple) or _is_path(place)):
                    raise SettingError(f"{key} must be a path, not {place!r}")
            return cls(
                TrainConfig.from_dict(values), _read_source(places["text"]), _read_path(places["init_from"])
            )
        except SettingError as error:
            # By their keys, as in the file, and not by the options that a command would name.
            raise SettingError(f"{path}: {error}") from error


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _written(path: str) -> str:
    """A path for TOML; one that is not Unicode (has surrogates in Python) becomes a URI of its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(os.path.abspath(path)).as_uri()
    return path


def _read_path(written: str | None) -> str | None:
    """The inverse of `_written`."""
    if written is None or not written.startswith(_URI):
        return written
    return os.fsdecode(unquote_to_bytes(written[len(_URI) - 1 :]))


def _read_source(written: Source | None) -> Source | None:
    """The inverse of `_written` for the path of a text, or the paths of several."""
    if isinstance(written, tuple):
        return tuple(str(_read_path(each)) for each in written)
    return _read_path(written)


def _toml(value: object) -> str:
    """A value in TOML syntax."""
    if isinstance(value, tuple):
        return "[" + "".join(f"\n    {_toml(each)}," for each in value) + "\n]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()  # paths never need it (see _written)
        # TOML's escapes in a basic string are JSON's, but TOML also requires DEL to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
