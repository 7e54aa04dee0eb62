/** Writes a parsed model again, or a part of it. */

import { concatenated } from "../bytes.js";
import { BYTES, INT32, INT64, LENGTH_DELIMITED, MESSAGES, STRING, VARINT } from "./messages.js";

/**
 * The bytes of a model that was parsed, in the order of the fields' numbers. Whole numbers must be below 2**53.
 *
 * @param {any} model
 * @returns {Uint8Array}
 */
export function writeModel(model) {
  return concatenated(written(model, "ModelProto").parts);
}

/**
 * A model without what only its other outputs need: nodes, initializers and inputs.
 *
 * @param {any} model whose nodes each come after those that they read.
 * @param {readonly string[]} outputs the names of those that stay.
 */
export function keepOutputs(model, outputs) {
  const needed = new Set(outputs);
  const kept = [...model.graph.node].reverse().filter((/** @type {any} */ each) => {
    const wanted = each.output.some((/** @type {string} */ name) => needed.has(name));
    if (wanted) for (const name of each.input) needed.add(name);
    return wanted;
  });
  const named = (/** @type {any} */ value) => needed.has(value.name);
  const graph = {
    ...model.graph,
    node: kept.reverse(),
    initializer: model.graph.initializer.filter(named),
    input: model.graph.input.filter(named),
    output: model.graph.output.filter((/** @type {any} */ value) => outputs.includes(value.name)),
  };
  return { ...model, graph };
}

/** @typedef {{ size: number, parts: Uint8Array[] }} Written */

/** @param {any} value @param {string} message @returns {Written} */
function written(value, message) {
  /** @type {Written} */
  const whole = { size: 0, parts: [] };
  for (const [number, [name, kind, repeated]] of Object.entries(MESSAGES[message])) {
    const wireType = repeated || kind === STRING || kind === BYTES || kind in MESSAGES ? LENGTH_DELIMITED : VARINT;
    for (const content of contents(value[name], kind, repeated)) {
      const head = varints([Number(number) * 8 + wireType, ...(wireType === VARINT ? [] : [content.size])]);
      whole.parts.push(head, ...content.parts);
      whole.size += head.length + content.size;
    }
  }
  return whole;
}

/**
 * What there is to write of a field: nothing of one that is absent, one content for all numbers of a repeated one.
 *
 * @param {any} value @param {string} kind @param {true} [repeated]
 * @returns {Written[]}
 */
function contents(value, kind, repeated) {
  if (kind === INT32 || kind === INT64) {
    const numbers = repeated ? value : value === 0 ? [] : [value];
    return numbers.length ? [whole(varints(numbers))] : [];
  }
  const values = repeated ? value : value === undefined || value.length === 0 ? [] : [value];
  return values.map((/** @type {any} */ each) => {
    if (kind === STRING) return whole(new TextEncoder().encode(each));
    return kind === BYTES ? whole(each) : written(each, kind);
  });
}

/** @param {Uint8Array} bytes @returns {Written} */
function whole(bytes) {
  return { size: bytes.length, parts: [bytes] };
}

/** @param {number[]} numbers */
function varints(numbers) {
  /** @type {number[]} */
  const bytes = [];
  for (const number of numbers) {
    let rest = number < 0 ? BigInt.asUintN(64, BigInt(number)) : BigInt(number);
    for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
    bytes.push(Number(rest));
  }
  return Uint8Array.from(bytes);
}
