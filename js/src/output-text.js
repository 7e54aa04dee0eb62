/**
 * Incremental output of a stream: converts ids to text.
 *
 * Two things are held back until they are decided: bytes of an incomplete UTF-8 sequence, and a possible beginning of a
 * stop text.
 */

import { concatenated } from "./bytes.js";

const utf8 = new TextEncoder();

/** Converts the output of a stream to bytes: UTF-8 at level "char", raw bytes at level "byte". */
export class OutputBytes {
  /**
   * @param {import("./vocabulary.js").Vocabulary} vocabulary
   * @param {readonly string[]} stop the texts that end the stream. Their UTF-8 forms are searched in the bytes; this is
   *   equivalent to searching the text, since UTF-8 is self-synchronizing.
   */
  constructor(vocabulary, stop) {
    /** Whether a stop text has appeared. The bytes end right before it. */
    this.stopped = false;
    this._vocabulary = vocabulary;
    this._stops = stop.map((text) => utf8.encode(text));
    this._held = new Uint8Array(); // a possible beginning of a stop text
  }

  /** Add ids; returns the bytes that are final now. @param {ArrayLike<number>} ids */
  push(ids) {
    if (this.stopped) return new Uint8Array();
    const added = this._vocabulary.decodeBytes(ids);
    if (!this._stops.length) return added;
    const data = concatenated([this._held, added]);
    const found = firstComplete(data, this._stops);
    if (found >= 0) {
      this.stopped = true;
      this._held = new Uint8Array();
      return data.subarray(0, found);
    }
    const kept = data.length - Math.max(...this._stops.map((stop) => overlap(data, stop)));
    this._held = data.slice(kept);
    return data.subarray(0, kept);
  }

  /** End the stream; returns the bytes held back. */
  finish() {
    const held = this._held;
    this._held = new Uint8Array();
    return held;
  }
}

/** Converts the output of a stream to text, which is valid whatever the model writes: invalid UTF-8 becomes U+FFFD. */
export class OutputText {
  /** @param {import("./vocabulary.js").Vocabulary} vocabulary @param {readonly string[]} stop */
  constructor(vocabulary, stop) {
    this._bytes = new OutputBytes(vocabulary, stop);
    this._utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  /** Add bytes that precede all ids, such as a prompt. @param {Uint8Array} data */
  begin(data) {
    return this._utf8.decode(data, { stream: true });
  }

  /** Add ids; returns the text that is final now, possibly empty. @param {ArrayLike<number>} ids */
  push(ids) {
    return this._utf8.decode(this._bytes.push(ids), { stream: true });
  }

  /** End the stream; returns the text held back. */
  finish() {
    return this._utf8.decode(this._bytes.finish());
  }
}

/**
 * The start of the stop text that is complete first; if two end at the same place, of the longer one. -1 if none.
 *
 * @param {Uint8Array} data
 * @param {readonly Uint8Array[]} stops
 */
function firstComplete(data, stops) {
  for (let end = 1; end <= data.length; end++) {
    const lengths = stops.filter((stop) => endsWith(data, end, stop, stop.length)).map((stop) => stop.length);
    if (lengths.length) return end - Math.max(...lengths);
  }
  return -1;
}

/**
 * The length of the longest proper prefix of `stop` that `data` ends with.
 *
 * @param {Uint8Array} data
 * @param {Uint8Array} stop
 */
function overlap(data, stop) {
  let length = Math.min(data.length, stop.length - 1);
  while (length > 0 && !endsWith(data, data.length, stop, length)) length--;
  return length;
}

/** @param {Uint8Array} data @param {number} end @param {Uint8Array} text @param {number} length of the text */
function endsWith(data, end, text, length) {
  if (length > end) return false;
  for (let i = 0; i < length; i++) if (data[end - length + i] !== text[i]) return false;
  return true;
}
