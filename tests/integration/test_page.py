"""The page of charrnn-serve in a browser: Debian's Chromium, or the one in the variable CHROMIUM."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("starlette", reason="the server's extra is not installed")
pytest.importorskip("uvicorn", reason="the server's extra is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from charrnn_runtime import CharRNN  # noqa: E402
from charrnn_runtime.serve.settings import ServeSettings  # noqa: E402
from served import Served  # noqa: E402

MODELS = Path(__file__).resolve().parents[1] / "models"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "the-key-of-this-test"

expect = playwright.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt install chromium)")


@pytest.fixture(scope="module")
def model() -> CharRNN:
    return CharRNN.load(MODELS / "lstm-2x12-fp32.onnx", device="cpu")


@pytest.fixture(scope="module")
def address(model: CharRNN) -> Iterator[str]:
    byte_model = CharRNN.load(MODELS / "lstm-1x12-fp32-byte.onnx", device="cpu")
    with Served({"chars": model, "bytes": byte_model}, ServeSettings(max_length=10**9)) as served:
        yield f"{served.url}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page in a new tab, with clipboard access, whose errors fail the test."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(15_000)
    expect.set_options(timeout=15_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    yield page
    context.close()
    assert not errors
    assert all(host.startswith("127.0.0.1:") for host in hosts), hosts


def open_page(page: Any, address: str, **settings: Any) -> None:
    page.goto(f"{address}#{urlencode(settings)}")
    expect(page.locator("#about")).not_to_be_empty()


def texts(page: Any, count: int) -> list[str]:
    """The texts on the page, once all have ended."""
    expect(page.locator(".stream")).to_have_count(count)
    for index in range(count):
        expect(page.locator(".stream .facts").filter(has_text="characters,").nth(index)).to_contain_text(
            "complete"
        )
    return [text_of(page, index) for index in range(count)]


def text_of(page: Any, index: int) -> str:
    return "".join(page.locator(".text").nth(index).locator("span").all_text_contents())


def test_a_seed_determines_the_texts_and_a_link_reproduces_them(
    page: Any, address: str, model: CharRNN
) -> None:
    """First journey: type, generate, look at the surprise, copy a link and open it."""
    open_page(page, address, seed=5, length=40)
    page.get_by_label("Prompt").fill("LORD ")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Top-k").fill("9")
    page.get_by_role("button", name="Generate", exact=True).click()
    expected = [
        f"LORD {each.text}"
        for each in model.generate_each(["LORD ", "LORD "], 40, seed=5, temperature=0.7, top_k=9)
    ]
    assert texts(page, 2) == expected

    colours = page.locator(".text").first.locator("span[class*=s]")
    expect(colours.first).to_be_attached()
    trace = model.trace(expected[0])
    steps = [0.5, 1, 2, 3, 4, 5, 6.5, 8]
    expect(page.locator(".text").first.locator("span").nth(44)).to_have_class(
        re.compile(rf"\bs{sum(float(trace.bits[44]) >= step for step in steps)}\b")
    )

    page.get_by_role("button", name="Copy link", exact=True).click()
    link = page.evaluate("() => navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#about")).not_to_be_empty()
    page.get_by_label("Prompt").press("Control+Enter")
    assert texts(page, 2) == expected


def test_a_text_is_forked_with_the_keyboard_and_by_another_character(
    page: Any, address: str, model: CharRNN
) -> None:
    """Second journey: no mouse except in the last step."""
    open_page(page, address, prompt="KING", seed=1, length=30, streams=1, colour="unit", unit="h1:3")
    page.get_by_label("Prompt").press("Control+Enter")
    (first,) = texts(page, 1)
    page.get_by_label(re.compile("^Text of seed 1, stream 0")).focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".inspector").first).to_contain_text(f"is character {len(first) - 3}: probability")
    value = float(model.trace(first).unit("h1:3")[len(first) - 4])
    expect(page.locator(".inspector").first).to_contain_text(
        f"unit h1:3 is {value:.2f}".replace("-0.00", "0.00")
    )
    page.keyboard.press("Enter")
    kept = first[: len(first) - 3]
    expect(page.get_by_text(f"Forked from seed 1, stream 0, after {len(kept)} characters")).to_be_visible()
    assert texts(page, 2) == [first, model.generate(kept, 30, seed=2)]

    button = page.locator(".inspector").first.get_by_role("button", name=re.compile("fork with it")).first
    instead = re.match(r"(.) ", button.get_attribute("aria-label") or "")
    assert instead is not None
    button.click()
    other = kept[:-1] + {"↵": "\n", "␣": " "}.get(instead[1], instead[1])
    assert texts(page, 3)[1] == model.generate(other, 30, seed=3)


def test_long_texts_can_be_stopped_and_errors_are_shown(page: Any, address: str) -> None:
    """Third journey: errors, on a narrow screen in dark mode."""
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme="dark")
    open_page(page, address, prompt="A", seed=1, length=10**9, streams=2, colour="none")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.locator(".text span").nth(200)).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.get_by_text("characters, stopped")).to_have_count(2)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 400

    page.get_by_label("Prompt").fill("Ω")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#message")).to_contain_text("Ω")
    assert unlabelled(page) == []


def test_every_control_has_a_name(page: Any, address: str) -> None:
    open_page(page, address, prompt="A", length=10, streams=1, colour="unit")
    page.get_by_label("Prompt").press("Control+Enter")
    texts(page, 1)
    page.locator(".text span").first.click()
    expect(page.get_by_role("button", name="Fork after A")).to_be_visible()
    assert unlabelled(page) == []


@pytest.mark.parametrize(("width", "colour"), [(320, "unit"), (400, "surprise"), (1200, "unit")])
def test_nothing_overflows(page: Any, address: str, width: int, colour: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    open_page(page, address, prompt="A" * 200, seed=2**53 - 1, length=1, streams=2, colour=colour)
    page.get_by_label("Prompt").press("Control+Enter")
    texts(page, 2)
    page.locator(".text span").nth(200).click()
    expect(page.get_by_role("button", name=re.compile("fork with it")).first).to_be_visible()
    sticking_out: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("form, article, form *, article *")]
            .filter((each) => each.checkVisibility() && each.tagName !== "DATALIST")
            .filter((each) => each.getBoundingClientRect().right >
                each.closest("form, article").getBoundingClientRect().right + 0.5)
            .map((each) => each.outerHTML)"""
    )
    assert sticking_out == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def unlabelled(page: Any) -> list[str]:
    """The visible controls without an accessible name."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, textarea, [tabindex='0']")]
            .filter((each) => each.checkVisibility() &&
                !(each.ariaLabel || each.labels?.length || each.textContent.trim()))
            .map((each) => each.outerHTML)"""
    )
    return found


def test_the_bytes_of_a_character_are_shown_as_one(page: Any, address: str) -> None:
    open_page(page, address, model="bytes", prompt="né", seed=3, length=8, streams=1)
    expect(page.locator("#about")).to_contain_text("bytes")
    page.get_by_label("Prompt").press("Control+Enter")
    (text,) = texts(page, 1)
    assert text.startswith("né")
    page.locator(".text span").nth(1).click()
    expect(page.locator(".inspector")).to_contain_text(re.compile("é is character 2: probability"))


def test_the_page_asks_for_the_key_if_the_server_requires_one(page: Any, model: CharRNN) -> None:
    with Served({"chars": model}, ServeSettings(api_keys=(KEY,))) as served:
        page.goto(f"{served.url}/#seed=1&length=10&streams=1&prompt=A")
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Tab")
        expect(page.locator("#about")).not_to_be_empty()
        page.get_by_label("Prompt").press("Control+Enter")
        assert texts(page, 1) == [model.generate("A", 10, seed=1)]
        assert KEY not in page.url
