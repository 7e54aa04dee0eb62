/** The options for generating text. */

import { SettingError, UnknownCharacterError, wrong } from "./errors.js";
import { DEFAULT_LENGTH, DEFAULT_TEMPERATURE } from "./format/spec.js";
import { checkSeed } from "./uniforms.js";

/**
 * Options for generating text, with the same meanings as in the Python package.
 *
 * @typedef {object} Options
 * @property {number} [length] the number of characters (bytes, at the byte level) to generate, not counting the prompt.
 *   1,000 by default.
 * @property {number | bigint} [seed] determines the random numbers, together with the stream number; drawn if omitted.
 * @property {number} [temperature] divides the logits, at least 0.0001; below 1, likely characters become
 *   more likely. 0.8 by default.
 * @property {number | null} [topK] sample from the `topK` most likely characters; 1 is greedy, null is all.
 * @property {number} [topP] sample from the most likely characters that together have this probability, in (0, 1].
 * @property {number} [minP] sample from those with at least this fraction of the most likely one's probability, in
 *   [0, 1).
 * @property {string | readonly string[] | null} [stop] end a stream before this text, or before the first of several.
 * @property {import("./vocabulary.js").Unknown} [unknown] how to handle unknown characters of a prompt:
 *   "error"; "skip" to drop them; or "normalize" to convert them to their other Unicode form.
 * @property {number} [number] the stream number, which selects its random numbers; with several prompts, that of the
 *   first. 0 by default. A state has its own numbers.
 * @property {boolean} [echo] whether to include the prompt in the text.
 * @property {AbortSignal} [signal] cancels the work, with the signal's reason as the error.
 * @property {number} [maxBatchSize] the maximum number of streams to run at once.
 */

/** Validated options. */
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
        `temperature must be at least 0.0001 and at most 10000, not ${temperature}; for greedy sampling, ` +
          "use topK: 1",
      );
    }
    if (topK !== null && !(Number.isInteger(topK) && topK >= 1)) {
      throw wrong("topK", "1 or more, or null to disable it", topK);
    }
    // The graph computes in float32, where smaller masses underflow.
    if (typeof topP !== "number" || !(Math.fround(topP) > 0 && topP <= 1)) {
      throw wrong("topP", "above 0 and at most 1 (1 disables it)", topP);
    }
    if (typeof minP !== "number" || !(minP >= 0 && Math.fround(minP) < 1)) {
      throw wrong("minP", "at least 0 and below 1 (0 disables it)", minP);
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
 * Check the names of options: a misspelt one would be ignored otherwise.
 *
 * @param {object} options
 * @param {readonly string[]} names
 */
export function checkNames(options, names) {
  const surplus = Object.keys(options).find((name) => !names.includes(name));
  if (surplus) throw new SettingError(`unknown option ${JSON.stringify(surplus)}; the options are ${names.join(", ")}`);
}

/** @param {string} name @param {unknown} value */
function count(name, value) {
  if (!Number.isSafeInteger(value) || Number(value) < 0) throw wrong(name, "an integer, 0 or more", value);
  return Number(value);
}

/** @param {Options["stop"]} stop @returns {string[]} */
function stopTexts(stop) {
  const texts = stop === undefined || stop === null ? [] : typeof stop === "string" ? [stop] : [...stop];
  for (const text of texts) {
    if (typeof text !== "string" || !text) throw wrong("stop", "a non-empty text, or an array of texts", text);
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
