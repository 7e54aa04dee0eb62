/**
 * Reads a step model file and refuses whatever export does not write, before onnxruntime sees a byte.
 *
 * A model file may come from anywhere. onnxruntime runs any operator, allocates what a graph asks for, and in Node
 * follows external data out of the model's folder; so the file is parsed here against the few messages that it may
 * hold, its graph and metadata are compared with the specification, and onnxruntime is given the parsed message written out
 * again: what was checked, and nothing else.
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

/** What has no kernel for the GPU in this operator set. */
const CPU_OPERATORS = ["QGemm", "QuantizeLinear"];

/** What a model may hold in addition to its weights, however small it is. */
const MORE_NUMBERS = 100_000;

/** The values of all nodes together have about 12 numbers for each of a model's gates, states and symbols. */
const NUMBERS_A_SIZE = 32;

const MOST_GATES = Math.max(...Object.values(spec.GATES));

/** A checked model: what it says of itself, and the bytes for onnxruntime. */
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
 * Check the bytes of a step model.
 *
 * @param {Uint8Array} data
 * @param {string} name what errors call it.
 * @returns {ModelFile}
 * @throws {ModelFormatError} they break a rule of the format; the message says which.
 */
export function readModel(data, name) {
  try {
    return checked(data);
  } catch (error) {
    if (!(error instanceof ModelFormatError)) throw error;
    throw new ModelFormatError(oneLine(`${name} is not a charrnn model that can be run: ${error.message}`));
  }
}

/** @param {Uint8Array} data */
function checked(data) {
  if (data.length > spec.MAX_FILE_BYTES) {
    throw new ModelFormatError(`it has ${data.length} bytes, and at most ${spec.MAX_FILE_BYTES} are read`);
  }
  const { model, unknown } = parsed(data);
  if (unknown) throw new ModelFormatError(`it has ${unknown}, which step models do not`);
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
    throw new ModelFormatError(`it is truncated or damaged, or no ONNX file (${error.message})`);
  }
}

/** @param {any} graph @param {ModelInfo} info */
function checkModelGraph(graph, info) {
  const inputs = checkValues("input", graph.input, spec.INPUTS, info);
  const outputs = checkValues("output", graph.output, spec.OUTPUTS, info);
  if (graph.node.length > spec.MAX_NODES) {
    throw new ModelFormatError(`it has ${graph.node.length} nodes; at most ${spec.MAX_NODES} are read`);
  }
  const onlyCpu = graph.node.find((/** @type {any} */ node) => CPU_OPERATORS.includes(node.op_type));
  if (info.precision !== "int8" && onlyCpu) {
    throw new ModelFormatError(
      `node ${quoted(onlyCpu.name)} is a ${onlyCpu.op_type}, which runs on the CPU alone; files of precision ` +
        `${info.precision} have none, int8 files may`,
    );
  }
  const { input } = keepOutputs({ graph }, ["logits", "next_state"]).graph;
  const setting = input.find((/** @type {any} */ { name }) => name !== "token" && name !== "state");
  if (setting) {
    throw new ModelFormatError(
      `its logits or next_state depend on ${setting.name}; they follow from token and state alone`,
    );
  }
  const { hiddenSize, stateSize, vocabularySize } = info;
  const gates = info.layers * spec.GATES[info.cell] * hiddenSize;
  checkGraph(graph, inputs, outputs, {
    widest: Math.max(vocabularySize, MOST_GATES * hiddenSize, stateSize),
    inAll: NUMBERS_A_SIZE * (gates + stateSize + vocabularySize),
    weights: gates * hiddenSize + hiddenSize * vocabularySize, // recurrent and output weights
    // Besides, a table and input weights; twice that leaves room for biases, scales and constants.
    mostWeights: 2 * (gates * (2 * hiddenSize + vocabularySize) + hiddenSize * vocabularySize) + MORE_NUMBERS,
  });
}

/**
 * Compare the graph's inputs or outputs with the specification's, in order.
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
