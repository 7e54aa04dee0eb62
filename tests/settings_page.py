"""Write docs/settings.md from the table of settings: ``python tests/settings_page.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.recipes import RECIPES
from charrnn_trainer.setting import Group, Setting, option_of
from charrnn_trainer.train_config import SETTINGS

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD: Final = """\
# Training settings

Each setting is an option of `charrnn-train`, a key in a run's `config.toml`, and a field in Python:
`TrainConfig().replace(hidden_size=512, learning_rate=0.002)`.

- **planned**: unless given, `--minutes` chooses it for the best model in that time.
- **resume**: `charrnn-train --resume RUN` may change it. Other settings need a new run.
- **weights**: with `--init-from`, it is taken from the checkpoint.

`python tests/settings_page.py` writes this page from `charrnn_trainer/config.py`; do not edit it.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for group in Group:
        parts += [f"\n## {group}\n", _table([each for each in SETTINGS.values() if each.group is group])]
    parts += ["\n## Recipes\n", _recipes()]
    return "\n".join(parts)


def _table(settings: list[Setting]) -> str:
    rows = ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
    for setting in settings:
        names = f"`{setting.name}`<br>" + ", ".join(f"`{name}`" for name in _options(setting))
        marks = [
            mark
            for mark, holds in (
                ("planned", setting.planned),
                ("resume", setting.on_resume),
                ("weights", setting.from_weights),
            )
            if holds
        ]
        about = f"{setting.help} {setting.details}".strip()
        if marks:
            about += f" *({', '.join(marks)})*"
        rows.append(f"| {names} | {setting.default_words} | {_allowed(setting)} | {about} |")
    return "\n".join(rows) + "\n"


def _options(setting: Setting) -> list[str]:
    if setting.kind is bool:
        return [option_of(setting.name, True), option_of(setting.name, False)]
    return [setting.option, *setting.short]


def _allowed(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.kind is bool:
        return "yes, no"
    if setting.kind is str:
        return f"text of at most {setting.high:,} characters"
    unit = f" ({setting.unit})" if setting.unit else ""
    low = f"above {setting.low:g}" if setting.above_low else f"{setting.low:g}"
    if setting.high >= MOST_STEPS:
        return f"{low} or more{unit}"
    high = f"{setting.high:,}" if setting.kind is int else f"{setting.high:,.12g}"
    return f"{low} to {'below ' if setting.below_high else ''}{high}{unit}"


def _recipes() -> str:
    parts = ["`charrnn-train --recipe NAME` uses these settings, and the defaults for all others.\n"]
    for name, settings in RECIPES.items():
        values = " ".join(option_of(each, value) for each, value in settings.items())
        parts.append(f"- **{name}**: {f'`{values}`' if values else 'the defaults'}")
    return "\n".join(parts) + "\n"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
