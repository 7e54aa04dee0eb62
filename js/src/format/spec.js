/** The specification of the step model: all names, numbers and limits of docs/format.md. */

export const FORMAT = "step";
export const VERSION = 1;
export const OPSET = 17;
export const IR_VERSION = 8;
export const CONTRIB_DOMAIN = "com.microsoft";
export const CONTRIB_VERSION = 1;

/** ONNX element types (onnx.proto, TensorProto.DataType). */
export const FLOAT = 1;
export const UINT8 = 2;
export const INT8 = 3;
export const INT32 = 6;
export const INT64 = 7;
export const BOOL = 9;
export const FLOAT16 = 10;

export const BATCH_AXIS = "batch";

/**
 * An input or output: its name, its element type, and its axes after the batch.
 *
 * @typedef {{ name: string, type: number, width?: "state_size" | "vocab" }} TensorSpec
 */

/** @type {readonly TensorSpec[]} */
export const INPUTS = [
  { name: "token", type: INT64 },
  { name: "state", type: FLOAT, width: "state_size" },
  { name: "uniform", type: FLOAT },
  { name: "temperature", type: FLOAT },
  { name: "top_k", type: INT64 },
  { name: "top_p", type: FLOAT },
  { name: "min_p", type: FLOAT },
];

/** @type {readonly TensorSpec[]} */
export const OUTPUTS = [
  { name: "logits", type: FLOAT, width: "vocab" },
  { name: "next_token", type: INT64 },
  { name: "next_state", type: FLOAT, width: "state_size" },
];

export const METADATA_PREFIX = "charrnn.";

/** The metadata keys of a step model, without their prefix; all are required. */
export const METADATA_KEYS = [
  ...["format", "version", "cell", "layers", "hidden_size", "level", "vocabulary", "state_layout"],
  ...["start_token", "lines", "top_k_max", "precision", "training"],
];

export const CELLS = /** @type {const} */ (["lstm", "gru", "rnn"]);
export const LEVELS = /** @type {const} */ (["char", "byte"]);
export const PRECISIONS = /** @type {const} */ (["fp32", "fp16", "int8"]);

/** The number of blocks of H rows in a layer's weights. */
export const GATES = { lstm: 4, gru: 3, rnn: 1 };

export const MAX_FILE_BYTES = 512 * 1024 * 1024;
export const MAX_LAYERS = 32;
export const MAX_HIDDEN_SIZE = 16_384;
export const MAX_VOCABULARY = 65_536;
export const MAX_NODES = 2_048;
export const MAX_STREAMS = 1_048_576;
export const BYTE_VOCABULARY = 256;

/** The longest metadata value, in characters. */
export const MAX_METADATA_VALUE = 4 * 1024 * 1024;

export const DEFAULT_TEMPERATURE = 0.8;
export const DEFAULT_LENGTH = 1_000;

/** K, the number of symbols that the sampler ranks. @param {number} vocabularySize */
export function topKMax(vocabularySize) {
  return Math.min(vocabularySize, 1_024);
}

/**
 * The layout of a state row: `h0 .. h(L-1)`, then for an LSTM `c0 .. c(L-1)`, H numbers each.
 *
 * @param {string} cell
 * @param {number} layers
 * @param {number} hiddenSize
 * @returns {[name: string, start: number, size: number][]}
 */
export function stateLayout(cell, layers, hiddenSize) {
  const names = (cell === "lstm" ? ["h", "c"] : ["h"]).flatMap((kind) =>
    Array.from({ length: layers }, (_, layer) => `${kind}${layer}`),
  );
  return names.map((name, i) => [name, i * hiddenSize, hiddenSize]);
}
