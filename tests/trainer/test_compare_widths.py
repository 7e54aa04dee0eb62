"""The report in a browser, on narrow and wide screens: nothing overflows the page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from charrnn_trainer.compare.cell_pair import compare_cells
from charrnn_trainer.compare.findings import find
from charrnn_trainer.compare.measure import Sample, SampleSettings
from charrnn_trainer.compare.plots import draw_curves, draw_gaps
from charrnn_trainer.compare.report import Comparison
from compared_runs import measures, record

LONG = "abcdefghij" * 9

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# The page runs no scripts. In a frame of the same origin, another page measures it.
MEASURE = """<!doctype html><iframe id="frame" style="width: WIDTHpx; height: 12000px; border: 0"></iframe>
<pre id="result"></pre>
<script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const box = (element) => {
    const { left, right, height } = element.getBoundingClientRect();
    return { left, right, height };
  };
  const all = (selector) => [...page.querySelectorAll(selector)];
  const shown = all("figure svg").filter((svg) => svg.getBoundingClientRect().width > 0);
  document.getElementById("result").textContent = JSON.stringify({
    width: frame.clientWidth,
    page: root.scrollWidth,
    forms: shown.map((svg) => svg.parentElement.className),
    pictures: shown.map(box),
    fonts: shown.map((svg) => Math.min(...[...svg.querySelectorAll("text")].map((t) => box(t).height))),
    losses: all(".runs tr > :nth-child(2)").map(box),
    lines: all("td").map((cell) => {
      const range = page.createRange();
      range.selectNodeContents(cell);
      return range.getClientRects().length;
    }),
    outside: shown.flatMap((svg) => [...svg.querySelectorAll("text")].filter((text) => {
      const { left, right } = box(text);
      return left < box(svg).left || right > box(svg).right + 1;
    })).map((text) => text.textContent),
  });
};
frame.srcdoc = PAGE;
</script>
"""

Layout = dict[str, Any]


@pytest.fixture(scope="module")
def report() -> str:
    """A report of several runs, with a long name, a long word in a sample, and many steps."""
    runs = [
        record("lstm", [3.0 - 0.001 * step for step in range(1_500)], {500: 2.0, 1_000: 1.9, 1_500: 2.1}),
        record("gru", [2.0] * 1_500, {500: 2.1, 1_500: 1.8}, name=f"a/rather-long-name/of-a-run/{LONG}"),
        record("rnn", [2.5] * 700, {500: 2.4}, finished=False, learning_rate=0.01),
    ]
    models = [measures(run) for run in runs]
    cells = compare_cells(runs, models)
    samples = tuple(Sample(run.checkpoints[-1], f"to be, {LONG}{LONG}") for run in runs)
    gap = draw_gaps(runs)
    assert gap is not None
    return Comparison(
        runs=tuple(runs),
        models=tuple(models),
        settings=SampleSettings("LORD "),
        samples=(samples, (None, None, samples[2])),
        pictures={"curves": draw_curves(runs), "gap": gap},
        cells=cells,
        findings=find(runs, cells),
    ).html()


@pytest.fixture(scope="module")
def layout(report: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Layout]:
    """The layout of the report in a browser at a width in pixels."""
    if BROWSER is None:
        pytest.skip("no Chromium here, which lays the page out")
    folder = tmp_path_factory.mktemp("browser")

    def measure(width: int) -> Layout:
        page = folder / f"{width}.html"
        text = MEASURE.replace("WIDTH", str(width)).replace(
            "PAGE", json.dumps(report).replace("</", "<\\/").replace("<!--", "<\\!--")
        )
        page.write_text(text, encoding="utf-8", errors="replace")
        words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
        words += " --disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom"
        command = [str(BROWSER), *words.split(), "--window-size=1300,1000"]
        command += [f"--user-data-dir={folder / 'profile'}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        found = re.search(rb'<pre id="result">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr.decode(errors="replace")[-2_000:]
        result: Layout = json.loads(html.unescape(found[1].decode()))
        assert result["width"] == width
        return result

    return measure


@pytest.mark.parametrize(("width", "form"), [(400, "narrow"), (1_200, "wide")])
def test_nothing_overflows_and_the_validation_loss_is_visible(
    layout: Callable[[int], Layout], width: int, form: str
) -> None:
    found = layout(width)
    assert found["page"] == width  # a wide table scrolls within its own box
    assert found["forms"] == [form] * 2
    for box in (*found["pictures"], *found["losses"]):
        assert 0 <= box["left"] < box["right"] <= width
    assert min(found["fonts"]) >= 14  # pixels from line to line: labels can be read
    assert found["outside"] == []
    assert set(found["lines"]) == {1}  # no figure and no "LSTM 2 x 256" wraps
