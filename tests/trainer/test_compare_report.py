"""The report: one self-contained page, and pictures."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest

from charrnn_runtime.errors import CharRNNError, SettingError
from charrnn_runtime.format.reader import check_model_bytes
from charrnn_trainer.compare import measure, report
from charrnn_trainer.compare.figures import bits, nats
from charrnn_trainer.compare.findings import Finding, find
from charrnn_trainer.compare.pictures import CELL_COLOURS, run_styles
from charrnn_trainer.compare.plots import draw_curves, draw_gaps, draw_reference
from charrnn_trainer.compare.reference import beside_reference
from charrnn_trainer.compare.report import Comparison, compare_runs
from charrnn_trainer.export.build import build
from charrnn_trainer.runs.checkpoint import load_checkpoint
from compared_runs import record, train_tiny
from tiny_runs import TEXT

PROMPT = "to be"
ODD_NAME = "<b>&\"gru' $x_1$ _é"
CONTROL_CHARACTERS = r"[\x00-\x08\x0b-\x1f\x7f]"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Use short texts to measure the speed, which does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SPEED_LENGTH", 50)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, one with an unusual name."""
    folder = tmp_path_factory.mktemp("report")
    train_tiny(folder / "lstm")
    train_tiny(folder / ODD_NAME, cell="gru")
    return folder


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare_runs([folder / "lstm", folder / ODD_NAME], prompt=PROMPT, length=40, seed=3)


class Page(HTMLParser):
    """The contents of a page; fails on a closing tag without an opening one."""

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


def test_every_element_is_closed_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_the_page_loads_nothing(comparison: Comparison, page: Page) -> None:
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


def test_references_within_a_picture_resolve(page: Page) -> None:
    for _, attributes in page.tags:
        if "xlink:href" in attributes:
            assert str(attributes["xlink:href"]).removeprefix("#") in page.ids


def test_every_picture_has_a_text_alternative_with_figures(comparison: Comparison, page: Page) -> None:
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    # Each in a wide and a narrow form, of which the page shows one.
    assert [attributes["class"] for attributes in pictures] == ["wide", "narrow"] * 2
    run = comparison.runs[0]
    assert run.best is not None
    for attributes in pictures:
        assert run.name in str(attributes["aria-label"])
    assert nats(run.best.loss) in str(pictures[0]["aria-label"])
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(found.get("class") == "swatch" or "viewbox" in found for found in drawn)
    assert all(found.get("aria-hidden") for found in drawn if found.get("class") == "swatch")


def test_colours_follow_the_page_in_light_and_dark(comparison: Comparison) -> None:
    html = comparison.html()
    light, dark = re.findall(r":root \{ (--.*?) \}", html)
    defined = [set(re.findall(r"--(\w+):", block)) for block in (light, dark)]
    assert defined[0] == defined[1]
    assert set(re.findall(r"var\(--(\w+)\)", html)) <= defined[0]
    assert "prefers-color-scheme: dark" in html
    for picture in comparison.pictures.values():
        for svg in (picture.wide, picture.narrow):
            assert "#fe1d" not in svg
            assert not re.search(r"(?:fill|stroke): #(?!000000)", svg)
            assert "var(--cell0)" in svg


def test_a_cell_has_one_colour_whatever_the_order_of_runs() -> None:
    runs = [record("gru", name="a"), record("lstm", name="b"), record("rnn"), record("gru", name="c")]
    for ordered in (runs, runs[::-1]):
        styles = dict(zip([run.name for run in ordered], run_styles(ordered), strict=True))
        colours = {name: CELL_COLOURS[style.colour] for name, style in styles.items()}
        assert colours["b"] == CELL_COLOURS[0]
        assert colours["a"] == colours["c"] == CELL_COLOURS[1]
        assert colours["rnn"] == CELL_COLOURS[2]
        assert styles["a"].dashes != styles["c"].dashes  # which distinguishes them
        for picture in (draw_curves(ordered), draw_curves([ordered[0]])):
            assert "var(--cell1)" in picture.wide


