/**
 * Parses a model's metadata. All functions throw `ModelFormatError` for invalid values, with what was expected.
 */

import { CharRNNError, ModelFormatError, oneLine } from "../errors.js";
import { Vocabulary } from "../vocabulary.js";
import * as spec from "./spec.js";
import { quoted } from "./tensors.js";

const PREFIX = spec.METADATA_PREFIX;
const DEEPEST = 200;
const SURROGATE = /\p{Surrogate}/u;

/**
 * The metadata of a step model.
 *
 * @typedef {object} ModelInfo
 * @property {number} version the version of the format.
 * @property {"lstm" | "gru" | "rnn"} cell
 * @property {number} layers
 * @property {number} hiddenSize
 * @property {"fp32" | "fp16" | "int8"} precision
 * @property {"char" | "byte"} level
 * @property {readonly string[]} vocabulary the symbols in the order of their ids; empty at the byte level.
 * @property {number} vocabularySize
 * @property {number} startToken the id that a stream without a prompt reads first.
 * @property {boolean} lines whether the model was trained on independent lines, each from a zero state.
 * @property {number} topKMax the largest `topK`, which is equivalent to none.
 * @property {number} stateSize the length of a stream's state row.
 * @property {[name: string, start: number, size: number][]} stateLayout
 * @property {Record<string, any>} training the training record, as written by export.
 * @property {number} fileBytes the size of the file.
 */

/**
 * The metadata by key, without the prefix.
 *
 * @param {any} model a parsed `ModelProto`.
 * @returns {Map<string, string>}
 */
export function metadataOf(model) {
  const found = new Map();
  for (const { key, value } of model.metadata_props) {
    if (value.length > 2 * spec.MAX_METADATA_VALUE || [...value].length > spec.MAX_METADATA_VALUE) {
      throw new ModelFormatError(
        `the metadata key ${quoted(key)} has ${value.length} characters; the limit is ${spec.MAX_METADATA_VALUE}`,
      );
    }
    if (found.has(key)) throw new ModelFormatError(`the metadata key ${quoted(key)} appears twice`);
    found.set(key, value);
  }
  if (!found.has(`${PREFIX}format`)) {
    throw new ModelFormatError(
      `its metadata has no ${PREFIX}format, so it is another kind of ONNX file; charrnn-export creates models`,
    );
  }
  const own = [...found].filter(([key]) => key.startsWith(PREFIX));
  return new Map(own.map(([key, value]) => [key.slice(PREFIX.length), value]));
}

/**
 * Check that the version of the model is supported.
 *
 * @param {any} model
 * @param {Map<string, string>} metadata
 */
export function checkVersions(model, metadata) {
  if (metadata.get("format") !== spec.FORMAT) {
    throw new ModelFormatError(`its format is ${given(metadata, "format")}; expected '${spec.FORMAT}'`);
  }
  const version = integer(metadata, "version", 1, 1_000_000);
  if (version > spec.VERSION) {
    throw new ModelFormatError(
      `its format version is ${version}, but this package reads versions up to ${spec.VERSION}; upgrade charrnn`,
    );
  }
  const missing = spec.METADATA_KEYS.find((key) => !metadata.has(key));
  if (missing) throw new ModelFormatError(`its metadata lacks ${PREFIX}${missing}`);
  if (model.ir_version !== spec.IR_VERSION) {
    throw new ModelFormatError(`its IR version is ${model.ir_version}; expected ${spec.IR_VERSION}`);
  }
  const found = model.opset_import.map((/** @type {any} */ opset) => `${quoted(opset.domain)} ${opset.version}`);
  const expected = [`'' ${spec.OPSET}`];
  if (metadata.get("precision") === "int8") expected.push(`'${spec.CONTRIB_DOMAIN}' ${spec.CONTRIB_VERSION}`);
  if (
    found.length !== expected.length ||
    found.some((/** @type {string} */ each, /** @type {number} */ i) => each !== expected[i])
  ) {
    throw new ModelFormatError(
      `its operator sets are [${found.slice(0, 4).join(", ")}]; expected [${expected.join(", ")}]`,
    );
  }
}

/**
 * The metadata of a model, validated.
 *
 * @param {Map<string, string>} metadata
 * @param {number} fileBytes
 * @returns {{ info: ModelInfo, vocabulary: Vocabulary }}
 */
