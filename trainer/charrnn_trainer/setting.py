"""The description of a setting of a training run, and the checks derived from it.

A setting is a field of one of the dataclasses in `charrnn_trainer.config`:

    layers: int = whole(2, 1, 32, "layers", NETWORK, "Number of recurrent layers.")

Everything else is derived from this declaration: the check of its value, the command's option with its help
and completion, the key in ``config.toml``, and the entry in docs/settings.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from charrnn_runtime.errors import SettingError


class Group(StrEnum):
    """The groups of settings, in the order of ``charrnn-train --help`` and of docs/settings.md."""

    TEXT = "Text"
    TRAINING = "Training"
    NETWORK = "Network"
    BATCHES = "Batches"
    VALIDATION = "Validation"
    CHECKPOINTS = "Checkpoints and logs"
    MACHINE = "Machine"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The description of a setting.

    Attributes:
        kind: its type: bool, int, float or str.
        default: its default value.
        group: the group that lists it.
        help: what it does, in a sentence or two, for ``--help``.
        details: additions for docs/settings.md, such as the source.
        choices: the allowed values of a text; if empty, any text of at most ``high`` characters.
        elsewhere: values that other commands accept, with the hint that the error gives for each.
        low: the lowest allowed number.
        high: the highest allowed number, or text length.
        above_low: whether ``low`` itself is excluded.
        below_high: whether ``high`` itself is excluded.
        unit: the unit of a number.
        unset: the meaning of the default None, in words; None leaves the choice to the program.
        short: shorter names of the command's option, such as ``--lr``.
        on_resume: whether it may be changed when a run is resumed.
        planned: whether the plan for a time budget chooses it if it is not given.
        from_weights: whether a run that starts from a checkpoint takes it from there.
        name: the field's name, set by `settings_of`.
    """

    kind: type
    default: Any
    group: Group
    help: str
    details: str = ""
    choices: tuple[str, ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()
    low: float = -math.inf
    high: float = math.inf
    above_low: bool = False
    below_high: bool = False
    unit: str = ""
    unset: str = ""
    short: tuple[str, ...] = ()
    on_resume: bool = False
    planned: bool = False
    from_weights: bool = False
    name: str = ""

    @property
    def option(self) -> str:
        """The command's option, such as ``--batch-size``."""
        return option_of(self.name)

    @property
    def allowed(self) -> str:
        """The allowed values, in words that follow "must be"."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return (
                f"one of {', '.join(self.choices)}" if self.choices else f"at most {self.high:,} characters"
            )
        if self.kind is int:
            return f"a whole number from {self.low:,} to {self.high:,}"
        if self.above_low:
            return f"a number above {self.low:g} and at most {self.high:g}"
        if self.below_high:
            return f"a number from {self.low:g} to below {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}"

    @property
    def default_words(self) -> str:
        """The default, as ``--help`` shows it."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if isinstance(self.default, str) and not self.choices:
            return self.default.encode("unicode_escape").decode("ascii") or "nothing"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def checked(self, value: Any) -> Any:
        """Return the value if it is allowed; an int given for a float setting becomes a float.

        Raises:
            SettingError: it is not allowed; the message names the setting, the value and the allowed values.
        """
        if value is None and self.default is None:
            return None
        if not self._allows(value):
            hint = next((f", {use}" for known, use in self.elsewhere if known == value), "")
            raise SettingError(f"{self.name} must be {self.allowed}, not {value!r}{hint}", self.name)
        return float(value) if self.kind is float else value

    def _allows(self, value: Any) -> bool:
        if self.kind is str:
            return isinstance(value, str) and (
                value in self.choices if self.choices else _is_text(value, self.high)
            )
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if not isinstance(value, int if self.kind is int else int | float) or not _is_finite(value):
            return False
        at_end = (self.above_low and value == self.low) or (self.below_high and value == self.high)
        return self.low <= value <= self.high and not at_end


def option_of(name: str, value: object = None) -> str:
    """A setting as a command-line option: ``--layers``, ``--layers 2``, ``--no-lines``."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}" if value is None else f"--{option} {value}"


# --- declarations: each returns a dataclass field, and passes ``more`` on to `Setting` ---------------------


def whole(default: int | None, low: int, high: int, unit: str, group: Group, what: str, **more: Any) -> Any:
    """A field for a whole number from ``low`` to ``high``."""
    limits: dict[str, Any] = {"low": low, "high": high, "unit": unit}
    return _field(Setting(kind=int, default=default, group=group, help=what, **limits, **more))


def number(default: float, low: float, high: float, unit: str, group: Group, what: str, **more: Any) -> Any:
    """A field for a number from ``low`` to ``high``."""
    limits: dict[str, Any] = {"low": low, "high": high, "unit": unit}
    return _field(Setting(kind=float, default=default, group=group, help=what, **limits, **more))


def choice(default: str, choices: tuple[str, ...], group: Group, what: str, **more: Any) -> Any:
    """A field for one of several words."""
    return _field(Setting(kind=str, default=default, choices=choices, group=group, help=what, **more))


def words(default: str, longest: int, group: Group, what: str, **more: Any) -> Any:
    """A field for any text of at most ``longest`` characters."""
    return _field(Setting(kind=str, default=default, high=longest, group=group, help=what, **more))


def switch(default: bool | None, group: Group, what: str, **more: Any) -> Any:
    """A field for true or false."""
    return _field(Setting(kind=bool, default=default, group=group, help=what, **more))


def _field(setting: Setting) -> Any:
    return dataclasses.field(default=setting.default, metadata={"setting": setting})


# --- dataclasses of settings -------------------------------------------------------------------------------


_FOUND: dict[type, tuple[Setting, ...]] = {}


def settings_of(section: type[Any]) -> tuple[Setting, ...]:
    """The settings declared by the fields of a dataclass, in order."""
    if section not in _FOUND:
        _FOUND[section] = tuple(
            dataclasses.replace(item.metadata["setting"], name=item.name)
            for item in dataclasses.fields(section)
        )
    return _FOUND[section]


class Section:
    """The base of dataclasses of settings: validates and documents each field from its declaration.

    Raises:
        SettingError: on construction, if a value is not allowed.
    """

    def __init_subclass__(cls) -> None:
        lines = [cls.__doc__ or "", "", "    Attributes:"]
        for name, item in vars(cls).items():
            if isinstance(item, dataclasses.Field):
                setting: Setting = item.metadata["setting"]
                about = f"{setting.help} {setting.details}".strip()
                lines.append(f"        {name}: {setting.allowed}. {about}")
        cls.__doc__ = "\n".join(lines)

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            # checked() may convert an int to a float.
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name)))


def check_names(
    what: str, given: Iterable[str], allowed: Sequence[str], short: Mapping[str, str] | None = None
) -> None:
    """Check that names are known.

    Args:
        what: what they are names of.
        given: the names.
        allowed: those that are known.
        short: which of them other names may stand for, such as lr.

    Raises:
        SettingError: one is unknown; the message suggests a name, and lists all of them.
    """
    for name in given:
        if name not in allowed:
            close = [(short or {}).get(name), *difflib.get_close_matches(name, allowed, 1)]
            meant = next((f" (did you mean {each}?)" for each in close if each in allowed), "")
            raise SettingError(f"unknown {what}: {name!r}{meant}; allowed are {', '.join(allowed)}")


def _is_text(value: str, longest: float) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return len(value) <= longest


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
