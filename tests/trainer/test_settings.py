"""The table of settings, and the options, help, completion and docs derived from it."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

import settings_page
from charrnn_runtime.cli import terminal
from charrnn_runtime.errors import SettingError
from charrnn_trainer.cli.train import app
from charrnn_trainer.recipes import RECIPES
from charrnn_trainer.setting import Setting, option_of
from charrnn_trainer.train_config import CHANGEABLE, SECTIONS, SETTINGS, TrainConfig, check_changes
from charrnn_trainer.training import time_budget
from charrnn_trainer.training.time_budget import plan_for_minutes

BY_NAME = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
Asked = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """The command in this process, in an empty folder: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["charrnn-train", *words])
        with pytest.raises(SystemExit) as ended:
            terminal.run(app, "charrnn-train", dies_of_closed_pipe=False)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def options() -> dict[str, Any]:
    """The command's options by the name of their parameter."""
    return {parameter.name: parameter for parameter in typer.main.get_command(app).params if parameter.name}


# --- the table ---------------------------------------------------------------------------------------------


def test_every_field_is_declared_with_its_annotated_type() -> None:
    for section in SECTIONS.values():
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            setting = SETTINGS[field.name]
            optional = setting.default is None
            assert hints[field.name] == (setting.kind | None if optional else setting.kind), field.name
            assert field.default == setting.default
            assert bool(setting.unset) == optional  # described in words


@BY_NAME
def test_defaults_are_allowed_and_values_out_of_range_are_not(setting: Setting) -> None:
    assert setting.checked(setting.default) == setting.default
    if setting.choices:
        assert all(setting.checked(word) == word for word in setting.choices)
        wrong: list[Any] = ["", "no such word", None, 1]
    elif setting.kind is bool:
        wrong = [0, 1, "yes"]
    elif setting.kind is str:
        assert setting.checked("x" * int(setting.high)) == "x" * int(setting.high)
        wrong = ["x" * int(setting.high + 1), "\ud800", b"x", None, 1]
    else:
        for value, outside in ((setting.low, setting.above_low), (setting.high, setting.below_high)):
            assert outside or setting.checked(value) == value
        wrong = [setting.low - 1, setting.high + 1, "1", True, float("nan")]
        wrong += [setting.low] * setting.above_low + [setting.high] * setting.below_high
        wrong += [setting.low + 0.5] * (setting.kind is int)
    for value in wrong:
        with pytest.raises(SettingError, match=f"^{setting.name} must be {re.escape(setting.allowed)}, not"):
            setting.checked(value)


def test_help_describes_every_field() -> None:
    for section in SECTIONS.values():
        for field in dataclasses.fields(section):
            setting = SETTINGS[field.name]
            assert f"    {field.name}: {setting.allowed}. {setting.help}" in (section.__doc__ or "")


def test_a_plan_for_a_time_budget_changes_exactly_the_settings_marked_as_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_budget.Measured, "threads", lambda *_: 1)
    changed: set[str] = set()
    for speed, symbols, text in ((1e-4, 65, 100_000), (1e-2, 5_000, 10**7)):

        def seconds(_: object, config: TrainConfig, speed: float = speed) -> float:
            return speed * (0.5 if config.network.cell == "gru" else 1.0)

        monkeypatch.setattr(time_budget.Measured, "seconds_per_step", seconds)
        monkeypatch.setattr(time_budget.Measured, "seconds_for_steps", lambda *_: 300.0)
        before = TrainConfig().replace(minutes=5)
        after = plan_for_minutes(before, {"minutes"}, text, symbols).config.flat()
        changed |= {name for name, value in before.flat().items() if after[name] != value}
    assert changed == {name for name, setting in SETTINGS.items() if setting.planned}


@BY_NAME
def test_exactly_the_settings_marked_as_changeable_can_change_on_resume(setting: Setting) -> None:
    assert setting.on_resume == (setting.name in CHANGEABLE)
    if setting.on_resume:
        check_changes([setting.name])
    else:
        with pytest.raises(SettingError, match=f"^{setting.name} cannot be changed") as caught:
            check_changes([setting.name])
        said = terminal.in_options(caught.value)
        assert said.startswith(f"{setting.option} cannot be changed when a run is resumed; only --steps, ")
        assert f", {', '.join(map(option_of, CHANGEABLE[1:]))} can" in said


# --- the page ----------------------------------------------------------------------------------------------


def test_the_settings_page_matches_the_table() -> None:
    written = settings_page.PAGE.read_text(encoding="utf-8")
    assert written == settings_page.page(), "run: python tests/settings_page.py"


# --- the command -------------------------------------------------------------------------------------------


