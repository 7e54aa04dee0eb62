import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { bitsAt, checkSeed, streamKey, uniformAt } from "../src/uniforms.js";
import { ROOT, expectedJson, skip } from "../tools/fixtures.js";

const MASK = (1n << 64n) - 1n;
const G = 0x9e3779b97f4a7c15n;

/** @param {bigint} z */
function mix(z) {
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

test("the results are the check values of the format's page", () => {
  const page = readFileSync(join(ROOT, "docs/format.md"), "utf8");
  const rows = [...page.matchAll(/^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$/gm)];
  assert.ok(rows.length >= 4);
  for (const row of rows) {
    const [seed, stream, position, value] = row.slice(1).map(Number);
    assert.equal(bitsAt(streamKey(BigInt(seed), stream), position), value);
  }
});

test("32-bit halves compute the same as big integers, wherever they wrap", () => {
  let state = 1n;
  for (let i = 0; i < 5000; i++) {
    state = mix(state + G);
    const seed = i % 3 ? state : state >> 33n;
    const [stream, position] = [7n, 13n].map((salt) => Number(mix(state + salt) >> BigInt(12 + (i % 51))));
    const key = mix((seed + G * BigInt(stream + 1)) & MASK);
    const bits = mix((key + G * BigInt(position + 1)) & MASK) >> 40n;
    assert.equal(bitsAt(streamKey(seed, stream), position), Number(bits), `${seed} ${stream} ${position}`);
  }
});

test("the Python runtime draws the same numbers", { skip }, () => {
  for (const { seed, stream, position, value } of expectedJson("texts.json").uniforms) {
    assert.equal(uniformAt(streamKey(BigInt(seed), stream), position), value);
  }
});

test("a seed is a 64-bit integer, or drawn", () => {
  for (const seed of [0, 1, 2 ** 53 - 1, 0n, MASK]) assert.equal(checkSeed(seed), BigInt(seed));
  for (const seed of [-1, 0.5, 2 ** 53, NaN, Infinity, -1n, MASK + 1n, "1", true, {}]) {
    assert.throws(() => checkSeed(/** @type {any} */ (seed)), { name: "SettingError" });
  }
  const drawn = new Set(Array.from({ length: 50 }, () => checkSeed(undefined)));
  assert.ok(drawn.size > 45 && [...drawn].every((seed) => seed >= 0n && seed < 1n << 32n));
});
