/**
 * The errors that this package throws deliberately. A message is one line: what was given, what is allowed, and how to
 * fix it.
 */

/** The base class of all errors, so that callers can catch that alone. */
export class CharRNNError extends Error {
  /** @param {string} message @param {ErrorOptions} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A setting has an invalid value, such as a temperature of 0. */
export class SettingError extends CharRNNError {}

/** A file is not a valid charrnn step model: it violates the format, or is truncated or damaged. */
export class ModelFormatError extends CharRNNError {}

/** The requested device cannot be used. */
export class DeviceError extends CharRNNError {}

/** A text contains characters that are not in the vocabulary. */
export class UnknownCharacterError extends CharRNNError {
  /**
   * @param {string[]} characters the distinct unknown characters, in the order of their first appearance.
   * @param {number[]} positions the index of the first appearance of each in the text, in characters from 0.
   * @param {number} known the size of the vocabulary.
   * @param {number} [index] the index of the text, from 0, if several were given.
   */
  constructor(characters, positions, known, index) {
    const shown = characters
      .slice(0, 5)
      .map((each, i) => `${oneLine(JSON.stringify(each))} (${codePoint(each)}) at position ${positions[i]}`)
      .join(", ");
    const more = characters.length > 5 ? ` and ${characters.length - 5} more` : "";
    const name = index === undefined ? "the text" : `the text of index ${index}`;
    super(
      `${name} has characters that the model does not know: ${shown}${more}; its vocabulary has ${known} characters; ` +
        'remove the unknown ones, skip them with unknown: "skip", or let accented letters be composed or decomposed ' +
        'with unknown: "normalize"',
    );
    this.characters = characters;
    this.positions = positions;
    this.known = known;
    this.index = index;
  }
}

/**
 * An untrusted message as one printable line of limited length.
 *
 * @param {string} message
 * @param {number} [most]
 */
export function oneLine(message, most = 500) {
  const cut = message.length > most ? `${message.slice(0, most - 3)}...` : message;
  return cut.replace(/[\p{C}\p{Z}]/gu, (each) => (each === " " ? each : escaped(each)));
}

/**
 * The error for an invalid parameter.
 *
 * @param {string} name
 * @param {string} allowed
 * @param {unknown} given
 */
export function wrong(name, allowed, given) {
  return new SettingError(`${name} must be ${allowed}, not ${shown(given)}`);
}

/** A value for error messages, shortened. @param {unknown} value */
export function shown(value) {
  if (typeof value === "object" && value !== null) return value.constructor?.name ?? "an object";
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return oneLine(text, 60);
}

/** @param {string} character */
function codePoint(character) {
  return `U+${Number(character.codePointAt(0)).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** @param {string} character */
function escaped(character) {
  return `\\u{${Number(character.codePointAt(0)).toString(16)}}`;
}

// --- between threads -----------------------------------------------------------------------------------------

const KINDS = { CharRNNError, SettingError, ModelFormatError, DeviceError };

/**
 * An error as a value that can be posted to another thread.
 *
 * @param {unknown} error
 */
export function packedError(error) {
  if (error instanceof UnknownCharacterError) {
    const { characters, positions, known, index } = error;
    return { kind: "UnknownCharacterError", message: error.message, characters, positions, known, index };
  }
  const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
  return { kind: error instanceof CharRNNError ? name : "Error", name, message };
}

/**
 * Restore a packed error.
 *
 * @param {any} packed
 * @returns {Error}
 */
export function unpackedError(packed) {
  if (packed.kind === "UnknownCharacterError") {
    return new UnknownCharacterError(packed.characters, packed.positions, packed.known, packed.index);
  }
  if (Object.hasOwn(KINDS, packed.kind)) {
    return new KINDS[/** @type {keyof typeof KINDS} */ (packed.kind)](packed.message);
  }
  const error = new Error(packed.message);
  error.name = packed.name;
  return error;
}
