/**
 * Validates the graph of a step model node by node: operators, attributes, types and shapes.
 *
 * The type and shape of every value are inferred from the inputs, so that no graph can create a value larger than its
 * model needs.
 */

import { ModelFormatError } from "../errors.js";
import { MANY, Mismatch, OPERATORS } from "./operators.js";
import { BATCH, product, quoted, readTensor, showShape } from "./tensors.js";

/** @typedef {import("./tensors.js").Value} Value */

const INT_ATTRIBUTE = 2; // AttributeProto.AttributeType

/**
 * The limits on the size of a graph, counted in numbers.
 *
 * @typedef {object} Sizes
 * @property {number} widest the maximum for one value, per stream.
 * @property {number} inAll the maximum for all computed values together, per stream.
 * @property {number} weights the minimum for the initializers together.
 * @property {number} mostWeights the maximum for the initializers together.
 */

/**
 * Validate all nodes of a graph, in order.
 *
 * @param {any} graph the `GraphProto`.
 * @param {Map<string, Value>} inputs the inputs according to the specification.
 * @param {Map<string, Value>} outputs the outputs according to the specification.
 * @param {Sizes} sizes
 * @throws {ModelFormatError} the graph is invalid; the message names the node.
 */
export function checkGraph(graph, inputs, outputs, sizes) {
  const values = new Map(inputs);
  let weights = 0;
  for (const tensor of graph.initializer) {
    if (!tensor.name || values.has(tensor.name)) {
      throw new ModelFormatError(`the name ${quoted(tensor.name)} of a tensor is empty or already taken`);
    }
    const value = readTensor(tensor);
    weights += product(value.shape);
    values.set(tensor.name, value);
  }
  const ofItsSizes = "a model of its layers, hidden size and vocabulary has at";
  if (weights < sizes.weights) {
    throw new ModelFormatError(`its tensors have ${weights} numbers; ${ofItsSizes} least ${sizes.weights}`);
  }
  if (weights > sizes.mostWeights) {
    throw new ModelFormatError(`its tensors have ${weights} numbers; ${ofItsSizes} most ${sizes.mostWeights}`);
  }
  checkNodes(graph.node, values, sizes);
  for (const [name, wanted] of outputs) {
    const found = values.get(name);
    if (!found || inputs.has(name) || found.constant) {
      throw new ModelFormatError(`no node computes the output ${quoted(name)}`);
    }
    if (found.type !== wanted.type || showShape(found.shape) !== showShape(wanted.shape)) {
      throw new ModelFormatError(
        `output ${quoted(name)} is computed with type ${found.type} and shape ${showShape(found.shape)}; expected ` +
          `type ${wanted.type} and shape ${showShape(wanted.shape)}`,
      );
    }
    if (wanted.below !== undefined && (found.below === undefined || found.below > wanted.below)) {
      throw new ModelFormatError(
        `output ${quoted(name)} is not computed as an index below ${wanted.below}, as a count is`,
      );
    }
  }
}

/** @param {any[]} nodes @param {Map<string, Value>} values @param {Sizes} sizes */
function checkNodes(nodes, values, sizes) {
  let inAll = 0;
  for (const node of nodes) {
    const label = `node ${quoted(node.name)} (${quoted(node.op_type).slice(1, -1)})`;
    const made = infer(node, label, values);
    if (made.length !== node.output.length) {
      throw new ModelFormatError(`${label} has ${node.output.length} outputs; it must have ${made.length}`);
    }
    made.forEach((value, i) => {
      const name = node.output[i];
      if (!name || values.has(name)) {
        throw new ModelFormatError(`${label}: the output name ${quoted(name)} is empty or already taken`);
      }
      const numbers = product(value.shape.filter((size) => size !== BATCH));
      if (numbers > sizes.widest) {
        throw new ModelFormatError(
          `${label} produces a value of shape ${showShape(value.shape)}; the limit per stream is ${sizes.widest} ` +
            "numbers",
        );
      }
      inAll += numbers;
      values.set(name, value);
    });
    if (inAll > sizes.inAll) {
      throw new ModelFormatError(
        `the values up to ${label} have ${inAll} numbers for one stream; at most ${sizes.inAll} are allowed for a ` +
          "model of this size",
      );
    }
  }
}

/** @param {any} node @param {string} label @param {Map<string, Value>} values */
function infer(node, label, values) {
  const rule = OPERATORS.get(node.op_type);
  if (node.domain !== (rule?.domain ?? "")) {
    throw new ModelFormatError(`${label} has the unknown domain ${quoted(node.domain)}`);
  }
  if (!rule) throw new ModelFormatError(`${label}: this operator is not used in step models`);
  const attributes = attributesOf(node, label);
  const inputs = node.input.map((/** @type {string} */ name) => {
    const value = values.get(name);
    if (!value) throw new ModelFormatError(`${label} reads ${quoted(name)}, which no earlier node computes`);
    return value;
  });
  if (inputs.length !== rule.inputs && !(rule.inputs === MANY && inputs.length)) {
    throw new ModelFormatError(`${label} has ${inputs.length} inputs; it must have ${rule.inputs}`);
  }
  const names = Object.keys(rule.attributes);
  if (attributes.size !== names.length || !names.every((name) => attributes.has(name))) {
    throw new ModelFormatError(
      `${label} has the attributes [${[...attributes.keys()].map(quoted).join(", ")}]; it must have ` +
        `[${names.join(", ")}]`,
    );
  }
  for (const [name, allowed] of Object.entries(rule.attributes)) {
    const value = Number(attributes.get(name));
    if (!allowed.includes(value)) {
      throw new ModelFormatError(`${label}: ${name} is ${value}; expected ${allowed.join(" or ")}`);
    }
  }
  try {
    return rule.infer(inputs, attributes);
  } catch (error) {
    if (!(error instanceof Mismatch)) throw error;
    const shapes = inputs.map((/** @type {Value} */ value) => showShape(value.shape)).join(", ");
    throw new ModelFormatError(`${label} does not fit its inputs of shapes ${shapes}: ${error.message}`);
  }
}

/** @param {any} node @param {string} label @returns {Map<string, number>} */
function attributesOf(node, label) {
  const found = new Map();
  for (const { name, type, i, ints } of node.attribute) {
    if (type !== INT_ATTRIBUTE || ints.length) {
      throw new ModelFormatError(`${label}: the attribute ${quoted(name)} has a type that is not used in step models`);
    }
    if (found.has(name)) throw new ModelFormatError(`${label}: the attribute ${quoted(name)} appears twice`);
    found.set(name, i);
  }
  return found;
}