@pytest.fixture
def drawn(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use cached pictures in reports, since drawing is slow."""
    monkeypatch.setattr(report, "draw_curves", lambda _: comparison.pictures["curves"])
    monkeypatch.setattr(report, "draw_gaps", lambda _: comparison.pictures["gap"])


@pytest.mark.usefixtures("drawn")
def test_a_run_has_the_colour_of_its_cell_everywhere(comparison: Comparison) -> None:
    turned = compare_runs([run.folder for run in comparison.runs[::-1]], prompt=PROMPT, length=5)
    for shown in (comparison, turned):
        rows = re.findall(r"--cell(\d).*?</svg><span>(.*?)<", shown.html())
        cells = {run.name: "01"[run.config.network.cell == "gru"] for run in shown.runs}
        assert {unescape(name.strip()) for _, name in rows} == set(cells)
        assert all(cells[unescape(name.strip())] == colour for colour, name in rows)


def test_hovering_shows_the_values_at_the_pointer() -> None:
    lstm = record("lstm", [3.0, 2.0, 1.0, 0.5], {2: 2.5, 4: 1.5}, seconds=1.0)
    gru = record("gru", [3.0, 2.0], {2: 2.25}, seconds=2.0, name="<g>")
    picture = draw_curves([lstm, gru])
    for svg in (picture.wide, picture.narrow):
        titles = re.findall(r'<rect class="values"[^>]*><title>([^<]*)</title>', svg)
        assert "step 2\n&lt;g&gt;: 2.0000\nlstm: 2.0000" in titles  # training
        assert "step 2\n&lt;g&gt;: 2.2500\nlstm: 2.5000" in titles  # validation
        assert "step 4\nlstm: 1.5000" in titles  # the other has fewer steps
        assert "after 4 s\nlstm: 1.5000\n&lt;g&gt;: 2.2500" in titles
        strips = re.findall(r'<rect class="values" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', svg)
        assert len(strips) == len(titles)
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
        assert all(0 <= float(x) <= float(x) + float(w) <= width for x, _, w in strips)
        assert all(0 <= float(y) <= height for _, y, _ in strips)
    gaps = draw_gaps([lstm])
    assert gaps is not None
    assert "lstm, step 2\nvalidation 2.5000\ntraining 2.5000\ngap 0.0000" in gaps.narrow


def test_names_and_texts_are_escaped(comparison: Comparison, page: Page) -> None:
    assert ODD_NAME in page.text
    assert '<b>&"gru' not in comparison.html()
    # In pictures too, a dollar sign starts no formula.
    assert "$x_1$" in comparison.pictures["gap"].wide


def test_the_table_holds_the_figures(comparison: Comparison, folder: Path) -> None:
    headings, lstm, gru = comparison.table()
    run, model = comparison.runs[0], comparison.models[0]
    assert run.best is not None
    figures = dict(zip(headings, lstm, strict=True))
    assert figures["network"].startswith("LSTM 2")
    assert figures["parameters"] == f"{run.parameters:,}"
    assert figures["validation loss"] == nats(run.best.loss)
    assert figures["best at step"] == f"{run.best.step}"
    assert figures["bits per character"] == bits(run.best.loss)
    assert figures["steps"] == "12"
    built = build(load_checkpoint(run.best_checkpoint.path), "fp32")
    assert model.file_bytes == len(built.data)
    assert model.state_size == check_model_bytes(built.data, "it").info.state_size == 32
    assert float(figures["characters per second"].replace(",", "")) > 0
    assert gru[0] == ODD_NAME


@pytest.mark.usefixtures("drawn")
def test_samples_match_the_exported_model(comparison: Comparison, page: Page) -> None:
    again = compare_runs([run.folder for run in comparison.runs], prompt=PROMPT, length=40, seed=3)
    assert again.samples == comparison.samples
    other = compare_runs([run.folder for run in comparison.runs], prompt=PROMPT, length=40, seed=4)
    assert other.samples != comparison.samples
    for row in comparison.samples:
        for sample in row:
            if sample is not None:
                assert len(sample.text) == 40
                assert sample.text in page.text


def test_pictures_are_reproducible_whatever_the_users_matplotlib_settings(
    comparison: Comparison,
) -> None:
    with matplotlib.rc_context({"font.size": 30.0, "svg.fonttype": "path"}):
        assert draw_curves(comparison.runs) == comparison.pictures["curves"]
        assert matplotlib.rcParams["font.size"] == 30.0


def test_the_files_are_the_page_and_its_pictures(comparison: Comparison) -> None:
    files = comparison.files()
    assert sorted(files) == ["curves.png", "gap.png", "report.html"]
    assert files["report.html"].decode() == comparison.html()
    for name in ("curves.png", "gap.png"):
        assert files[name].startswith(PNG)
    for content in files.values():
        assert b"charrnn-compare" in content[:1024]


def test_the_text_form_holds_the_tables_and_the_findings(comparison: Comparison) -> None:
    text = comparison.text()
    assert comparison.table()[1][3] in text.splitlines()[1]
    words = " ".join(text.split())
    assert comparison.cells is not None
    for row in comparison.cells.rows:
        assert f"{row.figure} {row.lstm} {row.gru} {row.better} {row.change}" in words
    for finding in comparison.findings:
        assert f"{finding.title}: {finding.text}" in words


def test_the_table_of_a_finding_is_in_the_page_and_in_the_text(comparison: Comparison) -> None:
    finding = Finding("Budget", "They differ.", (("run", "steps"), ("<a>", "1,234")))
    shown = dataclasses.replace(comparison, findings=(finding,))
    assert re.search(r'<th scope="row">&lt;a&gt;</th><td>1,234</td>', shown.html())
    assert shown.text().endswith("Budget: They differ.\n\nrun  steps\n<a>  1,234")


def test_labels_of_the_best_loss_do_not_cover_a_curve() -> None:
    picture = draw_gaps([record("lstm", [3.0, 2.0, 1.0, 0.5], {2: 2.5, 4: 1.5})])
    assert picture is not None
    for svg in (picture.wide, picture.narrow):
        (place,) = re.findall(r'<text [^>]*\by="([\d.]+)"[^>]*>best 1\.5000 at step 4</text>', svg)
        panels = re.findall(r'<rect class="values" x="[\d.]+" y="([\d.]+)"', svg)
        assert float(place) < min(map(float, panels))  # above the panel


def test_the_page_holds_the_tables_and_the_findings(comparison: Comparison, page: Page) -> None:
    assert comparison.cells is not None
    for row in comparison.cells.rows:
        for text in (row.figure, row.lstm, row.gru, row.better, row.change):
            assert text in page.text
    for finding in comparison.findings:
        assert finding.title in page.text
        assert finding.text in page.text


def test_the_lowest_validation_loss_is_highlighted_if_losses_are_comparable(comparison: Comparison) -> None:
    best = re.findall(r'<td class="best">([\d.]+)<', comparison.html())
    assert best == [nats(min(run.best.loss for run in comparison.runs if run.best is not None))]
    first, second = comparison.runs
    other = dataclasses.replace(first.corpus, sha256="another text's")
    apart = dataclasses.replace(comparison, runs=(first, dataclasses.replace(second, corpus=other)))
    assert 'class="best"' not in apart.html()


# --- other runs --------------------------------------------------------------------------------------------


def test_one_run_without_validation_makes_a_report(tmp_path: Path) -> None:
    train_tiny(tmp_path / "rnn", cell="rnn", val_fraction=0.0, steps=6)
    comparison = compare_runs([tmp_path], length=10)
    assert list(comparison.pictures) == ["curves"]
    assert [len(row) for row in comparison.samples] == [1]
    page = Page(comparison.html())
    assert page.open == []
    assert "no validation text" in page.text
    assert "without a prompt" in page.text


@pytest.mark.usefixtures("drawn")
def test_a_network_of_bytes_makes_a_report(tmp_path: Path) -> None:
    train_tiny(tmp_path / "bytes", level="byte", steps=6)
    comparison = compare_runs([tmp_path / "bytes"], prompt="é", length=20)
    assert f"hamlet ({len(TEXT):,} bytes)" in comparison.html()
    assert Page(comparison.html()).open == []


def test_hostile_texts_are_escaped_and_control_characters_are_removed(
    comparison: Comparison,
) -> None:
    assert not re.search(CONTROL_CHARACTERS, comparison.html())
    hostile = "\"' onload=x() </title><script>x()</script>{{ 7 * 7 }}</pre>"
    runs = [dataclasses.replace(run, name=f"\x1b[1m{hostile}{run.name}\x07") for run in comparison.runs]
    corpus = dataclasses.replace(runs[0].corpus, name=hostile)
    runs = [dataclasses.replace(run, corpus=corpus) for run in runs]
    samples = [
        [sample and dataclasses.replace(sample, text=hostile) for sample in row] for row in comparison.samples
    ]
    gap = draw_gaps(runs)
    assert gap is not None
    html = dataclasses.replace(
        comparison,
        runs=tuple(runs),
        samples=tuple(map(tuple, samples)),
        settings=dataclasses.replace(comparison.settings, prompt=hostile),
        pictures={"curves": draw_curves(runs), "gap": gap},
        findings=find(runs, comparison.cells),
    ).html()
    page = Page(html)
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count(hostile) > 20
    assert f"[1m{hostile}lstm" in page.text
    assert not re.search(CONTROL_CHARACTERS, html)


@pytest.mark.nightly
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
    assert gaps.wide.count("best ") == gaps.narrow.count("best ") == 9
    assert draw_gaps([record()]) is None
    more = [record(validations={2: 1.0 + number % 7}, name=f"r{number}") for number in range(14)]
    gaps = draw_gaps(more)
    assert gaps is not None
    assert gaps.wide.count("best ") == 12
    assert "12 runs with the lowest validation loss" in gaps.caption
    assert "r6:" not in gaps.alt  # 7.0, as r13 has
    # A curve of many steps is drawn as few means.
    long = draw_curves([record(losses=[1.0] * 50_000)])
    assert len(long.wide) < 100_000


def test_a_reference_can_be_drawn_with_a_shorter_run() -> None:
    runs = [record("lstm", [2.0] * 30), record("gru", [2.0])]
    tables = beside_reference(runs, {"lstm": {20: 2.0, 40: 1.0}, "gru": {20: 1.0}})
    picture = draw_reference(tables)
    assert picture.png.startswith(PNG)
    assert "LSTM" in picture.alt


# --- invalid arguments -------------------------------------------------------------------------------------


def test_a_prompt_with_characters_unknown_to_a_run_is_rejected(folder: Path) -> None:
    with pytest.raises(CharRNNError, match=r"--prime 'Ω' has characters that .* does not know: 'Ω'"):
        compare_runs([folder], prompt="Ω")


@pytest.mark.parametrize(
    "settings", [{"checkpoints": 0}, {"checkpoints": 51}, {"temperature": 0.0}, {"length": -1}, {"seed": -1}]
)
def test_invalid_settings_are_rejected(folder: Path, settings: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        compare_runs([folder / "lstm"], **settings)  # type: ignore[arg-type]
