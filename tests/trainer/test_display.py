"""The display: estimates of the run time, and the summary of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from charrnn_trainer.cli import display as display_module
from charrnn_trainer.cli.display import Display
from charrnn_trainer.config import MOST_STEPS
from charrnn_trainer.runs.header import Evaluation
from charrnn_trainer.train_config import TrainConfig
from charrnn_trainer.training.events import Started, Stepped, TrainResult, ValidatedWhole

COURSE = TrainConfig()


def told(
    capsys: pytest.CaptureFixture[str], config: TrainConfig, seconds: float, *events: Any, step: int = 0
) -> str:
    """The output of the display for the start and the first steps of a run."""
    with Display() as display:
        display(Started(config, step, 0.0, 1, 900, 100, "cpu", Path("run"), lambda _: ""))
        for number in range(step + 1, step + 11):
            display(Stepped(number, 4.0, 0.005, seconds, 0.0))
        for event in events:
            display(event)
    return capsys.readouterr().err


def test_the_course_preset_gets_an_estimate_and_a_faster_alternative(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = (
        "remaining: 5,995 steps, about 40 minutes on this machine; --minutes 3 trains a better model in less "
        "time\n"
    )
    assert told(capsys, COURSE, 0.4).count(line) == 1
    assert "remaining: 5,995 steps" in told(capsys, COURSE.replace(cell="gru"), 0.4)
    assert "\nremaining: 995 steps" in told(capsys, COURSE, 0.4, step=5_000)
    assert "\nremaining: 995 steps, about a minute on this machine" in told(capsys, COURSE, 0.08, step=5_000)
    resumed = told(capsys, COURSE, 0.4, step=1_000)
    assert "remaining: 4,995 steps" in resumed
    assert "--minutes" not in resumed  # it would not plan another network


def test_other_settings_get_an_estimate_without_advice(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, COURSE.replace(hidden_size=512, schedule="cosine"), 0.4)
    assert "about 40 minutes on this machine\n" in said
    assert "--minutes" not in said


@pytest.mark.parametrize("settings", [{"steps": 100}, {"minutes": 3.0, "steps": MOST_STEPS}])
def test_short_runs_and_runs_with_a_time_limit_get_no_estimate(
    capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    assert "remaining" not in told(capsys, COURSE.replace(**settings), 0.4)


@pytest.mark.parametrize(("step", "late"), [(1_000, True), (5_500, False)])
def test_overfitting_after_an_early_best_checkpoint_is_pointed_out(
    capsys: pytest.CaptureFixture[str], step: int, late: bool
) -> None:
    best = Evaluation(step, 1.2, 1.5)
    result = TrainResult(
        cast(Any, None), COURSE, 6_000, False, 1.0, (best, Evaluation(6_000, 0.9, 1.9)), None, Path("run")
    )
    Display().show_result(result)
    said = capsys.readouterr().err
    assert f"best: validation loss 1.5000 (2.164 bits per character) at step {step:,}\n" in said
    assert (
        "  the 5,000 steps after it overfitted; charrnn-export uses the best checkpoint\n" in said
    ) == late


@pytest.mark.parametrize(
    ("characters", "words"), [(96, "(all of the held-out text)"), (20, "(as many as time allowed)")]
)
def test_the_final_validation_loss_says_how_much_text_it_covers(
    capsys: pytest.CaptureFixture[str], characters: int, words: str
) -> None:
    config = COURSE.replace(val_sample=50)
    said = told(capsys, config, 0.1, ValidatedWhole(7, 1.5, characters))
    assert (
        f"step 7: validation loss 1.5000 (2.164 bits per character) on {characters} characters {words}"
        in said
    )


@pytest.mark.parametrize(
    ("settings", "tokens", "words"),
    [
        ({}, (900, 100), "the first 900 characters for training, the last 100 for validation"),
        ({"val_fraction": 0.0}, (1_000, 0), "all 1,000 characters for training"),
        ({"val_fraction": 0.0, "split": "spread"}, (1_000, 0), "all 1,000 characters for training"),
        ({"lines": True, "val_lines": 0}, (1_000, 0), "all 1,000 characters for training"),
        ({"split": "spread"}, (900, 100), "the first 900 characters for training, the last 100 for"),
        (
            {"split": "spread", "level": "byte"},
            (9_000, 1_000),
            "9,000 bytes for training, 1,000 in 15 blocks spread over the text for validation",
        ),
        ({"lines": True}, (900, 100), "900 characters for training, 100 in held-out lines for validation"),
    ],
)
def test_the_split_into_training_and_validation_text_is_shown(
    capsys: pytest.CaptureFixture[str], settings: dict[str, Any], tokens: tuple[int, int], words: str
) -> None:
    config = COURSE.replace(**settings)
    Display()(Started(config, 0, 0.0, 1, *tokens, "cpu", Path("run"), lambda _: ""))
    assert f"\nsplit: {words}" in capsys.readouterr().err


def test_a_number_of_steps_with_a_time_limit_gets_no_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = told(capsys, COURSE.replace(minutes=3.0), 0.4)
    assert "training: 3 minutes or 6,000 steps, whichever comes first, in batches of" in said
    assert "remaining" not in said


@pytest.mark.parametrize(
    ("minutes", "steps", "words"),
    [
        (1.0, 1, "1 minute or 1 step, whichever comes first"),
        (0.5, 2, "0.5 minutes or 2 steps, whichever comes first"),
        (1.0, MOST_STEPS, "1 minute in batches"),
        (0.0, 1, "1 step in batches"),
    ],
)
def test_minutes_and_steps_are_plural_except_for_one(
    capsys: pytest.CaptureFixture[str], minutes: float, steps: int, words: str
) -> None:
    config = COURSE.replace(minutes=minutes, steps=steps)
    Display()(Started(config, 0, 0.0, 1, 900, 100, "cpu", Path("run"), lambda _: ""))
    assert f"training: {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "step", "words"),
    [
        ({"steps": 1}, 1, "1 step"),
        ({"steps": 2}, 2, "2 steps"),
        ({"minutes": 1.0}, 1, "1 minute"),
        ({"minutes": 0.5}, 1, "0.5 minutes"),
    ],
)
def test_the_summary_of_a_finished_run_is_plural_except_for_one(
    capsys: pytest.CaptureFixture[str], settings: dict[str, float], step: int, words: str
) -> None:
    config = COURSE.replace(**settings)
    Display()(Started(config, step, 1.0, 1, 900, 100, "cpu", Path("run"), lambda _: ""))
    assert f"run is already finished: it has trained for {words}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget", "spent", "expected"),
    [(3.0, 3.0, 6.0), (3.0, 3.2, 6.0), (3.0, 4.0, 6.7), (0.1, 0.4, 1.4), (0.1, 0.1, 1.1)],
)
def test_the_advised_time_limit_doubles_the_budget_and_adds_at_least_a_minute(
    budget: float, spent: float, expected: float
) -> None:
    assert display_module._more_minutes(budget, spent) == pytest.approx(expected)


def test_an_unknown_event_is_rejected() -> None:
    with pytest.raises(AssertionError):
        Display()(cast(Any, object()))
