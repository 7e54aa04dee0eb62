/**
 * Build the demo page into a folder that any static host can serve, under any path:
 *
 *     node js/demo/build.js docs/demo
 */

import { cpSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ORT = join(HERE, "../node_modules/onnxruntime-web/dist");
const MODELS = join(HERE, "../../models");

/** The required files of onnxruntime-web: the module, and WebAssembly without WebGPU. */
const RUNTIME = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];

/** The models on the page and their labels; the first is loaded at the start. */
const OFFERED = {
  "lstm.onnx": "LSTM 2x256",
  "lstm.int8.onnx": "LSTM 2x256, int8",
  "gru.onnx": "GRU 2x256",
  "rnn.onnx": "RNN 2x256",
  "best.int8.onnx": "best: LSTM 1x952, int8",
  "best.onnx": "best: LSTM 1x952",
};

/**
 * Build the page.
 *
 * @param {string} out
 * @param {string[]} [files] the models to offer; all by default.
 */
export function build(out, files = Object.keys(OFFERED)) {
  if (basename(out) !== "demo") throw new Error(`the folder is deleted first, so it must be named demo: ${out}`);
  rmSync(out, { recursive: true, force: true });
  for (const folder of ["demo", "models", "ort"]) mkdirSync(join(out, folder), { recursive: true });
  cpSync(join(HERE, "index.html"), join(out, "index.html"));
  for (const file of ["demo.css", "demo.js", "icon.svg"]) cpSync(join(HERE, file), join(out, "demo", file));
  cpSync(join(HERE, "../src"), join(out, "src"), { recursive: true });
  for (const file of RUNTIME) cpSync(join(ORT, file), join(out, "ort", file));
  const there = readdirSync(MODELS);
  const models = Object.entries(OFFERED)
    .filter(([file]) => files.includes(file) && there.includes(file))
    .map(([file, name]) => {
      cpSync(join(MODELS, file), join(out, "models", file));
      return { file, name, bytes: statSync(join(MODELS, file)).size };
    });
  const runtimeBytes = RUNTIME.reduce((sum, file) => sum + statSync(join(ORT, file)).size, 0);
  writeFileSync(join(out, "contents.json"), JSON.stringify({ runtimeBytes, models }, null, 2));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [out] = process.argv.slice(2);
  if (!out) throw new Error("usage: node js/demo/build.js FOLDER/demo");
  build(out);
  console.log(`${out}: serve it with any static host, such as python3 -m http.server --directory ${out}`);
}