def test_the_help_lists_every_setting_with_its_default_in_groups_within_80_columns(asked: Asked) -> None:
    code, out, _ = asked("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    said = " ".join(out.split())
    heads = [line.removesuffix(":") for line in out.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert heads == [
        *("Text", "Training", "Network", "Batches", "Validation", "Checkpoints and logs", "Machine"),
        *("Runs and files", "Other options"),
    ]
    for setting in SETTINGS.values():
        assert f" {setting.help} [default: {setting.default_words}]" in said, setting.name
    assert "--keep, --patience, --tensorboard, --device, --threads." in said  # no name wraps
    assert not [line for line in out.splitlines() if line.endswith("[default:")]


@BY_NAME
def test_every_setting_is_an_option_with_its_short_forms(setting: Setting) -> None:
    option = options()[setting.name]
    assert option.opts == [setting.option, *setting.short]
    assert option.secondary_opts == ([option_of(setting.name, False)] if setting.kind is bool else [])
    assert option.default is None


def test_no_two_options_share_a_name() -> None:
    names = [name for option in options().values() for name in option.opts + option.secondary_opts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lr", "-1"), "--learning-rate must be a number above 0 and at most 1000, not -1.0"),
        (("--hidden", "0"), "--hidden-size must be a whole number from 1 to 16,384, not 0"),
        (("--batch", "0"), "--batch-size must be"),
        (("--seq-len", "0"), "--seq-length must be"),
        (("--wd", "-1"), "--weight-decay must be"),
        (("--warmup", "-1"), "--warmup-steps must be"),
        (("--grad-clip", "-1"), "--clip must be"),
        (("--learningrate", "1"), "unknown option --learningrate; did you mean --learning-rate?"),
        (("--batch_size", "1"), "unknown option --batch_size; did you mean --batch-size?"),
        (("--precison", "fp32"), "unknown option --precison; did you mean --precision?"),
        (("--epochs", "3"), "unknown option --epochs; did you mean --steps?"),
        (("--gpu",), "unknown option --gpu; did you mean --device?"),
        (("-lr", "3"), "unknown option -lr; did you mean --lr? (charrnn-train --help lists all)\n"),
        (("--sleeps", "3"), "unknown option --sleeps (charrnn"),
        (("--xyz", "3"), "unknown option --xyz (charrnn-train --help lists all)\n"),
    ],
)
def test_short_forms_are_accepted_and_an_unknown_option_is_rejected_with_a_suggestion(
    asked: Asked, words: Sequence[str], message: str
) -> None:
    code, out, err = asked("no.txt", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"charrnn-train: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--cell ", ["lstm", "gru", "rnn"]),
        ("--cell g", ["gru"]),
        ("--device ", ["auto", "cpu", "cuda"]),
        ("--precision b", ["bf16"]),
        ("--schedule c", ["constant", "cosine"]),
        ("--split s", ["spread"]),
        ("--level ", ["char", "byte"]),
        ("--recipe ", list(RECIPES)),
        ("--tie", ["--tie-weights"]),
    ],
)
def test_the_shell_completes_options_and_their_choices(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, words: str, expected: list[str]
) -> None:
    line = f"charrnn-train {words}"
    monkeypatch.setenv("_CHARRNN_TRAIN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    code, out, _ = asked()
    assert (code, out.split()) == (0, expected)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--precision", "fp8"), 2, "--precision must be one of auto, fp32, tf32, bf16, not 'fp8'"),
        (
            ("--device", "webgpu"),
            2,
            "--device must be one of auto, cpu, cuda, not 'webgpu', which cannot train",
        ),
        (("--recipe", "bets"), 2, "--recipe must be one of course, best, not 'bets'"),
        (("--out", "full"), 2, "--out full is not empty; give a new folder"),
        (("--out", "full/other.txt"), 2, "--out full/other.txt is not a folder; give a new one"),
        (("--config", "run"), 1, f"run is a folder; give run{os.sep}config.toml"),
        (("--config", "full"), 1, "full is a folder; give a run's config.toml"),
        (("--out", "run"), 2, "--out run already contains a run; give a new folder\n"),
        (("--device", "cuda"), 1, "--device cuda: PyTorch finds no GPU"),
        (("--out", "text/run/deep"), 1, f"cannot create the folder text{os.sep}run{os.sep}deep: "),
        (("--precision", "tf32"), 1, "--precision tf32 is for GPUs, and this run computes on"),
        (("--tensorboard",), 1, "--tensorboard needs the package tensorboard"),
        (("missing.txt",), 1, "missing.txt does not exist"),
        (("text",), 2, "text is given twice"),
        (("full",), 2, "full is a folder; choose the files to read"),
    ],
)
def test_errors_are_found_before_a_text_is_read(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], code: int, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in ("full/other.txt", "run/config.toml"):
        path = Path(name)
        path.parent.mkdir()
        path.touch()
    os.mkfifo("text")  # opening it for reading would block forever
    found = asked("text", *words)
    assert found[0] == code
    assert found[2].startswith(f"charrnn-train: error: {message}")
    assert found[2].count("\n") == 1


def test_a_file_in_place_of_the_output_folder_is_reported_before_a_text_is_read(asked: Asked) -> None:
    Path("ckpt").touch()
    os.mkfifo("text")
    code, _, err = asked("text")
    assert code == 1
    assert err == (
        "charrnn-train: error: cannot create the folder ckpt: ckpt is not a folder; give another one with "
        "--out FOLDER\n"
    )
