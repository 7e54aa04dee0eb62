/** The state of streams: everything a caller keeps between calls, as one value. */

import { SettingError, wrong } from "./errors.js";
import { MAX_STREAMS } from "./format/spec.js";

/** In `State.tokens`: the stream is fresh, and reads the model's start token unless it gets a prompt. */
export const UNSTARTED = -1;

/**
 * The parts of a state, which can be stored or posted to another thread.
 *
 * @typedef {object} StateParts
 * @property {Float32Array} rows [N * S], the hidden and cell states of all layers, row by row, in the state layout.
 * @property {Int32Array} tokens [N], the character that each stream reads next, or `UNSTARTED`.
 * @property {Float64Array} numbers [N], the number of each stream, which selects its random numbers.
 * @property {Float64Array} positions [N], the number of characters that each stream has generated.
 */

/**
 * The state of N streams. It is immutable: calls return new states, so you can return to an old one.
 *
 * @implements {StateParts}
 */
export class State {
  /**
   * @param {StateParts} parts
   * @throws {SettingError} their lengths differ, or they contain invalid values.
   */
  constructor({ rows, tokens, numbers, positions }) {
    this.rows = typed("rows", rows, Float32Array, Number.isFinite);
    this.tokens = typed("tokens", tokens, Int32Array, (token) => token >= UNSTARTED);
    this.numbers = typed("numbers", numbers, Float64Array, isCount);
    this.positions = typed("positions", positions, Float64Array, isCount);
    const streams = this.tokens.length;
    const fits = this.numbers.length === streams && this.positions.length === streams;
    if (!fits || (streams ? this.rows.length % streams : this.rows.length)) {
      throw new SettingError(
        `state: rows (${this.rows.length} numbers), tokens (${streams}), numbers (${this.numbers.length}) and ` +
          `positions (${this.positions.length}) must each have one entry per stream`,
      );
    }
    Object.freeze(this);
  }

  /**
   * The state of fresh streams, numbered from `firstNumber`.
   *
   * @param {number} streams
   * @param {number} stateSize S
   * @param {number} [firstNumber]
   */
  static start(streams, stateSize, firstNumber = 0) {
    return new State({
      rows: new Float32Array(streams * stateSize),
      tokens: new Int32Array(streams).fill(UNSTARTED),
      numbers: Float64Array.from({ length: streams }, (_, i) => firstNumber + i),
      positions: new Float64Array(streams),
    });
  }

  /**
   * Concatenate the streams of several states; they keep their numbers.
   *
   * @param {readonly State[]} states one or more states of the same model.
   */
  static concatenate(states) {
    const sizes = new Set(states.map((state) => state.rowSize));
    if (sizes.size !== 1) {
      throw new SettingError(
        "states must be one or more states of the same model, but their rows have " +
          `${[...sizes].join(" and ") || "no"} numbers`,
      );
    }
    return new State({
      rows: joined(
        Float32Array,
        states.map(({ rows }) => rows),
      ),
      tokens: joined(
        Int32Array,
        states.map(({ tokens }) => tokens),
      ),
      numbers: joined(
        Float64Array,
        states.map(({ numbers }) => numbers),
      ),
      positions: joined(
        Float64Array,
        states.map(({ positions }) => positions),
      ),
    });
  }

  /** N, the number of streams. */
  get length() {
    return this.tokens.length;
  }

  /** S, the length of a stream's row. */
  get rowSize() {
    return this.length ? this.rows.length / this.length : 0;
  }

  /** The row of a stream. @param {number} stream */
  row(stream) {
    return this.rows.subarray(stream * this.rowSize, (stream + 1) * this.rowSize);
  }

  /** Select one stream. @param {number} stream from 0; negative values count from the end. */
  at(stream) {
    const index = stream < 0 ? this.length + stream : stream;
    if (!Number.isInteger(index) || index < 0 || index >= this.length) {
      throw wrong("stream", `the index of one of the ${this.length} streams`, stream);
    }
    return this.slice(index, index + 1);
  }

  /** Select a range of streams; they keep their numbers. @param {number} [begin] @param {number} [end] */
  slice(begin, end) {
    const tokens = this.tokens.slice(begin, end);
    const at = [...this.tokens.keys()].slice(begin, end)[0] ?? 0;
    return new State({
      rows: this.rows.subarray(at * this.rowSize, (at + tokens.length) * this.rowSize),
      tokens,
      numbers: this.numbers.slice(begin, end),
      positions: this.positions.slice(begin, end),
    });
  }

  /**
   * Copy each stream, with new numbers, so that each copy draws different random numbers.
   *
   * @param {number} copies
   * @param {number} [firstNumber] the number of the first copy; the others are numbered consecutively.
   */
  fork(copies, firstNumber = 0) {
    if (!Number.isInteger(copies) || copies < 1 || copies > MAX_STREAMS) {
      throw wrong("copies", `between 1 and ${MAX_STREAMS}`, copies);
    }
    if (!isCount(firstNumber)) throw wrong("firstNumber", "an integer, 0 or more", firstNumber);
    const streams = this.length * copies;
    const of = (/** @type {number} */ i) => Math.floor(i / copies);
    const rows = new Float32Array(streams * this.rowSize);
    for (let i = 0; i < streams; i++) rows.set(this.row(of(i)), i * this.rowSize);
    return new State({
      rows,
      tokens: Int32Array.from({ length: streams }, (_, i) => this.tokens[of(i)]),
      numbers: Float64Array.from({ length: streams }, (_, i) => firstNumber + i),
      positions: Float64Array.from({ length: streams }, (_, i) => this.positions[of(i)]),
    });
  }
}

/**
 * A private copy of an array of numbers.
 *
 * @template {Float32ArrayConstructor | Float64ArrayConstructor | Int32ArrayConstructor} Kind
 * @param {string} name
 * @param {unknown} values
 * @param {Kind} kind
 * @param {(value: number) => boolean} allowed
 * @returns {InstanceType<Kind>}
 */
function typed(name, values, kind, allowed) {
  if (!(values instanceof kind)) throw wrong(`state: ${name}`, `a ${kind.name}`, values);
  if (!values.every(allowed)) throw new SettingError(`state: ${name} contains an invalid number`);
  return /** @type {InstanceType<Kind>} */ (values.slice());
}

/**
 * Concatenate arrays.
 *
 * @template {Float32Array | Float64Array | Int32Array} Numbers
 * @param {new (length: number) => Numbers} kind
 * @param {readonly Numbers[]} parts
 */
function joined(kind, parts) {
  const whole = new kind(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {number} value */
function isCount(value) {
  return Number.isSafeInteger(value) && value >= 0;
}

/**
 * Check that a state fits a model and has this many streams.
 *
 * @param {unknown} state
 * @param {{ stateSize: number, vocabularySize: number }} info
 * @param {number} [streams] by default any number, 1 or more.
 * @returns {State}
 */
export function checkState(state, info, streams) {
  if (!(state instanceof State)) throw wrong("state", "a State", state);
  if (!state.length || state.length !== (streams ?? state.length)) {
    throw new SettingError(`state: it has ${state.length} streams; expected ${streams ?? "one or more"}`);
  }
  if (state.rowSize !== info.stateSize) {
    throw new SettingError(
      `state: its rows have ${state.rowSize} numbers, but this model's have ${info.stateSize}; a state can be ` +
        "used only with the model that it came from",
    );
  }
  if (state.tokens.some((token) => token >= info.vocabularySize)) {
    throw new SettingError("state: it has tokens that are not in this model's vocabulary");
  }
  return state;
}
