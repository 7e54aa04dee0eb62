"""The report: one page that holds everything, and pictures."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format.reader import check_model_bytes
from charrnn_trainer.compare import compare_runs
from charrnn_trainer.compare.figures import bits, nats
from charrnn_trainer.compare.plots import draw_curves, draw_gaps, draw_reference
from charrnn_trainer.compare.reference import beside_reference
from charrnn_trainer.compare.report import Comparison
from charrnn_trainer.export.build import build
from charrnn_trainer.runs.checkpoint import load_checkpoint
from compared_runs import record, train_tiny
from tiny_runs import TEXT

PRIME = "to be"
ODD_NAME = "<b>&\"gru' $x_1$ _é"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, one of an odd name."""
    folder = tmp_path_factory.mktemp("report")
    train_tiny(folder / "lstm")
    train_tiny(folder / ODD_NAME, cell="gru")
    return folder


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare_runs([folder / "lstm", folder / ODD_NAME], prime=PRIME, length=40, seed=3)


class Page(HTMLParser):
    """What a page holds; it fails where an element is closed that is not open."""

    VOID = frozenset(("meta", "br", "hr", "path", "use", "rect"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.ids += [value or "" for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> Page:
    return Page(comparison.html())


# --- the page ----------------------------------------------------------------------------------------------


def test_every_element_is_closed_and_no_id_is_there_twice(page: Page) -> None:
    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_nothing_is_fetched(comparison: Comparison, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "image")
        assert not set(attributes) & {"src", "srcset", "href", "action"}
        assert (attributes.get("xlink:href") or "#").startswith("#")
    html = comparison.html()
    assert set(re.findall(r"https?://[^\"<\s]+", html)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert "@import" not in html
    assert "default-src 'none'" in html
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.removeprefix("#") in page.ids


def test_what_a_picture_refers_to_is_in_that_picture(page: Page) -> None:
    for _, attributes in page.tags:
        if "xlink:href" in attributes:
            assert str(attributes["xlink:href"]).removeprefix("#") in page.ids


def test_every_picture_says_what_it_shows_in_figures(comparison: Comparison, page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [attributes["role"] for attributes in pictures] == ["img", "img"]
    run = comparison.runs[0]
    assert run.best is not None
    for attributes in pictures:
        assert run.name in str(attributes["aria-label"])
    assert nats(run.best.loss) in str(pictures[0]["aria-label"])


def test_colours_follow_the_page_in_light_and_dark(comparison: Comparison) -> None:
    html = comparison.html()
    light, dark = re.findall(r":root \{ (--.*?) \}", html)
    defined = [set(re.findall(r"--(\w+):", block)) for block in (light, dark)]
    assert defined[0] == defined[1]
    assert set(re.findall(r"var\(--(\w+)\)", html)) <= defined[0]
    assert "prefers-color-scheme: dark" in html
    for picture in comparison.pictures.values():
        assert "#fe1d" not in picture.svg
        assert not re.search(r"(?:fill|stroke): #(?!000000)", picture.svg)
        assert "var(--run0)" in picture.svg


def test_names_and_texts_are_shown_as_they_are_and_never_as_markup(
    comparison: Comparison, page: Page
) -> None:
    assert ODD_NAME in page.text
    assert '<b>&"gru' not in comparison.html()
    # In the pictures, too: a dollar is no formula.
    assert "$x_1$" in comparison.pictures["curves"].svg


def test_the_table_holds_the_figures(comparison: Comparison, folder: Path) -> None:
    headings, lstm, gru = comparison.table()
    run, model = comparison.runs[0], comparison.models[0]
    assert run.best is not None
    figures = dict(zip(headings, lstm, strict=True))
    assert figures["cell"].startswith("LSTM 2")
    assert figures["parameters"] == f"{run.parameters:,}"
    assert figures["best validation loss"] == f"{nats(run.best.loss)} at step {run.best.step}"
    assert figures["bits per character"] == bits(run.best.loss)
    assert figures["steps"] == "12"
    built = build(load_checkpoint(run.best_checkpoint.path), "fp32")
    assert model.file_bytes == len(built.data)
    assert model.state_size == check_model_bytes(built.data, "it").info.state_size == 32
    assert float(figures["characters a second"].replace(",", "")) > 0
    assert gru[0] == ODD_NAME


def test_samples_are_those_that_the_exported_model_writes(comparison: Comparison, page: Page) -> None:
    again = compare_runs([run.folder for run in comparison.runs], prime=PRIME, length=40, seed=3)
    assert again.samples == comparison.samples
    other = compare_runs([run.folder for run in comparison.runs], prime=PRIME, length=40, seed=4)
    assert other.samples != comparison.samples
    for row in comparison.samples:
        for sample in row:
            if sample is not None:
                assert len(sample.text) == 40
                assert sample.text in page.text


def test_the_same_figures_draw_the_same_pictures(comparison: Comparison) -> None:
    again = draw_curves(comparison.runs)
    assert (again.svg, again.png) == (comparison.pictures["curves"].svg, comparison.pictures["curves"].png)


def test_a_users_settings_of_matplotlib_change_nothing(comparison: Comparison) -> None:
    with matplotlib.rc_context({"font.size": 30.0, "svg.fonttype": "path"}):
        assert draw_curves(comparison.runs).svg == comparison.pictures["curves"].svg
        assert matplotlib.rcParams["font.size"] == 30.0


def test_the_files_are_the_page_and_its_pictures(comparison: Comparison) -> None:
    files = comparison.files()
    assert sorted(files) == ["curves.png", "gap.png", "report.html"]
    assert files["report.html"].decode() == comparison.html()
    for name in ("curves.png", "gap.png"):
        assert files[name].startswith(PNG)
    for content in files.values():
        assert b"charrnn-compare" in content[:1024]


def test_the_text_form_holds_the_table_and_the_answers(comparison: Comparison) -> None:
    text = comparison.text()
    assert comparison.table()[1][3] in text.splitlines()[1]
    for item in comparison.answers:
        assert item.question in text
        for line in (*item.paragraphs, *item.gains, *item.losses, *item.even, *item.after):
            assert line in " ".join(text.split())


# --- other runs --------------------------------------------------------------------------------------------


def test_one_run_without_validation_makes_a_report(tmp_path: Path) -> None:
    train_tiny(tmp_path / "rnn", cell="rnn", val_fraction=0.0, steps=6)
    comparison = compare_runs([tmp_path], length=10)
    assert list(comparison.pictures) == ["curves"]
    assert [len(row) for row in comparison.samples] == [1]
    page = Page(comparison.html())
    assert page.open == []
    assert "none kept" in page.text
    assert "without a prime" in page.text


def test_a_network_of_bytes_makes_a_report(tmp_path: Path) -> None:
    train_tiny(tmp_path / "bytes", level="byte", steps=6)
    comparison = compare_runs([tmp_path / "bytes"], prime="é", length=20)
    assert f"hamlet ({len(TEXT):,} bytes)" in comparison.html()
    assert Page(comparison.html()).open == []


def test_control_characters_of_a_sample_do_not_reach_the_page(comparison: Comparison) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", comparison.html())


def test_many_runs_of_any_length_can_be_drawn() -> None:
    runs = [
        record(
            "lstm", [3.0 - 0.001 * step for step in range(100 * number + 1)], {100 * number + 1: 2.0 + number}
        )
        for number in range(9)
    ]
    assert draw_curves(runs).png.startswith(PNG)
    gaps = draw_gaps(runs)
    assert gaps is not None
    assert gaps.svg.count("best ") == 9
    assert draw_gaps([record()]) is None
    # A curve of many steps is drawn as few means.
    long = draw_curves([record(losses=[1.0] * 50_000)])
    assert len(long.svg) < 100_000


def test_a_reference_can_be_drawn_beside_a_run_that_has_not_come_so_far() -> None:
    runs = [record("lstm", [2.0] * 30), record("gru", [2.0])]
    tables = beside_reference(runs, {"lstm": {20: 2.0, 40: 1.0}, "gru": {20: 1.0}})
    picture = draw_reference(tables)
    assert picture.png.startswith(PNG)
    assert "LSTM" in picture.alt


# --- what cannot be ----------------------------------------------------------------------------------------


def test_a_prime_that_a_run_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(CharRNNError, match=r"--prime 'Ω' has characters that .* does not know: 'Ω'"):
        compare_runs([folder], prime="Ω")


@pytest.mark.parametrize(
    "settings", [{"checkpoints": 0}, {"checkpoints": 51}, {"temperature": 0.0}, {"length": -1}, {"seed": -1}]
)
def test_settings_that_make_no_sense_are_refused(folder: Path, settings: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        compare_runs([folder / "lstm"], **settings)  # type: ignore[arg-type]
