/**
 * The vocabulary: maps symbols to ids. At level "char", the symbols are Unicode code points; at level "byte", they are
 * the 256 byte values of the UTF-8 form, so every text can be encoded.
 */

import { concatenated } from "./bytes.js";
import { CharRNNError, UnknownCharacterError, oneLine, wrong } from "./errors.js";
import { BYTE_VOCABULARY, MAX_VOCABULARY } from "./format/spec.js";
import { knownForm } from "./normalization.js";

/**
 * How to handle unknown characters: throw an error; drop them; or convert them to their other Unicode form (composed or
 * decomposed) if the model knows that, and throw an error otherwise.
 *
 * @typedef {"error" | "skip" | "normalize"} Unknown
 */

const SURROGATE = /\p{Surrogate}/u;
const utf8 = new TextEncoder();

/** Maps text to ids and back. Immutable. */
export class Vocabulary {
  /**
   * @param {readonly unknown[]} symbols in id order, one character each; none at level "byte", which has its own.
   * @param {"char" | "byte"} level
   * @throws {CharRNNError} a symbol is not a single character, appears twice, or is a lone surrogate; there are no or
   *   too many symbols.
   */
  constructor(symbols, level) {
    this.level = level;
    if (level === "byte") {
      if (symbols.length) {
        throw new CharRNNError("vocabulary: the byte level has its own 256 symbols, give no others");
      }
      this.size = BYTE_VOCABULARY;
      this.symbols = /** @type {readonly string[]} */ (Object.freeze([]));
      this._bytes = Array.from({ length: this.size }, (_, byte) => Uint8Array.of(byte));
      return;
    }
    /** @type {Map<string, number>} */
    this._ids = idsOf(symbols);
    this.symbols = /** @type {readonly string[]} */ (Object.freeze([...symbols]));
    this.size = symbols.length;
    this._bytes = this.symbols.map((symbol) => utf8.encode(symbol));
  }

  /**
   * Encode a text: one id per character (at the byte level, per byte of the UTF-8 form).
   *
   * @param {string | Uint8Array} text any text; at the byte level, it may be bytes.
   * @param {Unknown} [unknown]
   * @param {number} [index] the index of the text for errors, if there are several.
   * @returns {Int32Array}
   * @throws {UnknownCharacterError} the text has unknown characters, and `unknown` is not "skip".
   */
  encode(text, unknown = "error", index) {
    if (!["error", "skip", "normalize"].includes(unknown)) {
      throw wrong("unknown", '"error", "skip" or "normalize"', unknown);
    }
    if (text instanceof Uint8Array && this.level === "byte") return Int32Array.from(text);
    if (typeof text !== "string") {
      throw wrong("a text", this.level === "byte" ? "a string, or bytes (Uint8Array)" : "a string", text);
    }
    const ids = this._ids;
    if (!ids) return Int32Array.from(utf8.encode(this._wellFormed(text, unknown, index)));
    let characters = [...text];
    if (unknown === "normalize") characters = knownForm(characters, (part) => [...part].every((c) => ids.has(c)));
    if (unknown === "skip") characters = characters.filter((character) => ids.has(character));
    return Int32Array.from(
      this._known(characters, (character) => ids.has(character), index),
      (character) => Number(ids.get(character)),
    );
  }

  /**
   * Decode ids. At the byte level, invalid UTF-8 becomes U+FFFD, one for each maximal part of a sequence, as in
   * the Encoding Standard.
   *
   * @param {ArrayLike<number>} ids
   */
  decode(ids) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.decodeBytes(ids));
  }

  /**
   * Decode ids to UTF-8; at the byte level, to the raw bytes, valid UTF-8 or not.
   *
   * @param {ArrayLike<number>} ids
   */
  decodeBytes(ids) {
    const parts = Array.from(ids, (id) => {
      const bytes = this._bytes[id];
      if (!bytes) {
        throw new CharRNNError(`id ${id} is not in the vocabulary: ids range from 0 to ${this.size - 1}`);
      }
      return bytes;
    });
    return concatenated(parts);
  }

  /** @param {string} text @param {Unknown} unknown @param {number} [index] */
  _wellFormed(text, unknown, index) {
    if (!SURROGATE.test(text)) return text;
    const characters = [...text];
    if (unknown === "skip") return characters.filter((character) => !SURROGATE.test(character)).join("");
    return this._known(characters, (character) => !SURROGATE.test(character), index).join("");
  }

  /**
   * Check that all characters are known, and return them.
   *
   * @param {string[]} characters
   * @param {(character: string) => boolean} knows
   * @param {number} [index]
   */
  _known(characters, knows, index) {
    /** @type {Map<string, number>} */
    const unknown = new Map();
    characters.forEach((character, position) => {
      if (!knows(character) && !unknown.has(character)) unknown.set(character, position);
    });
    if (unknown.size) {
      throw new UnknownCharacterError([...unknown.keys()], [...unknown.values()], this.size, index);
    }
    return characters;
  }
}

/** @param {readonly unknown[]} symbols @returns {Map<string, number>} */
function idsOf(symbols) {
  if (!symbols.length) throw new CharRNNError("vocabulary: it has no symbols; at least one is required");
  if (symbols.length > MAX_VOCABULARY) {
    throw new CharRNNError(
      `vocabulary: ${symbols.length} distinct characters, but a model can have at most ${MAX_VOCABULARY}`,
    );
  }
  const ids = new Map();
  symbols.forEach((symbol, id) => {
    if (typeof symbol !== "string" || [...symbol].length !== 1) {
      throw new CharRNNError(`vocabulary: symbol ${id} must be one character`);
    }
    if (SURROGATE.test(symbol)) throw new CharRNNError(`vocabulary: symbol ${id} is a lone surrogate`);
    if (ids.has(symbol)) throw new CharRNNError(`vocabulary: ${oneLine(JSON.stringify(symbol))} appears twice`);
    ids.set(symbol, id);
  });
  return ids;
}
