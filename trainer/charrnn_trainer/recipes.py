"""Named settings for `charrnn-train --recipe NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from charrnn_runtime.errors import SettingError
from charrnn_trainer.train_config import TrainConfig

RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "course": {},
    "best": {
        "layers": 1,
        "hidden_size": 952,
        "embedding_size": 65,
        "dropout": 0.5,
        "weight_drop": 0.35,
        "batch_size": 32,
        "seq_length": 96,
        "random_start": True,
        "reset_chance": 0.002,
        "steps": 12_000,
        "learning_rate": 0.0035,
        "schedule": "cosine",
        "warmup_steps": 300,
        "weight_decay": 0.1,
        "clip": 1.0,
        "eval_every": 1_000,
        "save_every": 4_000,
    },
}
"""The settings of each recipe that differ from the defaults."""


def recipe(name: str) -> TrainConfig:
    """The settings of a recipe.

    Raises:
        SettingError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise SettingError(f"recipe must be one of {', '.join(RECIPES)}, not {name!r}", "recipe")
    return TrainConfig().replace(**RECIPES[name])