export function modelInfo(metadata, fileBytes) {
  const cell = choice(metadata, "cell", spec.CELLS);
  const layers = integer(metadata, "layers", 1, spec.MAX_LAYERS);
  const hiddenSize = integer(metadata, "hidden_size", 1, spec.MAX_HIDDEN_SIZE);
  const vocabulary = vocabularyOf(metadata);
  const layout = spec.stateLayout(cell, layers, hiddenSize);
  if (JSON.stringify(json(metadata, "state_layout", "array")) !== JSON.stringify(layout)) {
    throw new ModelFormatError(
      `its state layout does not match ${layers} ${cell} layers of ${hiddenSize}: expected ` +
        `${JSON.stringify(layout.slice(0, 2))}...`,
    );
  }
  const topKMax = spec.topKMax(vocabulary.size);
  const info = {
    version: spec.VERSION,
    cell,
    layers,
    hiddenSize,
    precision: choice(metadata, "precision", spec.PRECISIONS),
    level: vocabulary.level,
    vocabulary: vocabulary.symbols,
    vocabularySize: vocabulary.size,
    startToken: integer(metadata, "start_token", 0, vocabulary.size - 1),
    lines: choice(metadata, "lines", /** @type {const} */ (["true", "false"])) === "true",
    topKMax: integer(metadata, "top_k_max", topKMax, topKMax),
    stateSize: layout.length * hiddenSize,
    stateLayout: layout,
    training: trainingOf(metadata),
    fileBytes,
  };
  return { info, vocabulary };
}

/** @param {Map<string, string>} metadata */
function vocabularyOf(metadata) {
  const level = choice(metadata, "level", spec.LEVELS);
  try {
    return new Vocabulary(json(metadata, "vocabulary", "array"), level);
  } catch (error) {
    throw error instanceof CharRNNError ? new ModelFormatError(error.message) : error;
  }
}

/** @param {Map<string, string>} metadata */
function trainingOf(metadata) {
  const training = json(metadata, "training", "object");
  if (!isPlain(training, DEEPEST)) {
    throw new ModelFormatError(`${PREFIX}training contains infinity or a lone surrogate, or is nested too deeply`);
  }
  return training;
}

/** Whether JSON can be written as it was read. @param {any} value @param {number} depth @returns {boolean} */
function isPlain(value, depth) {
  if (typeof value === "string") return !SURROGATE.test(value);
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null) return true;
  if (!depth) return false;
  return Object.entries(value).every(([key, each]) => !SURROGATE.test(key) && isPlain(each, depth - 1));
}

/**
 * An integer from `low` to `high`, in decimal digits.
 *
 * @param {Map<string, string>} metadata
 * @param {string} key
 * @param {number} low
 * @param {number} high
 */
function integer(metadata, key, low, high) {
  const text = metadata.get(key) ?? "";
  if (!/^[0-9]{1,20}$/.test(text) || Number(text) < low || Number(text) > high) {
    const allowed = low === high ? `${low}` : `an integer from ${low} to ${high}`;
    throw new ModelFormatError(`${PREFIX}${key} is ${given(metadata, key)}; expected ${allowed}`);
  }
  return Number(text);
}

/**
 * One of the allowed values.
 *
 * @template {string} Value
 * @param {Map<string, string>} metadata
 * @param {string} key
 * @param {readonly Value[]} allowed
 * @returns {Value}
 */
function choice(metadata, key, allowed) {
  const found = allowed.find((each) => each === metadata.get(key));
  if (found === undefined) {
    throw new ModelFormatError(`${PREFIX}${key} is ${given(metadata, key)}; expected ${allowed.join(" or ")}`);
  }
  return found;
}

/**
 * A JSON value of a type.
 *
 * @param {Map<string, string>} metadata
 * @param {string} key
 * @param {"array" | "object"} kind
 */
function json(metadata, key, kind) {
  let value;
  try {
    value = JSON.parse(metadata.get(key) ?? "");
  } catch {
    throw new ModelFormatError(`${PREFIX}${key} is not valid JSON`);
  }
  if (kind === "array" ? !Array.isArray(value) : typeof value !== "object" || !value || Array.isArray(value)) {
    throw new ModelFormatError(`${PREFIX}${key} is JSON of the wrong type; expected an ${kind}`);
  }
  return value;
}

/** @param {Map<string, string>} metadata @param {string} key */
function given(metadata, key) {
  return `'${oneLine((metadata.get(key) ?? "").slice(0, 40))}'`;
}
