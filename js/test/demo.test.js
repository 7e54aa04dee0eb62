import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { build } from "../demo/build.js";
import { load } from "../src/index.js";
import { noBrowser, serveFolder, startBrowser } from "../tools/browser.js";
import { ROOT } from "../tools/fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "charrnn-"));
/** @type {import("playwright-core").Browser} */
let browser;
/** @type {Awaited<ReturnType<typeof serveFolder>>} */
let server;

before(async () => {
  if (noBrowser) return;
  build(join(folder, "demo"), ["rnn.onnx", "gru.onnx"]);
  server = await serveFolder(join(folder, "demo"), "/some/where/");
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  server?.close();
  rmSync(folder, { recursive: true, force: true });
});

test("the demo page works under any path, narrow and wide", { skip: noBrowser }, async () => {
  const page = await browser.newPage({ viewport: { width: 400, height: 800 } });
  const errors = /** @type {string[]} */ ([]);
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(server.origin);
  await page.waitForSelector("#start:enabled");
  assert.match(String(await page.textContent("#loaded")), /^GRU 2x256, fp32, .*Loaded in .*: model 2.7 MB, onnx/);
  await page.selectOption("#model", { index: 1 });
  await page.waitForSelector("#start:disabled");
  await page.waitForSelector("#start:enabled");
  const model = await load(join(ROOT, "models/rnn.onnx"));
  const expected = await model.generate("LORD ", { length: 60, seed: 1 });
  await model.close();
  for (const width of [400, 1200]) {
    await page.setViewportSize({ width, height: 800 });
    await page.fill("#prompt", "LORD ");
    await page.fill("#length", "60");
    await page.fill("#seed", "1");
    await page.click("#start");
    await page.waitForSelector("#stop:disabled");
    assert.equal(await page.textContent("#text"), expected);
    assert.match(String(await page.textContent("#mean")), /^\d\.\d\d bits per character/);
    const seen = await page.evaluate(() => ({
      coloured: document.querySelectorAll("#text span[title]").length,
      width: document.documentElement.scrollWidth,
    }));
    assert.deepEqual(seen, { coloured: 65, width });
    await page.fill("#length", "100000");
    await page.click("#start");
    await page.waitForSelector("#stop:enabled");
    await page.click("#stop");
    await page.waitForSelector("#start:enabled");
    await page.fill("#prompt", "§");
    await page.click("#start");
    await page.waitForSelector("#status.failed");
    assert.match(String(await page.textContent("#status")), /^This model does not know these characters: §$/);
  }
  assert.deepEqual(errors, []);
  await page.close();
});
