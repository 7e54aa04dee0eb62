"""The page of charrnn-view: its data for each character, and the escaping of HTML."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn_runtime import CharRNN
from charrnn_runtime.view.cells import cells_of, shown, shown_symbol
from charrnn_runtime.view.page import Page
from charrnn_runtime.view.units import unit_of

TEXT = "LORD of the text,\nwho reads it all: from end to end!\n"
HOSTILE = "</script><script>window.hacked=1</script><!--\"'&\x00\x1b[31m\x7f\u2028\u202e\u0301e\n<img src=x>"

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _page(model: CharRNN, text: str | bytes, names: tuple[str, ...] = ("1:3",), name: str = "a text") -> str:
    units = [(unit_of(model.info.state_layout, each), f"{each} follows <quotes>") for each in names]
    page = Page(model.info, name, units, symbols=len(text))
    chunks: Any = [text] if isinstance(text, bytes) else [text[:5], text[5:]]
    for trace in model.trace_stream(chunks):
        page.add(trace)
    return page.html()


def _data(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    kinds = {"most_likely": "<u2", "probabilities": "<u2", "bits": "<u2", "activations": "i1"}
    return data | {key: np.frombuffer(base64.b64decode(data[key]), kind) for key, kind in kinds.items()}


def test_a_page_contains_the_data_of_the_trace(lstm: CharRNN) -> None:
    data, trace = _data(_page(lstm, TEXT)), lstm.trace(TEXT)
    assert "".join(data["characters"]) == TEXT
    np.testing.assert_allclose(data["bits"] / 100.0, trace.bits, atol=0.006)
    ids, probabilities = trace.most_likely(5)
    symbols = [data["symbols"][index] for index in data["most_likely"]]
    assert symbols == [shown_symbol(lstm.vocabulary, token) for token in ids.ravel().tolist()]
    np.testing.assert_allclose(data["probabilities"] / 65535.0, probabilities.ravel(), atol=1e-5)
    names = [unit["name"] for unit in data["units"]]
    assert names[0] == "c1:3"
    assert sorted(names) == sorted(trace.units)
    for row, unit in zip(data["activations"].reshape(-1, len(TEXT)), data["units"], strict=True):
        np.testing.assert_allclose(row / 127.0, trace.unit(unit["name"]), atol=0.005)


def test_a_long_text_includes_only_the_chosen_units(lstm: CharRNN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn_runtime.view.page._ALL_UNITS", 48 * len(TEXT) - 1)
    data = _data(_page(lstm, TEXT, ("1:3", "o0:2")))
    assert [unit["name"] for unit in data["units"]] == ["c1:3", "o0:2"]
    assert data["activations"].shape == (2 * len(TEXT),)


def test_a_page_loads_nothing_and_allows_only_its_own_script(lstm: CharRNN) -> None:
    page = _page(lstm, TEXT)
    assert not re.search(r"""https?:|(?:src|href)\s*=|@import|url\(""", page)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    for element in ("style", "script"):
        (block,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert rules[f"{element}-src"] == f"'sha256-{digest}'"
        assert not re.search(r"""\sstyle\s*=\s*["']|\son\w+\s*=\s*["']""", page)


@pytest.mark.parametrize("text", [HOSTILE.encode(), b"\xff\xd0</script>\xe2\x80\xa8\x80"])
def test_a_hostile_text_or_name_is_escaped(byte_model: CharRNN, text: bytes) -> None:
    page = _page(byte_model, text, ("0:3",), name="/x/</title><script>alert(1)</script>\u2028")
    harmless = _page(byte_model, b"a" * len(text), ("0:3",))
    assert page.count("<") - harmless.count("<") == 0
    assert page.isprintable() == harmless.isprintable()
    assert not set(page) & {"\x00", "\x1b", "\u2028", "\u202e", "\ufffd"}
    data = _data(page)
    expected = text.decode(errors="surrogateescape")
    assert data["characters"] == [each if each in " \n" else shown(each) for each in expected]
    assert data["text"] == "script>▯"  # only the last part of the path


def test_a_character_of_several_bytes_is_one_element(byte_model: CharRNN) -> None:
    text = "aé中\n".encode()
    trace, data = byte_model.trace(text), _data(_page(byte_model, text, ("0:3",)))
    assert data["characters"] == ["a", "é", "中", "\n"]
    cells = cells_of(byte_model.vocabulary, trace.ids)
    assert (cells.starts.tolist(), cells.ends.tolist()) == ([0, 1, 3, 6], [1, 3, 6, 7])
    bits = [trace.bits[0], trace.bits[1:3].sum(), trace.bits[3:6].sum(), trace.bits[6]]
    np.testing.assert_allclose(data["bits"] / 100.0, bits, atol=0.006)
    np.testing.assert_allclose(data["activations"][:4] / 127.0, trace.unit("c0:3")[[0, 2, 5, 6]], atol=0.005)


# --- in a browser ------------------------------------------------------------------------------------------

DRIVE = """<!doctype html><iframe id="frame" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<pre id="result"></pre>
<script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const $ = (id) => page.getElementById(id);
  const press = (key, on) => on.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
  const spans = () => [...page.querySelectorAll("#text span")];
  const said = () => ({
    which: $("which").textContent,
    values: $("values").textContent,
    most_likely: [...page.querySelectorAll("#most-likely tr")].map((row) => row.textContent),
    coloured: spans().filter((span) => span.style.backgroundColor).length,
    chosen: $("view").selectedOptions[0].textContent,
  });
  const steps = { first: said() };
  spans()[5].dispatchEvent(new view.PointerEvent("pointerover", { bubbles: true }));
  steps.hovered = said();
  press("ArrowRight", $("text"));
  steps.right = said();
  press("ArrowDown", $("text"));
  steps.down = said();
  press("n", page.body);
  steps.unit = said();
  press("s", page.body);
  steps.surprise = said();
  $("view").value = "1";
  $("view").dispatchEvent(new view.Event("change"));
  steps.menu = said();
  const outside = [...page.querySelectorAll("body *")].filter((each) => {
    const { left, right, width } = each.getBoundingClientRect();
    return width > 0 && (left < 0 || right > frame.clientWidth);
  });
  document.getElementById("result").textContent = JSON.stringify({
    ...steps,
    width: page.documentElement.scrollWidth,
    outside: outside.map((each) => each.tagName),
    text: $("text").textContent,
    title: page.title,
    hacked: "hacked" in view,
  });
};
frame.srcdoc = PAGE;
</script>
"""


def _driven(page: str, width: int, folder: Path) -> dict[str, Any]:
    """The contents of the page as keys and the pointer move over it, at a width in pixels."""
    if BROWSER is None:
        pytest.skip("no Chromium here, which runs the page")
    embedded = json.dumps(page).replace("</", "<\\/").replace("<!--", "<\\!--")
    path = folder / "drive.html"
    path.write_text(DRIVE.replace("WIDTH", str(width)).replace("PAGE", embedded), encoding="utf-8")
    words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    words += " --disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom"
    command = [BROWSER, *words.split(), "--window-size=1300,1000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, check=False, timeout=120)
    found = re.search(rb'<pre id="result">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr.decode(errors="replace")[-2_000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1].decode()))
    return result


@pytest.mark.parametrize("width", [400, 1_200])
def test_users_can_hover_over_the_text_and_select_units(lstm: CharRNN, tmp_path: Path, width: int) -> None:
    text = "LORD of\nthe text"
    trace = lstm.trace(text)
    found = _driven(_page(lstm, text, ("1:3", "o0:2")), width, tmp_path)
    assert (found["width"], found["outside"]) == (width, [])
    assert found["text"] == text.replace("\n", "↵\n")
    assert found["title"] == "a text as lstm-2x12-fp32.onnx reads it"
    ids, probabilities = trace.most_likely(5)
    for step, place in (("first", 0), ("hovered", 5), ("right", 6), ("down", 14)):
        shown_now = found[step]
        assert shown_now["which"] == text[place], step
        assert shown_now["values"] == f"{round(float(trace.bits[place]) * 100) / 100:.2f} bits"
        rows = [
            f"{shown_symbol(lstm.vocabulary, token)}{probability * 100:.1f} %"
            for token, probability in zip(ids[place].tolist(), probabilities[place].tolist(), strict=True)
        ]
        assert shown_now["most_likely"] == rows
        assert shown_now["chosen"] == "surprise"
    assert found["unit"]["chosen"] == "1:3 follows <quotes>"
    assert f", c1:3 {trace.unit('1:3')[14]:.2f}" in found["unit"]["values"]
    assert found["unit"]["coloured"] > 5
    assert found["surprise"]["chosen"] == "surprise"
    assert found["menu"]["chosen"] == "o0:2 follows <quotes>"


def test_a_browser_shows_a_hostile_text_without_executing_it(byte_model: CharRNN, tmp_path: Path) -> None:
    text = HOSTILE.encode() + b"\xff"
    found = _driven(_page(byte_model, text, ("0:3", "h0:2")), 400, tmp_path)
    assert not found["hacked"]
    assert "</script><script>window.hacked=1</script>" in found["text"]
    assert found["text"].count("↵\n") == 1
    assert found["width"] == 400
