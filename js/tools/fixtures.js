/** Where the tests find models, and what the Python runtime made of them. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const SMALL = join(ROOT, "tests/models/lstm-2x12-fp32.onnx");
export const BYTE = join(ROOT, "tests/models/lstm-1x12-fp32-byte.onnx");

const FOLDER = process.env.CHARRNN_EXPECTED;

/** Why what needs the Python runtime's results is skipped; false if they are there. */
export const skip = FOLDER ? false : "needs the Python runtime: `python3 noxfile.py javascript` runs it";

/** What is in a file of the folder that the session has made. @param {string} name */
export function expected(name) {
  return readFileSync(join(String(FOLDER), name));
}

/** @param {string} name @returns {any} */
export function expectedJson(name) {
  return JSON.parse(expected(name).toString());
}

/** Whether the session was asked for less, with --quick. */
export const quick = !skip && expectedJson("texts.json").quick;
