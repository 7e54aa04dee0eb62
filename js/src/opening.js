/** Opens a model in the thread that runs it. */

import { Engine } from "./engine.js";
import { CharRNNError, DeviceError, ModelFormatError, oneLine } from "./errors.js";
import { readModel } from "./format/reader.js";
import { MAX_FILE_BYTES } from "./format/spec.js";
import { Runner } from "./runner.js";

/** @typedef {import("./engine.js").Device} Device */

/**
 * Called while a model's file is downloaded, with the bytes so far and in total (0 if unknown).
 *
 * @typedef {(loaded: number, total: number) => void} OnProgress
 */

/**
 * Read, validate and try a model.
 *
 * @param {Uint8Array | string} source its bytes, its URL, or in Node its path.
 * @param {import("./engine.js").Ort} ort
 * @param {Device} device
 * @param {OnProgress} [onProgress]
 * @returns {Promise<Runner>}
 */
export async function openModel(source, ort, device, onProgress) {
  const [data, name] = typeof source === "string" ? [await read(source, onProgress), source] : [source, "<bytes>"];
  // Slicing Node's Buffer makes a view; slicing a plain array makes a copy.
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return new Runner(await Engine.create(ort, readModel(bytes, shortName(name)), device, shortName(name)));
}

/**
 * Import onnxruntime.
 *
 * @param {string | undefined} url the URL of its module; by default, that of its package.
 * @param {Device} device
 * @returns {Promise<import("./engine.js").Ort>}
 */
export async function importOrt(url, device) {
  try {
    if (url) return await import(/* @vite-ignore */ /* webpackIgnore: true */ url);
    if (inNode()) return await import("onnxruntime-node");
    return await (device === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm"));
  } catch (error) {
    const advice = inNode()
      ? "npm install onnxruntime-node, or give the module as ort"
      : "give the URL of its module as ort, such as new URL('ort.wasm.bundle.min.mjs', import.meta.url)";
    const said = error instanceof Error ? error.message : String(error);
    throw new DeviceError(oneLine(`ort: onnxruntime cannot be imported (${said}); ${advice}`), { cause: error });
  }
}

/** Whether this runs in Node. */
export function inNode() {
  return typeof process === "object" && Boolean(process.versions?.node);
}

/** @param {string} source @param {OnProgress} [onProgress] */
async function read(source, onProgress) {
  try {
    if (inNode() && !/^(https?|blob|data):/i.test(source)) return await readFile(source);
    return await fetched(source, onProgress);
  } catch (error) {
    if (error instanceof CharRNNError) throw error;
    const said = error instanceof Error ? error.message : String(error);
    throw new CharRNNError(oneLine(`${shortName(source)} cannot be read: ${said}`), { cause: error });
  }
}

/** @param {string} path or a file: URL. */
async function readFile(path) {
  const files = "node:fs/promises"; // a variable, so that bundlers for browsers do not resolve it
  const { open } = await import(/* @vite-ignore */ /* webpackIgnore: true */ files);
  const file = await open(/^file:/i.test(path) ? new URL(path) : path);
  try {
    const status = await file.stat();
    if (!status.isFile())
      throw new CharRNNError(`${shortName(path)} is not a regular file; give a model file`);
    checkSize(status.size, path);
    return /** @type {Uint8Array} */ (await file.readFile());
  } finally {
    await file.close();
  }
}

/** @param {string} url @param {OnProgress} [onProgress] */
async function fetched(url, onProgress) {
  const response = await fetch(url);
  if (!response.ok || !response.body) {
    throw new CharRNNError(`${shortName(url)} cannot be read: the server responded with status ${response.status}`);
  }
  const total = Number(response.headers.get("content-length") ?? 0);
  checkSize(total, url);
  /** @type {Uint8Array[]} */
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    if (loaded > MAX_FILE_BYTES) await reader.cancel();
    checkSize(loaded, url);
    onProgress?.(loaded, Math.max(total, loaded));
  }
  return new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (parts)).arrayBuffer());
}

/** @param {number} size @param {string} name */
function checkSize(size, name) {
  if (size > MAX_FILE_BYTES) {
    throw new ModelFormatError(
      `${shortName(name)} is not a valid charrnn model: it has ${size} bytes; at most ` +
        `${MAX_FILE_BYTES} are allowed`,
    );
  }
}

/** @param {string} name */
function shortName(name) {
  return oneLine(name, 120);
}
