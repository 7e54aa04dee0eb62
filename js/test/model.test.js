import assert from "node:assert/strict";
import { test } from "node:test";

import * as ort from "onnxruntime-node";

import { SettingError, UnknownCharacterError, load } from "../src/index.js";
import { differences } from "../tools/comparing.js";
import { BYTE, ROOT, SMALL, expectedJson, skip } from "../tools/fixtures.js";

const { models, text } = skip ? { models: {}, text: "" } : expectedJson("texts.json");

for (const [path, expected] of Object.entries(models)) {
  test(`${path} gives the Python runtime's texts, states and scores`, async () => {
    const model = await load(ROOT + path);
    assert.deepEqual(await differences(model, expected, text), []);
    await model.close();
  });
}
test("there are texts of the Python runtime to compare with", { skip }, () => {
  assert.ok(Object.keys(models).length >= 4);
});

test("a long text is read without the sampler, with the same result", async () => {
  const model = await load(SMALL);
  const long = "What news, my lord?\n".repeat(80);
  let state = model.initialState();
  for (let at = 0; at < long.length; at += 100) state = await model.prime(long.slice(at, at + 100), { state });
  assert.deepEqual([...(await model.prime(long)).rows], [...state.rows]);
  const parts = await model.score(long.slice(0, 500));
  const rest = await model.score(long.slice(500), { state: parts.state });
  const { perCharacter } = await model.score(long);
  assert.deepEqual([...parts.perCharacter, ...rest.perCharacter], [...perCharacter]);
  await model.close();
});

test("invalid and misspelt options are refused in one line", async () => {
  const model = await load(SMALL, { ort });
  const wrong = [
    ...[{ length: -1 }, { length: 1.5 }, { seed: -1 }, { temperature: 0 }, { temperature: NaN }, { topK: 0 }],
    ...[{ topP: 0 }, { topP: 1.1 }, { minP: 1 }, { minP: -0.1 }, { stop: "" }, { stop: "ü" }, { topk: 3 }],
    ...[{ maxBatchSize: 0 }, { number: -1 }, { unknown: "no" }],
  ];
  for (const options of wrong) {
    await assert.rejects(model.generate("LORD ", /** @type {any} */ (options)), SettingError, JSON.stringify(options));
  }
  await assert.rejects(model.generate("ü"), UnknownCharacterError);
  await assert.rejects(model.generate(["a", "ü"]), { index: 1 });
  await assert.rejects(model.generate(/** @type {any} */ (5)), SettingError);
  const byte = await load(BYTE, { ort });
  await assert.rejects(byte.generate(model.initialState()), SettingError);
  await assert.rejects(byte.prime("a", { state: model.initialState() }), SettingError);
  await Promise.all([model.close(), byte.close()]);
  await assert.rejects(load(SMALL, /** @type {any} */ ({ device: "cuda" })), SettingError);
});

test("a stream that is left or aborted ends, and calls run concurrently", async () => {
  const model = await load(SMALL);
  const live = model.stream("LORD ", { length: 1e6, seed: 1 });
  for await (const piece of live) {
    assert.ok(piece);
    break;
  }
  assert.equal(live.finishReason, "cancelled");
  const controller = new AbortController();
  const endless = model.generate("LORD ", { length: 1e8, signal: controller.signal });
  const short = await Promise.all([1, 2].map((seed) => model.generate("LORD ", { length: 50, seed })));
  controller.abort(new Error("enough"));
  await assert.rejects(endless, /enough/);
  assert.deepEqual(short, [
    await model.generate("LORD ", { length: 50, seed: 1 }),
    await model.generate("LORD ", { length: 50, seed: 2 }),
  ]);
  await model.close();
  await assert.rejects(model.generate("LORD "), Error);
});

test("the number of concurrent streams does not change the texts", async () => {
  const model = await load(SMALL);
  const prompts = Array.from({ length: 30 }, (_, i) => "LORD KING What".slice(0, i % 14));
  const options = { length: 30, seed: 5, stop: ["e", "o"] };
  const texts = await model.generate(prompts, options);
  for (const maxBatchSize of [1, 3, 29]) {
    assert.deepEqual(await model.generate(prompts, { ...options, maxBatchSize }), texts);
  }
  await model.close();
});
