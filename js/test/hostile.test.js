import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { CharRNNError, ModelFormatError, load } from "../src/index.js";
import { readModel } from "../src/format/reader.js";
import { BYTE, SMALL, expected, expectedJson, skip } from "../tools/fixtures.js";

/** The error of the reader for some bytes, or null if it accepts them. @param {Uint8Array} data */
function refusal(data) {
  try {
    readModel(data, "model.onnx");
    return null;
  } catch (error) {
    if (!(error instanceof ModelFormatError)) throw error;
    assert.ok(error.message.length <= 500 && !/[\n\r\u001b]/.test(error.message), error.message);
    return error.message;
  }
}

test(
  "the files of the Python reader's tests are refused or taken as there; what is taken loads or is refused",
  { skip },
  async () => {
    const all = new Uint8Array(expected("hostile.bin"));
    let at = 0;
    let taken = 0;
    for (const [index, { bytes, refusal: python }] of expectedJson("hostile.json").entries()) {
      const data = all.subarray(at, at + bytes);
      at += bytes;
      const said = refusal(data);
      assert.equal(said === null, python === null, `file ${index}: ${said} is not ${python}`);
      if (said !== null) continue;
      taken += 1;
      try {
        const model = await load(data);
        const text = await model.generate("", { length: 20, seed: 1, unknown: "skip" });
        assert.equal(typeof text, "string");
        await model.close();
      } catch (error) {
        assert.ok(error instanceof ModelFormatError, String(error));
      }
    }
    assert.equal(at, all.length);
    assert.ok(taken > 5);
  },
);

test("a file that was cut is refused, wherever it was cut", () => {
  for (const path of [SMALL, BYTE]) {
    const data = readFileSync(path);
    for (let i = 0; i < 200; i++) assert.ok(refusal(data.subarray(0, Math.floor((i * data.length) / 200))));
    assert.ok(refusal(Buffer.concat([data, Buffer.from("more")])));
    assert.equal(refusal(data), null);
  }
});

test("other files are refused, and missing files are named", async () => {
  for (const data of ["", "<!doctype html>", "PK\u0003\u0004", "\0".repeat(1000)]) {
    await assert.rejects(load(Buffer.from(data)), ModelFormatError);
  }
  await assert.rejects(load("/nowhere/none.onnx"), CharRNNError);
  await assert.rejects(load("/"), CharRNNError);
  await assert.rejects(load(/** @type {any} */ (5)), CharRNNError);
});
