"""The settings of sampling."""

from __future__ import annotations

import numpy as np
import pytest

from charrnn_runtime import Sampling, SettingError

INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("temperature", [0, 0.0, -1, 1e-5, 1e5, INFINITY, -INFINITY, NAN])
def test_temperatures_out_of_range_are_rejected(temperature: float) -> None:
    with pytest.raises(SettingError, match="temperature must be at"):
        Sampling(temperature)


def test_a_temperature_of_zero_gets_a_hint_at_greedy() -> None:
    with pytest.raises(SettingError, match="for greedy sampling, use top_k=1"):
        Sampling(0)


@pytest.mark.parametrize("top_k", [0, -1, -(10**30)])
def test_a_top_k_below_one_is_rejected(top_k: int) -> None:
    with pytest.raises(SettingError, match="top_k must be 1 or more"):
        Sampling(top_k=top_k)


@pytest.mark.parametrize("top_k", [2.5, 2.0, NAN, "3"])
def test_a_top_k_that_is_not_an_integer_is_rejected(top_k: object) -> None:
    with pytest.raises(SettingError, match="top_k must be a whole number"):
        Sampling(top_k=top_k)  # type: ignore[arg-type]


@pytest.mark.parametrize("top_p", [0, -0.5, 1.0000001, 2, 1e-50, NAN, INFINITY])
def test_a_top_p_out_of_range_is_rejected(top_p: float) -> None:
    with pytest.raises(SettingError, match="top_p must be above 0 and at most 1"):
        Sampling(top_p=top_p)


@pytest.mark.parametrize("min_p", [-0.5, -1e-30, 1, 1.0 - 1e-12, 2, NAN, INFINITY])
def test_a_min_p_out_of_range_is_rejected(min_p: float) -> None:
    # 1 - 1e-12 is 1 in float32.
    with pytest.raises(SettingError, match="min_p must be at least 0 and below 1"):
        Sampling(min_p=min_p)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1e-4},
        {"temperature": 1e4},
        {"temperature": np.float32(0.5), "top_k": np.int16(3), "top_p": np.float64(0.5)},
        {"top_k": 1},
        {"top_k": 10**30},
        {"top_p": 1},
        {"top_p": 1e-30},
        {"min_p": 0},
        {"min_p": np.float32(0.1)},
        {"min_p": 1.0 - 2.0**-24},
    ],
)
def test_settings_in_range_are_accepted(settings: dict[str, float]) -> None:
    sampling = Sampling(**settings)  # type: ignore[arg-type]
    for name, value in settings.items():
        assert getattr(sampling, name) == value


def test_no_top_k_and_a_huge_one_mean_the_largest_of_the_model() -> None:
    assert Sampling().inputs(65)["top_k"] == 65
    assert Sampling(top_k=10**30).inputs(65)["top_k"] == 65
    assert Sampling(top_k=3).inputs(65)["top_k"] == 3
