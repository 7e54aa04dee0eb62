"""Unknown options, and the suggestions for them."""

from __future__ import annotations

import string
from functools import cache
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn_runtime.cli import gen, option_names, terminal
from charrnn_runtime.cli.option_names import check_names, distance, suggested
from charrnn_runtime.errors import SettingError

COMMAND: Any = typer.main.get_command(gen.app)
CONTEXT = COMMAND.context_class(COMMAND, info_name="charrnn-gen")
OPTIONS = COMMAND.options(CONTEXT)
LONG = sorted(name for name in OPTIONS if name.startswith("--"))

words = st.text("ab-c", max_size=5)


@settings(max_examples=60)
@given(words, words)
def test_the_edit_distance_matches_its_definition(one: str, other: str) -> None:
    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        ways = [of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (one[i - 1] != other[j - 1])]
        if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
            ways.append(of(i - 2, j - 2) + 1)
        return min(ways)

    assert distance(one, other) == of(len(one), len(other))


@given(st.sampled_from(LONG), st.data())
def test_a_misspelled_name_suggests_the_name_or_one_as_close(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(2, len(name) - 1))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    wrong = name[:place] + letter + name[place + data.draw(st.integers(0, 1)) :]
    if wrong in OPTIONS or wrong in option_names.SYNONYMS:
        return
    found = suggested(wrong, OPTIONS)
    assert found
    assert any(each.startswith(wrong) or distance(wrong, each) <= 1 for each in found)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--temprature", ["--temperature"]),
        ("-temperature", ["--temperature"]),
        ("--TEMPERATURE", ["--temperature"]),
        ("--top_k", ["--top-k"]),
        ("--top", ["--top-k", "--top-p"]),
        ("--tempe", ["--temperature"]),
        ("--samples", ["--streams", "--lines"]),
        ("--gpu", ["--device"]),
        ("-N", ["-n"]),
        ("-x", []),
        ("--no", []),
        ("--nonsense", []),
        ("--epochs", []),  # charrnn-gen has no --steps
        ("--" + "x" * 1_000_000, []),
    ],
)
def test_only_plausible_options_are_suggested(name: str, meant: list[str]) -> None:
    assert suggested(name, OPTIONS) == meant


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*LONG, *(f"{name}=1" for name in LONG), "-", "--", "-1", "-n", "-n5", "-qn", "-qi", "-qx", "x"]
        ),
        max_size=4,
    )
)
def test_an_option_is_rejected_exactly_if_typer_rejects_it(arguments: list[str]) -> None:
    refused = False
    try:
        COMMAND.make_parser(CONTEXT).parse_args(list(arguments))
    except Exception:  # of a class that typer does not export
        refused = True
    if not refused:
        check_names("charrnn-gen", OPTIONS, arguments)
        return
    with pytest.raises(SettingError, match=r"^unknown option -|needs a value$|takes no value"):
        check_names("charrnn-gen", OPTIONS, arguments)


def test_a_name_is_shown_truncated_and_without_control_characters() -> None:
    with pytest.raises(SettingError) as caught:
        check_names("charrnn-gen", OPTIONS, ["--\x1b[31m" + "x" * 1_000])
    said = terminal.in_options(caught.value)
    assert said.isprintable()
    assert len(said) < 120
