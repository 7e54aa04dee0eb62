import assert from "node:assert/strict";
import { test } from "node:test";

import { CharRNNError, SettingError, UnknownCharacterError, Vocabulary } from "../src/index.js";
import { OutputBytes, OutputText } from "../src/output-text.js";

const letters = new Vocabulary([..."abcdé𝒳\n "], "char");
const bytes = new Vocabulary([], "byte");
const utf8 = (/** @type {string} */ text) => new TextEncoder().encode(text);

test("encoding and decoding a text round-trips, also beyond the basic plane", () => {
  assert.deepEqual([...letters.encode("abé𝒳\n")], [0, 1, 4, 5, 6]);
  assert.equal(letters.decode([0, 1, 4, 5, 6]), "abé𝒳\n");
  assert.deepEqual([...bytes.encode("é")], [0xc3, 0xa9]);
  assert.deepEqual([...bytes.encode(Uint8Array.of(255, 0))], [255, 0]);
  assert.equal(bytes.decode([0xc3, 0xa9, 0xff, 0xe2, 0x82, 0x41]), "é\ufffd\ufffdA");
  assert.equal(bytes.decode(utf8("\ufeffa")), "\ufeffa");
});

test("unknown characters are named, dropped, or converted to their other form", () => {
  assert.throws(
    () => letters.encode("axbxy"),
    (/** @type {any} */ error) =>
      error instanceof UnknownCharacterError &&
      error.characters.join() === "x,y" &&
      error.positions.join() === "1,4" &&
      !error.message.includes("\n"),
  );
  assert.deepEqual([...letters.encode("axb\ud800c", "skip")], [0, 1, 2]);
  assert.deepEqual([...letters.encode("ae\u0301b", "normalize")], [0, 4, 1]);
  assert.throws(() => letters.encode("ae\u0302b", "normalize"), UnknownCharacterError);
  assert.throws(() => bytes.encode("a\udc00"), UnknownCharacterError);
  assert.deepEqual([...bytes.encode("a\udc00b", "skip")], [97, 98]);
  assert.throws(() => letters.encode("a", /** @type {any} */ ("ignore")), SettingError);
  assert.throws(() => letters.encode(/** @type {any} */ (Uint8Array.of(1))), SettingError);
});

test("invalid vocabularies are refused", () => {
  for (const symbols of [[], ["ab"], [""], ["a", "a"], ["\ud800"], [1], [null], Array(65_537).fill("a")]) {
    assert.throws(() => new Vocabulary(symbols, "char"), CharRNNError);
  }
  assert.throws(() => new Vocabulary(["a"], "byte"), CharRNNError);
  for (const id of [-1, 8, 0.5, NaN]) assert.throws(() => letters.decode([id]), CharRNNError);
});

/**
 * The part of a text before the first stop text to be complete, by checking every end.
 *
 * @param {string} text
 * @param {string[]} stops
 */
function cut(text, stops) {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map((stop) => stop.length);
    if (found.length) return text.slice(0, end - Math.max(...found));
  }
  return text;
}

test("a stop text ends the stream wherever it is cut into pieces", () => {
  let seed = 7;
  const draw = (/** @type {number} */ below) => (seed = (seed * 48_271) % 2_147_483_647) % below;
  for (let round = 0; round < 500; round++) {
    const text = Array.from({ length: draw(30) }, () => "abé"[draw(3)]).join("");
    const stops = Array.from({ length: draw(3) }, () =>
      Array.from({ length: 1 + draw(3) }, () => "abé"[draw(3)]).join(""),
    );
    for (const vocabulary of [letters, bytes]) {
      const written = new OutputText(vocabulary, stops);
      const ids = vocabulary.encode(text);
      let got = "";
      for (let at = 0; at < ids.length;) {
        const size = 1 + draw(4);
        got += written.push(ids.subarray(at, at + size));
        at += size;
      }
      assert.equal(got + written.finish(), cut(text, stops), `${text} ${stops}`);
    }
  }
});

test("every piece of text is valid, whatever the bytes", () => {
  const data = [...utf8("né€𝒳"), 0xff, 0xe2, 0x82, 0x41, 0xf0, 0x9d];
  const written = new OutputText(bytes, []);
  let text = written.begin(utf8("é").subarray(0, 1)) + written.push([0xa9]);
  for (const byte of data) {
    const piece = written.push([byte]);
    assert.ok(piece.isWellFormed());
    text += piece;
  }
  assert.equal(text + written.finish(), "éné€𝒳\ufffd\ufffdA\ufffd");
  const raw = new OutputBytes(bytes, ["END"]);
  assert.deepEqual([...raw.push([0xff, 0xc3, 69])], [0xff, 0xc3]);
  assert.deepEqual([...raw.push([78, 69, 87])], [69, 78, 69, 87]);
});
