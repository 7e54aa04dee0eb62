import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "../src/index.js";
import { SERVED, noBrowser, serveFolder, startBrowser } from "../tools/browser.js";
import { SMALL, quick, skip } from "../tools/fixtures.js";

const ORT = "/js/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";
const PAGES = {
  "/page.html": "<!doctype html><title>WebGPU</title><script type='module' src='/page.js'></script>",
  "/page.js": `
    import { load } from "/js/src/index.js";
    window.load = load;
    document.body.dataset.ready = "";
  `,
};

const left = skip || (quick ? "left out of the quick form" : noBrowser);

test("on WebGPU the same file gives the same text, and an int8 file is refused", { skip: left }, async (context) => {
  const server = await serveFolder(SERVED, "/", PAGES);
  // A software GPU, if there is no other.
  const browser = await startBrowser(
    ...["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"],
  );
  context.after(async () => {
    await browser.close();
    server.close();
  });
  const page = await browser.newPage();
  await page.goto(`${server.origin}page.html`);
  await page.waitForSelector("body[data-ready]", { state: "attached" });
  const found = await page.evaluate(async (ort) => {
    const gpu = /** @type {any} */ (navigator).gpu;
    if (!(await gpu?.requestAdapter())) return null;
    const options = { ort, device: "webgpu" };
    const model = await /** @type {any} */ (window).load("/tests/models/lstm-2x12-fp32.onnx", options);
    const texts = await Promise.all([1, 2].map((seed) => model.generate("LORD ", { length: 40, seed })));
    const int8 = await /** @type {any} */ (window)
      .load("/tests/models/lstm-2x12-int8.onnx", options)
      .catch((/** @type {Error} */ error) => `${error.name}: ${error.message}`);
    return { texts, int8, inWorker: model.inWorker };
  }, ORT);
  if (!found) {
    context.skip("this Chromium has no WebGPU");
    return;
  }
  const model = await load(SMALL);
  const texts = await Promise.all([1, 2].map((seed) => model.generate("LORD ", { length: 40, seed })));
  await model.close();
  assert.deepEqual(found.texts, texts);
  assert.match(found.int8, /^DeviceError: .*int8 file, which runs on the CPU alone/);
  assert.ok(found.inWorker);
});
