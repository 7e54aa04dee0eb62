/** Parses a model's protobuf messages from untrusted bytes. */

import { BYTES, INT32, INT64, LENGTH_DELIMITED, MESSAGES, REJECTED, STRING, VARINT } from "./messages.js";

/** The most fields in a file, at all depths together: about 40 times what a large model has. */
const MAX_FIELDS = 200_000;

/** The most bytes of all names, metadata and unknown fields together. */
const MAX_TEXT = 16 * 1024 * 1024;

const TWO_32 = 2 ** 32;

/** The bytes are not a valid message, or have too many fields or too much text. */
export class ParseError extends Error {}

/**
 * Parse a model: each message becomes an object with all of its fields, absent ones being 0, "" or empty.
 * Tensors' bytes are views of `data`.
 *
 * @param {Uint8Array} data
 * @returns {{ model: any, unknown: string | null }} `unknown` names the first unknown field.
 * @throws {ParseError}
 */
export function parseModel(data) {
  const parser = new Parser(data);
  const model = empty("ModelProto");
  parser.read(model, "ModelProto", data.length);
  return { model, unknown: parser.unknown };
}

/** @param {string} message @returns {any} */
function empty(message) {
  /** @type {any} */
  const made = {};
  for (const [name, kind, repeated] of Object.values(MESSAGES[message])) {
    made[name] = repeated ? [] : kind in MESSAGES ? undefined : blank(kind);
  }
  return made;
}

/** @param {string} kind */
function blank(kind) {
  if (kind === STRING) return "";
  return kind === BYTES ? new Uint8Array() : 0;
}

class Parser {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
    this.at = 0;
    this.fields = MAX_FIELDS;
    this.text = MAX_TEXT;
    this.utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    /** The number that was read last: its lower 32 bits, and all of it as a signed number of 64 bits. */
    this.low = 0;
    this.number = 0;
    /** @type {string | null} */
    this.unknown = null;
  }

  /**
   * Read the fields up to `end` into a message.
   *
   * @param {any} into
   * @param {string} message
   * @param {number} end
   */
  read(into, message, end) {
    const known = MESSAGES[message];
    while (this.at < end) {
      this.spend(1, 0);
      this.varint(end);
      const tag = this.number;
      if (tag < 8 || tag >= TWO_32) throw new ParseError("a field has an invalid number");
      const number = Math.floor(tag / 8);
      const field = Object.hasOwn(known, number) ? known[number] : undefined;
      if (!this.value(into, field, tag % 8, end)) {
        this.unknown ??= REJECTED[`${message} ${number}`] ?? `field ${number} of ${message}`;
      }
    }
  }

  /**
   * Read the value of a field.
   *
   * @param {any} into
   * @param {[string, string, true?] | undefined} field
   * @param {number} wireType
   * @param {number} end
   * @returns whether it is one that is known.
   */
  value(into, field, wireType, end) {
    const kind = field?.[1];
    if (wireType === VARINT) {
      this.varint(end);
      if (kind !== INT32 && kind !== INT64) return false;
      this.store(into, field, kind === INT32 ? this.low : this.number);
      return true;
    }
    const size = wireType === LENGTH_DELIMITED ? this.length(end) : { 1: 8, 5: 4 }[wireType];
    if (size === undefined) {
      throw new ParseError(`a field has the wire type ${wireType}, which is not used in step models`);
    }
    if (size > end - this.at) throw new ParseError("a field continues past the end");
    const stop = this.at + size;
    const known = wireType === LENGTH_DELIMITED && this.delimited(into, field, stop);
    if (!known && !(kind === INT32 || kind === INT64 || kind === BYTES)) this.spend(0, size);
    this.at = stop;
    return known;
  }

  /**
   * @param {any} into
   * @param {[string, string, true?] | undefined} field
   * @param {number} stop
   */
  delimited(into, field, stop) {
    if (!field) return false;
    const [name, kind, repeated] = field;
    if (kind in MESSAGES) {
      const child = (repeated ? undefined : into[name]) ?? empty(kind); // parts of a message are joined
      this.read(child, kind, stop);
      if (repeated || !into[name]) this.store(into, field, child);
    } else if (kind === STRING) {
      this.spend(0, stop - this.at);
      try {
        this.store(into, field, this.utf8.decode(this.data.subarray(this.at, stop)));
      } catch {
        throw new ParseError("a text is not UTF-8");
      }
    } else if (kind === BYTES) {
      this.store(into, field, this.data.subarray(this.at, stop));
    } else {
      this.spend(stop - this.at, 0); // packed numbers: as many as there are bytes, at most
      if (!repeated) return false;
      while (this.at < stop) {
        this.varint(stop);
        this.store(into, field, kind === INT32 ? this.low : this.number);
      }
    }
    return true;
  }

  /** @param {any} into @param {[string, string, true?] | undefined} field @param {unknown} value */
  store(into, field, value) {
    if (!field) return;
    const [name, , repeated] = field;
    if (repeated) into[name].push(value);
    else into[name] = value;
  }

  /** @param {number} end */
  length(end) {
    this.varint(end);
    if (this.number < 0) throw new ParseError("a field continues past the end");
    return this.number;
  }

  /** Read a number: seven bits a byte, at most ten of them. @param {number} end */
  varint(end) {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70 && this.at < end; shift += 7) {
      const byte = this.data[this.at++];
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else if (shift < 63) high |= bits << (shift - 32);
      else high |= (bits & 1) << 31;
      if (byte < 0x80) {
        this.low = low | 0;
        this.number = (high | 0) * TWO_32 + (low >>> 0);
        return;
      }
    }
    throw new ParseError("a number has no end");
  }

  /** @param {number} fields @param {number} text */
  spend(fields, text) {
    this.fields -= fields;
    this.text -= text;
    if (this.fields < 0) throw new ParseError(`there are more than ${MAX_FIELDS} fields`);
    if (this.text < 0) throw new ParseError(`there are more than ${MAX_TEXT} bytes of text`);
  }
}
