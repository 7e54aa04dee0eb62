import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { SERVED, noBrowser, serveFolder, startBrowser } from "../tools/browser.js";
import { expectedJson, skip } from "../tools/fixtures.js";

const ORT = "js/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const SMALL = "tests/models/lstm-2x12-fp32.onnx";

/** @type {import("playwright-core").Browser} */
let browser;
/** @type {Awaited<ReturnType<typeof serveFolder>>} */
let server;

const PAGES = {
  "/page.html": "<!doctype html><title>charrnn</title><script type='module' src='/page.js'></script>",
  "/page.js": `
    import * as charrnn from "/js/src/index.js";
    import { differences } from "/js/tools/comparing.js";
    Object.assign(window, { charrnn, differences });
    document.body.dataset.ready = "";
  `,
};

before(async () => {
  if (noBrowser) return;
  server = await serveFolder(SERVED, "/", PAGES);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** @type {import("playwright-core").Page} */
let page;
/** The errors in the page. @type {string[]} */
let errors;

/** The page that all tests share, which has the package as `charrnn`. */
async function openPage() {
  errors = [];
  if (page) return;
  page = await browser.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(`${server.origin}page.html`);
  await page.waitForSelector("body[data-ready]", { state: "attached" });
}

for (const path of skip ? [] : expectedJson("texts.json").in_browser) {
  test(`in a worker, ${path} gives the Python runtime's texts, states and scores`, { skip: noBrowser }, async () => {
    await openPage();
    const { models, text } = expectedJson("texts.json");
    const found = await page.evaluate(
      async ({ model: url, ort, expected, text }) => {
        const { charrnn, differences } = /** @type {any} */ (window);
        const model = await charrnn.load(url, { ort });
        const found = await differences(model, expected, text);
        if (!model.inWorker) found.push("it does not run in a worker");
        await model.close();
        return found;
      },
      { model: `/${path}`, ort: `/${ORT}`, expected: models[path], text },
    );
    assert.deepEqual(found, []);
    assert.deepEqual(errors, []);
  });
}

test("the page paints while a worker generates, and while its own thread does", { skip: noBrowser }, async () => {
  await openPage();
  for (const worker of [true, false]) {
    const { frames, text } = await page.evaluate(
      async ({ model: url, ort, worker }) => {
        const { charrnn } = /** @type {any} */ (window);
        const model = await charrnn.load(url, { ort, worker });
        let frames = 0;
        const count = () => {
          frames += 1;
          requestAnimationFrame(count);
        };
        const before = performance.now();
        requestAnimationFrame(count);
        let text = "";
        for await (const piece of model.stream("LORD ", { length: 1e8, seed: 1 })) {
          text += piece;
          if (frames >= 5 || performance.now() - before > 20_000) break;
        }
        await model.close();
        return { frames, text: text.length };
      },
      { model: `/${SMALL}`, ort: `/${ORT}`, worker },
    );
    assert.ok(frames >= 5, `${frames} frames (worker: ${worker})`);
    assert.ok(text > 5);
  }
  assert.deepEqual(errors, []);
});

test("a module, bytes, a URL and a custom worker work as well", { skip: noBrowser }, async () => {
  await openPage();
  const texts = await page.evaluate(
    async ({ model: url, ort }) => {
      const { charrnn } = /** @type {any} */ (window);
      const options = { length: 40, seed: 1 };
      const module = await import(ort);
      const data = await (await fetch(url)).arrayBuffer();
      const progress = /** @type {number[]} */ ([]);
      const models = [
        await charrnn.load(url, { ort: module }),
        await charrnn.load(data, { ort }),
        await charrnn.load(new URL(url, location.href), { ort: new URL(ort, location.href), worker: false }),
        await charrnn.load(url, {
          ort,
          worker: new Worker("/js/src/worker.js", { type: "module" }),
          onProgress: (/** @type {number} */ n) => progress.push(n),
        }),
      ];
      const texts = [];
      for (const model of models) texts.push(await model.generate("LORD ", options));
      return { texts, workers: models.map((model) => model.inWorker), progress, bytes: data.byteLength };
    },
    { model: `/${SMALL}`, ort: `/${ORT}` },
  );
  assert.equal(new Set(texts.texts).size, 1);
  assert.deepEqual(texts.workers, [false, true, false, true]);
  assert.equal(texts.progress.at(-1), texts.bytes);
  assert.deepEqual(errors, []);
});

test("errors in a worker are the same as in Node", { skip: noBrowser }, async () => {
  await openPage();
  const names = await page.evaluate(
    async ({ model: url, ort }) => {
      const { charrnn } = /** @type {any} */ (window);
      const names = /** @type {string[]} */ ([]);
      const wrong = async (/** @type {() => Promise<unknown>} */ call) => {
        await call().then(
          () => names.push("nothing"),
          (error) => names.push(error instanceof charrnn.CharRNNError ? error.name : `${error}`),
        );
      };
      await wrong(() => charrnn.load("/none.onnx", { ort }));
      await wrong(() => charrnn.load("/page.html", { ort }));
      await wrong(() => charrnn.load(url, { ort: "/none.mjs" }));
      await wrong(() => charrnn.load(url));
      await wrong(() => charrnn.load(url, { ort, device: "webgpu" }));
      const model = await charrnn.load(url, { ort });
      await wrong(() => model.generate("ü"));
      await wrong(() => model.generate("a", { topK: 0 }));
      await wrong(() => model.prime("ü"));
      const controller = new AbortController();
      const endless = model.generate("LORD ", { length: 1e8, signal: controller.signal });
      setTimeout(() => controller.abort(new Error("enough")), 50);
      await wrong(() => endless);
      const live = model.stream("LORD ", { length: 1e8 });
      for await (const _ of live) break;
      names.push(live.finishReason, await model.generate("", { length: 0 }));
      const pending = model.generate("LORD ", { length: 1e8 });
      await model.close();
      await wrong(() => pending);
      return names;
    },
    { model: `/${SMALL}`, ort: `/${ORT}` },
  );
  assert.deepEqual(names, [
    ...["CharRNNError", "ModelFormatError", "DeviceError", "DeviceError", "DeviceError"],
    ...["UnknownCharacterError", "SettingError", "UnknownCharacterError", "Error: enough", "cancelled", ""],
    "DeviceError",
  ]);
});
