/**
 * The operators of step models: their inputs, and the types and shapes of their outputs.
 *
 * Indices are also checked to be in range, since some GPU kernels do not: the sampler counts symbols to find the one to
 * select, and a count is bounded by the number of counted values.
 */

import { BOOL, CONTRIB_DOMAIN, FLOAT, FLOAT16, INT32, INT64, INT8, UINT8 } from "./spec.js";
import { BATCH, product } from "./tensors.js";

/** @typedef {import("./tensors.js").Value} Value */

/** The inputs or attributes of a node are invalid for its operator. */
export class Mismatch extends Error {}

/**
 * An operator: how it infers its outputs, its number of inputs, and its attributes with their allowed values.
 *
 * @typedef {object} Rule
 * @property {(inputs: Value[], attributes: Map<string, number>) => Value[]} infer
 * @property {number} inputs `MANY` for one or more.
 * @property {Record<string, number[]>} attributes
 * @property {string} domain
 */

export const MANY = -1;

/** @param {boolean} condition @param {string} expected */
function require(condition, expected) {
  if (!condition) throw new Mismatch(`expected ${expected}`);
}

/** The width of a value of shape [batch, width]. @param {Value} value @param {number[]} types */
function rowWidth(value, ...types) {
  require(value.shape.length === 2 && value.shape[0] === BATCH, "a value of shape [batch, width]");
  require(types.includes(value.type), `one of the types ${types.join(", ")}`);
  return value.shape[1];
}

/** The numbers of a constant. @param {Value} value @param {number} type @param {number[]} [shape] */
function constant(value, type, shape) {
  if (!value.constant || value.type !== type) throw new Mismatch(`expected a constant of type ${type}`);
  require(!shape || same(value.shape, shape), `a constant of shape [${shape}]`);
  return value.constant;
}

/** A constant matrix with this many rows. @param {Value} value @param {number} type @param {number} rows */
function matrix(value, type, rows) {
  const numbers = constant(value, type);
  require(value.shape.length === 2 && value.shape[0] === rows, `a constant matrix of ${rows} rows`);
  return numbers;
}

/** @param {number[]} one @param {number[]} other */
function same(one, other) {
  return one.length === other.length && one.every((size, axis) => size === other[axis]);
}

/** @param {number[]} first @param {number[]} second @returns {number[]} */
function broadcast(first, second) {
  const rank = Math.max(first.length, second.length);
  const [one, other] = [first, second].map((shape) => [...Array(rank - shape.length).fill(1), ...shape]);
  const sizes = one.map((size, axis) => {
    require(size === other[axis] || size === 1 || other[axis] === 1, "shapes that broadcast");
    return size === 1 ? other[axis] : size;
  });
  // [batch, 1] and [batch] would make [batch, batch]: streams would mix, and memory grow quadratically.
  require(!sizes.slice(1).includes(BATCH), "the batch on the first axis only");
  return sizes;
}

