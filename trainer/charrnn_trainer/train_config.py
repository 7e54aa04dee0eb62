"""All settings of a training run, by section and by name; `config` has the table of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from charrnn_runtime.errors import SettingError
from charrnn_trainer.config import DataConfig, NetworkConfig, OptimizationConfig, RunConfig
from charrnn_trainer.setting import Setting, check_names, settings_of


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.run.deterministic and self.optimization.minutes:
            raise SettingError(
                "deterministic=True cannot be given with minutes, since training would depend on the clock; "
                "give steps instead of minutes",
                "deterministic",
                "minutes",
                "steps",
            )
        if self.run.patience and not self.data.validates:
            name = "val_fraction" if self.data.val_lines is None else "val_lines"
            raise SettingError(
                f"patience={self.run.patience} needs validations, but {name}=0 holds out no text; omit one "
                "of the two",
                "patience",
                name,
            )

    def flat(self) -> dict[str, Any]:
        """All settings by name, without their sections."""
        return {
            name: value
            for section in dataclasses.fields(self)
            for name, value in dataclasses.asdict(getattr(self, section.name)).items()
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and name, without None values."""
        return {
            section.name: {
                key: value
                for key, value in dataclasses.asdict(getattr(self, section.name)).items()
                if value is not None
            }
            for section in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build the settings from ``values`` by section and name; the others keep their defaults.

        Raises:
            SettingError: a section or key is unknown, or a value is not allowed.
        """
        check_names("section", values, tuple(SECTIONS))
        sections: dict[str, Any] = {}
        for name, section in SECTIONS.items():
            given = values.get(name, {})
            if not isinstance(given, Mapping):
                raise SettingError(f"[{name}] must be a section of settings, not {given!r}")
            names = tuple(setting.name for setting in settings_of(section))
            check_names(f"setting in [{name}]", given, names, _SHORT)
            try:
                sections[name] = section(**given)
            except SettingError as error:
                raise SettingError(f"[{name}] {error}", *error.parameters) from error
        return cls(**sections)

    def replace(self, **settings: Any) -> TrainConfig:
        """A copy with some settings changed, named without their section: ``replace(layers=1)``.

        Raises:
            SettingError: an unknown setting, or a value that is not allowed.
        """
        check_names("setting", settings, tuple(SETTINGS), _SHORT)
        changed: dict[str, Any] = {}
        for section in dataclasses.fields(self):
            old = getattr(self, section.name)
            names = {item.name for item in dataclasses.fields(old)}
            new = {name: settings.pop(name) for name in tuple(settings) if name in names}
            changed[section.name] = dataclasses.replace(old, **new)
        return TrainConfig(**changed)


SECTIONS: Final = {
    "network": NetworkConfig,
    "data": DataConfig,
    "optimization": OptimizationConfig,
    "run": RunConfig,
}

SETTINGS: Final[Mapping[str, Setting]] = {
    setting.name: setting for section in SECTIONS.values() for setting in settings_of(section)
}
"""Every setting by name; names are unique across sections."""

_SHORT: Final = {
    option.lstrip("-").replace("-", "_"): setting.name
    for setting in SETTINGS.values()
    for option in setting.short
}
"""The setting that each short form of an option stands for."""

CHANGEABLE: Final = tuple(name for name, setting in SETTINGS.items() if setting.on_resume)
"""The settings that may be changed when a run is resumed; changing any other would make it another run."""


def check_changes(names: Iterable[str]) -> None:
    """Check that settings may be changed when a run is resumed.

    Raises:
        SettingError: one may not be changed.
    """
    for name in names:
        if name not in CHANGEABLE:
            advice = ""
            if name in SETTINGS and not SETTINGS[name].from_weights:
                advice = (
                    f"; to continue training its network with another {name}, start a new run with init_from"
                )
            raise SettingError(
                f"{name} cannot be changed when a run is resumed; only {', '.join(CHANGEABLE)} can{advice}",
                name,
                "init_from",
                *CHANGEABLE,
            )
