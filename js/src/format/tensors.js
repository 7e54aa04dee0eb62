/** What is known of the values in a graph: type, shape, and the contents of constants. */

import { ModelFormatError, oneLine } from "../errors.js";
import { FLOAT, FLOAT16, INT32, INT64, INT8, UINT8 } from "./spec.js";

/** Stands for the number of streams in shapes. */
export const BATCH = -1;

/**
 * What is known of a value.
 *
 * @typedef {object} Value
 * @property {number} type its ONNX element type.
 * @property {number[]} shape
 * @property {ArrayLike<number>} [constant] its contents, if it is an initializer: float16 as bits,
 *   int64 rounded to float64.
 * @property {number} [below] a bound, if one is known: all its numbers are in [0, below).
 * @property {boolean} [flags] whether all its numbers are known to be 0 or 1.
 */

const MOST_AXES = 2;

/** @type {Record<number, number>} */
const ITEM_BYTES = { [FLOAT]: 4, [FLOAT16]: 2, [UINT8]: 1, [INT8]: 1, [INT32]: 4, [INT64]: 8 };

/**
 * Read an initializer.
 *
 * @param {any} tensor
 * @returns {Value}
 * @throws {ModelFormatError} its type is not used by step models, it has more than two axes or an empty one, its
 *   number of bytes does not match its shape, or it has numbers that are not finite.
 */
export function readTensor(tensor) {
  const label = `tensor ${quoted(tensor.name)}`;
  const itemBytes = ITEM_BYTES[tensor.data_type];
  if (!itemBytes) {
    throw new ModelFormatError(`${label} has the unsupported element type ${tensor.data_type}`);
  }
  const shape = tensor.dims;
  if (shape.length > MOST_AXES) {
    throw new ModelFormatError(`${label} has ${shape.length} axes; at most ${MOST_AXES} are allowed`);
  }
  if (shape.some((/** @type {number} */ size) => size < 1)) {
    throw new ModelFormatError(`${label} has the shape ${showShape(shape)}; every size must be 1 or more`);
  }
  const needed = product(shape) * itemBytes;
  if (needed !== tensor.raw_data.length) {
    throw new ModelFormatError(
      `${label} of shape ${showShape(shape)} needs ${needed} bytes, but has ${tensor.raw_data.length}`,
    );
  }
  const { buffer } = new Uint8Array(tensor.raw_data); // a copy, which is aligned for any element type
  if (!allFinite(buffer, tensor.data_type)) {
    throw new ModelFormatError(`${label} has numbers that are not finite (NaN or infinity)`);
  }
  return { type: tensor.data_type, shape, constant: numbersOf(buffer, tensor.data_type) };
}

/** How many numbers a shape has. @param {number[]} shape */
export function product(shape) {
  return shape.reduce((size, axis) => size * axis, 1);
}

/** A shape in a message. @param {number[]} shape */
export function showShape(shape) {
  return `[${shape.map((size) => (size === BATCH ? "batch" : size)).join(", ")}]`;
}

/** A name of a file in a message. @param {string} name */
export function quoted(name) {
  return `'${oneLine(name, 80)}'`;
}

/** @param {ArrayBuffer} buffer @param {number} type */
function allFinite(buffer, type) {
  if (type !== FLOAT && type !== FLOAT16) return true;
  const bits = type === FLOAT ? new Uint32Array(buffer) : new Uint16Array(buffer);
  const exponent = type === FLOAT ? 0x7f800000 : 0x7c00; // all of its bits are 1 in NaN and infinity
  for (let i = 0; i < bits.length; i++) if ((bits[i] & exponent) === exponent) return false;
  return true;
}

/** @param {ArrayBuffer} buffer @param {number} type @returns {ArrayLike<number>} */
function numbersOf(buffer, type) {
  switch (type) {
    case FLOAT:
      return new Float32Array(buffer);
    case FLOAT16:
      return new Uint16Array(buffer);
    case UINT8:
      return new Uint8Array(buffer);
    case INT8:
      return new Int8Array(buffer);
    case INT32:
      return new Int32Array(buffer);
    default:
      return Float64Array.from(new BigInt64Array(buffer), Number);
  }
}
