"""Creates docs/page.png: the page of charrnn-serve with two texts, a fork and the surprise of each character.

    python tests/page_picture.py [--model FILE.onnx] [--out FILE.png]

It needs Playwright, and Chromium at /usr/bin/chromium or at the path in the variable CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from charrnn_runtime import CharRNN
from served import Served

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = "#prompt=LORD+&seed=3&length=330&streams=2&temperature=0.7"
SIZE = {"width": 1200, "height": 760}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "best.int8.onnx")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "page.png")
    options = parser.parse_args()
    model = CharRNN.load(options.model, device="cpu")
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with Served({options.model.stem: model}) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(f"{server.url}/{SETTINGS}")
        expect(page.locator("#about")).not_to_be_empty()
        page.get_by_label("Prompt").press("Control+Enter")
        for index in range(2):
            expect(page.locator(".stream").nth(index)).to_contain_text("complete")
            expect(page.locator(".text").nth(index)).to_have_class(re.compile("coloured"))
        page.wait_for_timeout(1000)  # the end of the text is coloured
        page.locator(".text").first.locator("span").nth(66).click()
        expect(page.get_by_role("button", name=re.compile("fork with it")).first).to_be_visible()
        page.locator(".text").nth(1).evaluate("(view) => view.scrollTo(0, 0)")
        page.screenshot(path=options.out)
        browser.close()
    print(options.out, options.out.stat().st_size)


if __name__ == "__main__":
    main()
