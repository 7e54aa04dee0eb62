/** Loads a model: in a worker in browsers, otherwise in this thread. */

import { SettingError, wrong } from "./errors.js";
import { CharRNN } from "./model.js";
import { importOrt, inNode, openModel } from "./opening.js";
import { checkNames } from "./options.js";
import { WorkerBackend } from "./worker-backend.js";

/**
 * @typedef {object} LoadOptions
 * @property {import("./engine.js").Ort | string | URL} [ort] onnxruntime: the URL of its module, or in this thread the
 *   module itself. By default `onnxruntime-node` in Node and `onnxruntime-web/wasm` in browsers, resolved by an import
 *   map or a bundler.
 * @property {import("./engine.js").Device} [device] "cpu" (WebAssembly, in browsers) by default; or "webgpu" if the
 *   browser supports it.
 * @property {boolean | Worker} [worker] whether to run in a module worker, so that the page stays responsive: true in
 *   browsers by default, unless `ort` is a module. Or a custom worker whose script calls `serve`.
 * @property {import("./opening.js").OnProgress} [onProgress] called while the model's file is downloaded.
 */

/**
 * Load a model.
 *
 * @param {Uint8Array | ArrayBuffer | string | URL} source the bytes of a model file, its URL, or in Node its path.
 * @param {LoadOptions} [options]
 * @returns {Promise<CharRNN>}
 * @throws {import("./errors.js").ModelFormatError} the file is invalid; the message says why.
 * @throws {import("./errors.js").DeviceError} onnxruntime or the device cannot be used.
 */
export async function load(source, options = {}) {
  checkNames(options, ["ort", "device", "worker", "onProgress"]);
  const { ort, device = "cpu", onProgress } = options;
  if (device !== "cpu" && device !== "webgpu") throw wrong("device", '"cpu" or "webgpu"', device);
  const ortUrl = ort === undefined || typeof ort === "string" || ort instanceof URL ? urlOf(ort) : undefined;
  const worker =
    options.worker ?? (!inNode() && typeof Worker === "function" && (ort === undefined || Boolean(ortUrl)));
  const given = sourceOf(source);
  if (!worker) {
    const module = ort === undefined || ortUrl ? await importOrt(ortUrl, device) : ort;
    return new CharRNN(
      await openModel(given, /** @type {import("./engine.js").Ort} */ (module), device, onProgress),
      false,
    );
  }
  if (worker === true && ort !== undefined && !ortUrl) {
    throw new SettingError("ort: a module cannot be passed to a worker; give its URL, or worker: false");
  }
  const started = worker === true ? new Worker(new URL("./worker.js", import.meta.url), { type: "module" }) : worker;
  const backend = new WorkerBackend(started);
  const specifier = device === "webgpu" ? "onnxruntime-web/webgpu" : "onnxruntime-web/wasm";
  await backend.load(given, ortUrl ?? resolved(specifier), device, onProgress);
  return new CharRNN(backend, true);
}

/** @param {unknown} source @returns {Uint8Array | string} */
function sourceOf(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Uint8Array) return source;
  if (source instanceof URL) return source.href;
  if (typeof source === "string") return inNode() ? source : new URL(source, baseUrl()).href;
  throw wrong("source", "the bytes of a model (Uint8Array or ArrayBuffer) or its URL", source);
}

/** @param {string | URL | undefined} ort */
function urlOf(ort) {
  return ort === undefined ? undefined : new URL(ort, baseUrl()).href;
}

function baseUrl() {
  return typeof document === "object" ? document.baseURI : typeof location === "object" ? location.href : undefined;
}

/**
 * The URL of a package in the page's import map, if any: workers have no import map.
 *
 * @param {string} specifier
 */
function resolved(specifier) {
  try {
    return import.meta.resolve(specifier);
  } catch {
    return undefined; // left to the bundler
  }
}
