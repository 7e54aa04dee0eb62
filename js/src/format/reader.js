/**
 * Reads and validates a step model file. Anything that export does not write is rejected before onnxruntime sees it.
 *
 * A model file may come from anywhere. onnxruntime runs any operator, allocates whatever a graph requests, and in Node
 * loads external data from outside the model's folder. Therefore the file is parsed here with only the messages that
 * step models use, its graph and metadata are compared with the specification, and onnxruntime receives the parsed
 * message serialized again: only what was validated.
 */

import { ModelFormatError, oneLine } from "../errors.js";
import { checkGraph } from "./graph-check.js";
import { checkVersions, metadataOf, modelInfo } from "./metadata.js";
import { ParseError, parseModel } from "./parse.js";
import * as spec from "./spec.js";
import { BATCH, quoted } from "./tensors.js";
import { keepOutputs, writeModel } from "./write.js";

/** @typedef {import("./metadata.js").ModelInfo} ModelInfo */
/** @typedef {import("./tensors.js").Value} Value */

/** The operators without a GPU kernel in this operator set. */
const CPU_OPERATORS = ["QGemm", "QuantizeLinear"];

/** The numbers that a model may contain in addition to its weights, however small it is. */
const MORE_NUMBERS = 100_000;

/** A bound on all values, as a multiple of a model's gates, states and symbols; the actual factor is about 12. */
const NUMBERS_A_SIZE = 32;

/** A validated model: its metadata, and the bytes for onnxruntime. */
export class ModelFile {
  /**
   * @param {any} model the parsed message.
   * @param {ModelInfo} info
   * @param {import("../vocabulary.js").Vocabulary} vocabulary
   */
  constructor(model, info, vocabulary) {
    this.info = info;
    this.vocabulary = vocabulary;
    this._model = model;
  }

  /**
   * The model's bytes.
   *
   * @param {readonly string[]} [outputs] those to which the graph is cut down; all by default.
   */
  bytes(outputs) {
    return writeModel(outputs ? keepOutputs(this._model, outputs) : this._model);
  }
}

/**
 * Validate the bytes of a step model.
 *
 * @param {Uint8Array} data
 * @param {string} name what errors call it.
 * @returns {ModelFile}
 * @throws {ModelFormatError} the bytes are invalid; the message says why.
 */
export function readModel(data, name) {
  try {
    return checked(data);
  } catch (error) {
    if (!(error instanceof ModelFormatError)) throw error;
    throw new ModelFormatError(oneLine(`${name} is not a valid charrnn model: ${error.message}`));
  }
}

/** @param {Uint8Array} data */
function checked(data) {
  if (data.length > spec.MAX_FILE_BYTES) {
    throw new ModelFormatError(`it has ${data.length} bytes; at most ${spec.MAX_FILE_BYTES} are allowed`);
  }
  const { model, unknown } = parsed(data);
  if (unknown) throw new ModelFormatError(`it has ${unknown}, which step models do not have`);
  const metadata = metadataOf(model);
  checkVersions(model, metadata);
  const { info, vocabulary } = modelInfo(metadata, data.length);
  if (!model.graph) throw new ModelFormatError("it has no graph");
  checkModelGraph(model.graph, info);
  return new ModelFile(model, info, vocabulary);
}

/** @param {Uint8Array} data */
function parsed(data) {
  try {
    return parseModel(data);
  } catch (error) {
    if (!(error instanceof ParseError)) throw error;
    throw new ModelFormatError(`it is not an ONNX file, or is truncated or damaged (${error.message})`);
  }
}

/** @param {any} graph @param {ModelInfo} info */
function checkModelGraph(graph, info) {
  const inputs = checkValues("input", graph.input, spec.INPUTS, info);
  const outputs = checkValues("output", graph.output, spec.OUTPUTS, info);
  if (graph.node.length > spec.MAX_NODES) {
    throw new ModelFormatError(`it has ${graph.node.length} nodes; at most ${spec.MAX_NODES} are allowed`);
  }
  const onlyCpu = graph.node.find((/** @type {any} */ node) => CPU_OPERATORS.includes(node.op_type));
  if (info.precision !== "int8" && onlyCpu) {
    throw new ModelFormatError(
      `node ${quoted(onlyCpu.name)} is a ${onlyCpu.op_type}, which runs only on the CPU; it is allowed in int8 ` +
        `files, but not in ${info.precision} files`,
    );
  }
  const { input } = keepOutputs({ graph }, ["logits", "next_state"]).graph;
  const setting = input.find((/** @type {any} */ { name }) => name !== "token" && name !== "state");
  if (setting) {
    throw new ModelFormatError(
      `its logits or next_state depend on ${setting.name}; they may depend only on token and state`,
    );
  }
  const { hiddenSize, stateSize, vocabularySize } = info;
  const gates = info.layers * spec.GATES[info.cell] * hiddenSize;
  checkGraph(graph, inputs, outputs, {
    widest: Math.max(vocabularySize, spec.GATES.lstm * hiddenSize, stateSize),
    inAll: NUMBERS_A_SIZE * (gates + stateSize + vocabularySize),
    weights: gates * hiddenSize + hiddenSize * vocabularySize, // recurrent and output weights
    // Plus a table and input weights; twice that leaves room for biases, scales and constants.
    mostWeights: 2 * (gates * (2 * hiddenSize + vocabularySize) + hiddenSize * vocabularySize) + MORE_NUMBERS,
  });
}

/**
 * Compare the graph's inputs or outputs with the specification, in order.
 *
 * @param {string} what
 * @param {any[]} found
 * @param {readonly spec.TensorSpec[]} specs
 * @param {ModelInfo} info
 * @returns {Map<string, Value>}
 */
function checkValues(what, found, specs, info) {
  const names = found.map(({ name }) => name);
  if (names.length !== specs.length || names.some((name, i) => name !== specs[i].name)) {
    throw new ModelFormatError(
      `its ${what}s are [${names.slice(0, 8).map(quoted).join(", ")}]; expected ` +
        `[${specs.map(({ name }) => quoted(name)).join(", ")}]`,
    );
  }
  const sizes = { state_size: info.stateSize, vocab: info.vocabularySize };
  /** @type {Record<string, number>} */
  const below = { token: info.vocabularySize, next_token: info.vocabularySize, uniform: 1 };
  return new Map(
    specs.map(({ name, type, width }, i) => {
      const tensor = found[i].type?.tensor_type;
      const dims = tensor?.shape?.dim ?? [];
      if ((tensor?.elem_type ?? 0) !== type) {
        throw new ModelFormatError(
          `${what} ${quoted(name)} has element type ${tensor?.elem_type ?? 0}; expected ${type}`,
        );
      }
      const shape = width ? [BATCH, sizes[width]] : [BATCH];
      const fits = dims.length === shape.length && shape.every((size, axis) => isSize(dims[axis], size));
      if (!fits) {
        const shownDims = dims
          .slice(0, 8)
          .map((/** @type {any} */ dim) => (dim.dim_param ? quoted(dim.dim_param) : dim.dim_value));
        throw new ModelFormatError(
          `${what} ${quoted(name)} has the shape [${shownDims.join(", ")}]; expected ` +
            `[${shape.map((size) => (size === BATCH ? `'${spec.BATCH_AXIS}'` : size)).join(", ")}]`,
        );
      }
      return [name, { type, shape, below: below[name] }];
    }),
  );
}

/** Whether an axis is the batch, or of a size. @param {any} dim @param {number} size */
function isSize(dim, size) {
  return size === BATCH ? dim.dim_param === spec.BATCH_AXIS : !dim.dim_param && dim.dim_value === size;
}
