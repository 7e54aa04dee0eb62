/**
 * Generates in Node and Chromium for tests/benchmarks/javascript.py, which measures them beside the Python runtime.
 *
 * Each line of the input is a task: `{ where, model, streams, length }`, and `{ text }` for one that is to be scored. Each
 * line of the output is what came of it: `{ seconds, texts }`, or `{ nats }`; null where there is no Chromium.
 */

import { createInterface } from "node:readline";

import { load } from "../src/index.js";
import { SERVED, noBrowser, serveFolder, startBrowser } from "./browser.js";
import { ROOT } from "./fixtures.js";

const ORT = "/js/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const PAGES = {
  "/page.html": "<!doctype html><title>speed</title><script type='module' src='/page.js'></script>",
  "/page.js": `
    import { load } from "/js/src/index.js";
    ${run}
    const models = {};
    window.run = async (task) => {
      models[task.model] ??= await load("/" + task.model, { ort: "${ORT}" });
      return run(models[task.model], task);
    };
    document.body.dataset.ready = "";
  `,
};

/** @param {import("../src/index.js").CharRNN} model @param {any} task */
async function run(model, { streams, length, text }) {
  if (text) return { nats: (await model.score(text)).nats };
  const before = performance.now();
  const texts = await model.generate(Array(streams).fill("LORD "), { length, seed: 1 });
  return { seconds: (performance.now() - before) / 1000, texts };
}

/** @type {Map<string, import("../src/index.js").CharRNN>} */
const models = new Map();
/** @type {import("playwright-core").Page | undefined} */
let page;
const server = await serveFolder(SERVED, "/", PAGES);
const browser = noBrowser ? undefined : await startBrowser();

/** @param {any} task */
async function answer(task) {
  if (task.where === "node") {
    const model = models.get(task.model) ?? (await load(ROOT + task.model));
    models.set(task.model, model);
    return run(model, task);
  }
  if (!browser) return null;
  if (!page) {
    page = await browser.newPage();
    await page.goto(`${server.origin}page.html`);
    await page.waitForSelector("body[data-ready]", { state: "attached" });
  }
  return page.evaluate((each) => /** @type {any} */ (window).run(each), task);
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
await browser?.close();
server.close();