/** @param {Value[]} inputs @returns {Value[]} */
function arithmetic(inputs) {
  require(inputs.every((value) => value.type === FLOAT), "float32 values");
  return [{ type: FLOAT, shape: inputs.map((value) => value.shape).reduce(broadcast) }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function comparison([one, other]) {
  require(one.type === other.type, "two values of one type");
  require(one.type === FLOAT || one.type === INT64, "float32 or int64 values");
  return [{ type: BOOL, shape: broadcast(one.shape, other.shape) }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function elementwise([value]) {
  require(value.type === FLOAT, "a float32 value");
  return [{ type: FLOAT, shape: value.shape }];
}

/** @param {Value[]} inputs @param {Map<string, number>} attributes @returns {Value[]} */
function cast([value], attributes) {
  const to = Number(attributes.get("to"));
  const below = to === INT64 ? value.below : undefined;
  return [{ type: to, shape: value.shape, below, flags: value.type === BOOL && to === FLOAT }];
}

/** @param {Value[]} inputs @param {Map<string, number>} attributes @returns {Value[]} */
function gather([table, indices], attributes) {
  if (attributes.get("axis") === 1) return column(table, indices);
  require(table.type === FLOAT || table.type === INT32, "a table of float32 or int32");
  constant(table, table.type);
  require(table.shape.length === 2, "a table of two axes");
  require(indices.type === INT64 && same(indices.shape, [BATCH]), "int64 [batch] indices");
  const [rows, width] = table.shape;
  require(indices.below !== undefined && indices.below <= rows, `indices below ${rows}`);
  return [{ type: table.type, shape: [BATCH, width] }];
}

/** One and the same column of every row. @param {Value} value @param {Value} index @returns {Value[]} */
function column(value, index) {
  const width = rowWidth(value, FLOAT);
  const [at] = Array.from(constant(index, INT64, [1]));
  require(at >= 0 && at < width, `a column below ${width}`);
  return [{ type: FLOAT, shape: [BATCH, 1] }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function split([value, sizes]) {
  const width = rowWidth(value, FLOAT);
  const parts = Array.from(constant(sizes, INT64));
  const sum = parts.reduce((all, part) => all + part, 0);
  require(sizes.shape.length === 1 &&
    parts.every((part) => part > 0) &&
    sum === width, `positive sizes that sum to ${width}`);
  return parts.map((part) => ({ type: FLOAT, shape: [BATCH, part] }));
}

/** @param {Value[]} inputs @returns {Value[]} */
function concat(inputs) {
  const { type } = inputs[0];
  require([FLOAT, FLOAT16, UINT8].includes(type), "float or uint8 values");
  const width = inputs.reduce((sum, value) => sum + rowWidth(value, type), 0);
  return [{ type, shape: [BATCH, width] }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function matmul([value, weight]) {
  const width = rowWidth(value, FLOAT, FLOAT16);
  const numbers = matrix(weight, value.type, width);
  const columns = weight.shape[1];
  const counts = value.flags === true && Array.from(numbers).every((number) => number === 0 || number === 1);
  const below = counts ? largestSum(numbers, columns) + 1 : undefined; // counts the ones
  return [{ type: value.type, shape: [BATCH, columns], below }];
}

/** The largest sum of a column. @param {ArrayLike<number>} numbers @param {number} columns */
function largestSum(numbers, columns) {
  const sums = new Float64Array(columns);
  for (let i = 0; i < numbers.length; i++) sums[i % columns] += numbers[i];
  return sums.reduce((largest, sum) => Math.max(largest, sum), 0);
}

/** @param {Value[]} inputs @returns {Value[]} */
function qgemm([value, scale, zeroPoint, weight, weightScale, weightZeroPoint, added]) {
  const width = rowWidth(value, UINT8);
  require(constant(scale, FLOAT, [])[0] > 0, "a positive scale");
  constant(zeroPoint, UINT8, []);
  matrix(weight, INT8, width);
  require(constant(weightScale, FLOAT, [])[0] > 0, "a positive weight scale");
  constant(weightZeroPoint, INT8, []);
  const columns = weight.shape[1];
  if (added.constant) constant(added, INT32, [columns]);
  else require(rowWidth(added, INT32) === columns, `rows of ${columns} numbers to add`);
  return [{ type: FLOAT, shape: [BATCH, columns] }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function quantize([value, scale, zeroPoint]) {
  const width = rowWidth(value, FLOAT);
  require(constant(scale, FLOAT, [])[0] > 0, "a positive scale");
  constant(zeroPoint, UINT8, []);
  return [{ type: UINT8, shape: [BATCH, width] }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function unsqueeze([value, axes]) {
  require(same(value.shape, [BATCH]), "a value of shape [batch]");
  require(constant(axes, INT64, [1])[0] === 1, "axes [1]");
  return [{ type: value.type, shape: [BATCH, 1], below: value.below }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function topK([value, k]) {
  const width = rowWidth(value, FLOAT);
  const [count] = Array.from(constant(k, INT64, [1]));
  require(count >= 1 && count <= width, `k between 1 and ${width}`);
  const shape = [BATCH, count];
  return [
    { type: FLOAT, shape },
    { type: INT64, shape, below: width },
  ];
}

/** @param {Value[]} inputs @returns {Value[]} */
function cumsum([value, axis]) {
  require(constant(axis, INT64, [])[0] === 1, "axis 1");
  return [{ type: FLOAT, shape: [BATCH, rowWidth(value, FLOAT)] }];
}

/** @param {Value[]} inputs @returns {Value[]} */
function reshape([value, shape]) {
  require(rowWidth(value, FLOAT) === 1, "a value of shape [batch, 1]");
  require(product(shape.shape) === 1 && constant(shape, INT64, [1])[0] === -1, "the shape [-1]");
  return [{ type: FLOAT, shape: [BATCH], below: value.below }];
}

/**
 * @param {Rule["infer"]} infer
 * @param {number} inputs
 * @param {Record<string, number[]>} [attributes]
 * @returns {Rule}
 */
function rule(infer, inputs, attributes = {}, domain = "") {
  return { infer, inputs, attributes, domain };
}

/** @type {ReadonlyMap<string, Rule>} */
export const OPERATORS = new Map([
  ["Add", rule(arithmetic, 2)],
  ["Cast", rule(cast, 1, { to: [FLOAT, FLOAT16, INT64] })],
  ["Concat", rule(concat, MANY, { axis: [1] })],
  ["CumSum", rule(cumsum, 2)],
  ["Div", rule(arithmetic, 2)],
  ["Gather", rule(gather, 2, { axis: [0, 1] })],
  ["GreaterOrEqual", rule(comparison, 2)],
  ["Identity", rule(elementwise, 1)],
  ["Less", rule(comparison, 2)],
  ["LessOrEqual", rule(comparison, 2)],
  ["MatMul", rule(matmul, 2)],
  ["Max", rule(arithmetic, MANY)],
  ["Min", rule(arithmetic, 2)],
  ["Mul", rule(arithmetic, 2)],
  ["QGemm", rule(qgemm, 7, {}, CONTRIB_DOMAIN)],
  ["QuantizeLinear", rule(quantize, 3)],
  ["Reshape", rule(reshape, 2)],
  ["Sigmoid", rule(elementwise, 1)],
  ["Softmax", rule(elementwise, 1, { axis: [1] })],
  ["Split", rule(split, 2, { axis: [1] })],
  ["Sub", rule(arithmetic, 2)],
  ["Tanh", rule(elementwise, 1)],
  ["TopK", rule(topK, 2, { axis: [1] })],
  ["Unsqueeze", rule(unsqueeze, 2)],
]);
