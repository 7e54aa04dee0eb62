"""The values of options: allowed ones, and the errors for others."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn_runtime.cli.option_values import InvalidValue, number, one_of

ENDS = st.integers(-(10**6), 10**6)


@given(st.sampled_from([int, float]), ENDS, st.integers(0, 10**6), st.integers(-(10**7), 10**7))
def test_a_number_within_the_limits_is_accepted(
    kind: type, least: int, width: int, given_number: int
) -> None:
    read = number(kind, "N", least, least + width)["parser"]
    if least <= given_number <= least + width:
        assert read(str(given_number)) == given_number
        assert type(read(str(given_number))) is kind
    else:
        with pytest.raises(InvalidValue, match=r"^must be between .* and .*, not "):
            read(str(given_number))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (number(int, "N"), "abc", "must be a whole number, not 'abc'"),
        (number(int, "N", 0), "abc", "must be a whole number from 0, not 'abc'"),
        (number(int, "N", 0), "-1", "must be 0 or more, not -1"),
        (number(int, "N", 1, 20_000), "1.5", "must be a whole number from 1 to 20,000, not '1.5'"),
        (number(int, "N", 1, 20_000), "30000", "must be between 1 and 20,000, not 30,000"),
        (number(float, "N", 0.0, 1.0), "x", "must be a number from 0 to 1, not 'x'"),
        (number(float, "N", 0.0, 1.0), "nan", "must be between 0 and 1, not nan"),
        (number(float, "N", allowed="a number above 0"), "x", "must be a number above 0, not 'x'"),
        (one_of(("a", "b", "c")), "d", "must be a, b or c, not 'd'"),
        (one_of(("a", "b")), "", "must be a or b, not ''"),
    ],
)
def test_the_message_says_what_is_allowed(option: dict[str, Any], value: str, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        option["parser"](value)
    assert caught.value.message == message


@given(st.text(min_size=1))
def test_an_invalid_value_is_shown_in_one_short_line(value: str) -> None:
    for option in (number(int, "N"), one_of(("a", "b"))):
        with pytest.raises(InvalidValue) as caught:
            option["parser"](f"x{value}" * 100)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 200


def test_a_range_without_limits_is_not_checked() -> None:
    assert math.isnan(number(float, "N", allowed="a number above 0")["parser"]("nan"))


def test_shell_completion_offers_the_choices_shown_in_help() -> None:
    option = one_of(("a", "b", "c"))
    assert option["metavar"].split("|") == option["autocompletion"]() == ["a", "b", "c"]
    assert [option["parser"](each) for each in "abc"] == ["a", "b", "c"]
