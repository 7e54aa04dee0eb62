"""Validated sampling settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from charrnn_runtime.arguments import real_number, whole_number, wrong
from charrnn_runtime.errors import SettingError
from charrnn_runtime.format import spec
from charrnn_runtime.graph.sampler import FEW, Cuts
from charrnn_runtime.record import Record


class Sampling(Record):
    """Settings for sampling the next character from the logits.

    Attributes:
        temperature: divides the logits, > 0; below 1, likely characters become more likely.
        top_k: sample from the ``top_k`` most likely characters; 1 is greedy, None is all.
        top_p: sample from the most likely characters that together have this probability, in (0, 1].
        min_p: sample from those with at least this fraction of the most likely one's probability, in [0, 1).

    Raises:
        SettingError: on construction, if a value is invalid.
    """

    temperature: float = spec.DEFAULT_TEMPERATURE
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole_number("top_k", self.top_k))
        # The graph computes in float32, where lower temperatures overflow and smaller masses underflow.
        if self.temperature < 1e-4:
            raise SettingError(
                f"temperature must be at least 0.0001, not {self.temperature}; for greedy sampling, use "
                "top_k=1",
                "temperature",
                "top_k",
            )
        if not self.temperature <= 1e4:
            raise SettingError(
                f"temperature must be at least 0.0001 and at most 10000, not {self.temperature}",
                "temperature",
            )
        if self.top_k is not None and self.top_k < 1:
            raise wrong("top_k", "1 or more, or omitted to disable it", self.top_k)
        if not (0.0 < self.top_p <= 1.0 and np.float32(self.top_p) > 0):
            raise SettingError(
                f"top_p must be above 0 and at most 1, not {self.top_p}; 1 disables it", "top_p"
            )

        if not (0.0 <= self.min_p < 1.0 and np.float32(self.min_p) < 1):
            raise SettingError(
                f"min_p must be at least 0 and below 1, not {self.min_p}; 0 disables it", "min_p"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON."""
        return {name: getattr(self, name) for name in self._fields}

    def inputs(self, top_k_max: int) -> dict[str, float]:
        """The values of the model's inputs, by the names of `spec.SETTINGS`."""
        return {
            "temperature": self.temperature,
            "top_k": self._top_k_of(top_k_max),
            "top_p": self.top_p,
            "min_p": self.min_p,
        }

    def cuts(self, top_k_max: int) -> Cuts:
        """The truncation needed for a model that ranks ``top_k_max`` symbols; see `graph.sampler.Cuts`."""
        top_k = self._top_k_of(top_k_max)
        if top_k < top_k_max or np.float32(self.top_p) < 1:
            if self.top_k == 1:
                return "greedy"
            return "few" if top_k <= FEW <= top_k_max // 2 else "any"  # ranking most symbols saves no time
        return "min_p" if np.float32(self.min_p) > 0 else "none"

    def _top_k_of(self, top_k_max: int) -> int:
        return top_k_max if self.top_k is None else min(self.top_k, top_k_max)
