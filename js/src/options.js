/** The options of generating, checked once. */

import { SettingError, UnknownCharacterError, wrong } from "./errors.js";
import { DEFAULT_LENGTH, DEFAULT_TEMPERATURE } from "./format/spec.js";
import { checkSeed } from "./uniforms.js";

/**
 * How text is generated. The meanings are those of the Python package.
 *
 * @typedef {object} Options
 * @property {number} [length] how many characters (bytes, at the byte level) to generate; the prompt is not counted.
 *   1,000 by default.
 * @property {number | bigint} [seed] decides the random numbers, with each stream's number; drawn if omitted.
 * @property {number} [temperature] what the logits are divided by, at least 0.0001; below 1, likely characters become
 *   more likely. 0.8 by default.
 * @property {number | null} [topK] sample from the `topK` most likely characters; 1 is greedy, null is all.
 * @property {number} [topP] sample from the most likely characters that together have this probability, in (0, 1].
 * @property {number} [minP] sample from those with at least this fraction of the most likely one's probability, in
 *   [0, 1).
 * @property {string | readonly string[] | null} [stop] end a stream before this text, or before the first of several.
 * @property {import("./vocabulary.js").Unknown} [unknown] what happens to characters of a prompt that the model does
 *   not know: "error"; "skip" to drop them; or "normalize" to write them in their other Unicode form.
 * @property {number} [number] the number of the stream, which picks its random numbers; of several prompts, that of the
 *   first. 0 by default. A state has numbers of its own.
 * @property {boolean} [echo] whether the text begins with the prompt.
 * @property {AbortSignal} [signal] ends the work early, with the signal's reason as the error.
 * @property {number} [maxBatchSize] how many streams run at once, at most.
 */

/** The checked options. */
export class Settings {
  /**
   * @param {Options} options
   * @param {import("./vocabulary.js").Vocabulary} vocabulary
   * @param {number} topKMax
   */
  constructor(options, vocabulary, topKMax) {
    checkNames(options, NAMES);
    const { temperature = DEFAULT_TEMPERATURE, topK = null, topP = 1, minP = 0 } = options;
    if (typeof temperature !== "number" || !(temperature >= 1e-4 && temperature <= 1e4)) {
      throw new SettingError(
        `temperature must be at least 0.0001 and at most 10000, not ${temperature}; to always take the most likely ` +
          "character, use topK: 1",
      );
    }
    if (topK !== null && !(Number.isInteger(topK) && topK >= 1)) {
      throw wrong("topK", "1 or more, or null to turn it off", topK);
    }
    // The graph computes in float32, where smaller masses vanish.
    if (typeof topP !== "number" || !(Math.fround(topP) > 0 && topP <= 1)) {
      throw wrong("topP", "above 0 and at most 1 (1 turns it off)", topP);
    }
    if (typeof minP !== "number" || !(minP >= 0 && Math.fround(minP) < 1)) {
      throw wrong("minP", "at least 0 and below 1 (0 turns it off)", minP);
    }
    this.temperature = temperature;
    this.topK = topK === null ? topKMax : Math.min(topK, topKMax);
    this.topP = topP;
    this.minP = minP;
    this.seed = checkSeed(options.seed);
    this.length = count("length", options.length ?? DEFAULT_LENGTH);
    this.number = count("number", options.number ?? 0);
    this.maxBatchSize = options.maxBatchSize;
    if (this.maxBatchSize !== undefined && !(Number.isInteger(this.maxBatchSize) && this.maxBatchSize > 0)) {
      throw wrong("maxBatchSize", "1 or more", this.maxBatchSize);
    }
    this.unknown = options.unknown ?? "error";
    this.signal = options.signal;
    this.stop = stopTexts(options.stop);
    this.stopIds = this.stop.map((text) => stopIds(text, vocabulary));
  }
}

const NAMES = [
  ...["length", "seed", "temperature", "topK", "topP", "minP", "stop", "unknown", "number", "echo", "signal"],
  ...["maxBatchSize", "state"],
];

/**
 * Check that options have no others than these: a name that is misspelt would be ignored.
 *
 * @param {object} options
 * @param {readonly string[]} names
 */
export function checkNames(options, names) {
  const surplus = Object.keys(options).find((name) => !names.includes(name));
  if (surplus) throw new SettingError(`there is no option ${JSON.stringify(surplus)}; there are ${names.join(", ")}`);
}

/** @param {string} name @param {unknown} value */
function count(name, value) {
  if (!Number.isSafeInteger(value) || Number(value) < 0) throw wrong(name, "a whole number from 0", value);
  return Number(value);
}

/** @param {Options["stop"]} stop @returns {string[]} */
function stopTexts(stop) {
  const texts = stop === undefined || stop === null ? [] : typeof stop === "string" ? [stop] : [...stop];
  for (const text of texts) {
    if (typeof text !== "string" || !text) throw wrong("stop", "a text of a character or more, or several", text);
  }
  return texts;
}

/** @param {string} text @param {import("./vocabulary.js").Vocabulary} vocabulary */
function stopIds(text, vocabulary) {
  try {
    return vocabulary.encode(text);
  } catch (error) {
    if (!(error instanceof UnknownCharacterError)) throw error;
    const never = error.characters.slice(0, 5).map((each) => JSON.stringify(each));
    throw new SettingError(`stop has characters that this model never writes: ${never.join(", ")}`);
  }
}
